/** Stripe, as far as its events go: lives of customers, told as it tells them, and signed. */
import { Stripe } from "stripe";
import { eq } from "drizzle-orm";
import { plans, type Tier } from "../../../db/alpine/schema.ts";
import { openAccounts, type Accounts, type AccountsOptions } from "../../harness/accounts.ts";

export const SECRET = "whsec_of_the_tests_0123456789";
export const PRICES: Record<Tier, { id: string; cents: number }> = {
  starter: { id: "price_starter", cents: 4_900 },
  pro: { id: "price_pro", cents: 14_900 },
  elite: { id: "price_elite", cents: 49_900 },
};

export interface StripeEvent {
  id: string;
  object: "event";
  type: string;
  created: number;
  data: { object: Record<string, unknown> };
}

/** Accounts that sell at Stripe. */
export async function openShop(options: AccountsOptions = {}): Promise<Accounts> {
  const env = { STRIPE_SECRET_KEY: "sk_test_0123456789", STRIPE_WEBHOOK_SECRET: SECRET };
  const at = await openAccounts({ ...options, env: { ...env, ...options.env } });
  if (!options.beside) {
    for (const [tier, { id }] of Object.entries(PRICES)) {
      await at
        .db()
        .update(plans)
        .set({ stripePriceId: id })
        .where(eq(plans.tier, tier as Tier));
    }
  }
  return at;
}

/** Sends an event as Stripe does. */
export async function send(
  at: Accounts,
  event: unknown,
  { secret = SECRET, agoSeconds = 0 } = {},
): Promise<Response> {
  const payload = typeof event === "string" ? event : JSON.stringify(event);
  const timestamp = Math.floor(at.clock.ms / 1000) - agoSeconds;
  const signature = await Stripe.webhooks.generateTestHeaderStringAsync({
    payload,
    secret,
    timestamp,
  });
  return at.app.send(
    new Request("http://argo.test/api/webhooks/stripe", {
      method: "POST",
      headers: { "Stripe-Signature": signature, "Content-Type": "application/json" },
      body: payload,
    }),
  );
}

const daySeconds = 86_400;
let customers = 0;

/** One customer of Stripe. What they do becomes events, in the shape of a version of the API. */
export class Customer {
  readonly events: StripeEvent[] = [];
  readonly id: string;
  subscription = "";
  #status = "incomplete";
  #tier: Tier = "pro";
  #period = { start: 0, end: 0 };
  #bought = 0;
  #cancels = false;
  #trialEnd: number | null = null;
  #subscriptions = 0;
  #invoices = 0;
  readonly #refunded = new Map<string, number>();

  constructor(
    readonly userId: string,
    /** Where periods and subscriptions stand: before 2025-03-31, or since. */
    readonly version: "old" | "new" = "new",
  ) {
    customers += 1;
    this.id = `cus_${customers}`;
  }

  tell(type: string, at: number, object: Record<string, unknown>): void {
    const id = `evt_${this.id}_${crypto.randomUUID()}`;
    this.events.push({ id, object: "event", type, created: at, data: { object } });
  }

  /** Buys, and pays the first period unless there is a trial. */
  buy(tier: Tier, at: number, { trialDays = 0 } = {}): void {
    this.#subscriptions += 1;
    this.subscription = `sub_${this.id}_${this.#subscriptions}`;
    this.#tier = tier;
    this.#cancels = false;
    this.#trialEnd = trialDays > 0 ? at + trialDays * daySeconds : null;
    this.#period = { start: at, end: this.#trialEnd ?? at + 30 * daySeconds };
    this.#bought = at;
    this.#status = "incomplete";
    this.#say("created", at);
    this.#status = trialDays > 0 ? "trialing" : "active";
    this.#say("updated", at);
    this.pay(at, "subscription_create", trialDays > 0 ? 0 : PRICES[tier].cents);
    this.tell("checkout.session.completed", at, {
      id: `cs_${this.subscription}`,
      object: "checkout.session",
      mode: "subscription",
      customer: this.id,
      client_reference_id: this.userId,
      subscription: this.subscription,
      metadata: this.#metadata(),
    });
  }

