import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { apiKeys, deliveries, usage, usageDays } from "../../db/alpine/schema.ts";
import { hashOf } from "../../src/alpine/auth/tokens.ts";
import type { Database } from "../../src/alpine/database.ts";
import { makeKey } from "../../src/alpine/keys/format.ts";
import { Usage } from "../../src/alpine/usage/usage.ts";
import { AppError } from "../../src/errors.ts";
import { Meters } from "../../src/http/meter.ts";
import { createLog } from "../../src/platform/log.ts";
import {
  BACKEND,
  openAccounts,
  serveAccounts,
  type Accounts,
  type Member,
} from "../harness/accounts.ts";
import { NOON, READ_TOKEN, signal } from "../harness/app.ts";
import { ownPostgres } from "../harness/servers.ts";
import { alpineOf, people, person, until } from "./people.ts";

let at: Accounts;
beforeAll(async () => {
  at = await openAccounts();
});
afterAll(() => at[Symbol.asyncDispose]());

const LATEST = "/api/signals/latest";
const dayMs = 86_400_000;
const log = createLog("silent");
const today = "2026-11-20";

async function poll(key: string, times: number, on = at): Promise<void> {
  for (let i = 0; i < times; i += 1) await on.must(200, "GET", LATEST, undefined, key);
}

const flush = (on = at) => alpineOf(on).usage.flush();
const usedAt = async ({ id }: Member) =>
  (await at.db().select().from(apiKeys).where(eq(apiKeys.userId, id))).map(
    ({ lastUsedAt }) => lastUsedAt?.getTime() ?? null,
  );
/** Requests of signals by day. */
const usageOf = async (member: Member) =>
  (await rowsOf(member)).filter(([, name]) => name === "signals").map(([day, , n]) => [day, n]);
const rowsOf = async ({ id }: Member) =>
  (
    await at
      .db()
      .select()
      .from(usage)
      .where(eq(usage.userId, id))
      .orderBy(usage.day, usage.routeClass)
  ).map(({ day, routeClass, requests, errors }) => [day, routeClass, requests, errors] as const);

type Totals = Record<string, { requests: number; errors: number; delivered: number }>;
async function totals(day = today): Promise<Totals> {
  const rows = await at.db().select().from(usageDays).where(eq(usageDays.day, day));
  const none = { requests: 0, errors: 0, delivered: 0 };
  const found = rows.map(({ routeClass, requests, errors, delivered }) => [
    routeClass,
    { requests, errors, delivered },
  ]);
  return { signals: none, account: none, admin: none, ...Object.fromEntries(found) };
}

