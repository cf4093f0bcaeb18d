import { afterAll, beforeAll, expect, test } from "bun:test";
import { sql } from "drizzle-orm";
import type { Payment } from "../../../src/alpine/payments/schema.ts";
import { openAccounts, type Accounts, type Member } from "../../harness/accounts.ts";
import { fieldsOf } from "../../harness/app.ts";
import { DAY, Shop } from "../money.ts";
import { person, together } from "../people.ts";

let at: Accounts;
let shop: Shop;
beforeAll(async () => {
  at = await openAccounts();
  shop = new Shop(at);
});
afterAll(() => at[Symbol.asyncDispose]());

const when = (ms: number) => new Date(ms).toISOString();

/** All that is written down of money. */
async function books(): Promise<string> {
  const tables = ["subscriptions", "invoices", "payments", "revenue_movements", "audit_log"];
  const texts = tables.map(async (table) => {
    const { rows } = await at.db().execute(sql.raw(`SELECT to_jsonb(t) AS row FROM ${table} t`));
    return JSON.stringify(rows);
  });
  return (await Promise.all(texts)).join("\n");
}

async function owing(): Promise<{ who: Member; body: Record<string, unknown> }> {
  const who = await person(at);
  await shop.subscribe(who, "pro");
  const { id, amount_minor, currency } = await shop.owed(who);
  return { who, body: { invoice_id: id, amount_minor, currency, reference: shop.reference() } };
}

test("what is wrong with a payment is named, and nothing is booked", async () => {
  const { body } = await owing();
  const boss = await shop.boss();
  const before = await books();
  for (const [change, field] of [
    [{ amount_minor: 14_899 }, "amount_minor"],
    [{ amount_minor: -14_900 }, "amount_minor"],
    [{ amount_minor: 0 }, "amount_minor"],
    [{ amount_minor: 149.5 }, "amount_minor"],
    [{ amount_minor: "14900" }, "amount_minor"],
    [{ amount_minor: 1e15 }, "amount_minor"],
    [{ currency: "EUR" }, "currency"],
    [{ currency: "usd" }, "currency"],
    [{ currency: "XXQ" }, "currency"],
    [{ reference: "" }, "reference"],
    [{ reference: "a\u0000b" }, "reference"],
    [{ invoice_id: "x" }, "invoice_id"],
    [{ paid_at: "yesterday" }, "paid_at"],
    [{ paid_at: when(at.clock.ms + 1) }, "paid_at"],
    [{ tier: "elite" }, "tier"],
  ] as const) {
    const answer = await at.call("POST", "/api/admin/payments", { ...body, ...change }, boss);
    expect([change, answer.status, await fieldsOf(answer)]).toEqual([change, 422, [field]]);
  }
  const nobody = { ...body, invoice_id: crypto.randomUUID() };
  expect((await at.call("POST", "/api/admin/payments", nobody, boss)).status).toBe(404);
  expect(await books()).toBe(before);
});

test("the same reference again is the same answer; for anything else it is taken", async () => {
  const [{ who, body }, other] = [await owing(), await owing()];
  const boss = await shop.boss();
  const book = (given: unknown, status = 201) =>
    at.must<Payment>(status, "POST", "/api/admin/payments", given, boss);
  const paidAt = when(at.clock.ms - DAY);
  const paid = await book({ ...body, paid_at: paidAt });
  expect(paid).toMatchObject({ kind: "charge", user_id: who.id, at: paidAt, provider: "manual" });
  const after = await books();
  expect(await book(body)).toEqual(paid);
  await book({ ...other.body, reference: body["reference"] }, 409);
  await book({ ...body, reference: "another" }, 409);
  expect(await books()).toBe(after);
});

test("never more goes back than came, however many ask at once", async () => {
  const { who, body } = await owing();
  const boss = await shop.boss();
  const paid = await at.must<Payment>(201, "POST", "/api/admin/payments", body, boss);
  const path = `/api/admin/payments/${paid.id}/refund`;
  const refund = (amount_minor: number, reference = shop.reference(), end = false) =>
    at.call("POST", path, { amount_minor, reference, end }, boss);
  expect(await fieldsOf(await refund(14_901))).toEqual(["amount_minor"]);
  const statuses = await together(
    at,
    Array.from({ length: 4 }, () => async () => (await refund(5_000)).status),
  );
  expect(statuses.toSorted()).toEqual([201, 201, 422, 422]);
  const reference = shop.reference();
  const [once, again] = [await refund(4_900, reference), await refund(4_900, reference)];
  expect(await once.json()).toEqual(await again.json());
  expect((await refund(1)).status).toBe(422);
  // All of it went back, and the subscription goes on until somebody says otherwise.
  expect((await shop.current(who)).subscription?.status).toBe("active");

  const second = await owing();
  const again2 = await at.must<Payment>(201, "POST", "/api/admin/payments", second.body, boss);
  at.clock.ms += 1_000;
  const end = { amount_minor: 14_900, reference: shop.reference(), end: true };
  await at.must(201, "POST", `/api/admin/payments/${again2.id}/refund`, end, boss);
  expect((await shop.current(second.who)).subscription).toBeNull();
  expect(await shop.movements(second.who)).toEqual(["new pro 14900", "churn pro -14900"]);
});

