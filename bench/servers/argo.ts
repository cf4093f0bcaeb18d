import { Hono } from "hono";
import { matches, type Variant } from "../../src/argo/signals/latest";
import { start, untilSignal } from "../../src/cli/serve";
import { type Config, readConfig } from "../../src/config";
import { openDeps } from "../../src/deps";

/**
 * Our own server in the two forms that the command line does not offer: `bun argo.ts bare|unsynced`.
 * The configuration comes from the environment, as in `serve`.
 */
const kind = process.argv[2];
const config = readConfig(process.env, "argo");

if (kind === "bare") await bare(config);
else if (kind === "unsynced") await unsynced(config);
else throw new Error("bare or unsynced");

/**
 * The cached answers behind one Hono route, conditional requests included, and nothing of what
 * `serve` puts around it: no token, limiter, request id, metrics or log.
 */
async function bare(config: Config): Promise<void> {
  await using deps = await openDeps(config);
  const { answers } = deps.argo;
  const app = new Hono();
  app.get("/api/signals/latest", (c): Response | Promise<Response> => {
    const { url, headers } = c.req.raw;
    const at = url.indexOf("?");
    const answer = answers.answer(at < 0 ? "" : url.slice(at), false);
    return answer instanceof Promise ? answer.then(send) : send(answer);

    function send(variant: Variant): Response {
      const ifNoneMatch = headers.get("if-none-match");
      return ifNoneMatch !== null && matches(ifNoneMatch, variant)
        ? new Response(null, { status: 304, headers: variant.unmodified })
        : new Response(variant.body, { headers: variant.headers });
    }
  });
  const server = Bun.serve({ hostname: config.host, port: config.port, fetch: app.fetch });
  await untilSignal();
  await server.stop(true);
}

/** All of `serve`, but commits are not waited for on the disk. */
async function unsynced(config: Config): Promise<void> {
  await using _running = await start(config, { synchronous: "OFF" });
  await untilSignal();
}
