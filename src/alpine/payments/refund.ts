import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { end } from "../subscriptions/renew";
import { bookFor, replayed, wrong } from "./book";
import type { PaymentRow, Refund } from "./schema";
import { insertPayment, paymentById, refundedOf } from "./store";

/**
 * Books money that went back, never more than came. The subscription goes on unless told to end.
 * @throws AppError 404, 409 for what was paid at Stripe, 422 for too much.
 */
export async function refund(
  plane: Plane,
  admin: Account,
  paymentId: string,
  { amount_minor: amountMinor, reference, end: ends }: Refund,
  origin: Origin,
): Promise<PaymentRow> {
  const charge = await paymentById(plane.alpine.db(), paymentId);
  if (charge?.kind !== "charge") throw new AppError("not_found", "There is no such payment.");
  if (charge.provider !== "manual" || charge.invoiceId === null) {
    throw new AppError("conflict", "This was paid at Stripe: refund it there.");
  }
  const { userId, subscriptionId, invoiceId, currency } = charge;
  return bookFor(plane, admin, userId, origin, async (books, row) => {
    const { tx, nowMs, actorId } = books;
    const named = { kind: "refund", reference, invoiceId, amountMinor, currency } as const;
    const booked = await replayed(books, named);
    if (booked) return booked;
    // Every invoice has one payment; bookings are made one after the other.
    const left = charge.amountMinor - (await refundedOf(tx, invoiceId));
    if (amountMinor > left) wrong("amount_minor", `must be at most ${left}: what is left of it`);
    const at = new Date(nowMs);
    const payment = await insertPayment(tx, { ...named, userId, subscriptionId, at });
    const details = { payment_id: payment.id, of: paymentId, amount_minor: amountMinor };
    await audit(tx, nowMs, origin, {
      event: "payment_refunded",
      actorId,
      subjectId: userId,
      details: { ...details, currency, reference },
    });
    if (ends && row?.id === subscriptionId) await end(books, row, at, "refunded");
    return payment;
  });
}
