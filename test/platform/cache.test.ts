import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Redis as Client } from "ioredis";
import { z } from "zod";
import { Cache, type CacheOptions } from "../../src/platform/cache.ts";
import { createLog } from "../../src/platform/log.ts";
import { Metrics } from "../../src/platform/metrics.ts";
import { Redis } from "../../src/platform/redis.ts";
import { until } from "../harness/process.ts";
import { tcpProxy } from "../harness/proxy.ts";
import { redis as startRedis, type TestRedis } from "../harness/servers.ts";
import { seeded } from "../harness/seed.ts";

const log = createLog("silent");
let server: TestRedis;
let direct: Client;
beforeAll(async () => {
  server = await startRedis();
  direct = new Client(server.url);
});
afterAll(async () => {
  direct.disconnect();
  await server[Symbol.asyncDispose]();
});

type Instance = { cache: Cache; redis: Redis; metrics: Metrics } & AsyncDisposable;

/** One of several servers on the same Redis, connected. */
async function instance(url = server.url, options: Partial<CacheOptions> = {}): Promise<Instance> {
  // What is right is asked here, not what is quick: a busy machine must not change the answer.
  const redis = new Redis({ url, log, deadlineMs: 2_000 });
  const metrics = new Metrics();
  let listens = false;
  const cache = new Cache({ enabled: true, redis, metrics, now: Date.now, ...options });
  redis.subscribe(
    "ready",
    () => undefined,
    () => void (listens = true),
  );
  await until(() => redis.up && listens, "redis");
  return {
    cache,
    redis,
    metrics,
    async [Symbol.asyncDispose]() {
      await cache[Symbol.asyncDispose]();
      await redis[Symbol.asyncDispose]();
    },
  };
}

const alone = (options: Partial<CacheOptions> = {}): Cache =>
  new Cache({ enabled: true, redis: null, metrics: new Metrics(), now: Date.now, ...options });

type User = { id: string; version: number };
const users = { name: "users", ttlSeconds: 300 };
const never = (): Promise<never> => Promise.reject(new Error("loaded"));

