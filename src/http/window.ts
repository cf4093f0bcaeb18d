import type { Redis } from "../platform/redis";
import { Script } from "../platform/script";
import type { Verdict as LimitVerdict } from "./limit";

const keysMaxDefault = 100_000;

export type WindowOptions = {
  /** What is limited, such as `login_account`: part of the key in Redis. */
  name: string;
  limit: number;
  windowMs: number;
  redis: Redis | null;
  now: () => number;
  /** Keys held at most, in process and in Redis each. */
  keysMax?: number;
};

/** What it says of one event. */
type Verdict = Omit<LimitVerdict, "quota">;

export type Taken = Verdict & {
  /** Uncounts it, as for a login that succeeded. Of no effect when it was refused. */
  giveBack(): Promise<void>;
};

/**
 * Exactly `limit` in any stretch of `windowMs`, for what guards passwords: every event is kept with
 * its time, and asked and counted in one step, so that of many at once no more than the limit pass.
 * Decided by Redis for all processes together. This process counts for itself beside it and must
 * agree: whatever Redis forgets, and while it is gone, one process never lets in more than the
 * limit. What was refused is not counted.
 */
export class ExactWindow {
  asked = 0;
  refused = 0;
  readonly #local: LocalEvents;

  constructor(readonly options: WindowOptions) {
    this.#local = new LocalEvents(options.windowMs, options.keysMax ?? keysMaxDefault);
  }

  /** Keys held in process. */
  get size(): number {
    return this.#local.size;
  }

  /** Counts `cost` events of the key if they fit, all or none. Keeps a request 25 ms at most. */
  async take(key: string, cost = 1): Promise<Taken> {
    const { limit } = this.options;
    const id = crypto.randomUUID();
    const shared = await this.#ask(key, cost, id, true);
    const at = this.options.now();
    const events = this.#local.of(key, at, shared?.forgivenAt);
    const allowed = (shared?.allowed ?? true) && events.length + cost <= limit;
    this.asked += 1;
    if (allowed) for (let i = 0; i < cost; i += 1) events.push(at);
    else this.refused += 1;
    if (shared?.allowed && !allowed) void this.#unsay(key, cost, id);
    const uncount = async (): Promise<void> => {
      this.#local.remove(key, at, cost);
      await this.#unsay(key, cost, id);
    };
    return {
      ...this.#verdict(allowed, cost, events, shared, at),
      giveBack: allowed ? once(uncount) : () => Promise.resolve(),
    };
  }

  /** What `take` would say now. */
  async peek(key: string): Promise<Verdict> {
    const shared = await this.#ask(key, 1, "", false);
    const at = this.options.now();
    const events = this.#local.of(key, at, shared?.forgivenAt);
    const allowed = (shared?.allowed ?? true) && events.length < this.options.limit;
    return this.#verdict(allowed, 1, events, shared, at);
  }

  /** Uncounts all of the key's events, on every process. While Redis is gone on this one alone. */
  async forgive(key: string): Promise<void> {
    const { redis, windowMs } = this.options;
    this.#local.clear(key);
    await redis?.attempt((client) => forgiveScript.run(client, this.#keys(key), [windowMs]));
  }

  #keys(key: string): string[] {
    const name = `window:${this.options.name}`;
    return [`${name}:events:${key}`, `${name}:forgiven:${key}`, `${name}:keys`];
  }

  async #ask(key: string, cost: number, id: string, count: boolean): Promise<Shared | undefined> {
    const { redis, limit, windowMs, now, keysMax = keysMaxDefault } = this.options;
    const reply = await redis?.attempt((client) =>
      takeScript.run(client, this.#keys(key), [limit, windowMs, cost, id, count ? 1 : 0, keysMax]),
    );
    // Null: Redis holds as many keys as it may.
    if (!reply) return undefined;
    const [allowed, used, waitMs, forgivenMs] = reply as [number, number, number, number];
    const forgivenAt = forgivenMs < 0 ? undefined : now() - forgivenMs;
    return { allowed: allowed === 1, used, waitMs, forgivenAt };
  }

  async #unsay(key: string, cost: number, id: string): Promise<void> {
    const [events = ""] = this.#keys(key);
    const ids = Array.from({ length: cost }, (_, i) => `${id}:${i + 1}`);
    await this.options.redis?.attempt((client) => client.zrem(events, ...ids));
  }

