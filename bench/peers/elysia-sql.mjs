// JavaScript, so that the type check of the project does not need this peer's packages.
import { Database } from "bun:sqlite";
import { readFileSync } from "node:fs";
import { Elysia } from "elysia";

const { port, headers, db: path, sql } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const db = new Database(path, { readonly: true });
db.run("PRAGMA cache_size = -4096");
db.run("PRAGMA temp_store = MEMORY");
const latest = db.prepare(sql);
const shared = new Headers(headers);
new Elysia()
  .get(
    "/api/signals/latest",
    ({ query }) =>
      new Response(JSON.stringify(latest.all(Number(query.limit))), { headers: shared }),
  )
  .listen({ port, hostname: "127.0.0.1" });