describe("a namespace", () => {
  test("loads once for all who ask at the same time, and once more for nobody", async () => {
    const namespace = alone().namespace<User>(users);
    let loads = 0;
    const load = async (): Promise<User> => {
      loads += 1;
      await Bun.sleep(10);
      return { id: "1", version: loads };
    };
    const found = await Promise.all(Array.from({ length: 100 }, () => namespace.get("1", load)));
    expect(loads).toBe(1);
    expect(new Set(found.map(({ value }) => value.version))).toEqual(new Set([1]));
    expect(await namespace.get("1", never)).toEqual({ value: { id: "1", version: 1 }, hit: true });
    expect(namespace.peek("1")).toEqual({ id: "1", version: 1 });
    expect(namespace.peek("2")).toBeUndefined();
  });

  test("gives a failed load to all who waited, and keeps it for nobody", async () => {
    const namespace = alone().namespace<User>(users);
    const fails = Array.from({ length: 5 }, () => namespace.get("1", never));
    for (const { status } of await Promise.allSettled(fails)) expect(status).toBe("rejected");
    const { hit } = await namespace.get("1", () => Promise.resolve({ id: "1", version: 1 }));
    expect(hit).toBe(false);
  });

  test("ends by the clock, an expected no sooner, and when the clock was set back", async () => {
    let now = 1_000_000_000;
    const namespace = alone({ now: () => now }).namespace<User | null>({
      ...users,
      negativeTtlSeconds: 5,
    });
    const found = () => Promise.resolve({ id: "1", version: 1 });
    const no = () => Promise.resolve(null);
    await namespace.get("yes", found);
    await namespace.get("no", no);
    now += 4_000;
    expect(await namespace.get("no", never)).toEqual({ value: null, hit: true });
    now += 1_500;
    expect((await namespace.get("no", no)).hit).toBe(false);
    now += 250_000;
    expect((await namespace.get("yes", never)).hit).toBe(true);
    now += 50_000;
    expect((await namespace.get("yes", found)).hit).toBe(false);
    now -= 3_600_000;
    expect((await namespace.get("yes", found)).hit).toBe(false);
    const without = alone().namespace<User | null>(users);
    await without.get("no", no);
    expect((await without.get("no", no)).hit).toBe(false);
  });

  test("loads anew what nears its end, once, while everybody is given what there is", async () => {
    let now = 1_000_000_000;
    const namespace = alone({ now: () => now }).namespace<User>({ ...users, refreshAfter: 0.8 });
    let loads = 0;
    let next = Promise.withResolvers<void>();
    const load = async (): Promise<User> => {
      loads += 1;
      const version = loads;
      if (version > 1) await next.promise;
      return { id: "1", version };
    };
    const version = async () => (await namespace.get("1", load)).value.version;
    const settled = async () => {
      next.resolve();
      await Bun.sleep(1);
      next = Promise.withResolvers();
    };
    expect(await version()).toBe(1);
    // A lifetime is up to a tenth shorter than 300 s.
    now += 0.69 * 300_000;
    expect([await version(), loads]).toEqual([1, 1]);
    now += 0.12 * 300_000;
    expect(await Promise.all(Array.from({ length: 50 }, version))).toEqual(Array(50).fill(1));
    expect(loads).toBe(2);
    expect(await version()).toBe(1);
    await settled();
    expect([await version(), loads]).toEqual([2, 2]);
    // From there on its time begins anew; nobody waits before it has ended.
    now += 0.69 * 300_000;
    expect([await version(), loads]).toEqual([2, 2]);
    now += 0.4 * 300_000;
    const late = version();
    await settled();
    expect([await late, loads]).toEqual([3, 3]);
  });

  test("tries again what could not be loaded anew, and not at each question", async () => {
    let now = 1_000_000_000;
    const namespace = alone({ now: () => now }).namespace<User>({ ...users, refreshAfter: 0.8 });
    await namespace.get("1", () => Promise.resolve({ id: "1", version: 1 }));
    now += 0.85 * 300_000;
    let tries = 0;
    const fails = (): Promise<never> => {
      tries += 1;
      return never();
    };
    for (let i = 0; i < 10; i += 1) {
      expect((await namespace.get("1", fails)).value.version).toBe(1);
      await Bun.sleep(1);
    }
    expect(tries).toBe(1);
    now += 1_000;
    await namespace.get("1", fails);
    expect(tries).toBe(2);
    // What was voided while it was loaded anew stays void.
    now += 1_000;
    const slow = Promise.withResolvers<User>();
    await namespace.get("1", () => slow.promise);
    await namespace.invalidate("1");
    slow.resolve({ id: "1", version: 2 });
    await Bun.sleep(1);
    const { value, hit } = await namespace.get("1", () => Promise.resolve({ id: "1", version: 3 }));
    expect([value.version, hit]).toEqual([3, false]);
  });

  test("loads anew what another one loaded, and takes over what another one has by then", async () => {
    await server.flush();
    await using a = await instance();
    await using b = await instance();
    // In Redis time goes by itself.
    const soon = { name: "soon", ttlSeconds: 2, refreshAfter: 0.5 };
    const [ours, theirs] = [a.cache.namespace<User>(soon), b.cache.namespace<User>(soon)];
    let loads = 0;
    const load = (): Promise<User> => Promise.resolve({ id: "1", version: (loads += 1) });
    await ours.get("1", load);
    // One that is written behind may not be there yet.
    await until(async () => (await direct.keys("*soon*")).length > 0, "the value in Redis");
    expect((await theirs.get("1", never)).value.version).toBe(1);
    await Bun.sleep(1_200);
    expect((await theirs.get("1", load)).value.version).toBe(1);
    await until(() => loads === 2, "a refresh");
    await until(async () => (await theirs.get("1", never)).value.version === 2, "the new value");
    await ours.get("1", load);
    await until(async () => (await ours.get("1", load)).value.version === 2, "the same here");
    expect(loads).toBe(2);
  });

  test("gives what nobody can change under another", async () => {
    const namespace = alone().namespace<{ roles: string[] }>({ name: "roles", ttlSeconds: 60 });
    const made = { roles: ["user"] };
    const { value } = await namespace.get("1", () => Promise.resolve(made));
    made.roles.push("admin");
    expect(() => value.roles.push("admin")).toThrow(TypeError);
    expect((await namespace.get("1", never)).value).toEqual({ roles: ["user"] });
  });

  test("gives the same whether it was loaded, held, read from Redis, or never cached", async () => {
    await server.flush();
    await using a = await instance();
    await using b = await instance();
    const schema = z.object({ at: z.coerce.date(), text: z.string(), none: z.null() });
    const options = { name: "same", ttlSeconds: 60, schema };
    const load = () =>
      Promise.resolve({ at: new Date(1_700_000_000_123), text: "žluť 😀", none: null });
    const [first, second] = [a.cache.namespace(options), b.cache.namespace(options)];
    const off = alone({ enabled: false }).namespace(options);
    const loaded = await first.get("1", load);
    const held = await first.get("1", never);
    await until(async () => (await direct.exists("argo:cache:entry:key:same:1")) === 1, "redis");
    const read = await second.get("1", never);
    const fresh = [await off.get("1", load), await off.get("1", load)];
    expect([loaded.hit, held.hit, read.hit]).toEqual([false, true, true]);
    expect(fresh.map(({ hit }) => hit)).toEqual([false, false]);
    for (const { value } of [held, read, ...fresh]) expect(value).toEqual(loaded.value);
  });

  test("is bounded, in entries and in bytes", async () => {
    const cache = alone();
    const small = cache.namespace<number>({ name: "small", ttlSeconds: 60 });
    for (let i = 0; i < 12_000; i += 1) await small.get(`${i}`, () => Promise.resolve(i));
    expect(cache.size).toBe(10_000);
    expect(small.peek("11999")).toBe(11_999);
    expect(small.peek("0")).toBeUndefined();
    const large = cache.namespace<string>({ name: "large", ttlSeconds: 60 });
    const text = "x".repeat(100_000);
    for (let i = 0; i < 200; i += 1) await large.get(`${i}`, () => Promise.resolve(text));
    expect(cache.size).toBeLessThan(100);
    expect((await large.get("199", never)).hit).toBe(true);
    const huge = "x".repeat(1_000_000);
    await large.get("huge", () => Promise.resolve(huge));
    expect(large.peek("huge")).toBeUndefined();
  });

  test("keeps what is used when it must let go of something", async () => {
    const namespace = alone().namespace<number>({ name: "used", ttlSeconds: 60 });
    for (let i = 0; i < 30_000; i += 1) {
      await namespace.get(`${i}`, () => Promise.resolve(i));
      if (i % 100 === 0) namespace.peek("0");
    }
    expect(namespace.peek("0")).toBe(0);
  });

  test("never gives one subject what is another's", async () => {
    await using a = await instance();
    const namespace = a.cache.namespace<User>({ ...users, name: "subjects" });
    const asks = Array.from({ length: 5_000 }, (_, i) => `${i % 1_000}`);
    const found = await Promise.all(
      asks.map((id) => namespace.get(id, () => Promise.resolve({ id, version: 1 }))),
    );
    found.forEach(({ value }, i) => expect(value.id).toBe(`${i % 1_000}`));
    expect(() => a.cache.namespace({ ...users, name: "subjects" })).toThrow("taken");
    expect(() => a.cache.namespace({ ...users, name: "a:b" })).toThrow("called");
  });

  test("counts hits and misses", async () => {
    const metrics = new Metrics();
    const namespace = alone({ metrics }).namespace<number>({ name: "counted", ttlSeconds: 60 });
    for (let i = 0; i < 4; i += 1) await namespace.get("1", () => Promise.resolve(1));
    const { text } = await metrics.expose();
    expect(text).toContain('redis_cache_hits_total{namespace="counted"} 3');
    expect(text).toContain('redis_cache_misses_total{namespace="counted"} 1');
  });
});

