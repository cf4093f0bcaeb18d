import { Hono } from "hono";
import { given } from "./given";

const { port, body, headers } = given();
const shared = new Headers(headers);
const app = new Hono();
app.get("/api/signals/latest", () => new Response(body, { headers: shared }));
Bun.serve({ port, hostname: "127.0.0.1", fetch: app.fetch });
