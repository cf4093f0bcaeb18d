import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { eq, sql } from "drizzle-orm";
import { payments, plans, providerEvents, users } from "../../../db/alpine/schema.ts";
import { forgetExpired } from "../../../src/alpine/retention.ts";
import type { Accounts, Member } from "../../harness/accounts.ts";
import { problemOf } from "../../harness/app.ts";
import { randomNumbers, SEED, tellSeed } from "../../harness/seed.ts";
import { DAY, Shop } from "../money.ts";
import { alpineOf, people, person } from "../people.ts";
import { Customer, openShop, PRICES, send, type StripeEvent } from "./world.ts";

let at: Accounts;
let shop: Shop;
beforeAll(async () => {
  at = await openShop();
  shop = new Shop(at);
});
afterAll(() => at[Symbol.asyncDispose]());
beforeEach(forgetAll);

const now = () => Math.floor(at.clock.ms / 1000);
const day = 86_400;
const ROUNDS = Number(process.env["STRIPE_ROUNDS"] ?? 3);

async function forgetAll(): Promise<void> {
  await at.db().execute(sql`TRUNCATE subscriptions, invoices, payments, revenue_movements,
    provider_events, notifications`);
  await at.db().update(users).set({ tier: "starter" });
}

/** All that money comes to, whoever wrote it and when. */
async function state() {
  const read = async (table: string) => {
    const { rows } = await at
      .db()
      .execute<{ row: unknown }>(sql.raw(`SELECT to_jsonb(t) AS row FROM ${table} t ORDER BY id`));
    return rows.map(({ row }) => row);
  };
  const { rows: tiers } = await at.db().execute(sql`SELECT id, tier FROM users ORDER BY id`);
  const held = await at
    .db()
    .select({ id: providerEvents.id, fault: providerEvents.fault })
    .from(providerEvents)
    .where(sql`applied_at IS NULL`)
    .orderBy(providerEvents.id);
  return {
    subscriptions: await read("subscriptions"),
    invoices: await read("invoices"),
    payments: await read("payments"),
    movements: await read("revenue_movements"),
    tiers,
    held,
  };
}

async function sendAll(events: readonly StripeEvent[]): Promise<void> {
  for (const event of events) expect((await send(at, event)).status).toBe(200);
}

const tierOf = async ({ id }: Member) =>
  (await at.db().select().from(users).where(eq(users.id, id)))[0]?.tier;

/** What has come in and gone back, by kind. */
async function cash(who: Member): Promise<string[]> {
  type Page = { payments: { kind: string; amount_minor: number }[] };
  const { payments } = await shop.ask<Page>(200, who, "GET", "/api/payments");
  return payments.map(({ kind, amount_minor }) => `${kind} ${amount_minor}`).toSorted();
}

test.each(["old", "new"] as const)("a life at Stripe, told by the %s API", async (version) => {
  const who = await person(at);
  const customer = new Customer(who.id, version);
  const begin = now() - 200 * day;
  customer.buy("pro", begin);
  await sendAll(customer.events);
  expect(await tierOf(who)).toBe("pro");
  const events = await at.db().select().from(providerEvents);
  expect(events.filter(({ fault, appliedAt }) => fault !== null || !appliedAt)).toEqual([]);
  customer.renew(begin + 30 * day);
  customer.change("elite", begin + 40 * day);
  customer.fail(begin + 60 * day, begin + 63 * day);
  customer.refund(begin + 64 * day, "a", 1_000);
  customer.refund(begin + 65 * day, "a", 500);
  customer.cancel(begin + 70 * day);
  await sendAll(customer.events);
  expect((await shop.current(who)).subscription).toMatchObject({
    provider: "stripe",
    status: "active",
    tier: "elite",
    price_minor: 49_900,
    currency: "USD",
    period_start: new Date((begin + 60 * day) * 1000).toISOString(),
    period_end: new Date((begin + 90 * day) * 1000).toISOString(),
    cancel_at_period_end: true,
  });
  expect(await tierOf(who)).toBe("elite");
  customer.end(begin + 90 * day);
  await sendAll(customer.events);
  expect((await shop.current(who)).subscription).toBeNull();
  expect(await tierOf(who)).toBe("starter");
  expect(await shop.movements(who)).toEqual([
    "new pro 14900",
    "expansion pro -14900",
    "expansion elite 49900",
    "churn elite -49900",
  ]);
  expect(await cash(who)).toEqual([
    "charge 1234",
    "charge 14900",
    "charge 14900",
    "charge 49900",
    "failure 49900",
    "refund 1000",
    "refund 500",
  ]);
  const { currencies, held_events } = await shop.revenue();
  expect(held_events).toBe(0);
  expect(currencies[0]).toMatchObject({ mrr_minor: 0 });
});

