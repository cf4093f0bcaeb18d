import { inArray } from "drizzle-orm";
import { users } from "../../../db/alpine/schema";
import type { Logger } from "../../platform/log";
import { audit } from "../audit";
import type { Changes } from "../changes";
import type { Database } from "../database";
import { rankOf } from "../plans/schema";
import { settleTier } from "../plans/settle-tier";
import type { UserRow } from "../users/schema";
import { type Books, openInvoice, saveSubscription, voidOpenInvoices } from "./ledger";
import { periodEndOf } from "./period";
import type { SubscriptionRow } from "./schema";
import { dueAccounts, lockLiveOf, readPlan } from "./store";

const accountsAtOnce = 100;
const dayMs = 86_400_000;

/** How long after a period's end its payment may come, milliseconds. */
export const graceMsOf = ({ paymentGraceDays }: { paymentGraceDays: number }): number =>
  paymentGraceDays * dayMs;

type Due = {
  db: () => Database;
  changes: Changes;
  now: () => number;
  log: Logger;
  config: { paymentGraceDays: number };
  /** True once the process is to end: the next one goes on. */
  stopped: () => boolean;
};

/**
 * Brings every subscription up to the time of the clock: renews, and ends what was cancelled or
 * not paid for. Each account in a transaction of its own, so that one that fails holds up no
 * other; any number of processes may do it at once.
 */
export async function settleDue({ db, changes, now, log, config, stopped }: Due): Promise<void> {
  const tried = new Set<string>();
  for (;;) {
    const nowMs = now();
    const found = await dueAccounts(db(), nowMs, accountsAtOnce);
    const next = [...new Set(found)].filter((userId) => !tried.has(userId));
    if (next.length === 0) return;
    for (const userId of next) {
      if (stopped()) return;
      tried.add(userId);
      try {
        await changes.write(async (tx, tell) => {
          // Whom somebody else holds is looked at again in the next round.
          const [user] = await tx
            .select()
            .from(users)
            .where(inArray(users.id, [userId]))
            .for("no key update", { skipLocked: true });
          const row = user && (await lockLiveOf(tx, userId));
          if (!row) return;
          const graceMs = graceMsOf(config);
          await catchUp({ tx, tell, nowMs, graceMs, actorId: null, origin: null }, user, row);
        });
      } catch (error) {
        log.error({ user_id: userId, reason: String(error) }, "subscription not settled");
      }
    }
  }
}

/**
 * Does what time has made due for one subscription, several periods if it must.
 * @returns the user and the subscription as they are then; null for one that has ended.
 */
export async function catchUp(
  books: Books,
  user: UserRow,
  row: SubscriptionRow,
): Promise<{ user: UserRow; row: SubscriptionRow | null }> {
  let current = row;
  for (let due = dueAt(current); due !== null && due.getTime() <= books.nowMs;) {
    if (current.status === "past_due") current = await end(books, current, due, "unpaid");
    else if (current.cancelAtPeriodEnd) current = await end(books, current, due, "cancelled");
    else current = await renew(books, current);
    due = dueAt(current);
  }
  if (current === row) return { user, row };
  const settled = await settleTier(books.tx, books.tell, user, books);
  return { user: settled, row: current.status === "ended" ? null : current };
}

/** Null for what waits for nothing but money, or for Stripe. */
function dueAt({ provider, status, periodEnd, graceUntil }: SubscriptionRow): Date | null {
  if (provider !== "manual") return null;
  if (status === "past_due") return graceUntil;
  return status === "trialing" || status === "active" ? periodEnd : null;
}

/** The next period begins and is to be paid for, at the price that its plan has by now. */
async function renew(books: Books, row: SubscriptionRow): Promise<SubscriptionRow> {
  const { tx, graceMs } = books;
  const at = row.periodEnd;
  const tier = row.nextTier ?? row.tier;
  const { priceMinor, currency, interval } = await readPlan(tx, tier);
  const free = priceMinor === 0;
  // A trial of one tier gives no grace of a dearer one, for which nobody has ever paid.
  const waits = !free && row.status === "trialing" && rankOf(tier) > rankOf(row.tier);
  const next: SubscriptionRow = {
    ...row,
    tier,
    priceMinor,
    currency,
    interval,
    nextTier: null,
    status: free ? "active" : waits ? "incomplete" : "past_due",
    periodStart: at,
    periodEnd: periodEndOf(row.anchorAt, at, interval),
    graceUntil: free || waits ? null : new Date(at.getTime() + graceMs),
  };
  // An upgrade that was not paid for in its period has lapsed.
  await voidOpenInvoices(tx, row.id);
  const { periodStart, periodEnd } = next;
  const reason = row.status === "trialing" ? "start" : "renewal";
  const asked = { reason, tier, priceMinor, amountMinor: priceMinor } as const;
  await openInvoice(tx, next, { ...asked, periodStart, periodEnd, createdAt: at });
  return saveSubscription(books, row, next, at);
}

/** Ends a subscription as of `at`; nothing is owed for it any more. The tier is the caller's to settle. */
export async function end(
  books: Books,
  row: SubscriptionRow,
  at: Date,
  reason: "unpaid" | "cancelled" | "refunded" | "account deleted",
): Promise<SubscriptionRow> {
  const { tx, nowMs, origin, actorId } = books;
  await voidOpenInvoices(tx, row.id);
  const ended = { ...row, status: "ended", endedAt: at, nextTier: null, graceUntil: null } as const;
  const details = { subscription_id: row.id, tier: row.tier, reason };
  const entry = { event: "subscription_ended", actorId, subjectId: row.userId, details } as const;
  await audit(tx, nowMs, origin, entry);
  return saveSubscription(books, row, ended, at);
}
