import { z } from "zod";
import type { Metrics } from "./metrics";
import type { Redis } from "./redis";
import { Script } from "./script";
import type { Count } from "./series";

const nearSecondsMax = 30;
const entriesMax = 10_000;
const bytesMax = 16 * 1024 * 1024;
const valueBytesMax = 256 * 1024;
const marksMax = 10_000;
const owedMax = 10_000;
const settleMs = 500;
/** Longer than any load takes: a mark that is gone makes what depends on it void, never valid. */
const markMs = 60_000;
const clockMs = 7 * 24 * 3_600_000;
const entryOverheadBytes = 200;
/** After a refresh that failed. */
const refreshAgainMs = 1_000;
const channel = "cache";

export type CacheOptions = {
  /** False: everything is loaded each time; answers are the same. */
  enabled: boolean;
  redis: Redis | null;
  metrics: Metrics;
  now: () => number;
};

export type NamespaceOptions<T> = {
  name: string;
  ttlSeconds: number;
  /** How long null, the expected "no", is kept; not at all when left out. */
  negativeTtlSeconds?: number;
  /** Checks what comes back from Redis, where another version may have written it. */
  schema?: z.ZodType<T>;
  /**
   * From about this share of its time on (0 to 1) a value is still given, and loaded anew behind
   * that: nobody waits for one that is asked for again and again.
   */
  refreshAfter?: number;
  /** What else a value hangs on: `invalidateTag` of any of these voids it. */
  tags?: (value: T, key: string) => readonly string[];
};

export type Found<T> = { value: T; hit: boolean };

/**
 * Values that are dear to make, in process and behind that in Redis. Every value hangs on marks:
 * that of its key and those of its tags. To invalidate is to set a mark to the next tick of a
 * clock; a value is valid while none of its marks is younger than the moment before its load
 * began. So a load that was overtaken by an invalidation puts nothing back, in process or in Redis.
 *
 * In Redis a mark that is missing voids too, and the clock starts anew from the time of day: a
 * flush or an eviction costs loads, never truth.
 */
export class Cache {
  readonly #near = new Near();
  readonly #marks = new Map<string, number>();
  /** Values loaded before this tick are void. */
  #floor = 0;
  #clock = 0;
  /** Marks that Redis does not have yet, with their tick. Until it has them nothing is read from it. */
  readonly #owed = new Map<string, number>();
  #owesAll = false;
  #settling: Timer | undefined;
  #ended = false;
  readonly #id = crypto.randomUUID();
  readonly #names = new Set<string>();
  readonly #flights = new Map<string, Promise<Found<unknown>>>();

  constructor(private readonly options: CacheOptions) {
    options.redis?.subscribe(
      channel,
      (message) => this.#heard(message),
      () => this.#forgetAll(),
    );
  }

  /** Entries held in process. */
  get size(): number {
    return this.#near.size;
  }

  namespace<T>(options: NamespaceOptions<T>): Namespace<T> {
    const { name } = options;
    if (!/^\w+$/.test(name)) throw new Error(`a namespace cannot be called ${name}`);
    if (this.#names.has(name)) throw new Error(`the namespace ${name} is taken`);
    this.#names.add(name);
    return new Namespace(this, options, this.options.metrics);
  }

  /**
   * Voids a value: here at once; in Redis by the time it resolves, and on the other instances a
   * moment later. While Redis is gone that is made up for in the background.
   */
  invalidate(namespace: string, key: string): Promise<void> {
    return this.#invalidate([keyMark(namespace, key)]);
  }

  /** Voids every value that hangs on one of the tags, in every namespace. */
  invalidateTag(...tags: string[]): Promise<void> {
    return this.#invalidate(tags.map(tagMark));
  }

  /** Voids everything, everywhere. */
  async clear(): Promise<void> {
    this.#forgetAll();
    await this.#tell("all");
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#settling);
    return Promise.resolve();
  }