test("whoever does not pay keeps their rights for the grace period, and has them back when they do", async () => {
  const who = await person(at);
  const customer = new Customer(who.id);
  const begin = now() - 31 * day;
  customer.buy("pro", begin);
  const again = begin + 39 * day;
  customer.fail(begin + 30 * day, again);
  await sendAll(customer.events.filter(({ created }) => created < again));
  const { subscription } = await shop.current(who);
  expect(subscription).toMatchObject({ status: "past_due" });
  expect(await tierOf(who)).toBe("pro");
  type News = { notifications: { kind: string; body: string }[] };
  const { notifications } = await shop.ask<News>(200, who, "GET", "/api/notifications");
  const failed = notifications.filter(({ kind }) => kind === "payment_failed");
  const until = subscription?.grace_until?.slice(0, 10);
  expect(failed.map(({ body }) => body)).toEqual([expect.stringContaining(`stays until ${until}`)]);

  at.clock.ms = Date.parse(subscription?.grace_until ?? "") - 1;
  await alpineOf(at).settle();
  expect(await tierOf(who)).toBe("pro");
  at.clock.ms += 1;
  await alpineOf(at).settle();
  expect(await tierOf(who)).toBe("starter");
  expect((await shop.current(who)).subscription?.status).toBe("incomplete");
  expect(await shop.movements(who)).toEqual(["new pro 14900", "churn pro -14900"]);
  // Stripe goes on trying; the account has no second subscription meanwhile.
  await shop.ask(409, who, "POST", "/api/subscriptions", { tier: "pro" });
  at.clock.ms += DAY;
  await sendAll(customer.events.filter(({ created }) => created >= again));
  expect(await tierOf(who)).toBe("pro");
  expect(await shop.movements(who)).toEqual([
    "new pro 14900",
    "churn pro -14900",
    "reactivation pro 14900",
  ]);
});

test("who begins and never pays has ended after a day, also where Stripe's word of it did not come", async () => {
  const who = await person(at);
  const customer = new Customer(who.id);
  const begun = now();
  customer.buy("pro", begun);
  // Of what becomes of it invoices alone tell.
  const told = () => customer.events.filter(({ type }) => type !== "customer.subscription.updated");
  const [created, ...paid] = told();
  if (!created) throw new Error("nothing was bought");
  await sendAll([created]);
  const { subscription } = await shop.current(who);
  const until = subscription?.grace_until ?? "";
  expect(subscription?.status).toBe("incomplete");
  expect(Date.parse(until)).toBe((begun + day) * 1_000);
  await shop.ask(409, who, "POST", "/api/subscriptions", { tier: "pro" });

  at.clock.ms = Date.parse(until) - 1;
  await alpineOf(at).settle();
  expect((await shop.current(who)).subscription?.status).toBe("incomplete");
  at.clock.ms += 1;
  await alpineOf(at).settle();
  expect((await shop.current(who)).subscription).toBeNull();
  expect(await shop.movements(who)).toEqual([]);

  // It was paid for in time, and the events of that were late.
  at.clock.ms += 40 * DAY;
  await sendAll(paid);
  expect((await shop.current(who)).subscription).toMatchObject({
    status: "active",
    grace_until: null,
  });
  expect(await tierOf(who)).toBe("pro");
  // Not paid for again, it waits for Stripe however long that takes.
  const late = begun + 41 * day;
  customer.fail(late, null);
  at.clock.ms = (late + 30 * day) * 1_000;
  await sendAll(told().filter((event) => event.created >= late));
  await alpineOf(at).settle();
  expect((await shop.current(who)).subscription).toMatchObject({
    status: "incomplete",
    grace_until: null,
  });
});

