import type { Store } from "hono-rate-limiter";
import { AppError } from "../errors";
import type { AppEnv } from "./exchange";

type Window = { startedAt: number; current: number; previous: number };

/** What a limiter says of one request. */
export type Verdict = {
  allowed: boolean;
  limit: number;
  remaining: number;
  /** Seconds until the window has passed or, when refused, until a request fits again. */
  resetSeconds: number;
  resetAtSeconds: number;
};

export type LimitOptions = { limit: number; windowMs: number; keysMax: number; now: () => number };

/**
 * A sliding window for each key: the count of this window plus the part of the last one that
 * still overlaps. A refused request is not counted, so that a client that waits is let in.
 * Answers from memory, without awaiting anything.
 */
export class SlidingWindow implements Store<AppEnv> {
  asked = 0;
  refused = 0;
  readonly #windows = new Map<string, Window>();

  constructor(readonly options: LimitOptions) {}

  get size(): number {
    return this.#windows.size;
  }

  take(key: string): Verdict {
    const { limit, windowMs, now } = this.options;
    const at = now();
    const window = this.#window(key, at);
    const elapsed = at - window.startedAt;
    const used = window.previous * (1 - elapsed / windowMs) + window.current;
    const allowed = used + 1 <= limit;
    this.asked += 1;
    if (allowed) window.current += 1;
    else this.refused += 1;
    const waitMs = allowed ? windowMs - elapsed : this.#waitMs(window, elapsed);
    return {
      allowed,
      limit,
      remaining: allowed ? Math.max(0, Math.floor(limit - used - 1)) : 0,
      resetSeconds: Math.max(1, Math.ceil(waitMs / 1000)),
      resetAtSeconds: Math.ceil((at + waitMs) / 1000),
    };
  }

  /** For hono-rate-limiter. */
  increment(key: string): { totalHits: number; resetTime: Date } {
    const { allowed, limit, remaining, resetAtSeconds } = this.take(key);
    const totalHits = allowed ? limit - remaining : limit + 1;
    return { totalHits, resetTime: new Date(resetAtSeconds * 1000) };
  }

  decrement(key: string): void {
    const window = this.#windows.get(key);
    if (window && window.current > 0) window.current -= 1;
  }

  resetKey(key: string): void {
    this.#windows.delete(key);
  }

  #window(key: string, at: number): Window {
    const { windowMs, keysMax } = this.options;
    const held = this.#windows.get(key);
    // A clock set back restarts the window: it must neither block for ever nor open for ever.
    if (held && at >= held.startedAt && at < held.startedAt + windowMs) return held;
    const follows = held && at >= held.startedAt && at < held.startedAt + 2 * windowMs;
    const window: Window = follows
      ? { startedAt: held.startedAt + windowMs, current: 0, previous: held.current }
      : { startedAt: at, current: 0, previous: held && at < held.startedAt ? held.current : 0 };
    this.#windows.delete(key);
    this.#forgetOldest(at, keysMax);
    this.#windows.set(key, window);
    return window;
  }

  /** Insertion order is age: a few of the oldest go at each new window, so that no sweep is needed. */
  #forgetOldest(at: number, keysMax: number): void {
    let looked = 0;
    for (const [key, window] of this.#windows) {
      const expired = Math.abs(at - window.startedAt) >= 2 * this.options.windowMs;
      if (!expired && this.#windows.size < keysMax) return;
      this.#windows.delete(key);
      looked += 1;
      if (looked === 4) return;
    }
  }

  /** Milliseconds until one more request fits. */
  #waitMs({ current, previous }: Window, elapsed: number): number {
    const { limit, windowMs } = this.options;
    if (current + 1 <= limit) {
      return Math.max(0, windowMs * (1 - (limit - current - 1) / previous) - elapsed);
    }
    return windowMs - elapsed + windowMs * Math.max(0, 1 - (limit - 1) / current);
  }
}

/** The headers of a verdict: draft-ietf-httpapi-ratelimit-headers and the older X- names. */
export function setLimitHeaders(headers: Headers, verdict: Verdict): void {
  headers.set("RateLimit", `"default";r=${verdict.remaining};t=${verdict.resetSeconds}`);
  headers.set("X-RateLimit-Remaining", String(verdict.remaining));
  headers.set("X-RateLimit-Reset", String(verdict.resetAtSeconds));
}

/** The headers that are the same for every verdict of one limiter. */
export function limitPolicyHeaders({ limit, windowMs }: LimitOptions): Record<string, string> {
  return {
    "RateLimit-Policy": `"default";q=${limit};w=${Math.round(windowMs / 1000)}`,
    "X-RateLimit-Limit": String(limit),
  };
}

/** 429 that says when to come back. */
export function limitExceeded({ limit, windowMs }: LimitOptions, verdict: Verdict): AppError {
  const seconds = Math.round(windowMs / 1000);
  return new AppError(
    "rate_limited",
    `The limit of ${limit} requests in ${seconds} s is used up. Try again in ${verdict.resetSeconds} s.`,
    { retryAfterSeconds: verdict.resetSeconds },
  );
}
