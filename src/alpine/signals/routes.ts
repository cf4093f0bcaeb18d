import { OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";
import { mountPolls, readRoutes } from "../../argo/signals/described";
import type { Piecewise } from "../../argo/signals/export";
import type { Live } from "../../argo/signals/live";
import type { Poll } from "../../argo/signals/poll";
import type { Config } from "../../config";
import { AppError } from "../../errors";
import type { Admission } from "../../http/admit";
import type { AppEnv } from "../../http/exchange";
import { hookPath } from "../../http/path";
import { refuse, strictQuery } from "../../http/validate";
import { type Ask, askOf, type RemoteSignals } from "./remote";

type Deps = {
  config: Config;
  signals: RemoteSignals;
  admission: Admission;
  live: Live;
  polls: ReadonlyMap<string, Poll>;
};

/** The routes by which signals are read, where an argo elsewhere has them. Nothing is written here. */
export function remoteRoutes({ config, signals, admission, live, polls }: Deps) {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });
  const routes = readRoutes(config, [admission.readers(), strictQuery]);

  // Paths are written anew of what was checked, so that no other one is ever asked for over there.
  const ask = (c: Context<AppEnv>, path: string): Ask => askOf(path + searchOf(c), c.env);
  const json = async (c: Context<AppEnv>, path: string): Promise<never> => {
    const { body, ids } = await signals.json(ask(c, path));
    c.env.deliver(ids, c.env);
    return c.body(body ?? "", 200, { "Content-Type": "application/json" }) as never;
  };

  mountPolls(app, routes, polls);

  live.mount(app, routes);

  app.openapi(routes.list, (c) => json(c, "/api/signals"));

  app.openapi(routes.exported, async (c) => {
    const still = admission.exporter(c.env);
    const { body, head, gap } = await signals.stream(ask(c, "/api/signals/export"));
    const deliver = (ids: readonly number[]): void => c.env.deliver(ids, c.env);
    const counted = body.pipeThrough(countLines({ still, deliver }));
    c.env.streamed = true;
    const headers = {
      "Content-Type": "application/x-ndjson",
      "Signal-Head": head,
      ...(gap !== null && { "Signal-Gap": gap }),
    };
    return c.body(counted, 200, headers) as never;
  });

  app.openapi(routes.byHash, (c) => json(c, `/api/signals/hash/${c.req.valid("param").sha256}`));

  app.openapi(routes.byId, (c) => json(c, `/api/signals/${c.req.valid("param").id}`));

  app.openapi(routes.stats, (c) => json(c, "/api/stats"));

  app.post("/api/signals", () => {
    throw new AppError("method_not_allowed", "Signals are posted to argo, not to this server.", {
      headers: { Allow: "GET, HEAD" },
    });
  });

  app.post(hookPath, () => {
    throw new AppError("not_found", "Hooks are served by argo itself, not by this server.");
  });

  return app;
}

/** Passes NDJSON on as it comes, and tells the ids of the lines that have ended in each piece. */
function countLines({ still, deliver }: Piecewise): TransformStream<Uint8Array, Uint8Array> {
  const decoder = new TextDecoder();
  let begun = "";
  return new TransformStream({
    async transform(piece, controller) {
      await still();
      const lines = (begun + decoder.decode(piece, { stream: true })).split("\n");
      begun = lines.pop() ?? "";
      deliver(lines.map((line) => Number(/^\{"id":(-?\d+)/.exec(line)?.[1])));
      controller.enqueue(piece);
    },
  });
}

function searchOf(c: Context<AppEnv>): string {
  const { url } = c.req;
  const at = url.indexOf("?");
  return at < 0 ? "" : url.slice(at);
}
