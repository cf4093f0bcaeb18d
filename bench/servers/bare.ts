import type { Variant } from "../../src/argo/signals/variant";
import { readConfig } from "../../src/config";
import { argoOf, openDeps } from "../../src/deps";
import { fullView } from "../../src/http/entitlement";

/**
 * The cached answers as `serve` asks for them, conditional requests included, and nothing of what
 * it puts around them: no token, limiter, request id, metrics or log. Configured as `serve` is.
 */
const config = readConfig(process.env, "argo");
await using deps = await openDeps(config);
const { answers } = argoOf(deps);

const server = Bun.serve({
  hostname: config.host,
  port: config.port,
  development: false,
  routes: { "/api/signals/latest": { GET: (request: Request) => poll(request) } },
  fetch: () => new Response(null, { status: 404 }),
});
await new Promise((resolve) => process.once("SIGTERM", resolve));
await server.stop(true);

function poll(request: Request): Promise<Response> {
  const { url } = request;
  const at = url.indexOf("?");
  return answers.answer(at < 0 ? "" : url.slice(at), false, fullView, request, send, refuse);
}

function send(variant: Variant, { headers }: Request): Response {
  const ifNoneMatch = headers.get("if-none-match");
  return ifNoneMatch !== null && variant.matches(ifNoneMatch)
    ? new Response(null, { status: 304, headers: variant.unmodified.headers })
    : new Response(variant.body, { headers: variant.full.headers });
}

function refuse(): Response {
  return new Response(null, { status: 500 });
}
