import { Hono } from "hono";
import type { Variant } from "../../src/argo/signals/variant";
import { readConfig } from "../../src/config";
import { openDeps } from "../../src/deps";

/**
 * The cached answers behind one Hono route, conditional requests included, and nothing of what
 * `serve` puts around it: no token, limiter, request id, metrics or log. Configured as `serve` is.
 */
const config = readConfig(process.env, "argo");
await using deps = await openDeps(config);
const { answers } = deps.argo;
const refuse = () => new Response(null, { status: 500 });

const app = new Hono();
app.get("/api/signals/latest", (c): Promise<Response> => {
  const { url, headers } = c.req.raw;
  const at = url.indexOf("?");
  return answers.answer(at < 0 ? "" : url.slice(at), false, send, refuse);

  function send(variant: Variant): Response {
    const ifNoneMatch = headers.get("if-none-match");
    return ifNoneMatch !== null && variant.matches(ifNoneMatch)
      ? new Response(null, { status: 304, headers: variant.unmodified })
      : new Response(variant.body, { headers: variant.headers });
  }
});
const server = Bun.serve({
  hostname: config.host,
  port: config.port,
  fetch: app.fetch,
  development: false,
});
await new Promise((resolve) => process.once("SIGTERM", resolve));
await server.stop(true);