  renew(at: number): void {
    this.#next(at, "active");
    this.pay(at + 1);
  }

  /** The card is refused; with `again` it is not, some time later. */
  fail(at: number, again: number | null): void {
    this.#next(at, "past_due");
    const invoice = this.#invoice("subscription_cycle", this.#cents());
    this.tell("invoice.payment_failed", at, { ...invoice, attempt_count: 1 });
    if (again === null) return;
    this.#status = "active";
    this.#say("updated", again);
    const paid = { ...invoice, amount_paid: this.#cents(), status: "paid", attempt_count: 2 };
    this.tell("invoice.payment_succeeded", again, paid);
    this.tell("invoice.paid", again, paid);
  }

  pay(at: number, reason = "subscription_cycle", cents = this.#cents()): void {
    const invoice = { ...this.#invoice(reason, cents), amount_paid: cents, status: "paid" };
    this.tell("invoice.payment_succeeded", at, invoice);
    this.tell("invoice.paid", at, invoice);
  }

  change(tier: Tier, at: number): void {
    this.#tier = tier;
    this.#say("updated", at);
    this.pay(at, "subscription_update", 1_234);
  }

  cancel(at: number, cancelled = true): void {
    this.#cancels = cancelled;
    this.#say("updated", at);
  }

  end(at: number): void {
    this.#status = "canceled";
    this.#say("deleted", at);
  }

  refund(at: number, charge: string, cents: number): void {
    const sum = (this.#refunded.get(charge) ?? 0) + cents;
    this.#refunded.set(charge, sum);
    this.tell("charge.refunded", at, {
      id: `ch_${this.id}_${charge}`,
      object: "charge",
      customer: this.id,
      amount_refunded: sum,
      currency: "usd",
      ...(this.version === "old" && { invoice: `in_${this.id}_1` }),
    });
  }

  #cents(): number {
    return PRICES[this.#tier].cents;
  }

  #next(at: number, status: string): void {
    this.#period = { start: this.#period.end, end: this.#period.end + 30 * daySeconds };
    this.#status = status;
    this.#say("updated", at);
  }

  #metadata() {
    return { user_id: this.userId, tier: this.#tier, price_id: PRICES[this.#tier].id };
  }

  #say(what: "created" | "updated" | "deleted", at: number): void {
    const period = {
      current_period_start: this.#period.start,
      current_period_end: this.#period.end,
    };
    const { id: price, cents } = PRICES[this.#tier];
    const recurring = { interval: "month", interval_count: 1 };
    this.tell(`customer.subscription.${what}`, at, {
      id: this.subscription,
      object: "subscription",
      customer: this.version === "old" ? this.id : { id: this.id, object: "customer" },
      status: this.#status,
      created: this.#bought,
      metadata: this.#metadata(),
      cancel_at_period_end: this.#cancels,
      cancel_at: null,
      ended_at: what === "deleted" ? at : null,
      trial_end: this.#trialEnd,
      billing_cycle_anchor: this.#trialEnd ?? this.#bought,
      ...(this.version === "old" && period),
      items: {
        object: "list",
        data: [
          {
            quantity: 1,
            ...(this.version === "new" && period),
            price: { id: price, unit_amount: cents, currency: "usd", recurring, metadata: {} },
          },
        ],
      },
    });
  }

  #invoice(reason: string, cents: number): Record<string, unknown> {
    this.#invoices += 1;
    const subscription_details = { subscription: this.subscription, metadata: this.#metadata() };
    return {
      id: `in_${this.id}_${this.#invoices}`,
      object: "invoice",
      customer: this.id,
      billing_reason: reason,
      amount_due: cents,
      amount_paid: 0,
      attempt_count: 1,
      currency: "usd",
      period_start: this.#period.start,
      period_end: this.#period.end,
      ...(this.version === "old"
        ? { subscription: this.subscription }
        : { parent: { type: "subscription_details", subscription_details } }),
    };
  }
}
