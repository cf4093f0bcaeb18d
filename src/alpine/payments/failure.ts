import type { Transaction } from "../database";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { notify, timeText } from "../notifications/notify";
import type { Plane } from "../plane";
import type { SubscriptionRow } from "../subscriptions/schema";
import { invoiceById } from "../subscriptions/store";
import { bookFor, replayed } from "./book";
import { missingInvoice, mustBeOpen } from "./record";
import type { Failure, PaymentRow } from "./schema";
import { insertPayment } from "./store";

/**
 * Writes down that a payment did not come. The grace period goes on as it was.
 * @throws AppError 404, 409 for an invoice that is not open.
 */
export async function recordFailure(
  plane: Plane,
  admin: Account,
  { invoice_id: invoiceId, reference }: Failure,
  origin: Origin,
): Promise<PaymentRow> {
  const known = (await invoiceById(plane.alpine.db(), invoiceId)) ?? missingInvoice();
  const { userId, subscriptionId, amountMinor, currency } = known;
  return bookFor(plane, admin, userId, origin, async (books, row) => {
    const { tx, nowMs, actorId } = books;
    const named = { kind: "failure", reference, invoiceId, amountMinor, currency } as const;
    const booked = await replayed(books, named);
    if (booked) return booked;
    mustBeOpen(await invoiceById(tx, invoiceId));
    const at = new Date(nowMs);
    const payment = await insertPayment(tx, { ...named, userId, subscriptionId, at });
    await audit(tx, nowMs, origin, {
      event: "payment_failed",
      actorId,
      subjectId: userId,
      details: { payment_id: payment.id, invoice_id: invoiceId, reference },
    });
    await tellFailure(tx, nowMs, payment, row);
    return payment;
  });
}

/** Tells whoever owes it, who must exist, and what becomes of the subscription that it was for. */
export async function tellFailure(
  tx: Transaction,
  nowMs: number,
  { id, userId, invoiceId, amountMinor, currency }: PaymentRow,
  subscription: SubscriptionRow | null,
): Promise<void> {
  const amount = moneyText(amountMinor, currency);
  await notify(tx, nowMs, {
    userId,
    kind: "payment_failed",
    reference: id,
    title: `A payment of ${amount} failed`,
    body: `Your payment of ${amount} did not come. ${consequence(subscription)}`.trimEnd(),
    details: { payment_id: id, invoice_id: invoiceId, amount_minor: amountMinor, currency },
  });
}

function consequence(subscription: SubscriptionRow | null): string {
  switch (subscription?.status) {
    case "incomplete":
      return "Your plan waits until it is paid.";
    case "past_due": {
      const { graceUntil } = subscription;
      return graceUntil ? `Your plan stays until ${timeText(graceUntil)}: pay by then.` : "";
    }
    case "active":
    case "trialing":
      return "Your plan stays as it is.";
    default:
      return "";
  }
}

/** An amount as people read it. Minor units are as many as the currency has (ISO 4217). */
function moneyText(minor: number, currency: string): string {
  const format = new Intl.NumberFormat("en", {
    style: "currency",
    currency,
    currencyDisplay: "code",
  });
  const digits = format.resolvedOptions().maximumFractionDigits ?? 2;
  return format.format(minor / 10 ** digits).replace("\u00a0", " ");
}
