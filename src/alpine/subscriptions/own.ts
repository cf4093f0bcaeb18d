import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import type { Origin } from "../audit";
import { limitWrites } from "../auth/limits";
import type { Queries } from "../database";
import type { Plane } from "../plane";
import { settleTier } from "../plans/settle-tier";
import { lockSelf } from "../users/store";
import type { Books } from "./ledger";
import { catchUp, graceMsOf } from "./renew";
import {
  type CurrentSubscription,
  invoiceOf,
  type SubscriptionRow,
  subscriptionOf,
} from "./schema";
import { liveOf, lockLiveOf, openInvoiceOf, readPlan } from "./store";

/** What an account has now, what it owes, and what the next period costs. */
export async function currentOf(db: Queries, userId: string): Promise<CurrentSubscription> {
  const row = await liveOf(db, userId);
  if (!row) return { subscription: null, open_invoice: null, next_period: null };
  const open = await openInvoiceOf(db, row.id);
  return {
    subscription: subscriptionOf(row),
    open_invoice: open && invoiceOf(open),
    next_period: await nextPeriodOf(db, row),
  };
}

async function nextPeriodOf(
  db: Queries,
  row: SubscriptionRow,
): Promise<CurrentSubscription["next_period"]> {
  if (row.cancelAtPeriodEnd || row.status === "incomplete") return null;
  // What is sold at Stripe renews at the price that Stripe knows.
  const renewed = row.provider === "stripe" ? row : await readPlan(db, row.nextTier ?? row.tier);
  return {
    tier: renewed.tier,
    price_minor: renewed.priceMinor,
    currency: renewed.currency,
    interval: renewed.interval,
    starts_at: row.periodEnd.toISOString(),
  };
}

/**
 * Runs a change that a user makes to their own subscription, which is brought up to the time of
 * the clock first; then their tier follows.
 * @throws what `work` throws, AppError 401, 429, 503.
 */
export async function changeOwn(
  plane: Plane,
  account: Account,
  origin: Origin,
  work: (books: Books, row: SubscriptionRow | null) => Promise<unknown>,
): Promise<CurrentSubscription> {
  const { alpine, config, now } = plane;
  const { userId } = account;
  await limitWrites(plane, account, origin);
  const nowMs = now();
  return alpine.changes.write(async (tx, tell) => {
    const graceMs = graceMsOf(config);
    const books: Books = { tx, tell, nowMs, graceMs, actorId: userId, origin };
    const self = await lockSelf(tx, account);
    const held = await lockLiveOf(tx, userId);
    const { user, row } = held ? await catchUp(books, self, held) : { user: self, row: null };
    await work(books, row);
    await settleTier(tx, tell, user, books);
    return currentOf(tx, userId);
  });
}

/** @throws AppError 409 for somebody without a subscription. */
export function mustHave(row: SubscriptionRow | null): SubscriptionRow {
  if (row) return row;
  throw new AppError("conflict", "There is no subscription. Begin one first.");
}