  /** What is held and valid, without a copy: frozen. For Namespace. */
  peek(mark: string): Entry | undefined {
    if (!this.options.enabled) return undefined;
    const entry = this.#near.get(mark);
    if (!entry) return undefined;
    const now = this.options.now();
    // A clock that was set back must not make a value live longer.
    const current = now < entry.endsAt && now >= entry.begunAt && this.#valid(entry);
    if (!current) this.#near.delete(mark);
    return current ? entry : undefined;
  }

  /** The value of a mark that is not held: from Redis, else loaded; once for all who ask. */
  find<T>(mark: string, recipe: Recipe<T>): Promise<Found<T>> {
    if (!this.options.enabled) return recipe.load().then((value) => ({ value, hit: false }));
    const flying = this.#flights.get(mark) as Promise<Found<T>> | undefined;
    return flying ?? this.#fly(mark, recipe, 0);
  }

  /** Whether a value nears its end. For Namespace. */
  isOld({ refreshAt }: Entry): boolean {
    return refreshAt !== Infinity && this.options.now() >= refreshAt;
  }

  /** Loads a value anew while it is still given. Whatever comes of it, nobody waits. For Namespace. */
  refresh<T>(mark: string, entry: Entry, recipe: Recipe<T>): void {
    if (this.#flights.has(mark)) return;
    entry.refreshAt = this.options.now() + refreshAgainMs;
    this.#fly(mark, recipe, recipe.refreshMs).catch(() => undefined);
  }

  #fly<T>(mark: string, recipe: Recipe<T>, leftMs: number): Promise<Found<T>> {
    const flight: Promise<Found<T>> = this.#fetch(mark, recipe, leftMs).finally(() => {
      if (this.#flights.get(mark) === flight) this.#flights.delete(mark);
    });
    this.#flights.set(mark, flight);
    return flight;
  }

