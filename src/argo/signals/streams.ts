import { AppError } from "../../errors";
import type { Admission } from "../../http/admit";
import type { View } from "../../http/entitlement";
import type { Exchange } from "../../http/exchange";
import { type Principal, viewOfReader } from "../../http/guard";
import { fieldErrors, parseQuery } from "../../http/validate";
import type { Metrics } from "../../platform/metrics";
import type { EndReason, EventFilter } from "./event";
import type { FarReader } from "./far";
import type { Feed } from "./feed";
import { PREMIUM_CONFIDENCE } from "./layout";
import { LastEventId, StreamQuery } from "./schema";
import { Stream } from "./stream";

type Deps = {
  feed: Feed;
  far: FarReader;
  admission: Admission;
  metrics: Metrics;
  now: () => number;
};

/** What a request for a stream asks for; `sinceId` is null for what comes from now on. */
export type StreamAsked = { sinceId: number | null; filter: EventFilter };

/** An open stream, and what it was opened with. */
type Held = {
  view: View;
  headers: Headers;
  exchange: Exchange;
  userId: string | null;
  beatMs: number;
};

/** Streams of all in this process, and those of them whom no plan covers. */
const streamsMax = 10_000;
const strangersMax = 1_000;
/** How often it is asked whether its reader may still read, and sees the same. */
const lookEveryMs = 500;
const beatEveryMs = 15_000;

/** Understands what is asked of a stream. @throws AppError 400 that names the field. */
export function askStream({ url, headers }: Pick<Request, "url" | "headers">): StreamAsked {
  const at = url.indexOf("?");
  const query = parseQuery(StreamQuery, at < 0 ? "" : url.slice(at));
  const floor = query.premium_only ? PREMIUM_CONFIDENCE : 0;
  const { symbol, strategy } = query;
  return {
    sinceId: lastEventId(headers) ?? query.since_id ?? null,
    filter: { symbol, strategy, minConfidence: Math.max(query.min_confidence ?? 0, floor) },
  };
}

function lastEventId(headers: Headers): number | null {
  const text = headers.get("last-event-id");
  if (text === null) return null;
  const parsed = LastEventId.safeParse(text);
  if (parsed.success) return parsed.data;
  const field = "Last-Event-ID";
  const [fault] = fieldErrors(parsed.error);
  throw new AppError("bad_request", `The request is not valid: ${field}.`, {
    errors: [{ field, detail: fault?.detail ?? "must be a whole number" }],
  });
}

/**
 * The streams that are open in this process. Each goes on only while its reader may read: asked
 * again and again as if it came anew, so that whoever is shut out is cut off within a second.
 */
export class Streams {
  readonly #open = new Map<Stream, Held>();
  /** Those of each account, the oldest first. */
  readonly #ofAccount = new Map<string, Set<Stream>>();
  #strangers = 0;
  #timer: Timer | null = null;

  constructor(private readonly deps: Deps) {}

  /**
   * Opens a stream for whoever was let in. One more than the plan allows ends the oldest: a bot
   * that was cut off without a word must not be kept out by itself.
   * @throws AppError 403 for a plan without streams, 503 when there are too many.
   */
  async open(exchange: Exchange, { sinceId, filter }: StreamAsked): Promise<Stream> {
    const { feed, far, metrics, now } = this.deps;
    const account = exchange.principal?.account;
    if (account && account.entitlement.streamsMax < 1) {
      throw new AppError("forbidden", "The plan of this account does not include streams.");
    }
    if (this.#open.size >= streamsMax || (!account && this.#strangers >= strangersMax)) {
      throw new AppError("unavailable", "Too many streams are open. Poll, or try again.", {
        retryAfterSeconds: 30,
      });
    }
    const view = viewOfReader(exchange);
    const onEnd = (ended: Stream, reason: EndReason | null): void => {
      this.#drop(ended);
      metrics.streamsEnded.of({ reason: reason ?? "client" }).value += 1;
    };
    const stream = new Stream({ feed, far, exchange, view, filter, sinceId, onEnd });
    // Copied: what belongs to a request may go with it.
    const headers = new Headers(exchange.request.headers);
    const userId = account?.userId ?? null;
    this.#hold(stream, { view, headers, exchange, userId, beatMs: now() });
    try {
      await stream.begin();
    } catch (error) {
      this.#drop(stream);
      throw error;
    }
    this.#trim(exchange.principal);
    return stream;
  }

  #hold(stream: Stream, held: Held): void {
    this.#open.set(stream, held);
    const { userId } = held;
    if (userId === null) this.#strangers += 1;
    else {
      const others = this.#ofAccount.get(userId);
      if (others) others.add(stream);
      else this.#ofAccount.set(userId, new Set([stream]));
    }
    this.#timer ??= setInterval(this.#look, lookEveryMs);
  }

  #drop(stream: Stream): void {
    const held = this.#open.get(stream);
    if (!held) return;
    this.#open.delete(stream);
    const { userId } = held;
    if (userId === null) this.#strangers -= 1;
    else {
      const others = this.#ofAccount.get(userId);
      others?.delete(stream);
      if (others?.size === 0) this.#ofAccount.delete(userId);
    }
    if (this.#open.size > 0 || !this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }

  /** Ends the oldest of those that an account has more than its plan allows. */
  #trim(principal: Principal | null | undefined): void {
    const account = principal?.account;
    if (!account) return;
    const open = this.#ofAccount.get(account.userId) ?? [];
    const streams = [...open];
    const { streamsMax: most } = account.entitlement;
    for (const stream of streams.slice(0, Math.max(0, streams.length - most))) {
      stream.end("replaced");
    }
  }

  readonly #look = (): void => {
    const nowMs = this.deps.now();
    for (const [stream, held] of this.#open) {
      this.#askAgain(stream, held);
      // Also by a clock that was set back.
      if (Math.abs(nowMs - held.beatMs) < beatEveryMs) continue;
      held.beatMs = nowMs;
      stream.beat();
    }
  };

  #askAgain(stream: Stream, { headers, exchange, view }: Held): void {
    const goOn = (principal: Principal | null): void => {
      const now = viewOfReader({ principal: principal ?? undefined, view: exchange.view });
      if (now !== view) stream.end("plan");
      else this.#trim(principal);
    };
    const refused = (error: unknown): void => {
      const known = error instanceof AppError ? error.code : "internal";
      const shutOut = known === "unauthorized" || known === "forbidden";
      stream.end(shutOut ? "unauthorized" : "unavailable");
    };
    try {
      const principal = this.deps.admission.again(headers);
      if (principal instanceof Promise) void principal.then(goOn, refused);
      else goOn(principal);
    } catch (error) {
      refused(error);
    }
  }
}