describe("invalidation", () => {
  test("reaches the other instance by key and by tag, and nothing else is lost", async () => {
    await using a = await instance();
    await using b = await instance();
    const options = { ...users, tags: (user: User | null) => [`team:${user?.id}`] };
    const [first, second] = [a.cache.namespace<User>(options), b.cache.namespace<User>(options)];
    let version = 1;
    const load = (id: string) => () => Promise.resolve({ id, version });
    const seen = async (id: string): Promise<number[]> => [
      (await first.get(id, load(id))).value.version,
      (await second.get(id, load(id))).value.version,
    ];
    await server.flush();
    expect([await seen("1"), await seen("2")]).toEqual([
      [1, 1],
      [1, 1],
    ]);
    version = 2;
    await first.invalidate("1");
    await until(() => second.peek("1") === undefined, "the message");
    expect([await seen("1"), await seen("2")]).toEqual([
      [2, 2],
      [1, 1],
    ]);
    version = 3;
    await b.cache.invalidateTag("team:2");
    await until(() => first.peek("2") === undefined, "the message");
    expect([await seen("1"), await seen("2")]).toEqual([
      [2, 2],
      [3, 3],
    ]);
    version = 4;
    await a.cache.clear();
    await until(() => second.peek("1") === undefined, "the message");
    expect([await seen("1"), await seen("2")]).toEqual([
      [4, 4],
      [4, 4],
    ]);
  });

  test.each(["the same instance", "another instance"])(
    "by %s overtakes a load that began before it",
    async (who) => {
      await server.flush();
      await using a = await instance();
      await using b = await instance();
      const options = { ...users, tags: () => ["everyone"] };
      const namespace = a.cache.namespace<User>(options);
      const other = b.cache.namespace<User>(options);
      for (const how of ["key", "tag", "all"]) {
        const gate = Promise.withResolvers<User>();
        const slow = namespace.get("1", () => gate.promise);
        await Bun.sleep(20);
        const { cache } = who === "the same instance" ? a : b;
        if (how === "key") await cache.invalidate("users", "1");
        else if (how === "tag") await cache.invalidateTag("everyone");
        else await cache.clear();
        await Bun.sleep(20);
        // Whoever comes after it does not wait for the old load.
        const after = await namespace.get("1", () => Promise.resolve({ id: "1", version: 2 }));
        expect(after.value.version).toBe(2);
        gate.resolve({ id: "1", version: 1 });
        expect((await slow).value.version).toBe(1);
        await Bun.sleep(20);
        expect((await namespace.get("1", never)).value.version).toBe(2);
        expect((await other.get("1", never)).value.version).toBe(2);
        await a.cache.clear();
        await Bun.sleep(20);
      }
    },
  );

  test("reaches a load that nobody comes after", async () => {
    const cache = alone();
    const namespace = cache.namespace<number>({ ...users, tags: () => ["everyone"] });
    const overtaking = [
      () => cache.invalidate("users", "1"),
      () => cache.invalidateTag("everyone"),
      () => cache.clear(),
    ];
    for (const overtake of overtaking) {
      const gate = Promise.withResolvers<number>();
      const slow = namespace.get("1", () => gate.promise);
      await overtake();
      gate.resolve(1);
      await slow;
      expect(namespace.peek("1")).toBeUndefined();
    }
  });

  test("whose mark Redis evicted is taken to have happened", async () => {
    await server.flush();
    await using a = await instance();
    const options = { ...users, tags: () => ["everyone"] };
    const first = a.cache.namespace<number>(options);
    const marks = ["argo:cache:mark:tag:everyone", "argo:cache:mark:key:users:1", null];
    for (const [version, mark] of marks.entries()) {
      await first.get("1", () => Promise.resolve(version));
      await until(async () => (await direct.exists("argo:cache:entry:key:users:1")) === 1, "redis");
      if (mark) expect(await direct.del(mark)).toBe(1);
      await using b = await instance();
      const { hit } = await b.cache.namespace<number>(options).get("1", () => Promise.resolve(9));
      expect(hit).toBe(mark === null);
      await a.cache.clear();
      await direct.del("argo:cache:entry:key:users:1");
    }
  });

  test("whose mark Redis evicted before a load ended keeps that load out", async () => {
    await server.flush();
    await using a = await instance();
    await using b = await instance();
    const namespace = a.cache.namespace<number>(users);
    const gate = Promise.withResolvers<number>();
    const slow = namespace.get("1", () => gate.promise);
    await until(async () => (await direct.exists("argo:cache:clock")) === 1, "the read");
    await b.cache.invalidate("users", "1");
    expect(await direct.del("argo:cache:mark:key:users:1")).toBe(1);
    gate.resolve(1);
    await slow;
    await until(
      async () => (await direct.exists("argo:cache:mark:key:users:1")) === 1,
      "the write",
    );
    expect(await direct.exists("argo:cache:entry:key:users:1")).toBe(0);
  });

  test("that could not reach Redis is made up for before Redis is read again", async () => {
    await server.flush();
    await using proxy = await tcpProxy({ port: server.port });
    await using cut = await instance(`redis://127.0.0.1:${proxy.port}`);
    await using well = await instance();
    const [first, second] = [
      cut.cache.namespace<number>(users),
      well.cache.namespace<number>(users),
    ];
    await first.get("1", () => Promise.resolve(1));
    await until(async () => (await direct.exists("argo:cache:entry:key:users:1")) === 1, "redis");
    expect((await second.get("1", never)).value).toBe(1);
    proxy.cut();
    await until(() => !cut.redis.connected, "the cut");
    await first.invalidate("1");
    proxy.restore();
    await until(() => cut.redis.up, "the connection");
    // Redis may still hold the old value now: it must not be believed.
    expect((await first.get("1", () => Promise.resolve(2))).value).toBe(2);
    await until(() => second.peek("1") === undefined, "the message to the other");
    expect((await second.get("1", () => Promise.resolve(2))).value).toBe(2);
    // Of another version, perhaps.
    await well.redis.publish("cache", "what is this?");
    await until(() => second.peek("1") === undefined, "to be on the safe side");
  });

  test("that was missed while a link was cut costs what is held, not truth", async () => {
    await server.flush();
    await using proxy = await tcpProxy({ port: server.port });
    await using cut = await instance(`redis://127.0.0.1:${proxy.port}`);
    await using well = await instance();
    const [first, second] = [
      cut.cache.namespace<number>(users),
      well.cache.namespace<number>(users),
    ];
    await first.get("1", () => Promise.resolve(1));
    proxy.cut();
    await until(() => !cut.redis.connected, "the cut");
    await second.invalidate("1");
    proxy.restore();
    await until(() => first.peek("1") === undefined, "the subscription anew");
    expect((await first.get("1", () => Promise.resolve(2))).value).toBe(2);
  });
});