  /** From Redis where it lives longer there than `leftMs`, else loaded. */
  async #fetch<T>(mark: string, recipe: Recipe<T>, leftMs: number): Promise<Found<T>> {
    const begun = this.#clock;
    const far = await this.#read(mark);
    if (far?.text !== undefined && far.ttlMs > leftMs) {
      const value = recipe.parse(far.text);
      if (value !== undefined) {
        const ttlMs = Math.min(far.ttlMs, recipe.ttlMs(value));
        this.#keep(mark, far.text, value, recipe, begun, ttlMs);
        return { value, hit: true };
      }
    }
    const value = await recipe.load();
    const text = JSON.stringify(value);
    // Entries that were made together must not all end together.
    const ttlMs = Math.round(recipe.ttlMs(value) * (0.9 + Math.random() / 10));
    if (ttlMs > 0 && text.length <= valueBytesMax) {
      this.#keep(mark, text, value, recipe, begun, ttlMs);
      if (far) void this.#write(mark, recipe.marks(value), text, far.clock, ttlMs);
    }
    return { value, hit: false };
  }

  #keep<T>(
    mark: string,
    text: string,
    value: T,
    recipe: Recipe<T>,
    begun: number,
    ttlMs: number,
  ): void {
    const nearMs = this.options.redis ? Math.min(ttlMs, nearSecondsMax * 1000) : ttlMs;
    const now = this.options.now();
    const bytes = entryOverheadBytes + 2 * (mark.length + text.length);
    // What was overtaken meanwhile is found void when it is asked for.
    this.#near.set(mark, {
      value,
      marks: [mark, ...recipe.marks(value)],
      begun,
      begunAt: now,
      endsAt: now + nearMs,
      refreshAt: recipe.refreshMs > 0 ? now + ttlMs - recipe.refreshMs : Infinity,
      bytes,
      used: false,
    });
  }

  #valid({ marks, begun }: Entry): boolean {
    if (begun < this.#floor) return false;
    if (this.#marks.size === 0) return true;
    return marks.every((mark) => (this.#marks.get(mark) ?? 0) <= begun);
  }

  #forgetAll(): void {
    this.#clock += 1;
    this.#floor = this.#clock;
    this.#marks.clear();
    this.#near.clear();
    this.#flights.clear();
  }

  #forget(marks: readonly string[]): void {
    this.#clock += 1;
    if (this.#marks.size + marks.length > marksMax) return this.#forgetAll();
    for (const mark of marks) {
      this.#marks.set(mark, this.#clock);
      this.#near.delete(mark);
      // What a flight will hang on is not known before it lands: after a tag nobody joins one.
      if (mark.startsWith("tag:")) this.#flights.clear();
      else this.#flights.delete(mark);
    }
  }

  async #invalidate(marks: readonly string[]): Promise<void> {
    this.#forget(marks);
    await this.#tell(marks);
  }

  async #tell(what: What): Promise<void> {
    if (!this.options.redis) return;
    if (what === "all" || this.#owed.size + what.length > owedMax) this.#owesAll = true;
    else for (const mark of what) this.#owed.set(mark, this.#clock);
    await this.#settle(this.options.redis, false);
  }

  #heard(text: string): void {
    const message = readMessage(text);
    // Of another version, perhaps: whatever it says, this is right.
    if (!message) return this.#forgetAll();
    if (message.from === this.#id) return;
    if (message.what === "all") this.#forgetAll();
    else this.#forget(message.what);
  }

  /** Brings Redis, and whoever listens there, all that it is owed; again later if it cannot. */
  async #settle(redis: Redis, background: boolean): Promise<void> {
    const owed = [...this.#owed];
    const marks = owed.map(([mark]) => mark);
    const all = this.#owesAll;
    const what: What = all ? "all" : marks;
    const message = JSON.stringify({ from: this.#id, what } satisfies Announcement);
    const entries = marks.filter((mark) => mark.startsWith("key:")).map(entryKey);
    const done = await redis.attempt(
      (client) =>
        invalidateScript.run(
          client,
          [clockKey, ...marks.map(markKey), ...entries],
          [marks.length, markMs, clockMs, all ? 1 : 0, redis.prefix + channel, message],
        ),
      { background },
    );
    if (done === undefined) {
      if (!this.#ended) this.#settleLater(redis);
      return;
    }
    for (const [mark, tick] of owed) if (this.#owed.get(mark) === tick) this.#owed.delete(mark);
    if (all) this.#owesAll = false;
  }

  #settleLater(redis: Redis): void {
    this.#settling ??= setTimeout(() => {
      this.#settling = undefined;
      void this.#settle(redis, true);
    }, settleMs).unref();
  }

  async #read(mark: string): Promise<Far | undefined> {
    const { redis } = this.options;
    if (!redis || this.#owed.size > 0 || this.#owesAll) return undefined;
    const reply = await redis.attempt((client) =>
      readScript.run(client, [clockKey, entryKey(mark)], [clockMs]),
    );
    if (!reply) return undefined;
    const [clock, text, ttlMs] = reply as [string, string | null, number];
    return { clock, text: text ?? undefined, ttlMs };
  }

  async #write(
    mark: string,
    marks: readonly string[],
    text: string,
    clock: string,
    ttlMs: number,
  ): Promise<void> {
    const keys = [clockKey, entryKey(mark), ...[mark, ...marks].map(markKey)];
    await this.options.redis?.attempt(
      (client) => writeScript.run(client, keys, [clock, text, ttlMs, markMs]),
      { background: true },
    );
  }
}

/** One kind of value. Values are frozen: what one caller is given, others hold too. */
export class Namespace<T> {
  readonly #hits: Count;
  readonly #misses: Count;

  constructor(
    private readonly cache: Cache,
    private readonly options: NamespaceOptions<T>,
    metrics: Metrics,
  ) {
    this.#hits = metrics.cacheHits.of({ namespace: options.name });
    this.#misses = metrics.cacheMisses.of({ namespace: options.name });
  }

  /**
   * The value of a key. `load` is called when there is none, once for all who wait for it; it
   * gives JSON, null for the expected "no". What it throws goes to all who wait and is not kept.
   */
  async get(key: string, load: () => Promise<T>): Promise<Found<T>> {
    return this.take(key, load);
  }

