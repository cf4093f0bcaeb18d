import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import { AppError } from "../../errors";
import type { Admission } from "../../http/admit";
import type { AppEnv } from "../../http/exchange";
import { limitedBody, mustBePlain, type Room } from "../../http/json";
import { json, problems } from "../../http/openapi";
import { hookPath } from "../../http/path";
import { parseQuery, refuse } from "../../http/validate";
import type { Metrics } from "../../platform/metrics";
import { alertTemplates, HookParam, HookQuery } from "./alert";
import { Accepted } from "./schema";
import type { SignalWriter } from "./writer";
import type { Done, Hook } from "./group";

const bodyBytesMax = 64 * 1024;
/** Less than the second that is promised, by what it takes to read and to answer. */
const answerMs = 800;
const comeBackSeconds = 5;

type Deps = {
  writer: SignalWriter;
  admission: Admission;
  metrics: Metrics;
  /** For the bodies of all who write. */
  room: Room;
};

/** Where systems write signals that can do no more than post a text to an address. */
export function hookRoutes({ writer, admission, metrics, room }: Deps) {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });
  const written = metrics.ingested.of({ outcome: "written" });
  const duplicates = metrics.ingested.of({ outcome: "duplicate" });

  const hook = createRoute({
    method: "post",
    path: hookPath.replace(":key", "{key}"),
    tags: ["signals"],
    summary: "Write one signal of an alert, such as TradingView's",
    description:
      "The key is a part of the address: make one of its own for each hook, with the scope signals:write alone. Each field of a signal is given as a constant or, beginning with `/`, as a JSON Pointer (RFC 6901) into the alert, which is JSON; a template gives those that are not named. Numbers may be texts; buy and long, sell and short, hold, flat, exit and close are understood. Answered within a second, after the commit is durable; 503 may be sent again: the same body within `dedupe_seconds` is the same signal.",
    request: {
      params: HookParam,
      query: HookQuery,
      body: { required: true, content: { "application/json": { schema: {} } } },
    },
    responses: {
      201: json(Accepted, "Durable"),
      ...problems(400, 401, 403, 413, 415, 422, 429, 503),
    },
  });
  app.openAPIRegistry.registerPath(hook);

  app.post(
    hookPath,
    async function holders(c, next) {
      const key = c.req.param("key");
      try {
        await admission.holder(c.req.raw, c.env, "signals:write", `Bearer ${key}`);
      } catch (error) {
        throw error instanceof AppError && error.code === "unauthorized" ? unknown(error) : error;
      }
      await next();
    },
    limitedBody(bodyBytesMax, room),
    async (c) => {
      const { url } = c.req;
      const at = url.indexOf("?");
      const search = at < 0 ? "" : url.slice(at);
      const query = parseQuery(HookQuery, search);
      mustBePlain(c.req.header("content-encoding"));
      const body = new Uint8Array(await c.req.arrayBuffer());
      const { template, max_lag_seconds, dedupe_seconds, ...mapping } = query;
      const done = writer.submit({
        body,
        key: sameAlert(c.req.param("key"), search, body),
        hook: {
          mapping: { ...(template && alertTemplates[template]), ...mapping } as Hook["mapping"],
          maxLagMs: max_lag_seconds * 1000,
          dedupeMs: dedupe_seconds * 1000,
        },
      });
      // Also what is written after its sender was told to come back.
      const counted = done.then((outcome) => {
        written.value += outcome.written;
        duplicates.value += outcome.duplicates;
        return outcome;
      });
      const { answer, headId } = await inTime(counted);
      c.header("Signal-Head", String(headId));
      return c.body(answer, 201, { "Content-Type": "application/json" });
    },
  );

  return app;
}

const unknown = ({ headers }: AppError): AppError =>
  new AppError("unauthorized", "The key in the hook's address is not known.", { headers });

/** The same body at the same address is the same alert; what is kept of the key is this hash. */
function sameAlert(key: string, search: string, body: Uint8Array): string {
  const hash = new Bun.CryptoHasher("sha256").update(`hook\n${key}\n${search}\n`);
  return hash.update(body).digest("hex");
}

/** Senders hang up early, and some send again only what was answered 503. @throws AppError 503. */
async function inTime(done: Promise<Done>): Promise<Done> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    const detail = "The signal could not be written in time. Send the alert again.";
    reject(new AppError("unavailable", detail, { retryAfterSeconds: comeBackSeconds }));
  }, answerMs);
  try {
    return await Promise.race([done, late]);
  } finally {
    clearTimeout(timer);
  }
}
