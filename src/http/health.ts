import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { bearerMatches } from "./guard";
import type { AppEnv } from "./exchange";
import { problems } from "./openapi";
import { isLoopback, type Config } from "../config";
import { AppError } from "../errors";
import { isLocal } from "./policy";
import { version } from "../version";
import type { Metrics } from "../platform/metrics";

export type CheckState = "healthy" | "unhealthy" | "starting" | "disabled";

type Deps = {
  config: Config;
  metrics: Metrics;
  now: () => number;
  /** Null while the server drains or has not started once. */
  ready: () => string | null;
  /** Why signals cannot be had; null when they can. */
  signalsFault: () => Promise<string | null>;
  /** That without which this server is of no use. */
  critical: "signals" | "database";
  /**
   * The server that the signals are copied from, `starting` while something of it is missing here;
   * undefined where they are nobody's copy.
   */
  origin: () => CheckState | undefined;
  /** What accounts stand on. */
  accounts: () => Promise<{ database: CheckState; redis: CheckState }>;
};

const check = z.enum(["healthy", "unhealthy", "starting", "disabled"]);
const Health = z
  .object({
    status: z.enum(["healthy", "degraded", "unhealthy"]),
    checks: z.object({
      signals: check,
      database: check,
      redis: check,
      origin: check.optional().openapi({ description: "The libSQL server, where there is one." }),
    }),
    timestamp: z.string(),
    version: z.string(),
  })
  .openapi("Health");
const State = z.object({ status: z.string() });

const json = <T extends z.ZodType>(schema: T, description: string) => ({
  description,
  content: { "application/json": { schema } },
});

/** What operators and their tools ask: none of it is limited, and /livez needs nothing at all. */
export function operationRoutes(deps: Deps) {
  const { config, metrics, now, ready, signalsFault, critical } = deps;
  const tags = ["operations"];
  const live = createRoute({
    method: "get",
    path: "/livez",
    tags,
    responses: { 200: json(State, "The process runs") },
  });
  const readiness = createRoute({
    method: "get",
    path: "/readyz",
    tags,
    responses: {
      200: json(State, "Traffic is welcome"),
      503: json(State, "Starting, draining, or what it stands on is unfit"),
    },
  });
  const health = createRoute({
    method: "get",
    path: "/health",
    tags,
    responses: { 200: json(Health, "Healthy or degraded"), 503: json(Health, "Unhealthy") },
  });
  const versions = createRoute({
    method: "get",
    path: "/version",
    tags,
    responses: { 200: json(z.object({ version: z.string(), bun: z.string() }), "The release") },
  });
  const metric = createRoute({
    method: "get",
    path: "/metrics",
    tags,
    description: "Prometheus text; for direct requests from this machine, or with METRICS_TOKEN.",
    responses: {
      200: {
        description: "Metrics",
        content: { "text/plain": { schema: z.string() } },
      },
      ...problems(401),
    },
  });

  const criticalFault = async (): Promise<string | null> => {
    if (critical === "signals") return signalsFault();
    const { database } = await deps.accounts();
    return database === "healthy" ? null : "The database cannot be used.";
  };

  return new OpenAPIHono<AppEnv>()
    .openapi(live, (c) => c.json({ status: "live" }, 200))
    .openapi(readiness, async (c) => {
      const reason = ready() ?? (await criticalFault());
      return reason === null
        ? c.json({ status: "ready" }, 200)
        : c.json({ status: reason }, 503, { "Retry-After": "1" });
    })
    .openapi(health, async (c) => {
      // They are served while accounts start.
      const signals: CheckState = (await signalsFault()) === null ? "healthy" : "unhealthy";
      const origin = deps.origin();
      const checks = { signals, ...(await deps.accounts()), ...(origin && { origin }) };
      const body = {
        status: statusOf(checks, critical),
        checks,
        timestamp: new Date(now()).toISOString(),
        version,
      };
      return body.status === "unhealthy" ? c.json(body, 503) : c.json(body, 200);
    })
    .openapi(versions, (c) => c.json({ version, bun: Bun.version }, 200))
    .openapi(metric, async (c) => {
      const request = c.req.raw;
      const peer = c.env.server?.requestIP(c.env.carrier)?.address ?? "";
      const direct = isLoopback(peer.replace(/^::ffff:/, "")) && isLocal(config, request.headers);
      if (!direct && !bearerMatches(c.req.header("authorization") ?? null, config.metricsTokens)) {
        throw new AppError("unauthorized", "Metrics need METRICS_TOKEN as a Bearer token.", {
          headers: { "WWW-Authenticate": 'Bearer realm="metrics"' },
        });
      }
      const { type, text } = await metrics.expose();
      return c.text(text, 200, { "Content-Type": type }) as never;
    });
}

/** Without accounts signals still flow, or the other way round: a degraded server, and no more. */
function statusOf(
  checks: Record<"signals" | "database" | "redis", CheckState> & { origin?: CheckState },
  critical: Deps["critical"],
) {
  if (checks[critical] === "unhealthy") return "unhealthy" as const;
  return Object.values(checks).includes("unhealthy") ? ("degraded" as const) : ("healthy" as const);
}
