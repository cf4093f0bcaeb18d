import { z } from "@hono/zod-openapi";
import { paymentKinds, type payments, providers } from "../../../db/alpine/schema";
import { uuid } from "../../http/fields";
import { format } from "../csv";
import { pageQuery, pageShape } from "../page";
import { email, minor, type WithEmail } from "../subscriptions/schema";
import { isPrintable } from "../users/schema";

export type PaymentRow = typeof payments.$inferSelect;

/** What Postgres holds in an integer. */
export const minorMax = 2_147_483_647;
const amount = z.int().min(1).max(minorMax).openapi({ description: "In minor units." });
const reference = z
  .string()
  .min(1)
  .max(200)
  .refine(isPrintable, { message: "must be printable text" })
  .openapi({
    description:
      "Names it in your own books: booked once as a charge, a refund and a failure each.",
    example: "bank 2026-11-20/17",
  });

export const NewPayment = z
  .strictObject({
    invoice_id: uuid,
    amount_minor: amount,
    currency: z
      .string()
      .regex(/^[A-Z]{3}$/, "must be a currency of three capital letters")
      .openapi({ example: "USD" }),
    reference,
    paid_at: z.iso
      .datetime({ offset: true, message: "must be a time as RFC 3339 writes it" })
      .optional()
      .openapi({ description: "When the money came; without it, now." }),
  })
  .openapi("NewPayment");
export type NewPayment = z.infer<typeof NewPayment>;

export const Refund = z
  .strictObject({
    amount_minor: amount,
    reference,
    end: z.boolean().default(false).openapi({ description: "Ends the subscription at once." }),
  })
  .openapi("Refund");
export type Refund = z.infer<typeof Refund>;

export const Failure = z.strictObject({ invoice_id: uuid, reference }).openapi("PaymentFailure");
export type Failure = z.infer<typeof Failure>;

export const Payment = z
  .object({
    id: z.uuid(),
    kind: z.enum(paymentKinds),
    user_id: z.uuid(),
    subscription_id: z.uuid().nullable(),
    invoice_id: z.uuid().nullable(),
    provider: z.enum(providers),
    reference: z.string(),
    amount_minor: minor,
    currency: z.string(),
    at: z.iso.datetime(),
  })
  .openapi("Payment");
export type Payment = z.infer<typeof Payment>;

export const AdminPayment = Payment.extend({ email }).openapi("AdminPayment");
export type AdminPayment = z.infer<typeof AdminPayment>;

export const paymentsQuery = (pageSizeMax: number) => z.strictObject(pageQuery(pageSizeMax));
export const adminPaymentsQuery = (pageSizeMax: number) =>
  z.strictObject({
    ...pageQuery(pageSizeMax),
    user_id: uuid.optional(),
    kind: z.enum(paymentKinds).optional(),
    format,
  });
export const PaymentList = z
  .object({ payments: z.array(Payment), ...pageShape })
  .openapi("PaymentList");
export const AdminPaymentList = z
  .object({ payments: z.array(AdminPayment), ...pageShape })
  .openapi("AdminPaymentList");

/** A payment as every answer shows it. */
export const paymentOf = (row: PaymentRow): Payment => ({
  id: row.id,
  kind: row.kind,
  user_id: row.userId,
  subscription_id: row.subscriptionId,
  invoice_id: row.invoiceId,
  provider: row.provider,
  reference: row.reference,
  amount_minor: row.amountMinor,
  currency: row.currency,
  at: row.at.toISOString(),
});

/** The same as administrators see it. */
export const adminPaymentOf = (row: WithEmail<PaymentRow>): AdminPayment =>
  Object.assign(paymentOf(row), { email: row.email });
