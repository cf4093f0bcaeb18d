import type { Store } from "hono-rate-limiter";
import { AppError } from "../errors";
import type { Quota } from "./entitlement";
import type { AppEnv } from "./exchange";

/** The counts of one key. `unsent` and `noted` are for whoever shares them between processes. */
export type Window = {
  readonly key: string;
  quota: Quota;
  startedAt: number;
  current: number;
  previous: number;
  /** Let in since another process was last told. */
  unsent: number;
  /** Whether it is on the list of what to tell. */
  noted: boolean;
};

/** What a limiter says of one request. */
export type Verdict = {
  allowed: boolean;
  quota: Quota;
  remaining: number;
  /** Seconds until the window has passed or, when refused, until a request fits again. */
  resetSeconds: number;
  resetAtSeconds: number;
};

export const windowMs = 60_000;
const windowSeconds = windowMs / 1000;

export type LimitOptions = {
  /** Requests in a minute of those whom no plan covers. */
  limit: number;
  keysMax: number;
  now: () => number;
};

/**
 * A sliding window for each key: the count of this window plus the part of the last one that
 * still overlaps. A refused request is not counted, so that a client that waits is let in.
 * Answers from memory, without awaiting anything.
 */
export class SlidingWindow implements Store<AppEnv> {
  asked = 0;
  refused = 0;
  #young = new Map<string, Window>();
  #old = new Map<string, Window>();
  #turnedAt = 0;
  #onTaken: ((window: Window) => void) | null = null;
  /** Of those whom no plan covers. */
  readonly quota: Quota;

  constructor(readonly options: LimitOptions) {
    this.quota = { name: "default", limit: options.limit };
  }

  /** Calls this with the window of each request from now on, let in or refused. */
  share(onTaken: (window: Window) => void): void {
    this.#onTaken = onTaken;
  }

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  take(key: string, quota = this.quota): Verdict {
    const { now } = this.options;
    const { limit } = quota;
    const at = now();
    const window = this.#window(key, at, quota);
    const elapsed = at - window.startedAt;
    const used = window.previous * (1 - elapsed / windowMs) + window.current;
    const allowed = used + 1 <= limit;
    this.asked += 1;
    if (allowed) {
      window.current += 1;
      window.unsent += 1;
    } else this.refused += 1;
    this.#onTaken?.(window);
    const waitMs = allowed ? windowMs - elapsed : this.#waitMs(window, elapsed);
    return {
      allowed,
      quota,
      remaining: allowed ? Math.max(0, Math.floor(limit - used - 1)) : 0,
      resetSeconds: Math.max(1, Math.ceil(waitMs / 1000)),
      resetAtSeconds: Math.ceil((at + waitMs) / 1000),
    };
  }

  /** Notes the quota of a key, for whoever asks by the key alone. */
  assign(key: string, quota: Quota): void {
    this.#window(key, this.options.now(), quota);
  }

  /** For hono-rate-limiter, which knows nothing but the key. */
  increment(key: string): { totalHits: number; resetTime: Date } {
    const known = (this.#young.get(key) ?? this.#old.get(key))?.quota;
    const { allowed, quota, remaining, resetAtSeconds } = this.take(key, known);
    const totalHits = allowed ? quota.limit - remaining : quota.limit + 1;
    return { totalHits, resetTime: new Date(resetAtSeconds * 1000) };
  }

  decrement(key: string): void {
    const window = this.#young.get(key) ?? this.#old.get(key);
    if (!window || window.current <= 0) return;
    window.current -= 1;
    window.unsent -= 1;
  }

  resetKey(key: string): void {
    this.#young.delete(key);
    this.#old.delete(key);
  }

  #window(key: string, at: number, quota: Quota): Window {
    const { limit } = quota;
    const held = this.#held(key, at);
    if (!held) {
      const made = { key, quota, startedAt: at, current: 0, previous: 0, unsent: 0, noted: false };
      this.#young.set(key, made);
      return made;
    }
    held.quota = quota;
    const age = at - held.startedAt;
    if (age >= 0 && age < windowMs) return held;
    if (age < 0) {
      // The clock was set back: what was used stays used, or each step back would open the gate.
      held.previous = Math.min(limit, held.previous + held.current);
      held.startedAt = at;
    } else {
      const next = age < 2 * windowMs;
      held.previous = next ? held.current : 0;
      held.startedAt = next ? held.startedAt + windowMs : at;
    }
    held.current = 0;
    return held;
  }

  /** Two generations: what was not asked for since the last turn goes as a whole. */
  #held(key: string, at: number): Window | undefined {
    const { keysMax } = this.options;
    const aged = Math.abs(at - this.#turnedAt) >= 2 * windowMs;
    if (aged || this.#young.size >= keysMax / 2) {
      this.#old = this.#young;
      this.#young = new Map();
      this.#turnedAt = at;
    }
    const young = this.#young.get(key);
    if (young) return young;
    const old = this.#old.get(key);
    if (old) {
      this.#old.delete(key);
      this.#young.set(key, old);
    }
    return old;
  }

  /** Milliseconds until one more request fits. */
  #waitMs({ quota: { limit }, current, previous }: Window, elapsed: number): number {
    if (current + 1 <= limit) {
      return Math.max(0, windowMs * (1 - (limit - current - 1) / previous) - elapsed);
    }
    return windowMs - elapsed + windowMs * Math.max(0, 1 - (limit - 1) / current);
  }
}

/** The headers of a verdict: draft-ietf-httpapi-ratelimit-headers and the older X- names. */
export function setLimitHeaders(headers: Headers, verdict: Verdict): void {
  setQuota(headers, verdict);
  setRemaining(headers, verdict);
  setReset(headers, verdict);
}

/** The part that is the same for all whom one plan covers. */
export function setQuota(headers: Headers, { quota: { name, limit } }: Verdict): void {
  headers.set("RateLimit-Policy", `"${name}";q=${limit};w=${windowSeconds}`);
  headers.set("X-RateLimit-Limit", String(limit));
}

/** The part that changes with each request. */
export function setRemaining(headers: Headers, verdict: Verdict): void {
  const { quota, remaining, resetSeconds } = verdict;
  const left = String(remaining);
  headers.set("RateLimit", `"${quota.name}";r=${left};t=${resetSeconds}`);
  headers.set("X-RateLimit-Remaining", left);
}

/** The part that stays the same for as long as a window lasts. */
export function setReset(headers: Headers, { resetAtSeconds }: Verdict): void {
  headers.set("X-RateLimit-Reset", String(resetAtSeconds));
}

/** 429 that says when to come back. */
export function limitExceeded({ quota, resetSeconds }: Verdict): AppError {
  return new AppError(
    "rate_limited",
    `The limit of ${quota.limit} requests in ${windowSeconds} s is used up. Try again in ${resetSeconds} s.`,
    { retryAfterSeconds: resetSeconds },
  );
}
