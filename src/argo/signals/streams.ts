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
  /** By whom streams are counted, an account or an address; null where they are not. */
  readonly owner: string | null;
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

/** The streams of an owner in this process, the oldest first. */
type Owner = { most: number; open: Map<OpenStream, { name: string; atMs: number }> };

/** Streams of all in this process, those who came without a credential, and of one address of these. */
const streamsMax = 20_000;
const strangersMax = 1_000;
const strangersOfAddressMax = 50;
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
  readonly #owners = new Map<string, Owner>();
  readonly #together: Together | null;
  #strangers = 0;
  #timer: Timer | null = null;
  #round: Iterator<OpenStream> | null = null;

  #names = 0;

  constructor(private readonly deps: Deps) {
    const { redis } = deps;
    this.#together = redis && new Together(redis, (owner) => this.#seatsOf(owner), this.#replaced);
  }

  /**
   * Lets in whoever may open one more.
   * @throws AppError 403 for a plan without streams, 503 when there are too many.
   */
  admit(exchange: Exchange, authorization: string | null): StreamReader {
    const { source, meters, admission } = this.deps;
    const { principal, view } = exchange;
    const account = principal?.account;
    if (account && account.entitlement.streamsMax < 1) {
      throw new AppError("forbidden", "The plan of this account does not include streams.");
    }
    if (source.draining) throw new AppError("unavailable", "The server is stopping.");
    const owner = admission.ownerOf(exchange);
    const isFull = (): boolean =>
      this.#open.size >= streamsMax || (!principal && this.#strangers >= strangersMax);
    // Nobody is kept out by a stream of their own.
    if (isFull() && owner !== null) this.#replaceOldest(owner, 1);
    if (isFull()) {
      throw new AppError("unavailable", "Too many streams are open. Poll, or try again.", {
        retryAfterSeconds: 30,
      });
    }
    return {
      view: viewOfReader({ principal, view }),
      askedView: view,
      authorization,
      owner,
      meter: account?.meter ?? meters?.strangers ?? null,
    };
  }

  hold(stream: OpenStream): void {
    stream.beatMs = this.deps.now();
    this.#open.add(stream);
    const { authorization, owner } = stream.reader;
    if (authorization === null) this.#strangers += 1;
    if (owner !== null) {
      const held = this.#owners.get(owner) ?? { most: Infinity, open: new Map() };
      this.#owners.set(owner, held);
      this.#names += 1;
      held.open.set(stream, { name: `${this.#names}:${owner}`, atMs: performance.now() });
    }
    this.#timer ??= setInterval(this.#look, lookEveryMs / parts);
  }

  /** Called when one is over; `reason` is null when the client went away. */
  readonly drop = (stream: OpenStream, reason: CloseReason | null): void => {
    if (!this.#open.delete(stream)) return;
    this.deps.metrics.streamsEnded.of({ reason: reason ?? "client" }).value += 1;
    const { authorization, owner } = stream.reader;
    if (authorization === null) this.#strangers -= 1;
    if (owner !== null) {
      const held = this.#owners.get(owner);
      held?.open.delete(stream);
      if (held?.open.size === 0) this.#owners.delete(owner);
      this.#together?.note(owner);
    }
    if (this.#open.size > 0 || !this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = null;
  };

  /**
   * To be called when one has begun. Ends the oldest of those that its owner has more than may be:
   * a bot that was cut off without a word must not be kept out by itself.
   */
  begun({ reader: { owner } }: OpenStream, { principal }: Exchange): void {
    if (owner === null) return;
    this.#trim(owner, principal);
    this.#together?.note(owner);
  }

  #trim(owner: string, principal: Principal | undefined): void {
    const held = this.#owners.get(owner);
    if (!held) return;
    const most = principal?.account?.entitlement.streamsMax ?? strangersOfAddressMax;
    if (most < held.most && held.most !== Infinity) this.#together?.note(owner);
    held.most = most;
    this.#replaceOldest(owner, held.open.size - most);
  }

  #replaceOldest(owner: string, count: number): void {
    if (count <= 0) return;
    const open = this.#owners.get(owner)?.open.keys() ?? [];
    for (const stream of [...open].slice(0, count)) stream.end("replaced");
  }

  #seatsOf(owner: string): Seats {
    const held = this.#owners.get(owner);
    if (!held) return { most: 0, streams: [] };
    const nowMs = performance.now();
    const streams = [...held.open.values()].map(({ name, atMs }) => {
      return { name, ageMs: nowMs - atMs };
    });
    return { most: held.most, streams };
  }

  readonly #replaced = (name: string): void => {
    const open = this.#owners.get(name.slice(name.indexOf(":") + 1))?.open ?? [];
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
    const { authorization, askedView, view, owner } = stream.reader;
    const goOn = (found: Principal | null): void => {
      const principal = found ?? undefined;
      const now = viewOfReader({ principal, view: askedView });
      if (now !== view) stream.end("plan");
      else if (owner !== null) this.#trim(owner, principal);
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
