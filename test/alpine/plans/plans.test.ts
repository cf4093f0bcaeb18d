import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { and, desc, eq } from "drizzle-orm";
import { auditLog, plans as planTable } from "../../../db/alpine/schema.ts";
import type { Database } from "../../../src/alpine/database.ts";
import { Plans } from "../../../src/alpine/plans/registry.ts";
import type { AdminPlan, Plan } from "../../../src/alpine/plans/schema.ts";
import { BACKEND, openAccounts, type Accounts, type Member } from "../../harness/accounts.ts";
import { fieldsOf, READ_TOKEN, signal } from "../../harness/app.ts";
import { until } from "../../harness/process.ts";
import { alpineOf, person } from "../people.ts";

let at: Accounts;
let boss: Member;
beforeAll(async () => {
  at = await openAccounts();
  boss = await person(at, { role: "admin" });
});
afterAll(() => at[Symbol.asyncDispose]());

const change = (tier: string, body: unknown, by = boss) =>
  at.call("PATCH", `/api/admin/plans/${tier}`, body, by.access);
const changed = (tier: string, body: unknown) =>
  at.must<AdminPlan>(200, "PATCH", `/api/admin/plans/${tier}`, body, boss.access);
const poll = (token: string, on = at) =>
  on.call("GET", "/api/signals/latest?limit=1", undefined, token);
const plans = async (on = at) =>
  (await on.must<{ plans: Plan[] }>(200, "GET", "/api/plans", undefined, null)).plans;
const grant = (id: string, tier: string | null) =>
  at.must(200, "PATCH", `/api/admin/users/${id}`, { tier }, boss.access);

describe("what is for sale", () => {
  test("is what the issue of a new installation says, for everybody to see", async () => {
    const unlimited = { requests_per_minute: 1_000_000_000 };
    expect(await plans()).toEqual([
      {
        tier: "starter",
        name: "Starter",
        price_minor: 4900,
        currency: "USD",
        interval: "month",
        trial_days: 0,
        premium: false,
        delay_seconds: 900,
        streams_max: 1,
        webhooks_max: 0,
        history_days: 30,
        export: false,
        ...unlimited,
      },
      {
        tier: "pro",
        name: "Pro",
        price_minor: 14_900,
        currency: "USD",
        interval: "month",
        trial_days: 0,
        premium: true,
        delay_seconds: 0,
        streams_max: 5,
        webhooks_max: 3,
        history_days: 365,
        export: false,
        ...unlimited,
      },
      {
        tier: "elite",
        name: "Elite",
        price_minor: 49_900,
        currency: "USD",
        interval: "month",
        trial_days: 0,
        premium: true,
        delay_seconds: 0,
        streams_max: 20,
        webhooks_max: 10,
        history_days: null,
        export: true,
        ...unlimited,
      },
    ]);
  });

  test("is changed by administrators, written down, and the same again is no change", async () => {
    const made = await changed("pro", { price_minor: 19_900, trial_days: 14 });
    expect(made).toMatchObject({ tier: "pro", price_minor: 19_900, trial_days: 14 });
    const entries = () =>
      at
        .db()
        .select()
        .from(auditLog)
        .where(and(eq(auditLog.event, "plan_changed"), eq(auditLog.actorId, boss.id)))
        .orderBy(desc(auditLog.id));
    expect((await entries())[0]?.details).toEqual({
      tier: "pro",
      price_minor: { from: 14_900, to: 19_900 },
      trial_days: { from: 0, to: 14 },
    });
    const before = (await entries()).length;
    await changed("pro", { price_minor: 19_900 });
    expect(await entries()).toHaveLength(before);
    await changed("pro", { price_minor: 14_900, trial_days: 0 });
  });

  test.each([
    ["price_minor", -1],
    ["price_minor", 49.5],
    ["price_minor", "4900"],
    ["price_minor", 1e12],
    ["currency", "XXY"],
    ["currency", "usd"],
    ["interval", "week"],
    ["trial_days", 400],
    ["delay_seconds", -1],
    ["delay_seconds", 30 * 86_400 + 1],
    ["requests_per_minute", 0],
    ["streams_max", -1],
    ["webhooks_max", 1.5],
    ["history_days", 0],
    ["export", "yes"],
    ["premium", null],
    ["name", ""],
    ["name", "a\nb"],
    ["stripe_price_id", "https://example.com"],
  ])("takes no %s of %p", async (field, value) => {
    const response = await change("starter", { [field]: value });
    expect(response.status).toBe(422);
    expect(await fieldsOf(response)).toEqual([field]);
  });

  test("is known as it is at last when it is changed twice at once", async () => {
    const answered = Promise.withResolvers<void>();
    let reads = 0;
    // The first answer is on its way for longer than the second.
    const from = async (table: typeof planTable) => {
      const first = (reads += 1) === 1;
      const rows = await at.db().select().from(table);
      if (first) await answered.promise;
      return rows;
    };
    const db = { select: () => ({ from }) } as unknown as Database;
    const { changes } = alpineOf(at);
    const known = new Plans({ db: () => db, changes, requestsPerMinute: 1 });
    const both = [changed("pro", { delay_seconds: 60 })];
    await until(() => Promise.resolve(reads === 1), "the first is read");
    both.push(changed("pro", { delay_seconds: 0 }));
    await until(async () => (await plans())[1]?.delay_seconds === 0, "the second is known");
    await Bun.sleep(50);
    answered.resolve();
    await Promise.all(both);
    expect(known.entitlementOf("pro", "user").view.delaySeconds).toBe(0);
  });

  test("is changed by nobody else, and no other plan is there", async () => {
    const member = await person(at);
    expect((await change("starter", { premium: true }, member)).status).toBe(403);
    expect((await change("gold", { premium: true })).status).toBe(400);
    expect((await change("starter", {})).status).toBe(422);
    for (const unknown of [{ tier: "elite" }, { updated_at: "2026-01-01T00:00:00Z" }]) {
      const response = await change("starter", unknown);
      expect(response.status).toBe(422);
      expect(await fieldsOf(response)).toContain(Object.keys(unknown)[0] as string);
    }
    const key = await at.key(boss, ["admin:read"]);
    const byKey = await at.call("PATCH", "/api/admin/plans/pro", { premium: false }, key);
    expect(byKey.status).toBe(403);
  });

  test("one price at Stripe sells one plan", async () => {
    await changed("pro", { stripe_price_id: "price_a" });
    expect((await change("elite", { stripe_price_id: "price_a" })).status).toBe(409);
    await changed("pro", { stripe_price_id: null });
    await changed("elite", { stripe_price_id: "price_a" });
    await changed("elite", { stripe_price_id: null });
  });

  test.if(BACKEND !== "embedded")(
    "a change is known to another server within a second",
    async () => {
      await using other = await openAccounts({ beside: at });
      await changed("starter", { streams_max: 7 });
      const known = async () => (await plans(other))[0]?.streams_max === 7;
      await until(known, "the other server knows it");
      await changed("starter", { streams_max: 1 });
    },
  );
});

