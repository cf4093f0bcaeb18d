import type { Config } from "../../config";
import type { Admission } from "../../http/admit";
import { type View, viewHeader, viewText } from "../../http/entitlement";
import type { Exchange } from "../../http/exchange";
import { viewOfReader } from "../../http/guard";
import type { Meters } from "../../http/meter";
import { acceptsGzip, allowOrigin } from "../../http/policy";
import type { Metrics } from "../../platform/metrics";
import type { Variant } from "./variant";

export const latestPath = "/api/signals/latest";
export const subscribedPath = "/api/signals/subscribed";

export type Poll = (request: Request, exchange: Exchange) => Response | Promise<Response>;

/** Where the answers come from, which are made by `use` and `fail`. */
export type AnswerSource = {
  answer(
    search: string,
    gzip: boolean,
    view: View,
    exchange: Exchange,
    use: (variant: Variant, exchange: Exchange) => Response,
    fail: (error: unknown, exchange: Exchange) => Promise<Response>,
  ): Response | Promise<Response>;
};

type Deps = {
  path: string;
  config: Config;
  answers: AnswerSource;
  admission: Admission;
  metrics: Metrics;
  meters: Meters | null;
  draining: () => boolean;
  /** Called for whoever is let in. @throws AppError for those whom this is not for. */
  permit?: (exchange: Exchange) => void;
  /** Makes the answer of an error, all but dressed. */
  refuse: (error: unknown, request: Request, exchange: Exchange) => Response;
};

/**
 * Answers one poll: admission, bytes, headers and metrics without a chain of middleware, which
 * would cost more than all of them.
 */
export function createPoll(deps: Deps): Poll {
  const { path, config, answers, admission, metrics, draining, permit, refuse } = deps;
  const labels = { method: "GET", route: path };
  const ok = metrics.requests.of({ ...labels, status: 200 });
  const notModified = metrics.requests.of({ ...labels, status: 304 });
  const duration = metrics.requestDuration.of(labels);
  const strangers = deps.meters?.strangers ?? null;

  return function poll(request, exchange) {
    exchange.path = path;
    const pending = admission.reader(request, exchange);
    if (pending) return pending.then(() => answer(request, exchange));
    return answer(request, exchange);
  };

  function answer(request: Request, exchange: Exchange): Response | Promise<Response> {
    permit?.(exchange);
    exchange.dressed = true;
    const { headers, url } = request;
    const at = url.indexOf("?");
    const gzip = config.compression && acceptsGzip(headers.get("accept-encoding"));
    const view = viewOfReader(exchange);
    return answers.answer(at < 0 ? "" : url.slice(at), gzip, view, exchange, send, fail);
  }

  function send(variant: Variant, exchange: Exchange): Response {
    const { headers } = exchange.request;
    const ifNoneMatch = headers.get("if-none-match");
    const unmodified = ifNoneMatch !== null && variant.matches(ifNoneMatch);
    let own = (unmodified ? variant.unmodified : variant.full).stamp(exchange);
    const origin = headers.get("origin");
    if (origin !== null || exchange.view || draining()) {
      own = new Headers(own);
      if (exchange.view) own.set(viewHeader, viewText(exchange.view));
      allowOrigin(config, origin, own);
      if (draining()) own.set("Connection", "close");
    }
    if (!unmodified) exchange.deliver(variant.ids, exchange);
    const response = unmodified
      ? new Response(null, { status: 304, headers: own })
      : new Response(variant.body, { headers: own });
    (unmodified ? notModified : ok).value += 1;
    duration.observe((performance.now() - exchange.startedAt) / 1000);
    (exchange.principal?.account?.meter ?? strangers)?.answered("signals", unmodified ? 304 : 200);
    return response;
  }

  function fail(error: unknown, exchange: Exchange): Promise<Response> {
    return exchange.dress(refuse(error, exchange.request, exchange), exchange);
  }
}