let races = 0;

/** Reads and changes on two instances, in any order and at any speed. */
async function race(url: string, steps: Step[], disturb: (i: number) => Promise<void>) {
  // Each has a namespace of its own: its truth begins at 0.
  const name = `race${(races += 1)}`;
  await using a = await instance(url);
  await using b = await instance(url);
  const options = { ...users, name, tags: (user: User) => [`group:${Number(user.id) % 2}`] };
  const both = [a, b].map(({ cache }) => ({ cache, namespace: cache.namespace<User>(options) }));
  const truth = new Map<string, number>();
  const version = (id: string): number => truth.get(id) ?? 0;
  /** What each instance must not go behind again: its own invalidations, once they resolved. */
  const floors = both.map(() => new Map<string, number>());
  const load = (id: string, ms: number) => async (): Promise<User> => {
    const user = { id, version: version(id) };
    if (ms > 0) await Bun.sleep(ms);
    return user;
  };
  const run = async ({ at, id, what, ms }: Step): Promise<void> => {
    const { cache, namespace } = both[at] as (typeof both)[number];
    const floor = floors[at] as Map<string, number>;
    if (what === "get") {
      const least = floor.get(id) ?? 0;
      const { value } = await namespace.get(id, load(id, ms));
      if (value.version < least) throw new Error(`${id}: ${value.version} after ${least}`);
      return;
    }
    const ids = what === "key" ? [id] : ["0", "1", "2", "3"].filter((i) => (+i - +id) % 2 === 0);
    const versions = ids.map((each) => [each, version(each) + 1] as const);
    for (const [each, next] of versions) truth.set(each, next);
    if (what === "key") await cache.invalidate(name, id);
    else await cache.invalidateTag(`group:${Number(id) % 2}`);
    for (const [each, next] of versions) floor.set(each, Math.max(floor.get(each) ?? 0, next));
  };
  const running: Promise<void>[] = [];
  for (const [i, step] of steps.entries()) {
    running.push(run(step));
    if (step.waits) await Bun.sleep(step.ms / 2);
    await disturb(i);
  }
  await Promise.all(running);
  await Bun.sleep(30);
  for (const { namespace } of both) {
    for (const id of ["0", "1", "2", "3"]) {
      expect((await namespace.get(id, load(id, 0))).value.version).toBe(version(id));
    }
  }
}