describe("a grant", () => {
  test("outranks, earns nothing, and is cleared", async () => {
    const member = await person(at);
    expect(await grant(member.id, "elite")).toMatchObject({ tier: "elite", tier_grant: "elite" });
    expect(await grant(member.id, null)).toMatchObject({ tier: "starter", tier_grant: null });
    expect(await grant(member.id, "starter")).toMatchObject({ tier_grant: "starter" });
  });
});

describe("how often somebody may read", () => {
  test("is said by their plan, for all their keys and sessions together", async () => {
    await changed("starter", { requests_per_minute: 60 });
    const member = await person(at);
    const keys = [await at.key(member), await at.key(member), member.access];
    for (let i = 0; i < 60; i += 1) {
      const response = await poll(keys[i % 3] as string);
      expect(response.status).toBe(200);
      expect(response.headers.get("ratelimit-policy")).toBe('"starter";q=60;w=60');
      expect(response.headers.get("ratelimit")).toStartWith(`"starter";r=${59 - i};`);
      expect(response.headers.get("x-ratelimit-limit")).toBe("60");
    }
    for (const key of keys) {
      const refused = await poll(key);
      expect(refused.status).toBe(429);
      expect(refused.headers.get("ratelimit-policy")).toBe('"starter";q=60;w=60');
      expect((await at.call("GET", "/api/signals?limit=1", undefined, key)).status).toBe(429);
    }
    // The account is not shut with it.
    const me = await at.call("GET", "/api/auth/me", undefined, member.access);
    expect(me.status).toBe(200);
    expect(me.headers.get("ratelimit-policy")).toStartWith('"default";');
    // What is granted counts at once, by the same counters.
    await changed("starter", { requests_per_minute: 61 });
    expect((await poll(keys[0] as string)).status).toBe(200);
    expect((await poll(keys[0] as string)).status).toBe(429);
    await changed("starter", { requests_per_minute: 1_000_000_000 });
  });

  test("the headers say whose limit it is, though the bytes are the same", async () => {
    await at.app.post(signal());
    const [pro, elite] = [await person(at), await person(at)];
    const [a, b] = [await at.key(pro), await at.key(elite)];
    await grant(pro.id, "pro");
    await grant(elite.id, "elite");
    await changed("pro", { requests_per_minute: 600 });
    for (let i = 0; i < 3; i += 1) {
      expect((await poll(a)).headers.get("ratelimit-policy")).toBe('"pro";q=600;w=60');
      expect((await poll(b)).headers.get("x-ratelimit-limit")).toBe("1000000000");
      const token = await poll(READ_TOKEN);
      expect(token.headers.get("ratelimit-policy")).toStartWith('"default";');
    }
    await changed("pro", { requests_per_minute: 1_000_000_000 });
  });
});
