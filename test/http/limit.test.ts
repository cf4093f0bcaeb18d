import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Server } from "bun";
import { readConfig } from "../../src/config.ts";
import type { Exchange } from "../../src/http/exchange.ts";
import { SlidingWindow } from "../../src/http/limit.ts";
import { addressKey, clientAddress } from "../../src/http/policy.ts";
import { METRICS_TOKEN, openApp, problemOf, READ_TOKEN, signal, type App } from "../harness/app.ts";
import { seeded } from "../harness/seed.ts";

const WINDOW_MS = 60_000;

/** The same rule worked out from the list of what was let in. */
class Model {
  readonly accepted: number[] = [];
  #start: number | null = null;

  constructor(private readonly limit: number) {}

  take(at: number): boolean {
    if (this.#start === null || at >= this.#start + 2 * WINDOW_MS) this.#start = at;
    else if (at >= this.#start + WINDOW_MS) this.#start += WINDOW_MS;
    const start = this.#start;
    const within = (from: number, to: number): number =>
      this.accepted.filter((t) => t >= from && t < to).length;
    const now = within(start, start + WINDOW_MS);
    const before = within(start - WINDOW_MS, start);
    const left = 1 - (at - start) / WINDOW_MS;
    const allowed = before * left + now + 1 <= this.limit;
    if (allowed) this.accepted.push(at);
    return allowed;
  }
}

const gaps = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: fc.constant(0) },
    { weight: 3, arbitrary: fc.integer({ min: 0, max: 3_000 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 2.5 * WINDOW_MS }) },
  ),
  { minLength: 1, maxLength: 200 },
);