type Step = { at: number; id: string; what: "get" | "key" | "tag"; ms: number; waits: boolean };

const steps = fc.array(
  fc.record({
    at: fc.integer({ min: 0, max: 1 }),
    id: fc.constantFrom("0", "1", "2", "3"),
    what: fc.oneof(
      { weight: 6, arbitrary: fc.constant("get" as const) },
      { weight: 2, arbitrary: fc.constant("key" as const) },
      { weight: 1, arbitrary: fc.constant("tag" as const) },
    ),
    ms: fc.integer({ min: 0, max: 6 }),
    waits: fc.boolean(),
  }),
  { minLength: 10, maxLength: 60 },
);

describe("nothing stale is put back, whatever the order", () => {
  test("of reads and changes on two instances", async () => {
    await fc.assert(
      fc.asyncProperty(steps, (order) => race(server.url, order, () => Promise.resolve())),
      seeded(20),
    );
  });

  test("also while Redis is flushed", async () => {
    await fc.assert(
      fc.asyncProperty(steps, fc.integer({ min: 2, max: 9 }), (order, every) =>
        race(server.url, order, async (i) => {
          if (i % every === 0) await direct.flushall();
        }),
      ),
      seeded(15),
    );
  });

  test("also while Redis evicts at random", async () => {
    await using small = await startRedis({
      settings: { maxmemory: "3mb", "maxmemory-policy": "allkeys-random" },
    });
    const filler = new Client(small.url);
    try {
      await fc.assert(
        fc.asyncProperty(steps, (order) =>
          race(small.url, order, async (i) => {
            await filler.set(`filler:${i}`, "x".repeat(200_000), "EX", 60);
          }),
        ),
        seeded(30),
      );
      expect(await filler.info("stats")).not.toContain("evicted_keys:0\r");
    } finally {
      filler.disconnect();
    }
  });
});

