import { eq } from "drizzle-orm";
import { invoices } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { type Books, saveSubscription } from "../subscriptions/ledger";
import { periodEndOf } from "../subscriptions/period";
import type { InvoiceRow, SubscriptionRow } from "../subscriptions/schema";
import { invoiceById } from "../subscriptions/store";
import { bookFor, replayed, wrong } from "./book";
import type { NewPayment, PaymentRow } from "./schema";
import { insertPayment } from "./store";

/**
 * Books the payment of an open invoice, the whole of it; what it is for begins, or goes on.
 * @throws AppError 404, 409 for an invoice that is not open, 422 for another amount or currency.
 */
export async function recordPayment(
  plane: Plane,
  admin: Account,
  given: NewPayment,
  origin: Origin,
): Promise<PaymentRow> {
  const { invoice_id: invoiceId, amount_minor: amountMinor, currency, reference } = given;
  const known = (await invoiceById(plane.alpine.db(), invoiceId)) ?? missingInvoice();
  return bookFor(plane, admin, known.userId, origin, async (books, row) => {
    const { tx, nowMs, actorId } = books;
    const named = { kind: "charge", reference, invoiceId, amountMinor, currency } as const;
    const booked = await replayed(books, named);
    if (booked) return booked;
    const invoice = mustBeOpen(await invoiceById(tx, invoiceId));
    if (!row || row.id !== invoice.subscriptionId) throw notOpen();
    if (currency !== invoice.currency) wrong("currency", `must be ${invoice.currency}`);
    if (amountMinor !== invoice.amountMinor) {
      wrong("amount_minor", `must be ${invoice.amountMinor}, as the invoice says`);
    }
    const paidAtMs = given.paid_at === undefined ? nowMs : Date.parse(given.paid_at);
    if (paidAtMs > nowMs) wrong("paid_at", "must not be in the future");
    const { userId, subscriptionId } = invoice;
    const at = new Date(paidAtMs);
    const payment = await insertPayment(tx, { ...named, userId, subscriptionId, at });
    const begins = await settleInvoice(books, row, invoice);
    await tx
      .update(invoices)
      .set({ ...begins, status: "paid", paidAt: at })
      .where(eq(invoices.id, invoiceId));
    const details = { payment_id: payment.id, invoice_id: invoiceId, amount_minor: amountMinor };
    await audit(tx, nowMs, origin, {
      event: "payment_recorded",
      actorId,
      subjectId: userId,
      details: { ...details, currency, reference },
    });
    return payment;
  });
}

type Period = Pick<InvoiceRow, "periodStart" | "periodEnd">;

/** What a paid invoice makes of its subscription. @returns the period that was paid for. */
async function settleInvoice(
  books: Books,
  row: SubscriptionRow,
  { reason, tier, priceMinor, periodStart, periodEnd }: InvoiceRow,
): Promise<Period> {
  const now = new Date(books.nowMs);
  if (row.status === "incomplete") {
    // The first period begins when it is paid: before that it gave nothing.
    const period = { periodStart: now, periodEnd: periodEndOf(now, now, row.interval) };
    await saveSubscription(books, row, { ...row, ...period, anchorAt: now, status: "active" }, now);
    return period;
  }
  const next: SubscriptionRow =
    reason === "upgrade"
      ? { ...row, tier, priceMinor, nextTier: null }
      : { ...row, status: "active", graceUntil: null };
  await saveSubscription(books, row, next, now);
  return { periodStart, periodEnd };
}

/** @throws AppError 404, 409, 409 for what is paid at Stripe. */
export function mustBeOpen(invoice: InvoiceRow | undefined): InvoiceRow {
  const found = invoice ?? missingInvoice();
  if (found.providerInvoice !== null) {
    throw new AppError("conflict", "This invoice is paid at Stripe, which tells us of it.");
  }
  if (found.status === "open") return found;
  throw found.status === "paid"
    ? new AppError("conflict", "The invoice is paid already.")
    : notOpen();
}

const notOpen = () => new AppError("conflict", "The invoice is void: nothing is owed for it.");

export function missingInvoice(): never {
  throw new AppError("not_found", "There is no such invoice.");
}