  /** The same, at once where it is held in process. */
  take(key: string, load: () => Promise<T>): Found<T> | Promise<Found<T>> {
    const mark = keyMark(this.options.name, key);
    const entry = this.cache.peek(mark);
    if (!entry) return this.#find(mark, this.#recipe(key, load));
    this.#hits.value += 1;
    if (this.cache.isOld(entry)) this.cache.refresh(mark, entry, this.#recipe(key, load));
    return { value: entry.value as T, hit: true };
  }

  async #find(mark: string, recipe: Recipe<T>): Promise<Found<T>> {
    const found = await this.cache.find(mark, recipe);
    (found.hit ? this.#hits : this.#misses).value += 1;
    // What comes from Redis may be near its end already.
    const entry = this.cache.peek(mark);
    if (entry && this.cache.isOld(entry)) this.cache.refresh(mark, entry, recipe);
    return found;
  }

  #recipe(key: string, load: () => Promise<T>): Recipe<T> {
    const { refreshAfter = 1, ttlSeconds } = this.options;
    return {
      // Through JSON always: a value is the same whether it was cached or not.
      load: async () => this.#plain(await load()),
      parse: (text) => this.#parse(text),
      marks: (value) => (this.options.tags?.(value, key) ?? []).map(tagMark),
      ttlMs: (value) => this.#ttlMs(value),
      refreshMs: 1000 * ttlSeconds * (1 - refreshAfter),
    };
  }

  /** What is held in process, at once; undefined when nothing is. */
  peek(key: string): T | undefined {
    const entry = this.cache.peek(keyMark(this.options.name, key));
    if (!entry) return undefined;
    this.#hits.value += 1;
    return entry.value as T;
  }

  invalidate(key: string): Promise<void> {
    return this.cache.invalidate(this.options.name, key);
  }

  #plain(value: T): T {
    const json: unknown = JSON.parse(JSON.stringify(value));
    const { schema } = this.options;
    return frozen(schema ? schema.parse(json) : (json as T));
  }

  /** Undefined for what is not, or no longer, a value of this namespace. */
  #parse(text: string): T | undefined {
    const json: unknown = JSON.parse(text);
    const { schema } = this.options;
    if (!schema) return frozen(json as T);
    const parsed = schema.safeParse(json);
    return parsed.success ? frozen(parsed.data) : undefined;
  }

  #ttlMs(value: T): number {
    const { ttlSeconds, negativeTtlSeconds = 0 } = this.options;
    return 1000 * (value === null ? negativeTtlSeconds : ttlSeconds);
  }
}

type Recipe<T> = {
  load: () => Promise<T>;
  parse: (text: string) => T | undefined;
  marks: (value: T) => string[];
  ttlMs: (value: T) => number;
  /** A value that lives no longer than this is loaded anew behind being given; 0 for never. */
  refreshMs: number;
};

type Entry = {
  value: unknown;
  marks: readonly string[];
  /** The tick of the clock before its load began. */
  begun: number;
  begunAt: number;
  endsAt: number;
  /** From when on it is loaded anew although it is good. */
  refreshAt: number;
  bytes: number;
  used: boolean;
};

type Far = { clock: string; text: string | undefined; ttlMs: number };
type What = readonly string[] | "all";

const Message = z.object({
  from: z.string(),
  what: z.union([z.array(z.string()), z.literal("all")]),
});
type Announcement = { from: string; what: What };

function readMessage(text: string): Announcement | null {
  try {
    return Message.parse(JSON.parse(text));
  } catch {
    return null;
  }
}

/** Bounded in number and in bytes. An entry that was used gets a second round before it goes. */
class Near {
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;

  get size(): number {
    return this.#entries.size;
  }

  get(mark: string): Entry | undefined {
    const entry = this.#entries.get(mark);
    if (entry) entry.used = true;
    return entry;
  }