test("what is forged, stale, malformed or too large is refused, and nothing is written", async () => {
  const customer = new Customer((await person(at)).id);
  customer.buy("pro", now());
  const [event] = customer.events;
  const payload = JSON.stringify(event);
  const refused = async (response: Response, status: number) =>
    expect((await problemOf(response)).status).toBe(status);
  await refused(await send(at, event, { secret: "whsec_of_somebody_else" }), 400);
  await refused(await send(at, event, { agoSeconds: 301 }), 400);
  await refused(await send(at, "not JSON"), 400);
  await refused(await send(at, { id: "evt_1" }), 400);
  await refused(await send(at, { ...event, created: "now" }), 400);
  await refused(await send(at, payload + " ".repeat(1024 * 1024)), 413);
  const post = (headers: Record<string, string>, body: string) =>
    at.app.send(
      new Request("http://argo.test/api/webhooks/stripe", { method: "POST", headers, body }),
    );
  await refused(await post({}, payload), 400);
  await refused(await post({ "Stripe-Signature": "t=1,v1=00" }, payload), 400);
  expect(await at.db().select().from(providerEvents)).toEqual([]);
  expect((await send(at, event, { agoSeconds: 299 })).status).toBe(200);
});

test("text that the database cannot hold keeps no payment from being booked", async () => {
  const buyer = await at.member();
  const customer = new Customer(buyer.id);
  customer.buy("pro", Math.floor(at.clock.ms / 1000));
  for (const event of customer.events) {
    Object.assign(event.data.object, { customer_name: "A\u0000B", note: "\ud800" });
    expect((await send(at, event)).status).toBe(200);
  }
  const rows = await at.db().select().from(providerEvents);
  expect(rows).toHaveLength(customer.events.length);
  expect(rows[0]?.body).toMatchObject({
    data: { object: { customer_name: "A\uFFFDB", note: "\uFFFD" } },
  });
  expect(await at.db().select().from(payments)).toHaveLength(1);
});

test("events of somebody unknown are kept, and count when it is known whose they are", async () => {
  const who = await person(at);
  const customer = new Customer(who.id);
  customer.buy("pro", now() - day);
  const strip = (event: StripeEvent) =>
    JSON.parse(
      JSON.stringify(event).replaceAll(/"metadata":\{[^{}]+\}/g, '"metadata":{"price_id":"x"}'),
    ) as StripeEvent;
  const events = customer.events.map(strip);
  const checkout = events.pop();
  await sendAll(events);
  expect(await tierOf(who)).toBe("starter");
  expect((await shop.revenue()).held_events).toBe(events.length);
  const [held] = await at.db().select().from(providerEvents);
  expect(held?.fault).toBe("It is not known whose customer this is.");
  expect((await send(at, checkout)).status).toBe(200);
  expect(await tierOf(who)).toBe("pro");
  expect((await shop.revenue()).held_events).toBe(0);

  const nobody = new Customer(crypto.randomUUID());
  nobody.buy("pro", now() - day);
  const before = await state();
  await sendAll(nobody.events);
  const after = await state();
  expect({ ...after, held: before.held }).toEqual(before);
  expect(after.held[0]?.fault).toBe("There is no account of this customer.");
});

test("a price that no plan has is waited for", async () => {
  const who = await person(at);
  const set = (id: string | null) =>
    at.db().update(plans).set({ stripePriceId: id }).where(eq(plans.tier, "elite"));
  await set(null);
  const customer = new Customer(who.id);
  customer.buy("pro", now() - day);
  await sendAll(customer.events);
  customer.events.length = 0;
  customer.change("elite", now());
  const text = JSON.stringify(customer.events);
  await sendAll(
    JSON.parse(text.replaceAll('"price_id":"price_elite"', '"price_id":"x"')) as StripeEvent[],
  );
  expect(await tierOf(who)).toBe("pro");
  await set(PRICES.elite.id);
  await alpineOf(at).settle();
  expect(await tierOf(who)).toBe("elite");
});