  #verdict(
    allowed: boolean,
    cost: number,
    events: readonly number[],
    shared: Shared | undefined,
    at: number,
  ): Verdict {
    const { limit, windowMs } = this.options;
    const used = Math.max(events.length, shared?.used ?? 0);
    const leaves = events[events.length + cost - limit - 1];
    const localMs = leaves === undefined ? 0 : leaves + windowMs - at;
    const waitMs = allowed ? windowMs : Math.max(localMs, shared?.waitMs ?? 0);
    return {
      allowed,
      remaining: allowed ? Math.max(0, limit - used) : 0,
      resetSeconds: Math.max(1, Math.ceil(waitMs / 1000)),
      resetAtSeconds: Math.ceil((at + waitMs) / 1000),
    };
  }
}

/**
 * Of several windows all or none: gives back what was taken when one of them refuses, and answers
 * with the one that makes wait the longest.
 */
export async function takeAll(takes: Promise<Taken>[]): Promise<Taken> {
  const taken = await Promise.all(takes);
  const giveBack = async (): Promise<void> => {
    await Promise.all(taken.map((one) => one.giveBack()));
  };
  const refused = taken.filter((one) => !one.allowed);
  if (refused.length > 0) await giveBack();
  const [first, ...others] = refused.length > 0 ? refused : taken;
  if (!first) throw new Error("takeAll needs something to take");
  const stricter = (a: Taken, b: Taken): boolean =>
    a.allowed ? b.remaining < a.remaining : b.resetSeconds > a.resetSeconds;
  const strictest = others.reduce((a, b) => (stricter(a, b) ? b : a), first);
  return { ...strictest, giveBack: strictest.allowed ? giveBack : () => Promise.resolve() };
}

/** What Redis says; `forgivenAt` by the clock of this process. */
type Shared = { allowed: boolean; used: number; waitMs: number; forgivenAt: number | undefined };

/** The events of each key, oldest first. Of too many keys those not asked for lately go. */
class LocalEvents {
  #young = new Map<string, number[]>();
  #old = new Map<string, number[]>();
  #turnedAt = 0;

  constructor(
    private readonly windowMs: number,
    private readonly keysMax: number,
  ) {}

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  /** The events that still count, after those that were forgiven; what is pushed is kept. */
  of(key: string, at: number, forgivenAt = -Infinity): number[] {
    if (Math.abs(at - this.#turnedAt) >= this.windowMs || this.#young.size >= this.keysMax / 2) {
      this.#old = this.#young;
      this.#young = new Map();
      this.#turnedAt = at;
    }
    const held = this.#young.get(key) ?? this.#old.get(key) ?? [];
    this.#old.delete(key);
    const after = Math.max(at - this.windowMs, forgivenAt);
    // After the clock was set back: what was taken stays taken, and not for longer than the window.
    const events = held.filter((event) => event > after).map((event) => Math.min(event, at));
    this.#young.set(key, events);
    return events;
  }

  remove(key: string, at: number, count: number): void {
    const events = this.#young.get(key) ?? this.#old.get(key) ?? [];
    for (let i = 0; i < count; i += 1) {
      const index = events.findLastIndex((event) => event <= at);
      if (index >= 0) events.splice(index, 1);
    }
  }

  clear(key: string): void {
    this.#young.delete(key);
    this.#old.delete(key);
  }
}

function once(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => (done ??= work());
}

const timeLua = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;

/**
 * KEYS events (sorted set), forgiven, the keys in use (sorted set); ARGV limit, window, cost, id,
 * 1 to count, keys at most. Gives {allowed, used, wait, time since it was forgiven or -1}, all in
 * ms, or null when there is no room for another key. Each key gets its lifetime in the same step.
 */
const takeScript = new Script(`${timeLua}
local limit, window, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local counts = ARGV[5] == '1'
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
for _, late in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  redis.call('ZADD', KEYS[1], now, late)
  redis.call('PEXPIRE', KEYS[1], window)
end
local forgiven = redis.call('GET', KEYS[2])
forgiven = forgiven and math.max(0, now - forgiven) or -1
local used = redis.call('ZCARD', KEYS[1])
if used + cost > limit then
  local first = redis.call('ZRANGE', KEYS[1], math.max(0, used + cost - limit - 1), -1, 'WITHSCORES')
  local wait = first[2] and first[2] + window - now or window
  return {0, used, wait, forgiven}
end
if not counts then return {1, used, 0, forgiven} end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - window)
if used == 0 and redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[6]) then return false end
for i = 1, cost do redis.call('ZADD', KEYS[1], now, ARGV[4] .. ':' .. i) end
redis.call('PEXPIRE', KEYS[1], window)
redis.call('ZADD', KEYS[3], now, KEYS[1])
redis.call('PEXPIRE', KEYS[3], window)
return {1, used + cost, 0, forgiven}
`);

/** KEYS as above; ARGV window. The note tells the other processes' own counts. */
const forgiveScript = new Script(`${timeLua}
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], KEYS[1])
redis.call('SET', KEYS[2], string.format('%.0f', now), 'PX', ARGV[1])
return 1
`);