test("a payment that failed is told to whoever owes it, once", async () => {
  const { who, body } = await owing();
  const given = { invoice_id: body["invoice_id"], reference: shop.reference() };
  const boss = await shop.boss();
  const failure = () => at.must(201, "POST", "/api/admin/payments/failure", given, boss);
  expect(await failure()).toEqual(await failure());
  type News = { notifications: Record<string, unknown>[] };
  const { notifications } = await shop.ask<News>(200, who, "GET", "/api/notifications");
  const failed = notifications.filter(({ kind }) => kind === "payment_failed");
  expect(failed).toMatchObject([{ title: "A payment of USD 149.00 failed" }]);
  await at.must(201, "POST", "/api/admin/payments", body, boss);
  const late = { ...given, reference: "late" };
  expect((await at.call("POST", "/api/admin/payments/failure", late, boss)).status).toBe(409);
});

test("whoever is told of a failure reads what becomes of their plan, in words of people", async () => {
  const { who, body } = await owing();
  const told = async (): Promise<string> => {
    const { id: invoice_id } = await shop.owed(who);
    const given = { invoice_id, reference: shop.reference() };
    await at.must(201, "POST", "/api/admin/payments/failure", given, await shop.boss());
    type News = { notifications: { body: string }[] };
    const { notifications } = await shop.ask<News>(200, who, "GET", "/api/notifications?limit=1");
    at.clock.ms += 1_000;
    return notifications[0]?.body ?? "";
  };
  const came = "Your payment of USD 149.00 did not come.";
  expect(await told()).toBe(`${came} Your plan waits until it is paid.`);
  await at.must(201, "POST", "/api/admin/payments", body, await shop.boss());
  await shop.change(who, "elite");
  expect(await told()).toMatch(
    /^Your payment of USD \d+\.\d\d did not come\. Your plan stays as it is\.$/,
  );
  const { period_end: end = "" } = (await shop.current(who)).subscription ?? {};
  await shop.pass(Date.parse(end) - at.clock.ms);
  const until = when(Date.parse(end) + 7 * DAY);
  const text = `${until.slice(0, 10)} at ${until.slice(11, 16)} UTC`;
  expect(await told()).toBe(`${came} Your plan stays until ${text}: pay by then.`);
});

test("everybody sees their own money alone, and a cursor of one is no cursor of another", async () => {
  const { who, body } = await owing();
  const [other, boss] = [(await owing()).who, await shop.boss()];
  const paid = await at.must<Payment>(201, "POST", "/api/admin/payments", body, boss);
  for (const reference of ["a", "b"]) {
    const refund = { amount_minor: 1, reference: `${who.id} ${reference}` };
    await at.must(201, "POST", `/api/admin/payments/${paid.id}/refund`, refund, boss);
  }
  type Page = { payments: Payment[]; next_cursor: string };
  const page = await shop.ask<Page>(200, who, "GET", "/api/payments?limit=2");
  const cursor = `cursor=${page.next_cursor}`;
  const rest = await shop.ask<Page>(200, who, "GET", `/api/payments?limit=2&${cursor}`);
  expect([...page.payments, ...rest.payments].map(({ kind }) => kind).toSorted()).toEqual([
    "charge",
    "refund",
    "refund",
  ]);
  expect((await shop.ask<Page>(200, other, "GET", "/api/payments")).payments).toEqual([]);
  await shop.ask(400, other, "GET", `/api/payments?${cursor}`);
  await shop.ask(400, who, "GET", `/api/invoices?${cursor}`);
  await at.must(400, "GET", `/api/admin/payments?user_id=${who.id}&${cursor}`, undefined, boss);
  const all = await at.must<Page>(
    200,
    "GET",
    `/api/admin/payments?user_id=${who.id}`,
    undefined,
    boss,
  );
  expect(all.payments.length).toBe(3);
});
