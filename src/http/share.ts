import type { Redis } from "../platform/redis";
import { Script } from "../platform/script";
import { type SlidingWindow, type Window, windowMs } from "./limit";

const intervalMs = 200;
const spacingMs = 10;
const keysPerCall = 250;

/** Where the counts of several processes come together. */
export type Meeting = {
  /** Whether an exchange would be made now. */
  readonly connected: boolean;
  /**
   * Adds to the windows of these keys what was let in. `numbers` has five for each: its limit, let in
   * since the last time, and the window as this process knows it: elapsed ms, current, previous.
   * @returns elapsed, current and previous of each for all processes; undefined without an answer.
   */
  exchange(keys: string[], numbers: number[]): Promise<number[] | undefined>;
};

/** All processes for which this Redis is configured. */
export function inRedis(redis: Redis): Meeting {
  return {
    get connected() {
      return redis.connected;
    },
    exchange: async (names, numbers) => {
      const keys = names.map((name) => `limit:${name}`);
      const args = [windowMs, ...numbers];
      const reply = await redis.attempt((client) => exchangeScript.run(client, keys, args), {
        background: true,
      });
      return reply as number[] | undefined;
    },
  };
}

/**
 * Makes the windows of a limiter one for several processes, while every request is still decided
 * from memory. In the background each process adds what it let in to the key's window in Redis, and
 * takes over that window: when it began, and its counts for all processes. Redis measures the time,
 * so the clocks of machines need not agree. A window that Redis does not know begins there as the
 * process knows it: a flush costs nothing. While Redis is gone each process counts for itself. The
 * workers of one supervisor that have no Redis meet in its memory instead (`workers/counts.ts`).
 *
 * The bound of what N processes let in beyond `limit`, at r requests of one key a second in all:
 * what one of them lets in is known to all others after 2 × 200 ms and two round trips, so steadily
 * at most r × 0.4 s and a little. A key of which a process lets in a fiftieth of the limit between
 * two exchanges is told within d = 10 ms and a round trip, so in a burst at most N × limit / 50 + r × d.
 * Never more than (N - 1) × limit, which takes a burst that is over within d. Keys that used less
 * than a hundredth of the limit are not told: addresses that come once are not worth a word.
 */
export class SharedLimit implements AsyncDisposable {
  /** Exchanges that succeeded. */
  exchanges = 0;
  #noted: Window[] = [];
  #timer: Timer | undefined;
  #running: Promise<void> | undefined;
  #hurried = false;
  #lastAt = -Infinity;
  #ended = false;

  constructor(
    private readonly limiter: SlidingWindow,
    private readonly meeting: Meeting,
  ) {
    limiter.share((window) => this.#note(window));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  /** On the way of each poll. */
  #note(window: Window): void {
    if (!window.noted && this.#noted.length < this.limiter.options.keysMax) {
      window.noted = true;
      this.#noted.push(window);
      if (this.#noted.length === 1) this.#runAfter(intervalMs);
    }
    if (window.unsent * 50 >= window.quota.limit && !this.#hurried) {
      this.#hurried = true;
      this.#runAfter(Math.max(0, this.#lastAt + spacingMs - performance.now()));
    }
  }

  #runAfter(ms: number): void {
    if (this.#running || this.#ended) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#running = this.#run().finally(() => {
        this.#running = undefined;
        if (this.#noted.length > 0) this.#runAfter(this.#hurried ? spacingMs : intervalMs);
      });
    }, ms);
    this.#timer.unref();
  }

  async #run(): Promise<void> {
    this.#hurried = false;
    this.#lastAt = performance.now();
    if (!this.meeting.connected) return;
    const noted = this.#noted;
    this.#noted = [];
    const told = noted.filter((window) => this.#isWorthTelling(window));
    for (let i = 0; i < told.length && !this.#ended; i += keysPerCall) {
      const windows = told.slice(i, i + keysPerCall);
      if (await this.#exchange(windows)) continue;
      for (const window of told.slice(i)) this.#note(window);
      return;
    }
  }

  #isWorthTelling(window: Window): boolean {
    window.noted = false;
    return (window.current + window.previous) * 100 >= window.quota.limit;
  }

  async #exchange(windows: Window[]): Promise<boolean> {
    const { now } = this.limiter.options;
    const sentAt = now();
    const sent = windows.map((window) => window.unsent);
    const numbers: number[] = [];
    for (const { quota, unsent, startedAt, current, previous } of windows) {
      // What was let in before this window began, while Redis was gone, is no longer its business.
      const elapsed = Math.max(0, sentAt - startedAt);
      numbers.push(quota.limit, Math.min(unsent, current), elapsed, current, previous);
    }
    const keys = windows.map((window) => window.key);
    const counts = await this.meeting.exchange(keys, numbers);
    if (counts === undefined) return false;
    for (const [i, window] of windows.entries()) {
      const [elapsed = 0, current = 0, previous = 0] = counts.slice(3 * i, 3 * i + 3);
      window.unsent -= sent[i] ?? 0;
      window.startedAt = sentAt - elapsed;
      window.current = current + window.unsent;
      window.previous = previous;
    }
    this.exchanges += 1;
    return true;
  }
}

/**
 * KEYS windows (hash {start, current, previous}); ARGV window in ms, then for each key: its limit, let
 * in since the last time, and the window as the process knows it: elapsed ms, current, previous.
 * Gives elapsed, current, previous of each. Each key lives as long as it counts.
 */
const exchangeScript = new Script(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local length = tonumber(ARGV[1])
local reply = {}
for i, key in ipairs(KEYS) do
  local at = 5 * i - 2
  local limit = tonumber(ARGV[at - 1])
  local held = redis.call('HMGET', key, 'start', 'current', 'previous')
  local start, current, previous = tonumber(held[1]), tonumber(held[2]), tonumber(held[3])
  if not start or now - start >= 2 * length then
    start = now - ARGV[at + 1]
    current, previous = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    if now - start >= length then start, previous, current = start + length, current, 0 end
  else
    if now < start then start, previous, current = now, math.min(limit, previous + current), 0 end
    if now - start >= length then start, previous, current = start + length, current, 0 end
    current = current + ARGV[at]
  end
  redis.call('HSET', key, 'start', string.format('%.0f', start), 'current', current, 'previous', previous)
  redis.call('PEXPIRE', key, 2 * length)
  reply[#reply + 1] = now - start
  reply[#reply + 1] = current
  reply[#reply + 1] = previous
end
return reply
`);