describe("what is written down", () => {
  test("every request of an account by day, and when its keys were used", async () => {
    const member = await person(at);
    const key = await at.key(member);
    await flush();
    expect(await rowsOf(member)).toEqual([[today, "account", 1, 0]]);
    expect(await usedAt(member)).toEqual([null]);
    await poll(key, 5);
    at.clock.ms = NOON + 7;
    await poll(key, 1);
    await poll(member.access, 3);
    expect(await usedAt(member)).toEqual([null]);
    await flush();
    expect(await usedAt(member)).toEqual([NOON + 7]);
    expect(await usageOf(member)).toEqual([["2026-11-20", 9]]);
    await flush();
    expect(await usageOf(member)).toEqual([["2026-11-20", 9]]);
    at.clock.ms = NOON + 12 * 3_600_000;
    await poll(key, 2);
    await flush();
    expect(await usageOf(member)).toEqual([
      ["2026-11-20", 9],
      ["2026-11-21", 2],
    ]);
    expect(await usedAt(member)).toEqual([at.clock.ms]);
    at.clock.ms = NOON;
  });

  test("also of many, in order, and none twice where it is written twice at once", async () => {
    const members = await people(at, 450);
    const twice = members.filter((_, i) => i % 2 === 0);
    for (const { access } of [...members, ...twice]) await poll(access, 1);
    await Promise.all([flush(), flush(), flush()]);
    for (const [i, member] of members.entries()) {
      expect(await usageOf(member)).toEqual([["2026-11-20", i % 2 === 0 ? 2 : 1]]);
    }
  });

  test("of a key that has a new place in memory as well", async () => {
    const member = await person(at);
    const key = await at.key(member);
    const before = at.clock.ms;
    await poll(key, 2);
    // Something of the user has changed: their keys are read anew.
    await alpineOf(at).changes.write(async (_tx, tell) => tell({ kind: "user", id: member.id }));
    at.clock.ms += 500;
    await poll(key, 3);
    await flush();
    expect(await usageOf(member)).toEqual([["2026-11-20", 5]]);
    expect(await usedAt(member)).toEqual([before + 500]);
    at.clock.ms = before;
  });

  test("nothing of who is gone, but in the sum of the day, and all of everybody else", async () => {
    const [gone, there] = [await person(at), await person(at)];
    const key = await at.key(gone);
    await flush();
    const before = await totals();
    await poll(key, 3);
    await poll(there.access, 3);
    const body = { password: gone.password };
    await at.must(204, "DELETE", "/api/users/account", body, gone.access);
    await flush();
    expect(await rowsOf(gone)).toEqual([]);
    expect(await usageOf(there)).toEqual([["2026-11-20", 3]]);
    expect((await totals())["signals"]?.requests).toBe((before["signals"]?.requests ?? 0) + 6);
  });

  test("by class of routes, refusals as errors, and of who has no account in the sum alone", async () => {
    const boss = await person(at, { role: "admin" });
    const bot = await at.key(boss);
    await flush();
    const [before, mine] = [await totals(), await rowsOf(boss)];
    await poll(boss.access, 2);
    await at.must(200, "GET", "/api/signals", undefined, boss.access);
    await at.must(200, "GET", "/api/stats", undefined, boss.access);
    await at.must(404, "GET", "/api/signals/999", undefined, boss.access);
    await at.must(400, "GET", `${LATEST}?limit=x`, undefined, boss.access);
    await at.must(200, "GET", "/api/auth/me", undefined, boss.access);
    await at.must(200, "GET", "/api/users/profile", undefined, boss.access);
    await at.must(200, "GET", "/api/admin/users", undefined, boss.access);
    await at.must(404, "GET", `/api/admin/users/${Bun.randomUUIDv7()}`, undefined, boss.access);
    // Refused, and known all the same.
    await at.must(403, "GET", "/api/admin/users", undefined, bot);
    // Nobody's: an operator's token, nobody known, no token at all.
    await poll(READ_TOKEN, 3);
    await at.must(401, "GET", LATEST, undefined, "argo_live_unknown");
    await at.must(401, "GET", "/api/auth/me");
    // No part of the API.
    await at.must(200, "GET", "/livez");
    await at.must(404, "GET", "/api/nothing/of/the/kind");
    await flush();
    expect(mine).toEqual([[today, "account", 1, 0]]);
    expect(await rowsOf(boss)).toEqual([
      [today, "account", 3, 0],
      [today, "admin", 3, 2],
      [today, "signals", 6, 2],
    ]);
    const after = await totals();
    const more = Object.fromEntries(
      Object.entries(after).map(([name, { requests, errors }]) => [
        name,
        [requests - (before[name]?.requests ?? 0), errors - (before[name]?.errors ?? 0)],
      ]),
    );
    expect(more).toEqual({ signals: [10, 3], account: [3, 1], admin: [3, 2] });
  });

  test("for the day on which it was answered, to the millisecond", async () => {
    const member = await person(at);
    const key = await at.key(member);
    at.clock.ms = Date.UTC(2026, 10, 23, 23, 59, 59, 999);
    await poll(key, 2);
    at.clock.ms += 1;
    await poll(key, 3);
    // Set back, as clocks are: each request is of the day that it was told.
    at.clock.ms -= 1;
    await poll(key, 1);
    at.clock.ms += 1;
    await flush();
    expect(await usageOf(member)).toEqual([
      ["2026-11-23", 3],
      ["2026-11-24", 3],
    ]);
    at.clock.ms = NOON;
  });

  test("by two at once of the same keys, without one holding up the other for good", async () => {
    const members = await people(at, 300);
    const keys = await Promise.all(
      members.map(async ({ id: userId }) => {
        const id = Bun.randomUUIDv7();
        const common = { name: "a key", prefix: "argo_live_000000", scopes: ["signals:read"] };
        const createdAt = new Date(NOON);
        const hash = hashOf(makeKey());
        await at
          .db()
          .insert(apiKeys)
          .values({ id, userId, hash, createdAt, ...common });
        return id;
      }),
    );
    const writer = (reversed: boolean) => {
      const inOrder = <T>(values: T[]): T[] => (reversed ? values.toReversed() : values);
      const takeUsed = () =>
        new Map(inOrder(keys).map((id) => [id, NOON + Math.floor(performance.now())]));
      const meters = new Meters({ now: () => NOON });
      const one = new Usage({ credentials: { takeUsed }, db: () => at.db(), meters, log });
      return {
        flush() {
          for (const { id } of inOrder(members)) {
            meters.of(id).answered("signals", 200);
            meters.of(id).deliver([1, 2, 3]);
          }
          return one.flush();
        },
      };
    };
    const writers = [writer(false), writer(true)];
    for (let round = 0; round < 10; round += 1) {
      await Promise.all(writers.map((one) => one.flush()));
    }
    for (const member of members) expect(await usageOf(member)).toEqual([["2026-11-20", 20]]);
  });

  test.if(BACKEND !== "embedded")("adds up from every server, at its end too", async () => {
    const member = await person(at);
    const key = await at.key(member);
    {
      await using other = await openAccounts({ beside: at, now: NOON + 9 });
      await poll(key, 4, other);
      await poll(key, 2);
    }
    expect(await usedAt(member)).toEqual([NOON + 9]);
    await flush();
    expect(await usageOf(member)).toEqual([["2026-11-20", 6]]);
    // What another one wrote of later stays.
    expect(await usedAt(member)).toEqual([NOON + 9]);
  });
});

/** A writer of its own, whose database may be away. */
function writer(db: () => Database) {
  const clock = { ms: NOON };
  const meters = new Meters({ now: () => clock.ms });
  const credentials = { takeUsed: () => new Map<string, number>() };
  return { clock, meters, usage: new Usage({ credentials, meters, log, db }) };
}