describe("the sliding window", () => {
  test("lets in what the exact rule lets in, and never more than twice the limit in any window", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20 }), gaps, (limit, waits) => {
        let now = 1_000_000;
        const window = new SlidingWindow({
          limit,
          keysMax: 10,
          now: () => now,
        });
        const model = new Model(limit);
        for (const wait of waits) {
          now += wait;
          const verdict = window.take("k");
          expect(verdict.allowed).toBe(model.take(now));
          expect(verdict.quota.limit).toBe(limit);
          expect(verdict.remaining).toBeWithin(0, limit);
        }
        const { accepted } = model;
        for (const from of accepted) {
          const inside = accepted.filter((t) => t >= from && t < from + WINDOW_MS).length;
          // The count of the last window is taken as spread evenly over it: a burst at its end and
          // one that grows as it leaves stay below twice the limit.
          expect(inside).toBeLessThan(2 * limit + (limit === 1 ? 1 : 0));
        }
        const span = (accepted.at(-1) ?? 0) - (accepted[0] ?? 0);
        expect(accepted.length).toBeLessThanOrEqual(limit * (Math.ceil(span / WINDOW_MS) + 1));
      }),
      seeded(400),
    );
  });

  test("an even rate below the limit is never refused, one above is refused its excess", () => {
    let now = 0;
    const window = new SlidingWindow({
      limit: 60,
      keysMax: 10,
      now: () => now,
    });
    for (let i = 0; i < 600; i += 1) {
      expect(window.take("even").allowed).toBe(true);
      now += 1_018;
    }
    let passed = 0;
    for (let i = 0; i < 6_000; i += 1) {
      if (window.take("fast").allowed) passed += 1;
      now += 100;
    }
    expect(passed).toBeWithin(590, 680);
  });

  test("what remains is what is let in at once", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20 }), gaps, (limit, waits) => {
        let now = 1_000_000;
        const window = new SlidingWindow({
          limit,
          keysMax: 10,
          now: () => now,
        });
        for (const wait of waits) {
          now += wait;
          const first = window.take("k");
          for (let i = 0; i < first.remaining; i += 1) expect(window.take("k").allowed).toBe(true);
          expect(window.take("k").allowed).toBe(false);
        }
      }),
      seeded(100),
    );
  });

  test("waiting as long as it says lets one in, and more than a second less does not", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 700 }), gaps, (limit, waits) => {
        let now = 1_000_000;
        const window = new SlidingWindow({
          limit,
          keysMax: 10,
          now: () => now,
        });
        for (const wait of waits) {
          now += wait;
          let verdict = window.take("k");
          for (let i = 0; i < limit + 1 && verdict.allowed; i += 1) verdict = window.take("k");
          expect(verdict.allowed).toBe(false);
          const refusedAt = now;
          expect(Number.isInteger(verdict.resetSeconds)).toBe(true);
          expect(verdict.resetAtSeconds * 1000).toBeGreaterThanOrEqual(refusedAt);
          if (verdict.resetSeconds > 1) {
            now = refusedAt + (verdict.resetSeconds - 1) * 1000 - 1;
            expect(window.take("k").allowed).toBe(false);
          }
          now = refusedAt + verdict.resetSeconds * 1000;
          expect(window.take("k").allowed).toBe(true);
        }
      }),
      seeded(150),
    );
  });

  test("a million addresses keep no more than the bound, and no longer than they count", () => {
    let now = 0;
    const keysMax = 100_000;
    const window = new SlidingWindow({ limit: 600, keysMax, now: () => now });
    const begun = performance.now();
    for (let i = 0; i < 1_000_000; i += 1) {
      if (i % 100 === 0) now += 1;
      window.take(`address:${i}`);
      if (window.size > keysMax) throw new Error(`${window.size} keys`);
      // Far more than it takes: a bound that costs a sweep each time would be its own attack.
      if (i % 1_000 === 0 && performance.now() - begun > 60_000) throw new Error(`slow at ${i}`);
    }
    expect(window.size).toBeGreaterThan(1_000);
    now += 3 * WINDOW_MS;
    for (let i = 0; i < 50_000; i += 1) window.take(`later:${i % 100}:${i}`);
    for (let i = 0; i < 50_000; i += 1) window.take("one");
    expect(window.size).toBeLessThanOrEqual(keysMax);
  });

  test("a clock set back neither shuts out for ever nor opens the gate", () => {
    for (const back of [1, 1_000, WINDOW_MS, 3_600_000]) {
      let now = 10_000_000;
      const window = new SlidingWindow({
        limit: 10,
        keysMax: 10,
        now: () => now,
      });
      for (let i = 0; i < 20; i += 1) window.take("k");
      now -= back;
      let passed = 0;
      for (let i = 0; i < 50; i += 1) if (window.take("k").allowed) passed += 1;
      expect(passed).toBeLessThanOrEqual(10);
      const refused = window.take("k");
      expect(refused.allowed).toBe(false);
      expect(refused.resetSeconds).toBeLessThanOrEqual((2 * WINDOW_MS) / 1000);
      now += 2 * WINDOW_MS;
      expect(window.take("k").allowed).toBe(true);
      // And again and again: not a request more for each time it is set back.
      let total = 0;
      for (let i = 0; i < 20; i += 1) {
        now -= 5;
        for (let j = 0; j < 10; j += 1) if (window.take("k").allowed) total += 1;
      }
      expect(total).toBeLessThanOrEqual(2 * 10);
    }
  });
});

