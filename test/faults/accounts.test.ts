import { describe, expect, test } from "bun:test";
import { openAccounts, PASSWORD, type Accounts } from "../harness/accounts.ts";
import { READ_TOKEN, signal } from "../harness/app.ts";
import { leastMs, until } from "../harness/process.ts";
import { ownPostgres, redis } from "../harness/servers.ts";
import { quantile } from "./harness.ts";

/** What accounts stand on is taken away; signals must not feel it (R7, R8). */

const poll = (at: Accounts, key: string) =>
  at.call("GET", "/api/signals/latest?limit=1", undefined, key);
const me = (at: Accounts, token: string) => at.call("GET", "/api/auth/me", undefined, token);
const login = (at: Accounts, email: string) =>
  at.call("POST", "/api/auth/login", { email, password: PASSWORD });

async function timed<T>(work: () => Promise<T>): Promise<[T, number]> {
  const begun = performance.now();
  const value = await work();
  return [value, performance.now() - begun];
}

/**
 * What nine of ten take at most, milliseconds, and the slowest of them: what they wait for is felt
 * by all, a pause of the machine by few.
 */
async function durations(count: number, ask: () => Promise<Response>): Promise<[number, number]> {
  const found: number[] = [];
  for (let i = 0; i < count; i += 1) {
    const [response, ms] = await timed(ask);
    expect(response.status).toBe(200);
    found.push(ms);
  }
  return [quantile(found, 0.9), quantile(found, 1)];
}

type Health = { status: string; checks: Record<string, string> };
const health = (at: Accounts) => at.app.json<Health>("/health");

describe("Postgres", () => {
  test.each(["kill", "pause"] as const)(
    "gone by %s: signals flow, accounts answer 503",
    async (how) => {
      await using server = await ownPostgres();
      await using at = await openAccounts({
        backend: "postgres+redis",
        servers: { postgres: server },
      });
      // Before the application is closed, which would wait for a database that is paused.
      using _resumed = { [Symbol.dispose]: () => server.resume() };
      await at.app.post(signal());
      const member = await at.member();
      const key = await at.key(member);

      if (how === "kill") await server.kill();
      else server.pause();
      const [refused, refusedMs] = await timed(() => login(at, member.email));
      expect(refused.status).toBe(503);
      expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
      // The first who asks a silent database waits for its statement's time limit.
      expect(refusedMs).toBeLessThan(how === "kill" ? 9_000 : 30_000);
      const again = async () => expect((await login(at, member.email)).status).toBe(503);
      expect(await leastMs(again, 3)).toBeLessThan(500);
      const [most, slowest] = await durations(200, () => poll(at, key));
      expect(most).toBeLessThan(100);
      expect(slowest).toBeLessThan(2_000);
      const post = await at.app.post(signal({ entry_price: 101 }));
      expect(post.status).toBe(201);
      // A Redis that answers late on a busy machine is done without for a moment.
      let told: Health | undefined;
      await until(
        async () => (told = await health(at)).checks["redis"] === "healthy",
        () => `Redis is healthy in ${JSON.stringify(told)}`,
      );
      expect(told).toMatchObject({
        status: "degraded",
        checks: { signals: "healthy", database: "unhealthy" },
      });
      expect((await at.app.get("/readyz")).status).toBe(200);

      // Nobody knows any more who was shut out elsewhere: no session is believed, no new key known.
      await until(
        async () => (await me(at, member.access)).status === 503,
        "no session is believed",
      );
      const stranger = `argo_live_${"0".repeat(38)}`;
      expect([401, 503]).toContain((await poll(at, stranger)).status);
      expect((await poll(at, key)).status).toBe(200);

      if (how === "kill") await server.start();
      else server.resume();
      await until(async () => (await login(at, member.email)).status === 200, "accounts are back");
      expect((await me(at, member.access)).status).toBe(200);
      await until(async () => (await health(at)).status === "healthy", "healthy again");
    },
  );

  test("gone for longer than rights may be old: known keys are believed no more, until it is back", async () => {
    await using server = await ownPostgres();
    await using at = await openAccounts({
      backend: "postgres",
      servers: { postgres: server },
      env: { RIGHTS_MAX_AGE: "5" },
    });
    const key = await at.key(await at.member());
    expect((await poll(at, key)).status).toBe(200);
    const begun = performance.now();
    await server.kill();
    await until(async () => (await poll(at, key)).status === 503, "the rights are too old");
    expect(performance.now() - begun).toBeGreaterThan(4_000);
    // The operator's own tokens hang on no database.
    expect((await poll(at, READ_TOKEN)).status).toBe(200);
    await server.start();
    await until(async () => (await poll(at, key)).status === 200, "the rights are known");
  });

  test("not there at the start: signals flow, accounts follow", async () => {
    await using server = await ownPostgres();
    await using database = await server.createDatabase();
    await server.stop();
    const gone = openAccounts({ backend: "postgres", env: { DATABASE_URL: database.url } });
    await Bun.sleep(1_500);
    await server.start();
    const at = await gone;
    const member = await at.member();
    expect((await me(at, member.access)).status).toBe(200);
    // Before the server that it stands on.
    await at[Symbol.asyncDispose]();
  });
});