describe("while the database is away", () => {
  test("what was counted is kept for its day, and written when it is back", async () => {
    const [one, two] = await people(at, 2);
    if (!one || !two) throw new Error("nobody was made");
    let up = false;
    const {
      clock,
      meters,
      usage: writes,
    } = writer(() => {
      if (up) return at.db();
      throw new AppError("unavailable", "away");
    });
    const count = (member: Member, times: number) => {
      for (let i = 0; i < times; i += 1) meters.of(member.id).answered("signals", 200);
    };
    count(one, 5);
    await expect(writes.flush()).rejects.toThrow("away");
    count(one, 2);
    count(two, 1);
    await expect(writes.flush()).rejects.toThrow("away");
    clock.ms += dayMs;
    count(one, 1);
    up = true;
    await writes.flush();
    await writes.flush();
    expect(await usageOf(one)).toEqual([
      ["2026-11-20", 7],
      ["2026-11-21", 1],
    ]);
    expect(await usageOf(two)).toEqual([["2026-11-20", 1]]);
    expect(writes.pending).toBe(0);
  });

  test("a commit whose answer was lost is counted once, one that failed once it is done", async () => {
    const member = await person(at);
    const counted = { lost: 0, failed: 0 };
    let fault: keyof typeof counted | null = null;
    // What a broken connection looks like: before the commit, or after it.
    const db = () =>
      new Proxy(at.db(), {
        get(target, name) {
          if (name !== "transaction" || fault === null) return Reflect.get(target, name) as unknown;
          const which = fault;
          return async (work: Parameters<Database["transaction"]>[0]) => {
            counted[which] += 1;
            await target.transaction(async (tx) => {
              await work(tx);
              if (which === "failed") throw new Error("cut");
            });
            throw new AppError("unavailable", "cut");
          };
        },
      });
    const { meters, usage: writes } = writer(db);
    const before = (await totals())["signals"]?.requests ?? 0;
    for (const [i, next] of (["lost", "failed", "failed", "lost", null] as const).entries()) {
      fault = next;
      meters.of(member.id).answered("signals", 200);
      const done = writes.flush();
      if (next !== null) await expect(done).rejects.toThrow("cut");
      else await done;
      expect(writes.pending > 0).toBe(next !== null);
      if (i === 0) expect(await usageOf(member)).toEqual([[today, 1]]);
    }
    expect(counted.lost).toBeGreaterThan(0);
    expect(counted.failed).toBeGreaterThan(0);
    expect(await usageOf(member)).toEqual([[today, 5]]);
    expect((await totals())["signals"]?.requests).toBe(before + 5);
  });
});

test.if(BACKEND !== "embedded")(
  "a Postgres that is killed and comes back has every answer of a known key counted once",
  async () => {
    await using servers = await ownPostgres();
    await using own = await openAccounts({ backend: "postgres", servers: { postgres: servers } });
    const member = await person(own, { tier: "pro" });
    const key = await own.key(member);
    const { ids } = await own.app
      .post([signal(), signal({ entry_price: 101 })])
      .then(async (response) => {
        const { signals } = (await response.json()) as { signals: { id: number }[] };
        return { ids: signals.map(({ id }) => id) };
      });
    const { usage: writes } = alpineOf(own);
    await poll(key, 5, own);
    const busy = writes.flushCounts().catch(() => undefined);
    await servers.kill();
    await busy;
    for (let i = 0; i < 4; i += 1) {
      await poll(key, 10, own);
      await expect(writes.flushCounts()).rejects.toThrow();
    }
    await servers.start();
    await until(() => writes.flushCounts().then(...settled));
    const [row] = await own.db().select().from(usage).where(eq(usage.routeClass, "signals"));
    expect(row).toMatchObject({ requests: 45, errors: 0, delivered: 90 });
    const [day] = await own
      .db()
      .select()
      .from(usageDays)
      .where(eq(usageDays.routeClass, "signals"));
    expect(day).toMatchObject({ requests: 46, delivered: 90 });
    const journal = await own.db().select().from(deliveries);
    expect(journal.map(({ signalId }) => signalId).toSorted()).toEqual(ids.toSorted());
  },
);

/** Whether it was done. */
const settled = [() => true, () => false] as const;

test.if(BACKEND !== "embedded")(
  "a server that is killed loses what it counted since it last wrote, and no more",
  async () => {
    await using served = await serveAccounts("source", BACKEND);
    const member = await served.member();
    const ask = () => served.must(200, "GET", LATEST, undefined, member.access);
    const counted = async () =>
      (await served.db().select().from(usageDays)).reduce(
        (sum, { routeClass, requests }) => sum + (routeClass === "signals" ? requests : 0),
        0,
      );
    for (let i = 0; i < 20; i += 1) await ask();
    await until(async () => (await counted()) >= 20);
    expect(await counted()).toBe(20);
    await ask();
    served.server.kill();
    await Bun.sleep(200);
    expect([20, 21]).toContain(await counted());
  },
);
