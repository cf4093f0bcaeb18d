// Runs under Node.
import { readFileSync } from "node:fs";
import Database from "better-sqlite3";
import Fastify from "fastify";

const { port, headers, db: path, sql } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const db = new Database(path, { readonly: true });
db.pragma("cache_size = -4096");
db.pragma("temp_store = MEMORY");
const latest = db.prepare(sql);
const app = Fastify({ logger: false });
// A ready string: measured faster than the schema-compiled serializer on these rows.
app.get("/api/signals/latest", (request, reply) => {
  reply.headers(headers).send(JSON.stringify(latest.all(Number(request.query.limit))));
});
await app.listen({ port, host: "127.0.0.1" });
