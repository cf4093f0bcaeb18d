import { OpenAPIHono } from "@hono/zod-openapi";
import { HTTPException } from "hono/http-exception";
import type { SignalsById } from "./alpine/plane";
import { Live } from "./argo/signals/live";
import { createPoll, latestPath, subscribedPath } from "./argo/signals/poll";
import { signalRoutes } from "./argo/signals/routes";
import { argoOf, type Deps } from "./deps";
import { AppError, SetupError } from "./errors";
import { docsRoutes } from "./http/docs";
import { batchRoutes } from "./http/batch";
import { createEdge } from "./http/edge";
import { mustHavePlan, viewOfReader } from "./http/guard";
import { preflight } from "./http/policy";
import { OwnTickets, SharedTickets, Tickets } from "./http/ticket";
import type { AppEnv, Exchange } from "./http/exchange";
import { securityOf, securitySchemes } from "./http/openapi";
import { pathOf, shownPath } from "./http/path";
import { rightOf } from "./http/rights";
import { problem } from "./http/respond";
import type { Logger } from "./platform/log";
import { operationRoutes } from "./http/health";
import { KnownPaths } from "./http/router";
import { startRoutes } from "./http/start";
import { version } from "./version";

/** Of both Bun sends what HTTP allows: to HEAD the headers alone, with the length of the body. */
const readMethods = new Set(["GET", "HEAD"]);

const description: Parameters<OpenAPIHono["getOpenAPI31Document"]>[0] = {
  openapi: "3.1.0",
  info: {
    title: "argo-alpine",
    version,
    license: { name: "MIT" },
    description:
      "A self-hosted trading-signal server. Nothing here is financial advice: signals are what their producers wrote.",
  },
  // Relative to the document.
  servers: [{ url: "./" }],
};

const methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/** The whole application: every mount, in order, inside the edge that all requests pass. */
export function createApp(deps: Deps) {
  const {
    config,
    log,
    metrics,
    argo,
    remote,
    webhookSource,
    alpine,
    redis,
    admission,
    now,
    state,
  } = deps;
  const draining = () => state.draining;
  const tellRefusal = createRefusalLog(log, deps.now);
  const app = new OpenAPIHono<AppEnv>({
    getPath: (request, options) => (options?.env as Exchange | undefined)?.path ?? pathOf(request),
    router: new KnownPaths(),
  });

  const signals = remote?.signals;
  const meters = alpine?.meters ?? null;
  const feed = remote?.feed ?? argoOf(deps).feed;
  const reached = argo?.reached ?? null;
  const polling = { config, admission, metrics, meters, draining, feed, reached, refuse };
  const latest = signals?.polled(latestPath) ?? argoOf(deps).answers;
  const subscribed = signals?.polled(subscribedPath) ?? argoOf(deps).subscribed;
  const permit = mustHavePlan;
  const polls = new Map([
    [latestPath, createPoll({ ...polling, path: latestPath, answers: latest })],
    [subscribedPath, createPoll({ ...polling, path: subscribedPath, answers: subscribed, permit })],
  ]);
  const signalsById: SignalsById = async (ids, exchange) =>
    signals?.byIds(ids, exchange) ?? argoOf(deps).byIds(ids, viewOfReader(exchange));
  // Before the signals: a path of theirs that ends in an id would take its words for one.
  if (alpine && webhookSource) {
    const own = { signalsById, source: webhookSource };
    const plane = { config, log, metrics, now, admission, alpine, ...own };
    deps.mountAlpine?.(app, plane);
  }
  const near = deps.peers?.tickets ?? new OwnTickets(now);
  const stores = [...(redis ? [new SharedTickets(redis)] : []), near];
  const tickets = new Tickets(stores);
  const common = { config, admission, metrics };
  const live = new Live({ ...common, source: feed, tickets, meters, redis, now });
  if (argo) app.route("/", signalRoutes({ ...common, argo, live, polls }));
  if (signals) app.route("/", remote.routes({ config, signals, admission, live, polls }));
  app.route(
    "/",
    operationRoutes({
      config,
      metrics,
      now: deps.now,
      ready: () =>
        state.draining && !state.replaced
          ? "draining"
          : state.started
            ? (argo?.catchingUp ?? null)
            : "starting",
      signalsFault: async () => (argo ? argo.fault() : ((await signals?.fault())?.detail ?? null)),
      critical: argo ? "signals" : "database",
      origin: () => {
        if (!argo?.node) return undefined;
        const { up, stopped, current } = argo.node;
        const follows = up && stopped === null;
        return follows && !current ? "starting" : healthOf(follows);
      },
      accounts: async () => {
        // Nothing else may be asking it just now.
        await redis?.attempt((client) => client.ping());
        return {
          database: !alpine ? "disabled" : !alpine.ready ? "starting" : healthOf(alpine.up),
          redis: redis ? healthOf(redis.up) : "disabled",
        };
      },
    }),
  );
  app.route("/", docsRoutes());
  app.route("/", startRoutes(alpine !== null));

  let document: string | undefined;
  app.get("/openapi.json", (c) => {
    document ??= JSON.stringify(described(app, config.access === "open", alpine !== null));
    return c.body(document, 200, { "Content-Type": "application/json" });
  });
  const handlersOf = (method: string, path: string) => app.router.match(method, path)[0];

  app.notFound((c) => {
    const allowed = methods.filter((method) => {
      return handlersOf(method === "HEAD" ? "GET" : method, c.req.path).length > 0;
    });
    if (allowed.length === 0) throw new AppError("not_found", "There is nothing at this path.");
    throw new AppError("method_not_allowed", `This path takes ${allowed.join(", ")}.`, {
      headers: { Allow: allowed.join(", ") },
    });
  });
  app.onError((error, c) => refuse(error, c.req.raw, c.env));

  const edge = createEdge({
    config,
    log,
    metrics,
    meters,
    draining,
    refuse,
    routeOf: ({ request, path }) => {
      if (path === undefined) return "none";
      if (readMethods.has(request.method) && polls.has(path)) return path;
      const method = request.method === "HEAD" ? "GET" : request.method;
      const handlers = handlersOf(method, path);
      // A word may stand where another route has an id.
      const own = handlers.find(([[, route]]) => route.path === path) ?? handlers.at(-1);
      return own?.[0][1].path ?? "none";
    },
  });

  function refuse(error: unknown, request: Request, exchange: Exchange): Response {
    const shown = asAppError(error, exchange);
    // Another limit says itself when to come back: the numbers of this one would contradict.
    if (shown.code === "rate_limited" && exchange.verdict?.allowed) exchange.verdict = undefined;
    const cause = String(shown.cause ?? "");
    if (shown.status === 500) {
      log.error({ request_id: exchange.requestId, err: error, cause }, "request failed");
    } else if (shown.status === 503) tellRefusal(shown.detail, cause);
    return problem(shown, shownPath(pathOf(request)));
  }
  const fetch = edge((request, exchange) => {
    const { method } = request;
    const path = (exchange.path = pathOf(request));
    if (method === "OPTIONS" && request.headers.has("origin")) return preflight(config, request);
    // To HEAD no signal is sent.
    if (method === "HEAD") exchange.deliver = () => undefined;
    const poll = readMethods.has(method) ? polls.get(path) : undefined;
    if (poll) return poll(request, exchange);
    // Hono would take the body of a HEAD away, and with it the length that Bun tells.
    const routed = method === "HEAD" ? new Request(request, { method: "GET" }) : request;
    return app.fetch(routed, exchange);
  });
  app.route("/", batchRoutes(fetch));
  return {
    /** Answers any request. */
    fetch,
    /** Answer GET requests of their paths, and need no router: that would cost a poll dearly. */
    polls: [...polls].map(([path, poll]) => ({ path, fetch: edge(poll) })),
    /** What the listener does with WebSockets. */
    websocket: live.sockets.handlers,
    routes: app.routes,
  };
}

