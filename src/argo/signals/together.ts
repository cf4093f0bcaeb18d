import { randomBytes } from "node:crypto";
import type { Redis } from "../../platform/redis";
import { Script } from "../../platform/script";

/** The streams of one owner (an account or an address) in this process, and how many it may have everywhere. */
export type Seats = { most: number; streams: { name: string; ageMs: number }[] };

const channel = "streams";
const livenessMs = 10_000;
const refreshEveryMs = 2_000;
const tellAllEveryMs = 60_000;
const ownersPerCall = 250;

/**
 * Makes the streams of an owner one count over all processes of this Redis. Each process tells
 * which it has, and of what it told before nothing else counts: so it may be told again at any time,
 * and is, after every break. Whoever tells has the oldest ended that are too many, wherever they
 * are. What a process told counts no longer than that process is known to live. No stream waits for
 * any of this, and without Redis each process counts for itself.
 */
export class Together {
  readonly #id = randomBytes(8).toString("hex");
  /** Owners whose streams here are not known to have been told. */
  readonly #untold = new Set<string>();
  /** Owners that Redis may know of. */
  readonly #told = new Set<string>();
  #timer: Timer | null = null;
  #running = false;
  #toldAllAt = performance.now();

  constructor(
    private readonly redis: Redis,
    private readonly seatsOf: (owner: string) => Seats,
    /** Called with the name of a stream that another one has replaced. */
    replaced: (name: string) => void,
  ) {
    const onMessage = (message: string): void => {
      for (const place of message.split(" ")) {
        // An address may hold a slash itself.
        if (place.startsWith(`${this.#id}/`)) replaced(place.slice(this.#id.length + 1));
      }
    };
    // What was said before has been missed: who is too many is said again.
    redis.subscribe(channel, onMessage, () => this.#tellAll());
  }

  /** The streams of an owner have changed. */
  note(owner: string): void {
    this.#untold.add(owner);
    this.#timer ??= setInterval(this.#refresh, refreshEveryMs).unref();
    void this.#tell();
  }

  #tellAll(): void {
    this.#toldAllAt = performance.now();
    for (const owner of this.#told) this.#untold.add(owner);
    void this.#tell();
  }

  readonly #refresh = (): void => {
    if (this.#told.size === 0 && this.#untold.size === 0 && this.#timer) {
      clearInterval(this.#timer);
      this.#timer = null;
      return;
    }
    void this.#live();
    if (performance.now() - this.#toldAllAt > tellAllEveryMs) this.#tellAll();
    else void this.#tell();
  };

  /** Who was taken for dead meanwhile, or met a Redis that knows nothing, tells everything anew. */
  async #live(): Promise<void> {
    const was = await this.redis.attempt(
      (client) => client.set(this.#liveness, "1", "PX", livenessMs, "GET"),
      { background: true },
    );
    if (was === null) this.#tellAll();
  }

  async #tell(): Promise<void> {
    if (this.#running || !this.redis.connected) return;
    this.#running = true;
    // Those of one turn together.
    await Promise.resolve();
    while (this.#untold.size > 0) {
      const some = [...this.#untold].slice(0, ownersPerCall);
      const done = await Promise.all(some.map((owner) => this.#tellOf(owner)));
      if (done.includes(false)) break;
    }
    this.#running = false;
  }

  async #tellOf(owner: string): Promise<boolean> {
    this.#untold.delete(owner);
    this.#told.add(owner);
    const { most, streams } = this.seatsOf(owner);
    const keys = [`streams:${owner}`, this.#liveness];
    const places = streams.flatMap(({ name, ageMs }) => [name, ageMs]);
    const args = [this.redis.prefix + channel, livenessMs, this.#id, most, ...places];
    const reply = await this.redis.attempt((client) => tellScript.run(client, keys, args), {
      background: true,
    });
    if (reply === undefined) this.#untold.add(owner);
    else if (this.seatsOf(owner).streams.length === 0) this.#told.delete(owner);
    return reply !== undefined;
  }

  get #liveness(): string {
    return `streams-of:${this.#id}`;
  }
}

/**
 * KEYS the owner's streams (a sorted set of `process/name` by the time of opening, ms), the key
 * that says that this process lives; ARGV the channel, for how long it says so, the process, how
 * many streams the owner may have, then the name and the age in ms of each that it has here.
 */
const tellScript = new Script(`
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local own, most = ARGV[3], tonumber(ARGV[4])
redis.call('SET', KEYS[2], 1, 'PX', ARGV[2])
local here, lives = {}, {}
for i = 5, #ARGV, 2 do
  local place = own .. '/' .. ARGV[i]
  here[place] = true
  redis.call('ZADD', KEYS[1], 'NX', string.format('%.3f', now - ARGV[i + 1]), place)
end
local others = string.sub(KEYS[2], 1, -1 - #own)
for _, place in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local id = string.match(place, '^[^/]+')
  if id == own then
    lives[id] = here[place] or false
  elseif lives[id] == nil then
    lives[id] = redis.call('EXISTS', others .. id) == 1
  end
  if not lives[id] then redis.call('ZREM', KEYS[1], place) end
end
local extra = redis.call('ZCARD', KEYS[1]) - most
if extra > 0 and next(here) then
  local oldest = redis.call('ZRANGE', KEYS[1], 0, extra - 1)
  redis.call('ZREM', KEYS[1], unpack(oldest))
  redis.call('PUBLISH', ARGV[1], table.concat(oldest, ' '))
end
redis.call('PEXPIRE', KEYS[1], 3600000)
return 1
`);
