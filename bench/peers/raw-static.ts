import { given } from "./given";

// A static route never enters JavaScript. No server whose answer depends on a query can use one; it
// is here as the ceiling above the ceiling.
const { port, body, headers } = given();
Bun.serve({
  port,
  hostname: "127.0.0.1",
  routes: { "/api/signals/latest": new Response(body, { headers }) },
  fetch: () => new Response(null, { status: 404 }),
});
