import type { Config } from "../../config";
import type { Admission } from "../../http/admit";
import type { Exchange } from "../../http/exchange";
import { setLimitHeaders } from "../../http/limit";
import { acceptsGzip, allowOrigin } from "../../http/policy";
import type { Metrics } from "../../platform/metrics";
import { type LatestAnswers, matches, type Variant } from "./latest";

export const latestPath = "/api/signals/latest";

export type Poll = (request: Request, exchange: Exchange) => Response | Promise<Response>;

type Deps = {
  config: Config;
  answers: LatestAnswers;
  admission: Admission;
  metrics: Metrics;
  draining: () => boolean;
};

/**
 * Answers one poll: admission, bytes, headers and metrics in one synchronous stretch, since a
 * chain of middleware costs more than all of them. Errors are thrown as everywhere else.
 */
export function createPoll({ config, answers, admission, metrics, draining }: Deps): Poll {
  const labels = { method: "GET", route: latestPath };
  const ok = metrics.requests.of({ ...labels, status: 200 });
  const notModified = metrics.requests.of({ ...labels, status: 304 });
  const duration = metrics.requestDuration.of(labels);

  return function poll(request, exchange) {
    admission.reader(request, exchange);
    const { headers, url } = request;
    const at = url.indexOf("?");
    const gzip = config.compression && acceptsGzip(headers.get("accept-encoding"));
    const answer = answers.answer(at < 0 ? "" : url.slice(at), gzip);
    return answer instanceof Promise
      ? answer.then((variant) => send(request, exchange, variant))
      : send(request, exchange, answer);
  };

  function send({ headers }: Request, exchange: Exchange, variant: Variant): Response {
    const ifNoneMatch = headers.get("if-none-match");
    const unmodified = ifNoneMatch !== null && matches(ifNoneMatch, variant);
    let own = unmodified ? variant.unmodified : variant.headers;
    const origin = headers.get("origin");
    if (origin !== null || draining()) {
      own = new Headers(own);
      allowOrigin(config, origin, own);
      if (draining()) own.set("Connection", "close");
    }
    // The prebuilt headers are shared: what differs is overwritten by each request, and copied
    // into its Response before the next one runs.
    own.set("X-Request-Id", exchange.requestId);
    if (exchange.verdict) setLimitHeaders(own, exchange.verdict);
    const response = unmodified
      ? new Response(null, { status: 304, headers: own })
      : new Response(variant.body, { headers: own });
    exchange.dressed = true;
    (unmodified ? notModified : ok).value += 1;
    duration.observe((performance.now() - exchange.startedAt) / 1000);
    return response;
  }
}
