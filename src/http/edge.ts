import { promisify } from "node:util";
import { gzip } from "node:zlib";
import type { Server } from "bun";
import type { Config } from "../config";
import type { Logger } from "../platform/log";
import type { Metrics } from "../platform/metrics";
import type { Count, Distribution } from "../platform/series";
import { viewHeader, viewText } from "./entitlement";
import { createForwardedWarning } from "./forwarded";
import type { Exchange, JsonAnswer } from "./exchange";
import { setLimitHeaders } from "./limit";
import type { Meters, RouteClass } from "./meter";
import { batchPath } from "./path";
import { acceptsGzip, allowOrigin, secureHeaders } from "./policy";
import { StampedHeaders } from "./stamp";

export type Fetch = (
  request: Request,
  server: Server<unknown> | null,
  /** Of a request that is a part of another one, and that one counts what is sent of it. */
  within?: Pick<Exchange, "carrier" | "deliver">,
) => Response | Promise<Response>;

type Handler = (request: Request, exchange: Exchange) => Response | Promise<Response>;

type EdgeDeps = {
  /** Makes the answer of what was thrown. */
  refuse: (error: unknown, request: Request, exchange: Exchange) => Response;
  /** The pattern of the route that answers, for metrics and logs. */
  routeOf: (exchange: Exchange) => string;
  config: Config;
  log: Logger;
  metrics: Metrics;
  /** Null where there are no accounts, and nobody to write down what they did. */
  meters: Meters | null;
  /** True once the server drains: connections are closed after their answer. */
  draining: () => boolean;
};

const gzipBytesMin = 1_024;
/** Of all secure headers this is the one that a page may need otherwise. */
const { "Content-Security-Policy": csp = "", ...others } = secureHeaders;
const always = Object.entries(others);
const vary = "Accept-Encoding, Origin";
const unlessGiven = Object.entries({ "Content-Security-Policy": csp, "Cache-Control": "no-store" });
const compress = promisify(gzip);
let turn: Promise<void> | null = null;
const prefix = crypto.randomUUID().slice(0, 8);
let requests = 0;

/**
 * What every request passes on its way in and every answer on its way out: request id, CORS,
 * secure headers, compression, metrics, log. One function around a handler instead of middleware
 * inside it: a handler that promises nothing stays free of promises, and an answer that is
 * `dressed` passes untouched.
 */
