import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { cancelAtStripe } from "../stripe/portal";
import { saveSubscription, voidOpenInvoices } from "./ledger";
import { changeOwn, mustHave } from "./own";
import { end } from "./renew";
import type { CurrentSubscription } from "./schema";
import { liveOf, openInvoiceOf } from "./store";

/**
 * Cancels somebody's own subscription: it goes on to the end of its period; one that was never
 * paid for ends at once. @throws AppError 409 for one that is cancelled, 429, 503.
 */
export async function cancel(
  plane: Plane,
  account: Account,
  origin: Origin,
): Promise<CurrentSubscription> {
  await tellStripe(plane, account, true);
  return changeOwn(plane, account, origin, async (books, held) => {
    const row = mustHave(held);
    const { tx, nowMs } = books;
    const now = new Date(nowMs);
    if (row.status === "incomplete" && row.provider === "manual") {
      await end(books, row, now, "cancelled");
      return;
    }
    // Stripe's own event may have said so meanwhile.
    if (row.cancelAtPeriodEnd && row.provider === "manual") throw alreadyCancelled();
    // An upgrade that nobody has paid for is not wanted any more; what a period costs is owed.
    if ((await openInvoiceOf(tx, row.id))?.reason === "upgrade") {
      await voidOpenInvoices(tx, row.id);
    }
    const details = { subscription_id: row.id, ends_at: row.periodEnd.toISOString() };
    const entry = { event: "subscription_cancelled", actorId: account.userId, details } as const;
    await audit(tx, nowMs, origin, entry);
    await saveSubscription(books, row, { ...row, cancelAtPeriodEnd: true }, now);
  });
}

/** Takes a cancellation back. @throws AppError 409 where there is none, 429, 503. */
export async function resume(
  plane: Plane,
  account: Account,
  origin: Origin,
): Promise<CurrentSubscription> {
  await tellStripe(plane, account, false);
  return changeOwn(plane, account, origin, async (books, held) => {
    const row = mustHave(held);
    const { tx, nowMs } = books;
    if (!row.cancelAtPeriodEnd && row.provider === "manual") throw notCancelled();
    const details = { subscription_id: row.id };
    const entry = { event: "subscription_resumed", actorId: account.userId, details } as const;
    await audit(tx, nowMs, origin, entry);
    await saveSubscription(books, row, { ...row, cancelAtPeriodEnd: false }, new Date(nowMs));
  });
}

/** Before it is written down here: its events say the same again. */
async function tellStripe(plane: Plane, { userId }: Account, cancelled: boolean): Promise<void> {
  const row = await liveOf(plane.alpine.db(), userId);
  if (row?.provider !== "stripe") return;
  if (row.cancelAtPeriodEnd === cancelled) throw cancelled ? alreadyCancelled() : notCancelled();
  await cancelAtStripe(plane, row.providerSubscription ?? "", cancelled);
}

const alreadyCancelled = () =>
  new AppError("conflict", "The subscription is cancelled already: it ends with its period.");
const notCancelled = () => new AppError("conflict", "The subscription is not cancelled.");
