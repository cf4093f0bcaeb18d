import { AppError } from "../../errors";
import type { Admission } from "../../http/admit";
import type { View } from "../../http/entitlement";
import type { Exchange } from "../../http/exchange";
import { type Principal, viewOfReader } from "../../http/guard";
import type { Meter, Meters } from "../../http/meter";
import type { Metrics } from "../../platform/metrics";
import type { Redis } from "../../platform/redis";
import type { EndReason } from "./event";
import type { CloseReason } from "./message";
import type { Source } from "./sequence";
import { type Seats, Together } from "./together";

type Deps = {
  source: Source;
  admission: Admission;
  meters: Meters | null;
  metrics: Metrics;
  /** Null where each process counts streams for itself. */
  redis: Redis | null;
  now: () => number;
};

/** Who streams, as they were let in: no more of it is kept than is asked again. */
export type StreamReader = {
  readonly view: View;
  /** The one with which another server reads. */
  readonly askedView: View | undefined;
  readonly authorization: string | null;
  /** Null for whom no plan covers. */
  readonly userId: string | null;
  /** What they are sent is counted here. */
  readonly meter: Meter | null;
};

/** A stream that is open, whatever it is sent over. */
export type OpenStream = {
  readonly reader: StreamReader;
  /** When the sequence's place was last told; kept here by `Streams`. */
  beatMs: number;
  beat(): void;
  end(reason: EndReason): void;
};

/** The streams of an account in this process, the oldest first. */
type Account = { most: number; open: Map<OpenStream, { name: string; atMs: number }> };

/** Streams of all in this process, and those of them who came without a credential. */
const streamsMax = 20_000;
const strangersMax = 1_000;
/** How often each is asked whether its reader may still read, and sees the same; a part at a time. */
const lookEveryMs = 500;
const parts = 10;
const beatEveryMs = 15_000;

/**
 * The streams that are open in this process. Each goes on only while its reader may read: asked
 * again and again as if it came anew, so that whoever is shut out is cut off within a second.
 */
export class Streams {
  readonly #open = new Set<OpenStream>();
  readonly #accounts = new Map<string, Account>();
  readonly #together: Together | null;
  #strangers = 0;
  #timer: Timer | null = null;
  #round: Iterator<OpenStream> | null = null;

  #names = 0;

  constructor(private readonly deps: Deps) {
    const { redis } = deps;
    this.#together =
      redis && new Together(redis, (userId) => this.#seatsOf(userId), this.#replaced);
  }

  /**
   * Lets in whoever may open one more.
   * @throws AppError 403 for a plan without streams, 503 when there are too many.
   */
  admit({ principal, view }: Exchange, authorization: string | null): StreamReader {
    const { source, meters } = this.deps;
    const account = principal?.account;
    if (account && account.entitlement.streamsMax < 1) {
      throw new AppError("forbidden", "The plan of this account does not include streams.");
    }
    if (source.draining) throw new AppError("unavailable", "The server is stopping.");
    if (this.#open.size >= streamsMax || (!principal && this.#strangers >= strangersMax)) {
      throw new AppError("unavailable", "Too many streams are open. Poll, or try again.", {
        retryAfterSeconds: 30,
      });
    }
    return {
      view: viewOfReader({ principal, view }),
      askedView: view,
      authorization,
      userId: account?.userId ?? null,
      meter: account?.meter ?? meters?.strangers ?? null,
    };
  }

  hold(stream: OpenStream): void {
    stream.beatMs = this.deps.now();
    this.#open.add(stream);
    const { authorization, userId } = stream.reader;
    if (authorization === null) this.#strangers += 1;
    if (userId !== null) {
      const account = this.#accounts.get(userId) ?? { most: Infinity, open: new Map() };
      this.#accounts.set(userId, account);
      this.#names += 1;
      account.open.set(stream, { name: `${this.#names}:${userId}`, atMs: performance.now() });
    }
    this.#timer ??= setInterval(this.#look, lookEveryMs / parts);
  }

  /** Called when one is over; `reason` is null when the client went away. */
  readonly drop = (stream: OpenStream, reason: CloseReason | null): void => {
    if (!this.#open.delete(stream)) return;
    this.deps.metrics.streamsEnded.of({ reason: reason ?? "client" }).value += 1;
    const { authorization, userId } = stream.reader;
    if (authorization === null) this.#strangers -= 1;
    if (userId !== null) {
      const account = this.#accounts.get(userId);
      account?.open.delete(stream);
      if (account?.open.size === 0) this.#accounts.delete(userId);
      this.#together?.note(userId);
    }
    if (this.#open.size > 0 || !this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = null;
  };

  /**
   * To be called when one has begun. Ends the oldest of those that its account has more than the
   * plan allows: a bot that was cut off without a word must not be kept out by itself.
   */
  begun({ principal }: Exchange): void {
    const account = principal?.account;
    if (!account) return;
    this.#trim(account);
    this.#together?.note(account.userId);
  }

  #trim({ userId, entitlement }: Principal["account"] & object): void {
    const account = this.#accounts.get(userId);
    if (!account) return;
    const most = entitlement.streamsMax;
    if (most < account.most && account.most !== Infinity) this.#together?.note(userId);
    account.most = most;
    const extra = account.open.size - most;
    if (extra > 0)
      for (const stream of [...account.open.keys()].slice(0, extra)) stream.end("replaced");
  }

  #seatsOf(userId: string): Seats {
    const account = this.#accounts.get(userId);
    if (!account) return { most: 0, streams: [] };
    const nowMs = performance.now();
    const streams = [...account.open.values()].map(({ name, atMs }) => {
      return { name, ageMs: nowMs - atMs };
    });
    return { most: account.most, streams };
  }

  readonly #replaced = (name: string): void => {
    const open = this.#accounts.get(name.slice(name.indexOf(":") + 1))?.open ?? [];
    for (const [stream, seat] of open) if (seat.name === name) stream.end("replaced");
  };

  readonly #look = (): void => {
    const nowMs = this.deps.now();
    if (this.deps.source.draining) {
      for (const stream of this.#open) stream.end("draining");
      return;
    }
    this.#round ??= this.#open.values();
    for (let left = Math.ceil(this.#open.size / parts); left > 0; left -= 1) {
      const { value: stream, done } = this.#round.next();
      if (done === true) {
        this.#round = null;
        return;
      }
      this.#askAgain(stream);
      // Also by a clock that was set back.
      if (Math.abs(nowMs - stream.beatMs) < beatEveryMs) continue;
      stream.beatMs = nowMs;
      stream.beat();
    }
  };

  #askAgain(stream: OpenStream): void {
    const { authorization, askedView, view } = stream.reader;
    const goOn = (principal: Principal | null): void => {
      const now = viewOfReader({ principal: principal ?? undefined, view: askedView });
      if (now !== view) stream.end("plan");
      else if (principal?.account) this.#trim(principal.account);
    };
    const refused = (error: unknown): void => {
      const known = error instanceof AppError ? error.code : "internal";
      const shutOut = known === "unauthorized" || known === "forbidden";
      stream.end(shutOut ? "unauthorized" : "unavailable");
    };
    try {
      const principal = this.deps.admission.again(authorization);
      if (principal instanceof Promise) void principal.then(goOn, refused);
      else goOn(principal);
    } catch (error) {
      refused(error);
    }
  }
}
