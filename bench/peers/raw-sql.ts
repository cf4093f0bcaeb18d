import { Database } from "bun:sqlite";
import { given } from "./given";

const { port, headers, db: path, sql } = given();
const db = new Database(path, { readonly: true });
db.run("PRAGMA cache_size = -4096");
db.run("PRAGMA temp_store = MEMORY");
const latest = db.prepare(sql);
const shared = new Headers(headers);
Bun.serve({
  port,
  hostname: "127.0.0.1",
  fetch(request) {
    const { url } = request;
    const limit = Number(url.slice(url.indexOf("limit=") + 6));
    return new Response(JSON.stringify(latest.all(limit)), { headers: shared });
  },
});
