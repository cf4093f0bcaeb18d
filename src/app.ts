import { OpenAPIHono } from "@hono/zod-openapi";
import { HTTPException } from "hono/http-exception";
import { signalRoutes } from "./argo/signals/routes";
import type { Deps } from "./deps";
import { AppError } from "./errors";
import { docsRoutes } from "./http/docs";
import { createEdge, type Fetch } from "./http/edge";
import type { AppEnv } from "./http/exchange";
import { problem } from "./http/respond";
import { operationRoutes } from "./platform/health";
import { version } from "./version";

const methods = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/** The whole application: every mount, in order, inside the edge that all requests pass. */
export function createApp(deps: Deps) {
  const { config, log, metrics, argo, admission, state } = deps;
  const draining = () => state.draining;
  const app = new OpenAPIHono<AppEnv>();

  app.route("/", signalRoutes({ config, argo, admission, metrics, draining }));
  app.route(
    "/",
    operationRoutes({
      config,
      metrics,
      now: deps.now,
      ready: () => (state.draining ? "draining" : state.started ? null : "starting"),
      signalsFault: () => argo.fault(),
    }),
  );
  app.route("/", docsRoutes());

  app.openAPIRegistry.registerComponent("securitySchemes", "bearer", {
    type: "http",
    scheme: "bearer",
    description: "A static token of the operator.",
  });
  app.doc31("/openapi.json", {
    openapi: "3.1.0",
    info: {
      title: "argo-alpine",
      version,
      license: { name: "MIT", identifier: "MIT" },
      description:
        "A self-hosted trading-signal server. Nothing here is financial advice: signals are what their producers wrote.",
    },
    servers: [{ url: "/" }],
    security: [{}, { bearer: [] }],
  });

  const handlersOf = (method: string, path: string) => app.router.match(method, path)[0];
  const pathOf = (request: Request) => new URL(request.url).pathname;

  app.notFound((c) => {
    const allowed = methods.filter((method) => handlersOf(method, c.req.path).length > 0);
    if (allowed.length === 0) throw new AppError("not_found", "There is nothing at this path.");
    throw new AppError("method_not_allowed", `This path takes ${allowed.join(", ")}.`, {
      headers: { Allow: allowed.join(", ") },
    });
  });
  app.onError((error, c) => {
    const shown = asAppError(error);
    if (shown.status >= 500) {
      log.error(
        { request_id: c.env.requestId, err: error, cause: String(shown.cause ?? "") },
        shown.status === 500 ? "request failed" : "request refused",
      );
    }
    return problem(shown, c.req.path);
  });

  const fetch: Fetch = createEdge(
    {
      fetch: (request, exchange) => app.fetch(request, exchange),
      routeOf: (request) => {
        const method = request.method === "HEAD" ? "GET" : request.method;
        return handlersOf(method, pathOf(request)).at(-1)?.[0][1].path ?? "none";
      },
    },
    { config, log, metrics, limitOptions: admission.limiter.options, draining },
  );
  return { fetch, routes: app.routes };
}

function asAppError(error: Error): AppError {
  if (error instanceof AppError) return error;
  if (error instanceof HTTPException && error.status === 400) {
    return new AppError("bad_request", "The request cannot be read.", { cause: error });
  }
  return new AppError("internal", "Internal error", { cause: error });
}
