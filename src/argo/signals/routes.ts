import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context, Next } from "hono";
import { zValidator } from "@hono/zod-validator";
import type { Config } from "../../config";
import { AppError } from "../../errors";
import type { Admission } from "../../http/admit";
import type { AppEnv } from "../../http/exchange";
import { viewOfReader } from "../../http/guard";
import { asking } from "../../http/rights";
import { NoQuery } from "../../http/fields";
import { limitedBody, mustBeJson, Room } from "../../http/json";
import { problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import type { Metrics } from "../../platform/metrics";
import type { Argo } from "../argo";
import { mountPolls, readRoutes } from "./described";
import { exportSignals } from "./export";
import { hookRoutes } from "./hook.routes";
import { listSignals } from "./list";
import type { Live } from "./live";
import type { Poll } from "./poll";
import { Accepted, SignalIn, SIGNALS_PER_POST_MAX } from "./schema";

const bodyBytesMax = 1024 * 1024;
/** Of all posts under way. */
const bodiesBytesMax = 64 * 1024 * 1024;

type Deps = {
  config: Config;
  argo: Argo;
  admission: Admission;
  metrics: Metrics;
  live: Live;
  polls: ReadonlyMap<string, Poll>;
};

/** The routes of the data plane under /api. */
export function signalRoutes({ config, argo, admission, metrics, live, polls }: Deps) {
  const written = metrics.ingested.of({ outcome: "written" });
  const duplicates = metrics.ingested.of({ outcome: "duplicate" });
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });
  const routes = readRoutes(config, [admission.readers(), strictQuery]);

  const { reached, views } = argo;
  const room = new Room(bodiesBytesMax);

  /** Whoever was shut out while they waited is not answered, and who sees less now is shown less. */
  const mustHave = async (c: Context<AppEnv>, minId: number | undefined): Promise<void> => {
    if (minId === undefined) return;
    await reached.mustHave(minId, viewOfReader(c.env), c.req.raw.signal);
    await admission.renew(c.env);
  };

  mountPolls(app, routes, polls);
  live.mount(app, routes);

  app.openapi(routes.list, async (c) => {
    const { min_id: minId, ...query } = c.req.valid("query");
    await mustHave(c, minId);
    const horizon = views.current(viewOfReader(c.env));
    const page = await listSignals(query, horizon, argo.far, argo.cursors);
    const ids = page.signals.map(({ id }) => id);
    c.env.deliver(ids, c.env);
    return c.json(page, 200);
  });

  app.openapi(routes.exported, async (c) => {
    const still = admission.exporter(c.env);
    const { since_id: sinceId, min_id: minId } = c.req.valid("query");
    await mustHave(c, minId);
    const view = viewOfReader(c.env);
    // As far as streams: what is above a row that is still withheld waits for it.
    const { headId, position: untilId, sight } = await argo.feed.stand(view, sinceId);
    c.env.streamed = true;
    const gapTo = argo.reader.expired();
    const deliver = (ids: readonly number[]): void => c.env.deliver(ids, c.env);
    const asked = { sinceId, untilId, sight, gapTo };
    const body = exportSignals(argo.far, asked, { still, deliver });
    return c.body(body, 200, {
      "Content-Type": "application/x-ndjson",
      "Signal-Head": String(headId),
      ...(gapTo > sinceId && { "Signal-Gap": `from=${sinceId + 1}, to=${gapTo}` }),
    }) as never;
  });

  app.openapi(routes.byHash, async (c) => {
    await mustHave(c, c.req.valid("query").min_id);
    const { sha256 } = c.req.valid("param");
    const { sight } = views.current(viewOfReader(c.env));
    const signal = found(await argo.far.byHash(sha256, sight), `No signal has the hash ${sha256}.`);
    c.env.deliver([signal.id], c.env);
    return c.json(signal, 200);
  });

  app.openapi(routes.byId, async (c) => {
    await mustHave(c, c.req.valid("query").min_id);
    const { id } = c.req.valid("param");
    const { sight } = views.current(viewOfReader(c.env));
    const signal = found(argo.reader.byId(id, sight), `There is no signal ${id}.`);
    c.env.deliver([signal.id], c.env);
    return c.json(signal, 200);
  });

  app.openapi(routes.stats, async (c) => {
    await mustHave(c, c.req.valid("query").min_id);
    const json = await argo.stats.current(viewOfReader(c.env));
    return c.body(json, 200, { "Content-Type": "application/json" }) as never;
  });

  const post = createRoute({
    method: "post",
    path: "/api/signals",
    tags: ["signals"],
    summary: "Write one signal, or up to 1,000",
    description:
      "All or nothing; answered after the commit is durable. The same content again is the same row. " +
      "A post without a timestamp is deduped by Idempotency-Key alone, for 24 hours.",
    request: {
      query: NoQuery,
      headers: z.object({ "Idempotency-Key": z.string().min(1).max(255).optional() }),
      body: {
        required: true,
        content: {
          "application/json": {
            schema: z.union([SignalIn, z.array(SignalIn).min(1).max(SIGNALS_PER_POST_MAX)]),
          },
        },
      },
    },
    responses: {
      201: {
        description: "Durable",
        headers: {
          "Signal-Head": {
            schema: { type: "integer" },
            description: "The highest id of the answer, to read one's own write with min_id",
          },
        },
        content: { "application/json": { schema: Accepted } },
      },
      ...problems(400, 401, 403, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openAPIRegistry.registerPath(post);

  // The body goes to the writer's thread as it came and is checked there, by the same schema: a
  // thousand rows would otherwise hold up every poll behind them.
  app.post(
    "/api/signals",
    asking("signals:write", async function writers(c: Context<AppEnv>, next: Next) {
      await admission.holder(c.req.raw, c.env, "signals:write");
      await next();
    }),
    strictQuery,
    zValidator("query", NoQuery, (result) => refuse(result)),
    limitedBody(bodyBytesMax, room),
    async (c) => {
      mustBeJson(c.req.header("content-type"), c.req.header("content-encoding"));
      const body = new Uint8Array(await c.req.arrayBuffer());
      const key = idempotencyKey(c.req.header("idempotency-key"), c.env.principal?.id ?? "");
      const done = await argo.writer.submit({ body, key });
      written.value += done.written;
      duplicates.value += done.duplicates;
      if (done.replayed) c.header("Idempotency-Replayed", "true");
      c.header("Signal-Head", String(done.headId));
      return c.body(done.answer, 201, { "Content-Type": "application/json" });
    },
  );

  app.route("/", hookRoutes({ writer: argo.writer, admission, metrics, room }));

  return app;
}

function found<T>(value: T | null, detail: string): T {
  if (value === null) throw new AppError("not_found", detail);
  return value;
}

/** Keys are apart for each producer, and kept as hashes. */
function idempotencyKey(key: string | undefined, producer: string): string | null {
  if (key === undefined) return null;
  if (/^[\x21-\x7e]{1,255}$/.test(key)) return Bun.SHA256.hash(`${producer}\n${key}`, "hex");
  throw new AppError("bad_request", "The request is not valid: Idempotency-Key.", {
    errors: [{ field: "Idempotency-Key", detail: "must be 1 to 255 visible characters" }],
  });
}