export function createEdge(deps: EdgeDeps): (handler: Handler) => Fetch {
  const { config, log, metrics, refuse } = deps;
  const json = new Headers([
    ...always,
    ...unlessGiven,
    ["Content-Type", "application/json"],
    ["Vary", vary],
  ]);
  const hits = new StampedHeaders(json, { "X-Cache": "hit" });
  const misses = new StampedHeaders(json, { "X-Cache": "miss" });
  /** The series of a route, which cost more to look up by their labels than to count in. */
  const known = new Map<string, Series>();
  const strangers = deps.meters?.strangers ?? null;
  const meterOf = ({ principal }: Exchange) => principal?.account?.meter ?? strangers;

  const lookForProxy = createForwardedWarning(config, log);

  return function edge(handler) {
    return function fetch(request, server, within) {
      const exchange: Exchange = {
        request,
        carrier: within?.carrier ?? request,
        server,
        requestId: requestIdOf(request),
        startedAt: performance.now(),
        dressed: false,
        dress,
        streamed: false,
        principal: undefined,
        view: undefined,
        verdict: undefined,
        path: undefined,
        headed: undefined,
        cached,
        deliver: within?.deliver ?? deliver,
      };
      const answer = handled(handler, request, exchange);
      return exchange.dressed ? answer : dress(answer, exchange);
    };
  };

  function handled(handler: Handler, request: Request, exchange: Exchange) {
    try {
      return handler(request, exchange);
    } catch (error) {
      return refuse(error, request, exchange);
    }
  }

  async function dress(
    answer: Response | Promise<Response>,
    exchange: Exchange,
  ): Promise<Response> {
    const { request } = exchange;
    let response: Response;
    try {
      response = await answer;
    } catch (error) {
      // What is thrown and is no Error passes Hono's own handler by.
      response = refuse(error, request, exchange);
    }
    // Told late by a handler that Hono called behind a promise.
    if (exchange.dressed && answer instanceof Promise) return response;
    lookForProxy(request.headers);
    const headed = exchange.headed === response;
    // Answers that go out together wake their reader once: a fifth less work for each.
    if (headed) await endOfTurn();
    const route = deps.routeOf(exchange);
    if (config.compression && acceptsGzip(request.headers.get("accept-encoding"))) {
      response = await compressed(response, exchange);
    }
    if (!headed) head(response.headers, exchange);
    const origin = request.headers.get("origin");
    if (origin !== null) allowOrigin(config, origin, response.headers);
    if (deps.draining()) response.headers.set("Connection", "close");
    const { method } = request;
    const { status } = response;
    const durationMs = performance.now() - exchange.startedAt;
    const series = seriesOf(knownMethod(method), route, status);
    series.requests.value += 1;
    series.duration.observe(durationMs / 1000);
    if (series.routeClass !== null) meterOf(exchange)?.answered(series.routeClass, status);
    // What may come by the thousand is counted by the metrics; refusals for want of the file are
    // told once a second by whoever refuses.
    const level = status < 400 || status === 429 || status === 503 ? "debug" : "info";
    if (log.isLevelEnabled(level)) {
      const told = {
        request_id: exchange.requestId,
        method,
        route,
        status,
        duration_ms: Math.round(durationMs * 100) / 100,
        principal: exchange.principal?.id,
      };
      log[level](told, "request");
    }
    return response;
  }

  function head(headers: Headers, { requestId, verdict, view }: Exchange): void {
    for (const [name, value] of always) headers.set(name, value);
    for (const [name, value] of unlessGiven) if (!headers.has(name)) headers.set(name, value);
    headers.append("Vary", vary);
    headers.set("X-Request-Id", requestId);
    if (view) headers.set(viewHeader, viewText(view));
    if (!verdict) return;
    setLimitHeaders(headers, verdict);
  }

  function cached<T>(value: T, hit: boolean, exchange: Exchange): JsonAnswer<T> {
    const headers = (hit ? hits : misses).stamp(exchange);
    const response = new Response(JSON.stringify(value), { headers });
    exchange.headed = response;
    return response as JsonAnswer<T>;
  }

  function deliver(ids: readonly number[], exchange: Exchange): void {
    meterOf(exchange)?.deliver(ids);
  }

  function seriesOf(method: string, route: string, status: number): Series {
    const key = `${method} ${status} ${route}`;
    let series = known.get(key);
    if (!series) {
      const labels = { method, route };
      series = {
        requests: metrics.requests.of({ ...labels, status }),
        duration: metrics.requestDuration.of(labels),
        routeClass: classOf(route),
      };
      known.set(key, series);
    }
    return series;
  }
}

type Series = { requests: Count; duration: Distribution; routeClass: RouteClass | null };

/**
 * Null for what is no part of the API: probes and pages are nobody's usage; and for a batch, of
 * which each part is counted.
 */
function classOf(route: string): RouteClass | null {
  if (!route.startsWith("/api/") || route === batchPath) return null;
  if (/^\/api\/(signals|stats|hooks)(\/|$)/.test(route)) return "signals";
  return /^\/api\/admin(\/|$)/.test(route) ? "admin" : "account";
}

/** Resolves when all requests that came with this one have been looked at. */
function endOfTurn(): Promise<void> {
  turn ??= new Promise((resolve) => {
    setImmediate(() => {
      turn = null;
      resolve();
    });
  });
  return turn;
}

/** A client's own id is kept where it is harmless, so that its logs and ours meet. */
function requestIdOf(request: Request): string {
  const given = request.headers.get("x-request-id");
  if (given !== null && /^[\w-]{8,64}$/.test(given)) return given;
  requests += 1;
  return `${prefix}-${requests}`;
}

const methods = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
const knownMethod = (method: string): string => (methods.has(method) ? method : "other");

async function compressed(response: Response, exchange: Exchange): Promise<Response> {
  const type = response.headers.get("content-type") ?? "";
  // Packed, an event would wait for others until there is enough to pack.
  if (type === "text/event-stream") return response;
  const body = response.body;
  if (body === null || response.headers.has("content-encoding")) return response;
  if (!/^(application|text)\/|\+json/.test(type)) return response;
  if (exchange.streamed) {
    const headers = new Headers(response.headers);
    headers.set("Content-Encoding", "gzip");
    return new Response(body.pipeThrough(new CompressionStream("gzip")), {
      status: response.status,
      headers,
    });
  }
  const bytes = await response.arrayBuffer();
  const headers = new Headers(response.headers);
  if (bytes.byteLength < gzipBytesMin) {
    return new Response(bytes, { status: response.status, headers });
  }
  headers.set("Content-Encoding", "gzip");
  headers.delete("Content-Length");
  return new Response(await compress(bytes), { status: response.status, headers });
}