/** The document of all routes, each with what its own handlers ask for. */
function described(app: OpenAPIHono<AppEnv>, open: boolean, accounts: boolean) {
  for (const [name, scheme] of Object.entries(securitySchemes)) {
    if (!accounts && name !== "operator") continue;
    app.openAPIRegistry.registerComponent("securitySchemes", name, scheme);
  }
  const document = app.getOpenAPI31Document(description);
  for (const { method, path, handler } of app.routes) {
    const right = rightOf(handler);
    if (right === undefined) continue;
    const item = document.paths?.[path.replaceAll(/:(\w+)/g, "{$1}")];
    const operation = item?.[method.toLowerCase() as "get"];
    if (operation) operation.security = securityOf(right, { open, accounts });
  }
  return document;
}

/** Logs each reason of a refusal at most once a second: they come by the thousand. */
function createRefusalLog(log: Logger, now: () => number) {
  const told = new Map<string, { at: number; since: number }>();
  return (detail: string, cause: string): void => {
    const last = told.get(detail);
    if (last && now() - last.at < 1_000) {
      last.since += 1;
      return;
    }
    if (told.size > 100) told.clear();
    log.warn({ reason: detail, cause, refused_since: (last?.since ?? 0) + 1 }, "requests refused");
    told.set(detail, { at: now(), since: 0 });
  };
}

const healthOf = (up: boolean) => (up ? "healthy" : "unhealthy");

function asAppError(error: unknown, { request }: Exchange): AppError {
  if (error instanceof AppError) return error;
  // Nobody is there to be answered; it is no fault of this server's.
  if (request.signal.aborted && error instanceof Error && error.name === "AbortError") {
    return new AppError("bad_request", "The request was broken off.", { cause: error });
  }
  // Met while serving: somebody has changed the file under the server.
  if (error instanceof SetupError) {
    return new AppError("unavailable", `${error.message} ${error.fix}`, { cause: error });
  }
  if (error instanceof HTTPException && error.status === 400) {
    return new AppError("bad_request", "The request cannot be read.", { cause: error });
  }
  return new AppError("internal", "Internal error", { cause: error });
}
