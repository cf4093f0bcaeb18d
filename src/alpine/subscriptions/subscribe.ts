import type { Tier } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { startCheckout } from "../stripe/checkout";
import { type Books, openInvoice, saveSubscription } from "./ledger";
import { changeOwn } from "./own";
import { periodEndOf } from "./period";
import type { NewSubscription, StartedSubscription, SubscriptionRow } from "./schema";
import { findSubscriptions, readPlan } from "./store";

const dayMs = 86_400_000;

/**
 * Begins a subscription: with a trial where the plan has one and the account never had any, else
 * it waits for its first payment. At Stripe nothing begins before the checkout is done.
 * @throws AppError 409 for whoever has one, 429, 503.
 */
export async function subscribe(
  plane: Plane,
  account: Account,
  { tier, provider }: NewSubscription,
  origin: Origin,
): Promise<StartedSubscription> {
  let isFirst = true;
  const current = await changeOwn(plane, account, origin, async (books, row) => {
    if (row) throw new AppError("conflict", "There is a subscription already. Change that one.");
    isFirst = (await findSubscriptions(books.tx, { userId: account.userId }, null, 1)).length === 0;
    if (provider === "manual") await begin(books, account.userId, tier, isFirst);
  });
  if (provider === "manual") return { ...current, checkout_url: null };
  const checkout_url = await startCheckout(plane, account.userId, tier, { withTrial: isFirst });
  return { ...current, checkout_url };
}

async function begin(books: Books, userId: string, tier: Tier, isFirst: boolean): Promise<void> {
  const { tx, nowMs, actorId, origin } = books;
  const { priceMinor, currency, interval, trialDays } = await readPlan(tx, tier);
  const now = new Date(nowMs);
  const free = priceMinor === 0;
  const trialEnd = isFirst && trialDays > 0 && !free ? new Date(nowMs + trialDays * dayMs) : null;
  const row: SubscriptionRow = {
    id: Bun.randomUUIDv7("hex", nowMs),
    userId,
    tier,
    provider: "manual",
    status: trialEnd ? "trialing" : free ? "active" : "incomplete",
    priceMinor,
    currency,
    interval,
    createdAt: now,
    updatedAt: now,
    periodStart: now,
    periodEnd: trialEnd ?? periodEndOf(now, now, interval),
    anchorAt: trialEnd ?? now,
    trialEnd,
    cancelAtPeriodEnd: false,
    nextTier: null,
    graceUntil: null,
    endedAt: null,
    providerCustomer: null,
    providerSubscription: null,
  };
  await saveSubscription(books, null, row, now);
  if (!trialEnd) await askForStart(books, row);
  const details = { subscription_id: row.id, tier, status: row.status };
  await audit(tx, nowMs, origin, { event: "subscription_started", actorId, details });
}

/** The first payment, of a whole period. */
export async function askForStart({ tx, nowMs }: Books, row: SubscriptionRow): Promise<void> {
  const { tier, priceMinor, periodStart, periodEnd } = row;
  await openInvoice(tx, row, {
    reason: "start",
    tier,
    priceMinor,
    amountMinor: priceMinor,
    periodStart,
    periodEnd,
    createdAt: new Date(nowMs),
  });
}