describe("whose request it is", () => {
  test.each([
    ["192.0.2.7", "192.0.2.7"],
    ["::ffff:192.0.2.7", "192.0.2.7"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
    ["2001:DB8:1:2::1", "2001:db8:1:2::/64"],
    ["2001:0db8:0001:0002::", "2001:db8:1:2::/64"],
    ["2001:db8::1", "2001:db8:0:0::/64"],
    ["::1", "0:0:0:0::/64"],
    ["::", "0:0:0:0::/64"],
    ["1::", "1:0:0:0::/64"],
    ["fe80::1%eth0", "fe80:0:0:0::/64"],
    ["1:2:3:4:5:6:7::", "1:2:3:4::/64"],
    ["64:ff9b::192.0.2.7", "64:ff9b:0:0::/64"],
    ["1:2::4:5:6:192.0.2.7", "1:2:0:4::/64"],
  ])("%s counts as %s", (address, key) => {
    expect(addressKey(address)).toBe(key);
  });

  test("a mapped address is the same in both spellings", () => {
    expect(addressKey("::ffff:c000:207")).toBe("192.0.2.7");
  });

  const from = (hops: number, forwarded: string | null): string => {
    const config = readConfig({ TRUST_PROXY: `${hops}` });
    const headers = new Headers();
    if (forwarded !== null) headers.set("X-Forwarded-For", forwarded);
    const server = { requestIP: () => ({ address: "10.0.0.1", family: "IPv4", port: 1 }) };
    const exchange = { server: server as unknown as Server<unknown> } as Exchange;
    return clientAddress(config, new Request("http://x/", { headers }), exchange);
  };
  test.each([
    [0, "192.0.2.9", "10.0.0.1"],
    [0, null, "10.0.0.1"],
    [1, null, "10.0.0.1"],
    [1, "", "10.0.0.1"],
    [1, "192.0.2.9", "192.0.2.9"],
    [1, "1.1.1.1, 192.0.2.9", "192.0.2.9"],
    [1, "1.1.1.1,2.2.2.2 , 192.0.2.9 ", "192.0.2.9"],
    [2, "1.1.1.1, 192.0.2.9, 2.2.2.2", "192.0.2.9"],
    [1, "not an address", "10.0.0.1"],
    [1, "192.0.2.9, unknown", "10.0.0.1"],
    [1, "2001:db8::1", "2001:db8::1"],
    [1, "1.1.1.1.1", "10.0.0.1"],
  ])("behind %d proxies, X-Forwarded-For %p is %s", (hops, forwarded, address) => {
    expect(from(hops, forwarded)).toBe(address);
  });
});

describe("the limit on reading", () => {
  const PATHS = ["/api/signals/latest", "/api/signals?limit=1", "/api/signals/1", "/api/stats"];
  const limited = (env: Record<string, string> = {}): Promise<App> =>
    openApp({ env: { RATE_LIMIT_PER_MINUTE: "5", ...env } });

  test.each(PATHS)("%s is 429 past it, as a problem that says when to come back", async (path) => {
    await using app = await limited();
    for (let i = 1; i <= 5; i += 1) {
      const { status, headers } = await app.get(path);
      expect(status).toBe(200);
      expect(headers.get("ratelimit-policy")).toBe('"default";q=5;w=60');
      expect(headers.get("ratelimit")).toMatch(new RegExp(`^"default";r=${5 - i};t=\\d+$`));
      expect(headers.get("x-ratelimit-limit")).toBe("5");
      expect(headers.get("x-ratelimit-remaining")).toBe(`${5 - i}`);
      expect(Number(headers.get("x-ratelimit-reset"))).toBeWithin(
        app.clock.ms / 1000,
        app.clock.ms / 1000 + 61,
      );
    }
    const response = await app.get(path);
    expect(response.status).toBe(429);
    expect(response.headers.get("ratelimit")).toMatch(/^"default";r=0;t=\d+$/);
    expect(response.headers.get("x-ratelimit-remaining")).toBe("0");
    const wait = Number(response.headers.get("retry-after"));
    expect(wait).toBeWithin(1, 121);
    expect(await problemOf(response)).toMatchObject({ code: "rate_limited", status: 429 });
    app.clock.ms += wait * 1000;
    expect((await app.get(path)).status).toBe(200);
  });

  test("is one for all reading routes together", async () => {
    await using app = await limited();
    for (const path of [...PATHS, "/api/signals/latest"]) {
      expect((await app.get(path)).status).toBe(200);
    }
    for (const path of [...PATHS, "/api/signals/export"]) {
      expect((await app.get(path)).status).toBe(429);
    }
  });

  test("a token has its own, wherever it comes from", async () => {
    await using app = await limited({ TRUST_PROXY: "1", SIGNALS_ACCESS: "open" });
    const token = { Authorization: `Bearer ${READ_TOKEN}` };
    for (let i = 0; i < 6; i += 1) await app.get("/api/signals/latest");
    expect((await app.get("/api/signals/latest")).status).toBe(429);
    for (let i = 0; i < 5; i += 1) {
      const headers = { ...token, "X-Forwarded-For": `192.0.2.${i}` };
      expect((await app.get("/api/signals/latest", headers)).status).toBe(200);
    }
    expect((await app.get("/api/signals/latest", token)).status).toBe(429);
  });

  test("an address has its own, an IPv6 network of /64 too, and a forged header none", async () => {
    await using app = await limited({ TRUST_PROXY: "1", SIGNALS_ACCESS: "open" });
    const as = (address: string): Promise<Response> =>
      app.get("/api/signals/latest", { "X-Forwarded-For": address });
    for (let i = 0; i < 5; i += 1) expect((await as(`1.2.3.${i}, 192.0.2.1`)).status).toBe(200);
    expect((await as("9.9.9.9, 192.0.2.1")).status).toBe(429);
    expect((await as("192.0.2.2")).status).toBe(200);
    for (let i = 0; i < 5; i += 1) expect((await as(`2001:db8::${i + 1}`)).status).toBe(200);
    expect((await as("2001:db8:0:0:ffff::1")).status).toBe(429);
    expect((await as("2001:db8:0:1::1")).status).toBe(200);
    await using direct = await limited({ SIGNALS_ACCESS: "open" });
    for (let i = 0; i < 5; i += 1) {
      await direct.get("/api/signals/latest", { "X-Forwarded-For": `192.0.2.${i}` });
    }
    const forged = await direct.get("/api/signals/latest", { "X-Forwarded-For": "192.0.2.99" });
    expect(forged.status).toBe(429);
  });

  test("guessing tokens uses up the address's own", async () => {
    await using app = await limited({ SIGNALS_ACCESS: "key" });
    const guess = (i: number): Promise<Response> =>
      app.get("/api/signals/latest", { Authorization: `Bearer guess-number-${i}-of-many` });
    for (let i = 0; i < 5; i += 1) expect((await guess(i)).status).toBe(401);
    for (let i = 5; i < 8; i += 1) expect((await guess(i)).status).toBe(429);
    expect((await app.get("/api/signals/latest")).status).toBe(429);
    const post = { Authorization: "Bearer guess-number-9-of-many" };
    expect((await app.post(signal(), post)).status).toBe(429);
    const good = { Authorization: `Bearer ${READ_TOKEN}` };
    expect((await app.get("/api/signals/latest", good)).status).toBe(200);
  });

  test("posts and operations are not under it", async () => {
    await using app = await limited();
    for (let i = 0; i < 12; i += 1) {
      expect((await app.post(signal())).status).toBe(201);
      for (const path of ["/livez", "/readyz", "/health", "/version"]) {
        const response = await app.get(path);
        expect(response.status).toBe(200);
        expect(response.headers.get("ratelimit")).toBeNull();
      }
    }
    expect((await app.get("/api/signals/latest")).status).toBe(200);
  });

  test("304 and faults of the query count", async () => {
    await using app = await limited();
    const first = await app.get("/api/signals/latest");
    const etag = first.headers.get("etag") ?? "";
    expect((await app.get("/api/signals/latest", { "If-None-Match": etag })).status).toBe(304);
    for (let i = 0; i < 3; i += 1) {
      expect((await app.get("/api/signals/latest?limit=x")).status).toBe(400);
    }
    expect((await app.get("/api/signals/latest", { "If-None-Match": etag })).status).toBe(429);
  });

  test("the metrics count what was asked and what was refused", async () => {
    await using app = await limited({ METRICS_TOKEN });
    for (const path of [...PATHS, ...PATHS]) await app.get(path);
    const token = { Authorization: `Bearer ${METRICS_TOKEN}` };
    const text = await (await app.get("/metrics", token)).text();
    expect(text).toMatch(/^rate_limit_requests_total 8$/m);
    expect(text).toMatch(/^rate_limit_exceeded_total 3$/m);
  });
});
