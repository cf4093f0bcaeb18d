import { afterAll, beforeAll, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { revenueMovements, type Tier, users } from "../../../db/alpine/schema.ts";
import type { AdminUserDetails } from "../../../src/alpine/admin/schema.ts";
import type {
  AdminSubscription,
  CurrentSubscription,
  Subscription,
} from "../../../src/alpine/subscriptions/schema.ts";
import { openAccounts, PASSWORD, type Accounts, type Member } from "../../harness/accounts.ts";
import { fieldsOf } from "../../harness/app.ts";
import { DAY, Shop } from "../money.ts";
import { alpineOf, person, together } from "../people.ts";

let at: Accounts;
let shop: Shop;
beforeAll(async () => {
  at = await openAccounts();
  shop = new Shop(at);
});
afterAll(() => at[Symbol.asyncDispose]());

const tierOf = async ({ id }: Member): Promise<Tier | undefined> => {
  const [row] = await at.db().select().from(users).where(eq(users.id, id));
  return row?.tier;
};
const state = ({ subscription }: CurrentSubscription) =>
  subscription && `${subscription.status} ${subscription.tier}`;
const when = (ms: number) => new Date(ms).toISOString();
const refused = (status: number, who: Member, method: string, path: string, body?: unknown) =>
  shop.ask(status, who, method, path, body);

/** Whoever pays for a tier since now. */
async function payer(tier: Tier): Promise<Member> {
  const who = await person(at);
  await shop.subscribe(who, tier);
  await shop.pay(who);
  return who;
}

test("a subscription waits for its payment, gives its tier, renews and ends unpaid", async () => {
  const who = await person(at);
  expect(await shop.current(who)).toEqual({
    subscription: null,
    open_invoice: null,
    next_period: null,
  });
  const begun = await shop.subscribe(who, "pro");
  expect(begun).toMatchObject({
    subscription: { status: "incomplete", tier: "pro", price_minor: 14_900, currency: "USD" },
    open_invoice: { reason: "start", amount_minor: 14_900, status: "open" },
    next_period: null,
    checkout_url: null,
  });
  expect(await tierOf(who)).toBe("starter");
  expect(await shop.movements(who)).toEqual([]);

  at.clock.ms += 3 * DAY;
  const paidAt = at.clock.ms;
  await shop.pay(who);
  expect(await tierOf(who)).toBe("pro");
  // The month counts from the payment: before it nothing was given.
  const paid = await shop.current(who);
  expect(paid.subscription).toMatchObject({ status: "active", period_start: when(paidAt) });
  expect(paid.next_period).toMatchObject({ tier: "pro", price_minor: 14_900 });
  expect(await shop.movements(who)).toEqual(["new pro 14900"]);

  const end = Date.parse(paid.subscription?.period_end ?? "");
  await shop.pass(end - at.clock.ms - 1);
  expect(state(await shop.current(who))).toBe("active pro");
  await shop.pass(1);
  const due = await shop.current(who);
  expect(due.subscription).toMatchObject({ status: "past_due", period_start: when(end) });
  expect(due.subscription?.grace_until).toBe(when(end + 7 * DAY));
  expect(due.open_invoice).toMatchObject({ reason: "renewal", amount_minor: 14_900 });
  expect(await tierOf(who)).toBe("pro");

  // Paid within grace: the period goes on from where the one before ended.
  await shop.pass(6 * DAY);
  await shop.pay(who);
  const renewed = await shop.current(who);
  expect(renewed.subscription).toMatchObject({ status: "active", period_start: when(end) });
  expect(renewed.subscription?.grace_until).toBeNull();

  const second = Date.parse(renewed.subscription?.period_end ?? "");
  await shop.pass(second + 7 * DAY - at.clock.ms - 1);
  expect(await tierOf(who)).toBe("pro");
  const owed = await shop.owed(who);
  await shop.pass(1);
  expect((await shop.current(who)).subscription).toBeNull();
  expect(await tierOf(who)).toBe("starter");
  expect(await shop.movements(who)).toEqual(["new pro 14900", "churn pro -14900"]);
  const late = { invoice_id: owed.id, amount_minor: 14_900, currency: "USD", reference: "late" };
  const boss = await shop.boss();
  expect((await at.call("POST", "/api/admin/payments", late, boss)).status).toBe(409);

  await shop.subscribe(who, "elite");
  await shop.pay(who);
  expect((await shop.movements(who)).at(-1)).toBe("reactivation elite 49900");
});

test("an upgrade is prorated and counts when it is paid; a downgrade counts from the next period", async () => {
  const who = await payer("starter");
  const { subscription } = await shop.current(who);
  const [start, end] = [subscription?.period_start, subscription?.period_end].map((text) =>
    Date.parse(text ?? ""),
  ) as [number, number];
  at.clock.ms = start + (end - start) / 4;
  const asked = await shop.change(who, "pro");
  expect(asked.open_invoice).toMatchObject({ reason: "upgrade", amount_minor: 7_500, tier: "pro" });
  expect(await tierOf(who)).toBe("starter");
  await refused(409, who, "POST", "/api/subscriptions/change", { tier: "elite" });
  await refused(409, who, "POST", "/api/subscriptions/change", { tier: "pro" });
  await shop.pay(who);
  expect(await tierOf(who)).toBe("pro");
  expect((await shop.current(who)).subscription).toMatchObject({ period_end: when(end) });
  const same = await shop.refusal(who, "/api/subscriptions/change", { tier: "pro" });
  expect(same).toBe("409 This is the tier of the subscription already.");

  const later = await shop.change(who, "starter");
  expect(later.subscription).toMatchObject({ tier: "pro", next_tier: "starter" });
  expect(later.next_period).toMatchObject({ tier: "starter", price_minor: 4_900 });
  const planned = await shop.refusal(who, "/api/subscriptions/change", { tier: "starter" });
  expect(planned).toBe("409 The tier starter comes with the next period already.");
  // The present tier takes it back; then once more.
  expect((await shop.change(who, "pro")).subscription?.next_tier).toBeNull();
  await shop.change(who, "starter");
  await shop.pass(end - at.clock.ms);
  expect(await tierOf(who)).toBe("starter");
  expect(await shop.owed(who)).toMatchObject({ reason: "renewal", amount_minor: 4_900 });
  expect(await shop.movements(who)).toEqual([
    "new starter 4900",
    "expansion starter -4900",
    "expansion pro 14900",
    "contraction pro -14900",
    "contraction starter 4900",
  ]);
});

test("an upgrade costs no more than a whole period, by a clock that was set back as well", async () => {
  const who = await payer("starter");
  at.clock.ms -= DAY;
  expect((await shop.change(who, "pro")).open_invoice?.amount_minor).toBe(10_000);
  at.clock.ms += DAY;
});

test("an upgrade that nobody pays lapses with its period", async () => {
  const who = await payer("starter");
  const { open_invoice: invoice, subscription } = await shop.change(who, "elite");
  await shop.pass(Date.parse(subscription?.period_end ?? "") - at.clock.ms);
  expect(await shop.owed(who)).toMatchObject({ reason: "renewal", tier: "starter" });
  expect(await tierOf(who)).toBe("starter");
  const body = { invoice_id: invoice?.id, amount_minor: invoice?.amount_minor, currency: "USD" };
  const boss = await shop.boss();
  const late = await at.call("POST", "/api/admin/payments", { ...body, reference: "x" }, boss);
  expect(late.status).toBe(409);
});

test("what was cancelled goes on to the end of its period, unless it is resumed", async () => {
  const who = await payer("pro");
  const { subscription } = await shop.cancel(who);
  expect(subscription).toMatchObject({ status: "active", cancel_at_period_end: true });
  await refused(409, who, "POST", "/api/subscriptions/cancel");
  await refused(409, who, "POST", "/api/subscriptions/change", { tier: "elite" });
  await shop.ask(200, who, "POST", "/api/subscriptions/resume");
  await refused(409, who, "POST", "/api/subscriptions/resume");
  await shop.cancel(who);
  await shop.pass(Date.parse(subscription?.period_end ?? "") - at.clock.ms - 1);
  expect(await tierOf(who)).toBe("pro");
  await shop.pass(1);
  expect(await tierOf(who)).toBe("starter");
  expect(await shop.movements(who)).toEqual(["new pro 14900", "churn pro -14900"]);
  await refused(409, who, "POST", "/api/subscriptions/cancel");

  const undecided = await person(at);
  await shop.subscribe(undecided, "pro");
  await shop.change(undecided, "elite");
  expect(await shop.owed(undecided)).toMatchObject({ amount_minor: 49_900, reason: "start" });
  expect((await shop.cancel(undecided)).subscription).toBeNull();
  expect(await shop.movements(undecided)).toEqual([]);
});

test("only the first subscription of an account has a trial, which earns nothing until it is paid", async () => {
  await shop.plan("pro", { trialDays: 14 });
  const [who, leaver] = [await person(at), await person(at)];
  const { subscription } = await shop.subscribe(who, "pro");
  await shop.subscribe(leaver, "pro");
  expect(subscription).toMatchObject({
    status: "trialing",
    trial_end: when(at.clock.ms + 14 * DAY),
  });
  expect(await tierOf(who)).toBe("pro");
  await shop.pass(14 * DAY);
  expect(await shop.owed(who)).toMatchObject({ reason: "start", amount_minor: 14_900 });
  expect(await tierOf(who)).toBe("pro");
  expect(await shop.movements(who)).toEqual([]);
  await shop.pass(3 * DAY);
  await shop.pay(who);
  expect((await shop.current(who)).subscription).toMatchObject({
    status: "active",
    period_start: subscription?.trial_end ?? "",
  });
  expect(await shop.movements(who)).toEqual(["new pro 14900"]);

  await shop.pass(4 * DAY);
  expect((await shop.current(leaver)).subscription).toBeNull();
  expect(await shop.movements(leaver)).toEqual([]);
  expect(state(await shop.subscribe(leaver, "pro"))).toBe("incomplete pro");
  await shop.plan("pro", { trialDays: 0 });
});

test("what nobody ever paid for has no grace: a dearer tier after a trial, or in the last second", async () => {
  await shop.plan("starter", { trialDays: 14 });
  const who = await person(at);
  await shop.subscribe(who, "starter");
  await shop.plan("starter", { trialDays: 0 });
  await shop.change(who, "elite");
  await shop.pass(14 * DAY);
  expect(state(await shop.current(who))).toBe("incomplete elite");
  expect(await tierOf(who)).toBe("starter");
  at.clock.ms += 3 * DAY;
  await shop.pay(who);
  expect(await tierOf(who)).toBe("elite");
  expect(await shop.movements(who)).toEqual(["new elite 49900"]);

  const last = await payer("starter");
  const { subscription } = await shop.current(last);
  at.clock.ms = Date.parse(subscription?.period_end ?? "") - 1_000;
  expect((await shop.change(last, "elite")).open_invoice).toMatchObject({ amount_minor: 1 });
  await shop.pass(1_000);
  expect(await tierOf(last)).toBe("starter");
  expect(await shop.owed(last)).toMatchObject({ tier: "starter", amount_minor: 4_900 });
});

test("months are counted from the anchor: the 31st comes back after February", async () => {
  at.clock.ms = Date.UTC(2028, 0, 31, 10, 30);
  const who = await payer("pro");
  const ends: string[] = [];
  for (let i = 0; i < 4; i += 1) {
    const end = (await shop.current(who)).subscription?.period_end ?? "";
    ends.push(end);
    await shop.pass(Date.parse(end) - at.clock.ms);
    await shop.pay(who);
  }
  expect(ends.map((end) => end.slice(0, 16))).toEqual([
    "2028-02-29T10:30",
    "2028-03-31T10:30",
    "2028-04-30T10:30",
    "2028-05-31T10:30",
  ]);
});

test("a plan's new price counts from the next period on", async () => {
  const who = await payer("elite");
  await shop.plan("elite", { priceMinor: 120_005, interval: "year" });
  const { next_period: next, subscription } = await shop.current(who);
  expect(next).toMatchObject({ price_minor: 120_005, interval: "year" });
  expect(subscription).toMatchObject({ price_minor: 49_900 });
  await shop.pass(Date.parse(subscription?.period_end ?? "") - at.clock.ms);
  expect(await shop.owed(who)).toMatchObject({ amount_minor: 120_005 });
  // A year counts as a twelfth a month, rounded half up.
  expect(await shop.movements(who)).toEqual(["new elite 49900", "contraction elite -39900"]);
  await shop.plan("elite", { priceMinor: 49_900, interval: "month" });
});

test("a grant outranks a subscription, earns nothing, and leaves it when it is cleared", async () => {
  const who = await payer("pro");
  const boss = await shop.boss();
  await at.must(200, "PATCH", `/api/admin/users/${who.id}`, { tier: "elite" }, boss);
  expect(await tierOf(who)).toBe("elite");
  expect(await shop.movements(who)).toEqual(["new pro 14900"]);
  await at.must(200, "PATCH", `/api/admin/users/${who.id}`, { tier: null }, await shop.boss());
  expect(await tierOf(who)).toBe("pro");
});

test("the rights of sessions and keys follow when a subscription ends", async () => {
  const who = await person(at);
  const key = await at.key(who);
  const view = () => {
    const held = alpineOf(at).credentials.identify(key, `Bearer ${key}`);
    return held instanceof Promise ? undefined : held?.account?.entitlement.view;
  };
  expect(view()).toMatchObject({ premium: false });
  await shop.subscribe(who, "pro");
  await shop.pay(who);
  expect(view()).toMatchObject({ premium: true });
  expect((await at.call("GET", "/api/users/profile", undefined, who.access)).status).toBe(401);
  const { subscription } = await shop.cancel(who);
  await shop.pass(Date.parse(subscription?.period_end ?? "") - at.clock.ms);
  expect(view()).toMatchObject({ premium: false, delaySeconds: 900 });
});

test("after a long silence everything that was due is done, once, by however many", async () => {
  const [gone, cancelled] = [await payer("pro"), await payer("starter")];
  await shop.plan("starter", { priceMinor: 0 });
  const free = await person(at);
  expect(state(await shop.subscribe(free, "starter"))).toBe("active starter");
  await shop.cancel(cancelled);
  at.clock.ms += 100 * DAY;
  await using beside = await openAccounts({ beside: at, now: at.clock.ms });
  const other = new Shop(beside);
  await Promise.all([shop.settle(), other.settle(), shop.settle(), other.settle()]);
  await shop.settle();
  expect((await shop.current(gone)).subscription).toBeNull();
  expect(await shop.movements(gone)).toEqual(["new pro 14900", "churn pro -14900"]);
  expect(await shop.movements(cancelled)).toEqual(["new starter 4900", "churn starter -4900"]);
  const { subscription } = await shop.current(free);
  expect(Date.parse(subscription?.period_end ?? "")).toBeGreaterThan(at.clock.ms);
  const { invoices } = await shop.ask<{ invoices: unknown[] }>(200, free, "GET", "/api/invoices");
  expect(invoices.length).toBe(4);
  await shop.plan("starter", { priceMinor: 4_900 });
});

test("at once they are refused but for one: subscriptions, upgrades, payments", async () => {
  const who = await person(at);
  const token = await shop.token(who);
  const statuses = async (path: string, body: unknown, by: string) => {
    const sent = Array.from({ length: 6 }, () => () => at.call("POST", path, body, by));
    const answers = await together(at, sent);
    return answers.map(({ status }) => status).toSorted();
  };
  const once = (yes: number) => [yes, ...Array<number>(5).fill(409)];
  expect(await statuses("/api/subscriptions", { tier: "starter" }, token)).toEqual(once(201));
  await shop.pay(who);
  const upgraded = await shop.token(who);
  expect(await statuses("/api/subscriptions/change", { tier: "pro" }, upgraded)).toEqual(once(200));
  const { id, amount_minor, currency } = await shop.owed(who);
  const payment = { invoice_id: id, amount_minor, currency, reference: "the same" };
  const boss = await shop.boss();
  expect(await statuses("/api/admin/payments", payment, boss)).toEqual(Array(6).fill(201));
  const { payments } = await shop.ask<{ payments: unknown[] }>(200, who, "GET", "/api/payments");
  expect(payments.length).toBe(2);
});

test("administrators find who has what, by every filter, newest first, and whom it is of", async () => {
  type Page = { subscriptions: AdminSubscription[]; next_cursor: string | null };
  const boss = await shop.boss();
  const read = (query: string) =>
    at.must<Page>(200, "GET", `/api/admin/subscriptions?${query}`, undefined, boss);
  const who = await payer("pro");
  await shop.change(who, "starter");
  at.clock.ms += 1_000;
  const waiting = await person(at);
  await shop.subscribe(waiting, "elite");
  at.clock.ms += 1_000;
  const trader = await person(at);
  await shop.subscribe(trader, "elite");
  await shop.ask(204, trader, "DELETE", "/api/users/account", { password: PASSWORD });

  const own = (await shop.current(who)).subscription;
  const { subscriptions: one } = await read(`user_id=${who.id}`);
  expect(one).toEqual([{ ...(own as Subscription), user_id: who.id, email: who.email }]);

  const all: AdminSubscription[] = [];
  for (let next: string | null = ""; next !== null;) {
    const page: Page = await read(`limit=2${next && `&cursor=${next}`}`);
    all.push(...page.subscriptions);
    next = page.next_cursor;
  }
  const newest = all.slice(0, 3).map(({ user_id, email, status }) => [user_id, email, status]);
  expect(newest).toEqual([
    [trader.id, null, "ended"],
    [waiting.id, waiting.email, "incomplete"],
    [who.id, who.email, "active"],
  ]);
  expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
  const dates = all.map(({ created_at }) => created_at);
  expect(dates).toEqual(dates.toSorted().toReversed());
  for (const [name, value] of [
    ["status", "ended"],
    ["status", "incomplete"],
    ["tier", "elite"],
    ["provider", "manual"],
    ["provider", "stripe"],
  ] as const) {
    const { subscriptions: found } = await read(`limit=100&${name}=${value}`);
    expect(found).toEqual(all.filter((row) => row[name] === value));
  }
  const { next_cursor: cursor } = await read("limit=1&tier=elite");
  for (const wrong of [`tier=pro&cursor=${cursor}`, "status=paid", "tier=gold", "user_id=1"]) {
    const path = `/api/admin/subscriptions?${wrong}`;
    expect([wrong, (await at.call("GET", path, undefined, boss)).status]).toEqual([wrong, 400]);
  }

  const user = (id: string) =>
    at.must<AdminUserDetails>(200, "GET", `/api/admin/users/${id}`, undefined, boss);
  expect((await user(who.id)).subscription).toEqual(own);
  const path = `/api/admin/users/${who.id}`;
  const granted = await at.must<AdminUserDetails>(200, "PATCH", path, { tier: "elite" }, boss);
  expect(granted).toMatchObject({ tier: "elite", subscription: { tier: "pro" } });
  expect((await user((await person(at)).id)).subscription).toBeNull();
});

test("a body of a user names a tier and nothing else", async () => {
  const who = await person(at);
  for (const [path, body, field] of [
    ["", { tier: "pro", price_minor: 1 }, "price_minor"],
    ["", { tier: "pro", amount_minor: 1 }, "amount_minor"],
    ["", { tier: "pro", status: "active" }, "status"],
    ["", { tier: "gold" }, "tier"],
    ["", { tier: "pro", provider: "cash" }, "provider"],
    ["/change", { tier: "pro", price: 1 }, "price"],
    ["/change", {}, "tier"],
  ] as const) {
    const answer = await at.call("POST", `/api/subscriptions${path}`, body, await shop.token(who));
    expect([body, answer.status, await fieldsOf(answer)]).toEqual([body, 422, [field]]);
  }
  await refused(409, who, "POST", "/api/subscriptions/change", { tier: "pro" });
  await refused(409, who, "POST", "/api/subscriptions", { tier: "pro", provider: "stripe" });
  await refused(409, who, "POST", "/api/subscriptions/portal");
  expect((await shop.current(who)).subscription).toBeNull();
});

test("whoever leaves pays no more, and the books stay", async () => {
  const who = await payer("pro");
  const body = { password: who.password };
  at.clock.ms += 1_000;
  await shop.ask(204, who, "DELETE", "/api/users/account", body);
  expect(await shop.movements(who)).toEqual(["new pro 14900", "churn pro -14900"]);
  const boss = await shop.boss();
  const path = `/api/admin/payments?user_id=${who.id}`;
  type Payments = { payments: { id: string }[] };
  const { payments } = await at.must<Payments>(200, "GET", path, undefined, boss);
  expect(payments).toMatchObject([{ kind: "charge", amount_minor: 14_900 }]);
  const back = { amount_minor: 14_900, reference: "goodbye" };
  await at.must(201, "POST", `/api/admin/payments/${payments[0]?.id}/refund`, back, boss);
});

test("whoever leaves after their period has ended paid until then", async () => {
  const who = await payer("pro");
  const { subscription } = await shop.cancel(who);
  const end = new Date(subscription?.period_end ?? "");
  // Nothing has looked at what is due by then.
  at.clock.ms = end.getTime() + DAY;
  await shop.ask(204, who, "DELETE", "/api/users/account", { password: who.password });
  const of = eq(revenueMovements.userId, who.id);
  const moved = await at.db().select().from(revenueMovements).where(of);
  expect(moved.find(({ kind }) => kind === "churn")?.at).toEqual(end);
});

test("somebody's own export has what they bought", async () => {
  const who = await payer("pro");
  const all = await shop.ask<Record<string, unknown[]>>(200, who, "GET", "/api/users/export");
  expect(all["subscriptions"]).toMatchObject([{ tier: "pro", status: "active" }]);
  expect(all["invoices"]).toMatchObject([{ reason: "start", status: "paid" }]);
  expect(all["payments"]).toMatchObject([{ kind: "charge", amount_minor: 14_900 }]);
});
