import { z } from "@hono/zod-openapi";
import type { Config } from "../../config";
import type { Admission } from "../../http/admit";
import { type View, viewHeader, viewText } from "../../http/entitlement";
import type { Exchange } from "../../http/exchange";
import { viewOfReader } from "../../http/guard";
import type { Meters } from "../../http/meter";
import { acceptsGzip, allowOrigin } from "../../http/policy";
import type { Metrics } from "../../platform/metrics";
import { parseQuery } from "../../http/validate";
import type { Reached } from "./reached";
import { minId, waitSeconds } from "./schema";
import type { Source } from "./sequence";
import type { Variant } from "./variant";

export const latestPath = "/api/signals/latest";
export const subscribedPath = "/api/signals/subscribed";
export const streamPath = "/api/signals/stream";
export const socketPath = "/api/signals/ws";
export const ticketPath = "/api/signals/ws-ticket";

export type Poll = (request: Request, exchange: Exchange) => Response | Promise<Response>;

/** Where the answers come from, which are made by `use` and `fail`. */
export type AnswerSource = {
  answer<T>(
    search: string,
    gzip: boolean,
    view: View,
    exchange: Exchange,
    use: (variant: Variant, exchange: Exchange) => T,
    fail: (error: unknown, exchange: Exchange) => Promise<T>,
  ): Promise<T>;
};

type Deps = {
  path: string;
  config: Config;
  answers: AnswerSource;
  admission: Admission;
  metrics: Metrics;
  meters: Meters | null;
  draining: () => boolean;
  /** Tells polls that wait of changes. */
  feed: Source;
  /** Waits for what a client has heard of; null where the answers come from who does. */
  reached: Reached | null;
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
  const { path, config, answers, admission, metrics, draining, feed, reached, permit, refuse } =
    deps;
  const labels = { method: "GET", route: path };
  const ok = metrics.requests.of({ ...labels, status: 200 });
  const notModified = metrics.requests.of({ ...labels, status: 304 });
  const duration = metrics.requestDuration.of(labels);
  const strangers = deps.meters?.strangers ?? null;
  const places = new Places();

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
    const search = at < 0 ? "" : url.slice(at);
    if (search.includes("wait=") || search.includes("min_id=")) {
      return answerLate(search, gzip, view, exchange).catch((error: unknown) => {
        return fail(error, exchange);
      });
    }
    return answers.answer(search, gzip, view, exchange, send, fail);
  }

  /** Waits while the answer is the one that the client has. */
  async function answerLate(
    search: string,
    gzip: boolean,
    view: View,
    exchange: Exchange,
  ): Promise<Response> {
    const { wait, min_id, rest } = readWait(search, reached !== null);
    const { request, server } = exchange;
    // Who was shut out while they waited is not answered, and who sees less now is shown less.
    const askAgain = async (): Promise<void> => {
      await admission.renew(exchange);
      permit?.(exchange);
      view = viewOfReader(exchange);
    };
    if (min_id !== undefined && reached) {
      await reached.mustHave(min_id, view, request.signal);
      await askAgain();
      // What was waited is no work.
      exchange.startedAt = performance.now();
    }
    const ifNoneMatch = request.headers.get("if-none-match");
    const look = () => answers.answer(rest, gzip, view, exchange, asItIs, rejected);
    if (wait === 0 || ifNoneMatch === null) return send(await look(), exchange);
    using place = places.take(admission.ownerOf(exchange), exchange);
    if (place === null) return send(await look(), exchange);
    const until = performance.now() + wait * 1000;
    for (;;) {
      // Before the look: of what is committed after it, this is told.
      const watch = feed.watch(view);
      try {
        const variant = await look();
        const leftMs = until - performance.now();
        const over = leftMs <= 0 || feed.draining || request.signal.aborted;
        if (over || !variant.matches(ifNoneMatch)) {
          exchange.startedAt = performance.now();
          return send(variant, exchange);
        }
        server?.timeout(request, Math.ceil(leftMs / 1000) + idleSeconds);
        await watch.changed(leftMs, request.signal);
        await askAgain();
      } finally {
        watch.stop();
        // Else what comes next over this connection would be waited for as long.
        server?.timeout(request, idleSeconds);
      }
    }
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

/**
 * Of the polls that may wait those of one account, of one address without a credential, and of all
 * of these: the others are for others.
 */
const ofAccountMax = 1_000;
const ofAddressMax = 50;
const ofStrangersMax = 1_000;

class Places {
  readonly #taken = new Map<string, number>();

  /** Null when none is left, and the poll is to be answered at once. */
  take(owner: string | null, { principal }: Exchange): Disposable | null {
    const asked: [string, number][] = [];
    if (owner !== null) asked.push([owner, principal ? ofAccountMax : ofAddressMax]);
    if (!principal) asked.push(["strangers", ofStrangersMax]);
    if (asked.some(([name, most]) => this.#of(name) >= most)) return null;
    for (const [name] of asked) this.#taken.set(name, this.#of(name) + 1);
    return {
      [Symbol.dispose]: () => {
        for (const [name] of asked) {
          const left = this.#of(name) - 1;
          if (left > 0) this.#taken.set(name, left);
          else this.#taken.delete(name);
        }
      },
    };
  }

  #of(name: string): number {
    return this.#taken.get(name) ?? 0;
  }
}

/** As the listener has it for all others. */
const idleSeconds = 10;

const WaitQuery = z.object({ wait: waitSeconds.default(0), min_id: minId.optional() });

const asItIs = (variant: Variant): Variant => variant;
const rejected = (error: unknown): Promise<never> => Promise.reject(error as Error);

/**
 * Takes `wait` out of a query, which is understood without it, and `min_id` where it is seen to
 * here. @throws AppError 400.
 */
function readWait(search: string, here: boolean) {
  const { wait, min_id } = parseQuery(WaitQuery, search);
  const others = search
    .slice(1)
    .split("&")
    .filter((pair) => !pair.startsWith("wait=") && !(here && pair.startsWith("min_id=")));
  return { wait, min_id, rest: others.length === 0 ? "" : `?${others.join("&")}` };
}
