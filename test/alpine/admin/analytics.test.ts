import { afterAll, beforeAll, beforeEach, describe, expect, spyOn, test } from "bun:test";
import pg from "pg";
import { tiers, type Tier, usageDays, users } from "../../../db/alpine/schema.ts";
import type { Analytics } from "../../../src/alpine/admin/analytics.ts";
import { periodsOf } from "../../../src/alpine/admin/analytics.ts";
import { BACKEND, openAccounts, type Accounts, type Member } from "../../harness/accounts.ts";
import { NOON } from "../../harness/app.ts";
import { randomNumbers, tellSeed } from "../../harness/seed.ts";
import { newUser } from "../../../src/alpine/users/store.ts";
import { alpineOf, people, person } from "../people.ts";

const PATH = "/api/admin/analytics";
const dayMs = 86_400_000;
const random = randomNumbers();
const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;

let at: Accounts;
let boss: Member;
beforeAll(async () => {
  tellSeed();
  at = await openAccounts();
});
beforeEach(async () => {
  boss = await person(at, { role: "admin" });
});
afterAll(() => at[Symbol.asyncDispose]());

const ask = (query = "", on = at) =>
  on.must<Analytics>(200, "GET", `${PATH}${query}`, undefined, boss.access);

describe("periods", () => {
  test.each([
    // A Friday, a Monday, a Sunday, a new year, a leap day.
    ["2026-11-20T12:00:00Z", "2026-11-20", "2026-11-16", "2026-11-01"],
    ["2026-11-16T00:00:00Z", "2026-11-16", "2026-11-16", "2026-11-01"],
    ["2026-11-15T23:59:59.999Z", "2026-11-15", "2026-11-09", "2026-11-01"],
    ["2027-01-01T00:00:00Z", "2027-01-01", "2026-12-28", "2027-01-01"],
    ["2028-02-29T01:00:00Z", "2028-02-29", "2028-02-28", "2028-02-01"],
  ])("of %s", (now, ...begin) => {
    const { today, week, month } = periodsOf(Date.parse(now));
    expect([today, week, month].map((one) => one.toISOString())).toEqual(
      begin.map((day) => `${day}T00:00:00.000Z`),
    );
  });
});

describe("the numbers", () => {
  test("are those of a plain recount, whoever there is and whenever it is", async () => {
    const all = (await at.db().select().from(users)).map(
      ({ tier, isActive, createdAt }) => [tier, isActive, createdAt.getTime()] as const,
    );
    const usage: (typeof usageDays.$inferSelect)[] = [];
    for (let i = 0; i < 40; i += 1) {
      const day = new Date(NOON - i * dayMs).toISOString().slice(0, 10);
      for (const routeClass of ["signals", "account", "admin"] as const) {
        const requests = Math.floor(random() * 1e6);
        const [errors, delivered] = [Math.floor(requests * random()), Math.floor(random() * 1e9)];
        usage.push({ day, routeClass, requests, errors, delivered });
      }
    }
    await at.db().insert(usageDays).values(usage);
    for (let round = 0; round < 4; round += 1) {
      const rows = Array.from({ length: 300 }, (_, i) => {
        const createdMs = NOON - Math.floor(random() ** 3 * 60 * dayMs);
        const tier: Tier = pick(tiers);
        const isActive = random() < 0.8;
        all.push([tier, isActive, createdMs]);
        const own = { email: `r${round}-${i}@example.com`, fullName: "R", passwordHash: "none" };
        return newUser(createdMs, { ...own, tier, isActive });
      });
      await at.db().insert(users).values(rows);
      at.clock.ms = NOON - round * 3 * dayMs;
      const { today, week, month } = periodsOf(at.clock.ms);
      const bossNow = await person(at, { role: "admin" });
      all.push(["starter", true, at.clock.ms]);
      const found = await at.must<Analytics>(
        200,
        "GET",
        `${PATH}?fresh=1`,
        undefined,
        bossNow.access,
      );
      const since = (from: Date) => all.filter(([, , ms]) => ms >= from.getTime()).length;
      const sum = (what: "requests" | "errors" | "delivered", from: Date) =>
        usage
          .filter((row) => row.day >= from.toISOString().slice(0, 10))
          .reduce((total, row) => total + row[what], 0);
      const ofTier = (tier: Tier) => all.filter(([name]) => name === tier).length;
      const own = { api_requests_today: 0, api_requests_this_week: 0, error_rate: 0 };
      expect({ ...found, ...own }).toEqual({
        ...own,
        total_users: all.length,
        active_users: all.filter(([, active]) => active).length,
        new_users_today: since(today),
        new_users_this_week: since(week),
        new_users_this_month: since(month),
        users_by_tier: { starter: ofTier("starter"), pro: ofTier("pro"), elite: ofTier("elite") },
        signals_delivered_today: sum("delivered", today),
        signals_delivered_this_week: sum("delivered", week),
        signals_delivered_this_month: sum("delivered", month),
        generated_at: new Date(at.clock.ms).toISOString(),
        usage_interval_seconds: 5,
      });
      // Those of asking itself are among them.
      expect(found.api_requests_today).toBeGreaterThanOrEqual(sum("requests", today));
      expect(found.api_requests_today).toBeLessThan(sum("requests", today) + 50);
      expect(found.error_rate).toBeCloseTo(sum("errors", today) / sum("requests", today), 3);
    }
    at.clock.ms = NOON;
  });
});

describe("kept", () => {
  test("for five minutes, the same for all, and anew for who asks", async () => {
    const first = await ask("?fresh=1");
    const response = await at.call("GET", PATH, undefined, boss.access);
    expect(response.headers.get("x-cache")).toBe("hit");
    expect(await response.json()).toEqual(first);
    await people(at, 3);
    await at.must(200, "GET", "/api/signals/latest", undefined, boss.access);
    expect(await ask()).toEqual(first);
    const anew = await ask("?fresh=true");
    expect(anew.total_users).toBe(first.total_users + 3);
    // What this process counted is written down first.
    expect(anew.api_requests_today).toBeGreaterThan(first.api_requests_today);
    expect(await ask("?fresh=no")).toEqual(anew);
  });

  test("counted once for who asks at once", async () => {
    const original = pg.Client.prototype.query;
    let counts = 0;
    const spy = spyOn(pg.Client.prototype, "query").mockImplementation(function query(
      this: pg.Client,
      ...given: unknown[]
    ) {
      if (JSON.stringify(given[0]).includes("AS standing")) counts += 1;
      return Reflect.apply(original, this, given) as never;
    });
    try {
      await Promise.all(Array.from({ length: 20 }, () => ask("?fresh=1")));
      // One that began before the last had asked, and one after that.
      expect(counts).toBeGreaterThan(0);
      expect(counts).toBeLessThanOrEqual(2);
    } finally {
      spy.mockRestore();
    }
  });

  test.if(BACKEND !== "embedded")("adds up what several servers counted", async () => {
    await alpineOf(at).usage.flush();
    const before = await ask("?fresh=1");
    await using other = await openAccounts({ beside: at });
    for (let i = 0; i < 7; i += 1) {
      await other.must(200, "GET", "/api/signals/latest", undefined, boss.access);
    }
    await alpineOf(other).usage.flush();
    const after = await ask("?fresh=1");
    expect(after.api_requests_today - before.api_requests_today).toBe(8);
  });
});

test("what it may not be asked is refused by name", async () => {
  for (const query of ["?fresh=maybe", "?x=1", "?fresh=1&fresh=1"]) {
    expect((await at.call("GET", PATH + query, undefined, boss.access)).status).toBe(400);
  }
});