describe("Redis", () => {
  test.each(["kill", "pause"] as const)(
    "gone by %s: nothing waits more than 50 ms for it",
    async (how) => {
      await using cache = await redis();
      await using at = await openAccounts({ backend: "postgres+redis", servers: { redis: cache } });
      const member = await at.member();
      const key = await at.key(member);
      const [quiet] = await durations(50, () => poll(at, key));
      if (how === "kill") await cache.kill();
      else cache.pause();
      for (const [most, slowest] of [
        await durations(100, () => poll(at, key)),
        await durations(30, () => me(at, member.access)),
      ]) {
        expect(most).toBeLessThan(quiet + 50);
        expect(slowest).toBeLessThan(2_000);
      }
      await until(async () => (await health(at)).checks["redis"] === "unhealthy", "noticed");
      expect((await health(at)).status).toBe("degraded");

      // Limits go on in process: never unlimited.
      const guesses = [];
      for (let i = 0; i < 12; i += 1) {
        const body = { email: member.email, password: `guess ${i}` };
        guesses.push((await at.call("POST", "/api/auth/login", body)).status);
      }
      expect(guesses.slice(10)).toEqual([429, 429]);
      // A session that is ended stays ended.
      await at.must(204, "POST", "/api/auth/logout", undefined, member.access);
      expect((await me(at, member.access)).status).toBe(401);

      if (how === "kill") await cache.start();
      else cache.resume();
      await until(async () => (await health(at)).status === "healthy", "healthy again");
      expect((await me(at, member.access)).status).toBe(401);
    },
  );

  test("flushed: what was revoked stays revoked, what was limited stays limited (A5)", async () => {
    await using cache = await redis();
    await using at = await openAccounts({ backend: "postgres+redis", servers: { redis: cache } });
    const member = await at.member();
    await at.must(204, "POST", "/api/auth/logout", undefined, member.access);
    for (let i = 0; i < 10; i += 1) {
      await at.call("POST", "/api/auth/login", { email: member.email, password: "guess" });
    }
    await cache.flush();
    expect((await me(at, member.access)).status).toBe(401);
    expect((await login(at, member.email)).status).toBe(429);
  });
});

describe("the server itself", () => {
  test("started again: what was revoked stays revoked, what was given stays given (A5)", async () => {
    await using at = await openAccounts({ backend: "postgres" });
    const [ended, kept] = [await at.member(), await at.member()];
    const key = await at.key(kept);
    await at.must(204, "POST", "/api/auth/logout", undefined, ended.access);
    await using again = await openAccounts({ beside: at, now: at.clock.ms });
    expect((await me(again, ended.access)).status).toBe(401);
    expect((await me(again, kept.access)).status).toBe(200);
    expect((await poll(again, key)).status).toBe(200);
  });
});