  set(mark: string, entry: Entry): void {
    this.delete(mark);
    this.#entries.set(mark, entry);
    this.#bytes += entry.bytes;
    for (const [oldest, held] of this.#entries) {
      if (this.#entries.size <= entriesMax && this.#bytes <= bytesMax) return;
      this.#entries.delete(oldest);
      if (held.used) this.#entries.set(oldest, Object.assign(held, { used: false }));
      else this.#bytes -= held.bytes;
    }
  }

  delete(mark: string): void {
    const entry = this.#entries.get(mark);
    if (!entry) return;
    this.#bytes -= entry.bytes;
    this.#entries.delete(mark);
  }

  clear(): void {
    this.#entries.clear();
    this.#bytes = 0;
  }
}

function frozen<T>(value: T): T {
  if (typeof value !== "object" || value === null || Object.isFrozen(value)) return value;
  Object.freeze(value);
  for (const inner of Object.values(value)) frozen(inner);
  return value;
}

const keyMark = (namespace: string, key: string): string => `key:${namespace}:${key}`;
const tagMark = (tag: string): string => `tag:${tag}`;
const markKey = (mark: string): string => `cache:mark:${mark}`;
const entryKey = (mark: string): string => `cache:entry:${mark}`;
const clockKey = "cache:clock";

/** Hash {base, now}: `now` counts invalidations from the microsecond in which it was made. */
const clockLua = `
local clock = redis.call('HMGET', KEYS[1], 'base', 'now')
if not clock[1] then
  local time = redis.call('TIME')
  local made = time[1] .. string.format('%06d', time[2])
  clock = {made, made}
  redis.call('HSET', KEYS[1], 'base', made, 'now', made)
end
`;

/** KEYS clock, entry; ARGV the clock's lifetime. Gives the clock, the value and its lifetime left. */
const readScript = new Script(`${clockLua}
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local entry = redis.call('HMGET', KEYS[2], 'value', 'begun', 'marks')
if not entry[1] then return {clock[2], false, 0} end
local begun = tonumber(entry[2])
if begun < tonumber(clock[1]) then return {clock[2], false, 0} end
for _, mark in ipairs(redis.call('MGET', unpack(cjson.decode(entry[3])))) do
  if not mark or tonumber(mark) > begun then return {clock[2], false, 0} end
end
return {clock[2], entry[1], redis.call('PTTL', KEYS[2])}
`);

/**
 * KEYS clock, entry, its marks; ARGV the clock before the load, value, lifetime, a mark's surplus.
 * A mark that is not there may have been evicted: then only a clock that stood still tells that
 * nothing was invalidated meanwhile. The next load finds the mark made.
 */
const writeScript = new Script(`
local clock = redis.call('HMGET', KEYS[1], 'base', 'now')
local begun = tonumber(ARGV[1])
if not clock[1] or begun < tonumber(clock[1]) then return 0 end
local still = clock[2] == ARGV[1]
local marks, known, lifetime = {}, true, ARGV[3] + ARGV[4]
for i = 3, #KEYS do
  marks[i - 2] = KEYS[i]
  local mark = redis.call('GET', KEYS[i])
  if not mark then
    known = false
    redis.call('SET', KEYS[i], clock[2], 'PX', lifetime)
  elseif tonumber(mark) > begun then return 0
  elseif redis.call('PTTL', KEYS[i]) < lifetime then redis.call('PEXPIRE', KEYS[i], lifetime) end
end
if not known and not still then return 0 end
redis.call('HSET', KEYS[2], 'value', ARGV[2], 'begun', ARGV[1], 'marks', cjson.encode(marks))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
`);

/** KEYS clock, marks, entries to drop; ARGV number of marks, lifetimes, 1 for all, channel, message. */
const invalidateScript = new Script(`
${clockLua}
local now = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'now', 1))
if ARGV[4] == '1' then redis.call('HSET', KEYS[1], 'base', now) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
for i = 2, ARGV[1] + 1 do redis.call('SET', KEYS[i], now, 'PX', ARGV[2]) end
for i = ARGV[1] + 2, #KEYS do redis.call('DEL', KEYS[i]) end
if ARGV[6] ~= '' then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
return 1
`);