test("no key is without an end, and the values' are within their namespace's", async () => {
  await server.flush();
  await using a = await instance();
  const namespace = a.cache.namespace<User>({ ...users, tags: () => ["everyone"] });
  for (let i = 0; i < 50; i += 1) {
    await namespace.get(`${i}`, () => Promise.resolve({ id: `${i}`, version: 1 }));
    if (i % 10 === 0) await namespace.invalidate(`${i}`);
    if (i % 25 === 0) await a.cache.invalidateTag("everyone");
  }
  await until(async () => (await direct.exists("argo:cache:entry:key:users:49")) === 1, "redis");
  const keys = await direct.keys("*");
  expect(keys.length).toBeGreaterThan(50);
  const ends = new Set<number>();
  for (const key of keys) {
    const ms = await direct.pttl(key);
    expect(`${key} ${ms > 0}`).toBe(`${key} true`);
    if (!key.startsWith("argo:cache:entry:")) continue;
    expect(ms).toBeWithin(260_000, 300_001);
    ends.add(ms);
  }
  // Not all at the same time.
  expect(Math.max(...ends) - Math.min(...ends)).toBeGreaterThan(1_000);
});

test("what another version wrote into Redis is loaded anew", async () => {
  await server.flush();
  await using a = await instance();
  await using b = await instance();
  await a.cache.namespace<{ old: number }>(users).get("1", () => Promise.resolve({ old: 1 }));
  await until(async () => (await direct.exists("argo:cache:entry:key:users:1")) === 1, "redis");
  const schema = z.object({ id: z.string(), version: z.number() });
  const found = await b.cache
    .namespace<User>({ ...users, schema })
    .get("1", () => Promise.resolve({ id: "1", version: 1 }));
  expect(found).toEqual({ value: { id: "1", version: 1 }, hit: false });
});

test("without Redis at hand it loads, and holds in process", async () => {
  await using own = await startRedis();
  await using a = await instance(own.url);
  await own.kill();
  const namespace = a.cache.namespace<number>(users);
  expect(await namespace.get("1", () => Promise.resolve(1))).toEqual({ value: 1, hit: false });
  expect(await namespace.get("1", never)).toEqual({ value: 1, hit: true });
  await namespace.invalidate("1");
  expect(await namespace.get("1", () => Promise.resolve(2))).toEqual({ value: 2, hit: false });
});
