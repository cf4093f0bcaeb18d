import type { Config } from "../../config";
import type { Admission } from "../../http/admit";
import type { Exchange } from "../../http/exchange";
import { setLimitHeaders } from "../../http/limit";
import { acceptsGzip, allowOrigin } from "../../http/policy";
import type { Metrics } from "../../platform/metrics";
import type { LatestAnswers } from "./latest";
import type { Variant } from "./variant";

export const latestPath = "/api/signals/latest";

export type Poll = (request: Request, exchange: Exchange) => Response | Promise<Response>;

type Deps = {
  config: Config;
  answers: LatestAnswers;
  admission: Admission;
  metrics: Metrics;
  draining: () => boolean;
  /** Makes the answer of an error, all but dressed. */
  refuse: (error: unknown, request: Request, exchange: Exchange) => Response;
};

/**
 * Answers one poll: admission, bytes, headers and metrics without a chain of middleware, which
 * would cost more than all of them.
 */
export function createPoll(deps: Deps): Poll {
  const { config, answers, admission, metrics, draining, refuse } = deps;
  const labels = { method: "GET", route: latestPath };
  const ok = metrics.requests.of({ ...labels, status: 200 });
  const notModified = metrics.requests.of({ ...labels, status: 304 });
  const duration = metrics.requestDuration.of(labels);

  return function poll(request, exchange) {
    try {
      admission.reader(request, exchange);
    } catch (error) {
      return refuse(error, request, exchange);
    }
    exchange.dressed = true;
    const { headers, url } = request;
    const at = url.indexOf("?");
    return answers.answer(
      at < 0 ? "" : url.slice(at),
      config.compression && acceptsGzip(headers.get("accept-encoding")),
      (variant) => send(request, exchange, variant),
      (error) => exchange.dress(refuse(error, request, exchange), request, exchange),
    );
  };

  function send(request: Request, exchange: Exchange, variant: Variant): Response {
    const { headers, method } = request;
    const ifNoneMatch = headers.get("if-none-match");
    const unmodified = ifNoneMatch !== null && variant.matches(ifNoneMatch);
    let own = unmodified ? variant.unmodified : variant.headers;
    const origin = headers.get("origin");
    const bodiless = method === "HEAD";
    if (origin !== null || draining() || bodiless) {
      own = new Headers(own);
      if (bodiless && !unmodified) own.set("Content-Length", String(variant.body.length));
      allowOrigin(config, origin, own);
      if (draining()) own.set("Connection", "close");
    }
    // The prebuilt headers are shared: what differs is overwritten by each request, and copied
    // into its Response before the next one runs.
    own.set("X-Request-Id", exchange.requestId);
    if (exchange.verdict) setLimitHeaders(own, exchange.verdict);
    const response = unmodified
      ? new Response(null, { status: 304, headers: own })
      : new Response(bodiless ? null : variant.body, { headers: own });
    (unmodified ? notModified : ok).value += 1;
    duration.observe((performance.now() - exchange.startedAt) / 1000);
    return response;
  }
}