test("who came to a price that their plan has no more goes on at it", async () => {
  const who = await person(at);
  const customer = new Customer(who.id);
  // Moved in the portal: what was agreed at the checkout says nothing of the new price.
  const tell = async () => {
    const text = JSON.stringify(customer.events);
    await sendAll(JSON.parse(text.replaceAll('"price_id":"price_pro"', '"price_id":"x"')));
    customer.events.length = 0;
  };
  const reprice = async (stripe_price_id: string) => {
    const path = "/api/admin/plans/pro";
    await at.must(200, "PATCH", path, { stripe_price_id }, await shop.boss());
  };
  customer.buy("starter", now() - 40 * day);
  customer.change("pro", now() - 39 * day);
  await tell();
  await reprice("price_dearer");
  customer.renew(now() - 10 * day);
  await tell();
  expect(await cash(who)).toEqual(["charge 1234", "charge 14900", "charge 4900"]);
  expect(await tierOf(who)).toBe("pro");
  customer.end(now());
  await tell();
  expect(await tierOf(who)).toBe("starter");
  expect((await state()).held).toEqual([]);
  await reprice(PRICES.pro.id);
});

test("what has ended at Stripe gives nothing, though other events of its customer are held", async () => {
  const who = await person(at);
  const customer = new Customer(who.id);
  customer.buy("pro", now() - 40 * day);
  await sendAll(customer.events);
  const first = customer.subscription;
  // Something else that the operator sells there.
  const [event] = customer.events;
  const other = JSON.stringify({ ...event, id: "evt_other" })
    .replaceAll(first, `${first}_other`)
    .replaceAll("price_pro", "price_of_a_hat")
    .replaceAll('"tier":"pro"', '"tier":"none"');
  await sendAll([JSON.parse(other) as StripeEvent]);
  expect((await state()).held).toMatchObject([{ fault: "No plan is sold at price_of_a_hat." }]);
  expect(await tierOf(who)).toBe("pro");
  const ended = now() - day;
  customer.end(ended);
  await sendAll(customer.events.slice(-1));
  expect(await tierOf(who)).toBe("starter");
  const { movements, subscriptions } = await state();
  expect(subscriptions).toMatchObject([{ status: "ended", cancel_at_period_end: false }]);
  expect(movements.map((row) => (row as { delta_minor: number }).delta_minor).toSorted()).toEqual([
    -14_900, 14_900,
  ]);
  await alpineOf(at).tend();
  expect((await state()).movements).toEqual(movements);
});

test("who has paid for more than a year has paid since then, whatever is forgotten", async () => {
  const who = await person(at);
  const customer = new Customer(who.id);
  const begin = now() - 450 * day;
  customer.buy("pro", begin);
  for (let days = 30; days < 420; days += 30) customer.renew(begin + days * day);
  await sendAll(customer.events);
  const { movements, payments } = await state();
  await forgetExpired(at.db(), at.clock.ms + 401 * DAY);
  customer.events.length = 0;
  customer.renew(begin + 420 * day);
  await sendAll(customer.events);
  const after = await state();
  expect(after.movements).toEqual(movements);
  expect(after.payments.length).toBe(payments.length + 1);
});

test("who a customer turns out not to be has nothing of it", async () => {
  const [wrong, right] = await people(at, 2);
  if (!wrong || !right) throw new Error("nobody was made");
  const customer = new Customer(wrong.id);
  customer.buy("pro", now() - day);
  const told = JSON.stringify(customer.events.at(-1)).replaceAll(wrong.id, right.id);
  const events = [...customer.events.slice(0, -1), JSON.parse(told) as StripeEvent];
  await sendAll(events.slice(0, -1));
  expect(await tierOf(wrong)).toBe("pro");
  await sendAll(events.slice(-1));
  expect([await tierOf(wrong), await tierOf(right)]).toEqual(["starter", "pro"]);
  const late = await state();
  await forgetAll();
  await sendAll(events.toReversed());
  expect(await state()).toEqual(late);
});

