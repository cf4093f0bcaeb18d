import { given } from "./given";

// The ceiling: the same bytes and headers, with no routing, no database and nothing else.
const { port, body, headers } = given();
const shared = new Headers(headers);
Bun.serve({ port, hostname: "127.0.0.1", fetch: () => new Response(body, { headers: shared }) });
