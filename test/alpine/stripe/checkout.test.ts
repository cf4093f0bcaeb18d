/** What is asked of Stripe, by a stand-in that answers as it does. */
import { expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { plans } from "../../../db/alpine/schema.ts";
import type { CurrentSubscription } from "../../../src/alpine/subscriptions/schema.ts";
import type { Accounts, Member } from "../../harness/accounts.ts";
import { Shop } from "../money.ts";
import { person } from "../people.ts";
import { Customer, openShop, PRICES, send } from "./world.ts";

interface Asked {
  path: string;
  form: Record<string, string>;
}

interface State {
  status: number;
  /** What happens before the next answer. */
  meanwhile: () => Promise<void>;
}

/** Answers the three calls that are made; with a status other than 200 it is broken. */
function fakeStripe(): Disposable & { url: string; asked: Asked[]; state: State } {
  const asked: Asked[] = [];
  const state: State = { status: 200, meanwhile: () => Promise.resolve() };
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request): Promise<Response> {
      const { pathname: path } = new URL(request.url);
      const form = Object.fromEntries(new URLSearchParams(await request.text()));
      asked.push({ path, form });
      await state.meanwhile();
      if (state.status !== 200) {
        return Response.json({ error: { message: "no" } }, { status: state.status });
      }
      return Response.json({ id: "x_1", object: "x", url: `https://stripe.test${path}` });
    },
  });
  return {
    url: `http://127.0.0.1:${server.port}`,
    asked,
    state,
    [Symbol.dispose]: () => void server.stop(true),
  };
}

const buy = (shop: Shop, who: Member, tier: string) =>
  shop.ask<{ checkout_url: string }>(201, who, "POST", "/api/subscriptions", {
    tier,
    provider: "stripe",
  });

const bought = async (at: Accounts, who: Member): Promise<Customer> => {
  const customer = new Customer(who.id);
  customer.buy("pro", Math.floor(at.clock.ms / 1000));
  for (const event of customer.events) expect((await send(at, event)).status).toBe(200);
  return customer;
};

test("a checkout is begun at Stripe, the portal is there for who bought, and a cancellation is told", async () => {
  using stripe = fakeStripe();
  await using at = await openShop({ env: { STRIPE_API_BASE: stripe.url } });
  const shop = new Shop(at);
  await at.db().update(plans).set({ trialDays: 14 }).where(eq(plans.tier, "pro"));
  const who = await person(at);
  const { checkout_url } = await buy(shop, who, "pro");
  expect(checkout_url).toBe("https://stripe.test/v1/checkout/sessions");
  const [first] = stripe.asked;
  expect(first?.form).toMatchObject({
    mode: "subscription",
    client_reference_id: who.id,
    customer_email: who.email,
    "line_items[0][price]": PRICES.pro.id,
    "line_items[0][quantity]": "1",
    "subscription_data[metadata][user_id]": who.id,
    "subscription_data[metadata][tier]": "pro",
    "subscription_data[metadata][price_id]": PRICES.pro.id,
    "subscription_data[trial_period_days]": "14",
  });
  // Nothing has begun before it is done.
  expect((await shop.current(who)).subscription).toBeNull();
  await shop.ask(409, who, "POST", "/api/subscriptions/portal");

  const customer = await bought(at, who);
  await shop.ask(409, who, "POST", "/api/subscriptions", { tier: "pro", provider: "stripe" });
  await shop.ask(409, who, "POST", "/api/subscriptions/change", { tier: "elite" });
  const portal = await shop.ask<{ url: string }>(200, who, "POST", "/api/subscriptions/portal");
  expect(portal.url).toBe("https://stripe.test/v1/billing_portal/sessions");
  expect(stripe.asked.at(-1)?.form).toMatchObject({ customer: customer.id });

  expect((await shop.cancel(who)).subscription?.cancel_at_period_end).toBe(true);
  expect(stripe.asked.at(-1)).toEqual({
    path: `/v1/subscriptions/${customer.subscription}`,
    form: { cancel_at_period_end: "true" },
  });
  const calls = stripe.asked.length;
  await shop.ask(409, who, "POST", "/api/subscriptions/cancel");
  await shop.ask(200, who, "POST", "/api/subscriptions/resume");
  expect(stripe.asked.length).toBe(calls + 1);

  // Stripe would go on charging for an account that is gone.
  await shop.ask(409, who, "DELETE", "/api/users/account", { password: who.password });
  customer.events.length = 0;
  customer.end(Math.floor(at.clock.ms / 1000));
  for (const event of customer.events) await send(at, event);
  await shop.ask(204, who, "DELETE", "/api/users/account", { password: who.password });
  // What Stripe tells of them still counts as money.
  customer.events.length = 0;
  customer.refund(Math.floor(at.clock.ms / 1000), "a", 700);
  for (const event of customer.events) expect((await send(at, event)).status).toBe(200);
  const { currencies, held_events } = await shop.revenue();
  expect(currencies[0]).toMatchObject({ mrr_minor: 0, refunded_minor: 700 });
  expect(held_events).toBe(0);
});

test("a cancellation of which Stripe tells before it answers is done all the same", async () => {
  using stripe = fakeStripe();
  await using at = await openShop({ env: { STRIPE_API_BASE: stripe.url } });
  const shop = new Shop(at);
  const who = await person(at);
  const customer = await bought(at, who);
  for (const [cancelled, path] of [
    [true, "cancel"],
    [false, "resume"],
  ] as const) {
    stripe.state.meanwhile = async () => {
      at.clock.ms += 1_000;
      customer.events.length = 0;
      customer.cancel(Math.floor(at.clock.ms / 1000), cancelled);
      for (const event of customer.events) await send(at, event);
    };
    const { subscription } = await shop.ask<CurrentSubscription>(
      200,
      who,
      "POST",
      `/api/subscriptions/${path}`,
    );
    expect(subscription?.cancel_at_period_end).toBe(cancelled);
  }
});

test("a plan that is not sold there is refused; when Stripe is away nothing has happened", async () => {
  using stripe = fakeStripe();
  await using at = await openShop({ env: { STRIPE_API_BASE: stripe.url } });
  const shop = new Shop(at);
  const who = await person(at);
  await at.db().update(plans).set({ stripePriceId: null }).where(eq(plans.tier, "elite"));
  const body = (tier: string) => ({ tier, provider: "stripe" });
  await shop.ask(409, who, "POST", "/api/subscriptions", body("elite"));
  stripe.state.status = 402;
  const answer = await at.call("POST", "/api/subscriptions", body("pro"), await shop.token(who));
  expect(answer.status).toBe(503);
  expect(answer.headers.get("retry-after")).toBe("5");
  expect(await answer.text()).not.toContain("price_");
  stripe.state.status = 200;
  await buy(shop, who, "pro");
  expect((await shop.current(who)).subscription).toBeNull();
});
