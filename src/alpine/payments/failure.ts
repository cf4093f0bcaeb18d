import type { Transaction } from "../database";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { notify } from "../notifications/notify";
import type { Plane } from "../plane";
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
  return bookFor(plane, admin, userId, origin, async (books) => {
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
    await tellFailure(tx, nowMs, payment);
    return payment;
  });
}

/** Tells whoever owes it; they must exist. */
export async function tellFailure(
  tx: Transaction,
  nowMs: number,
  { id, userId, invoiceId, amountMinor, currency }: PaymentRow,
): Promise<void> {
  const amount = moneyText(amountMinor, currency);
  await notify(tx, nowMs, {
    userId,
    kind: "payment_failed",
    reference: id,
    title: `A payment of ${amount} failed`,
    body: `Your payment of ${amount} did not come. Your plan stays for some days: see GET /api/subscriptions for what is open and until when.`,
    details: { payment_id: id, invoice_id: invoiceId, amount_minor: amountMinor, currency },
  });
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