test("money and times that the books cannot hold are named, and booked is nothing", async () => {
  const most = 2_147_483_647;
  const told: [from: string, to: string][] = [
    ['"unit_amount":14900', `"unit_amount":${most + 1}`],
    ['"quantity":1', `"quantity":${most}`],
    ['"amount_paid":14900', `"amount_paid":${most + 1}`],
    ['"trial_end":null', `"trial_end":${Number.MAX_SAFE_INTEGER}`],
  ];
  for (const [from, to] of told) {
    const customer = new Customer((await person(at)).id);
    customer.buy("pro", now());
    const text = JSON.stringify(customer.events);
    expect(text).toContain(from);
    await sendAll(JSON.parse(text.replaceAll(from, to)) as StripeEvent[]);
  }
  const { held, invoices, payments } = await state();
  expect([...invoices, ...payments]).toEqual([]);
  const faults = new Set(held.map(({ fault }) => fault));
  expect(faults).toEqual(
    new Set([
      "An event cannot be read: items.data.0.price.unit_amount.",
      `${most} × price_pro is too much to keep.`,
      "An event cannot be read: amount_paid.",
      "An event cannot be read: trial_end.",
    ]),
  );
});

test("an account has one subscription: what would be a second one waits", async () => {
  const who = await person(at);
  await shop.subscribe(who, "starter");
  await shop.pay(who);
  const customer = new Customer(who.id);
  customer.buy("pro", now());
  await sendAll(customer.events);
  expect(await tierOf(who)).toBe("starter");
  const [held] = await at.db().select().from(providerEvents);
  expect(held?.fault).toMatch(/^The account has another subscription besides sub_/);
  const { subscription } = await shop.cancel(who);
  await shop.pass(Date.parse(subscription?.period_end ?? "") - at.clock.ms);
  await alpineOf(at).settle();
  expect(await tierOf(who)).toBe("pro");
});

test("duplicated, reordered, replayed and concurrent events end as once in order (R13)", async () => {
  tellSeed();
  const random = randomNumbers();
  const below = (n: number): number => Math.floor(random() * n);
  const pick = <T>(values: readonly T[]): T => values[below(values.length)] as T;
  const shuffled = <T>(values: readonly T[]): T[] =>
    values
      .map((value) => [random(), value] as const)
      .toSorted(([a], [b]) => a - b)
      .map(([, value]) => value);
  await using beside = await openShop({ beside: at, now: at.clock.ms });
  // An embedded database has one owner: there is no second process.
  const doors = at.backend === "embedded" ? [at] : [at, beside];
  const tiers = ["starter", "pro", "elite"] as const;

  const live = (userId: string): StripeEvent[] => {
    const customer = new Customer(userId, pick(["old", "new"]));
    let time = now() - 400 * day;
    for (let lives = 1 + below(2); lives > 0; lives -= 1) {
      customer.buy(pick(tiers), time, { trialDays: pick([0, 0, 14]) });
      for (let step = below(8); step > 0; step -= 1) {
        // Many at the same second.
        time += below(3) === 0 ? 0 : below(20) * day;
        const kind = below(7);
        if (kind === 0) customer.pay(time);
        else if (kind === 1) customer.change(pick(tiers), time);
        else if (kind === 2) {
          const again = pick([null, time, time + 2 * day, time + 9 * day]);
          customer.fail(time, again);
        } else if (kind === 3) customer.cancel(time, below(2) === 0);
        else if (kind === 4) customer.refund(time, pick(["a", "b"]), 100 * (1 + below(9)));
        else customer.renew(time);
      }
      time += day;
      if (lives > 1 || below(2) === 0) customer.end(time);
      time += below(3) * day;
    }
    return customer.events;
  };

  for (let round = 0; round < ROUNDS; round += 1) {
    await forgetAll();
    const members = await people(at, 3);
    const events = members.flatMap(({ id }) => live(id));
    await sendAll(events);
    const expected = await state();
    expect(expected.subscriptions.length).toBeGreaterThan(2);
    expect(expected.held).toEqual([]);

    for (const width of [1, 8]) {
      const what = { seed: SEED, round, width };
      await forgetAll();
      const all = shuffled([...events, ...events.filter(() => below(3) === 0)]);
      for (let i = 0; i < all.length; i += width) {
        const answers = all.slice(i, i + width).map((event) => send(pick(doors), event));
        for (const { status } of await Promise.all(answers)) expect(status).toBe(200);
      }
      expect({ ...what, ...(await state()) }).toEqual({ ...what, ...expected });
      // And once more, some of what came.
      for (const event of shuffled(events).slice(0, 5)) await send(at, event);
      await alpineOf(pick(doors)).settle();
      expect({ ...what, ...(await state()) }).toEqual({ ...what, ...expected });
    }
  }
});
