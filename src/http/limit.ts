import type { Store } from "hono-rate-limiter";
import { AppError } from "../errors";
import type { AppEnv } from "./exchange";

/** The counts of one key. `unsent` and `noted` are for whoever shares them between processes. */
export type Window = {
  readonly key: string;
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
  #young = new Map<string, Window>();
  #old = new Map<string, Window>();
  #turnedAt = 0;
  #onTaken: ((window: Window) => void) | null = null;

  constructor(readonly options: LimitOptions) {}

  /** Calls this with the window of each request from now on, let in or refused. */
  share(onTaken: (window: Window) => void): void {
    this.#onTaken = onTaken;
  }

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  take(key: string): Verdict {
    const { limit, windowMs, now } = this.options;
    const at = now();
    const window = this.#window(key, at);
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
    const window = this.#young.get(key) ?? this.#old.get(key);
    if (!window || window.current <= 0) return;
    window.current -= 1;
    window.unsent -= 1;
  }

  resetKey(key: string): void {
    this.#young.delete(key);
    this.#old.delete(key);
  }

  #window(key: string, at: number): Window {
    const { limit, windowMs } = this.options;
    const held = this.#held(key, at);
    if (!held) {
      const made = { key, startedAt: at, current: 0, previous: 0, unsent: 0, noted: false };
      this.#young.set(key, made);
      return made;
    }
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
    const { windowMs, keysMax } = this.options;
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
  setRemaining(headers, verdict);
  setReset(headers, verdict);
}

/** The part that changes with each request. */
export function setRemaining(headers: Headers, { remaining, resetSeconds }: Verdict): void {
  const left = String(remaining);
  headers.set("RateLimit", `"default";r=${left};t=${resetSeconds}`);
  headers.set("X-RateLimit-Remaining", left);
}

/** The part that stays the same for as long as a window lasts. */
export function setReset(headers: Headers, { resetAtSeconds }: Verdict): void {
  headers.set("X-RateLimit-Reset", String(resetAtSeconds));
}

/** The headers that are the same for every verdict of one limiter. */
export function limitPolicyHeaders({ limit, windowMs }: LimitOptions): Record<string, string> {
  return {
    "RateLimit-Policy": `"default";q=${limit};w=${Math.round(windowMs / 1000)}`,
    "X-RateLimit-Limit": String(limit),
  };
}

/** 429 that says when to come back. */
export function limitExceeded(
  { limit, windowMs }: Pick<LimitOptions, "limit" | "windowMs">,
  verdict: Verdict,
): AppError {
  const seconds = Math.round(windowMs / 1000);
  return new AppError(
    "rate_limited",
    `The limit of ${limit} requests in ${seconds} s is used up. Try again in ${verdict.resetSeconds} s.`,
    { retryAfterSeconds: verdict.resetSeconds },
  );
}
