import { z } from "@hono/zod-openapi";
import {
  intervals,
  invoiceReasons,
  invoiceStatuses,
  type invoices,
  providers,
  subscriptionStatuses,
  type subscriptions,
  tiers,
} from "../../../db/alpine/schema";
import { orNull, uuid } from "../../http/fields";
import { format } from "../csv";
import { pageQuery, pageShape } from "../page";

export type SubscriptionRow = typeof subscriptions.$inferSelect;
export type InvoiceRow = typeof invoices.$inferSelect;
/** A row of money with the address of its account, which it may outlive. */
export type WithEmail<Row> = Row & { email: string | null };

const tier = z.enum(tiers);
const time = z.iso.datetime();
/** Money on the wire: an integer in minor units, such as cents. */
export const minor = z.int().openapi({ description: "In minor units, such as cents." });
const currency = z.string().openapi({ example: "USD" });

export const NewSubscription = z
  .strictObject({
    tier,
    provider: z.enum(providers).default("manual").openapi({
      description: "manual: the operator books payments. stripe: you pay at Stripe.",
    }),
  })
  .openapi("NewSubscription");
export type NewSubscription = z.infer<typeof NewSubscription>;

export const SubscriptionChange = z.strictObject({ tier }).openapi("SubscriptionChange");

export const Subscription = z
  .object({
    id: z.uuid(),
    tier,
    provider: z.enum(providers),
    status: z.enum(subscriptionStatuses),
    price_minor: minor,
    currency,
    interval: z.enum(intervals),
    created_at: time,
    period_start: time,
    period_end: time,
    trial_end: time.nullable(),
    cancel_at_period_end: z.boolean(),
    next_tier: tier.nullable().openapi({ description: "From the next period on." }),
    grace_until: time.nullable().openapi({ description: "Unpaid until then, it ends." }),
    ended_at: time.nullable(),
  })
  .openapi("Subscription");
export type Subscription = z.infer<typeof Subscription>;

export const Invoice = z
  .object({
    id: z.uuid(),
    subscription_id: z.uuid(),
    user_id: z.uuid(),
    reason: z.enum(invoiceReasons),
    tier,
    amount_minor: minor,
    currency,
    period_start: time,
    period_end: time,
    status: z.enum(invoiceStatuses),
    created_at: time,
    paid_at: time.nullable(),
  })
  .openapi("Invoice");
export type Invoice = z.infer<typeof Invoice>;

/** The address of an account, where money of it is shown to administrators. */
export const email = z.string().nullable().openapi({ description: "Null: the account is gone." });

export const AdminSubscription = Subscription.extend({ user_id: z.uuid(), email }).openapi(
  "AdminSubscription",
);
export type AdminSubscription = z.infer<typeof AdminSubscription>;

export const AdminInvoice = Invoice.extend({ email }).openapi("AdminInvoice");
export type AdminInvoice = z.infer<typeof AdminInvoice>;

/** What an account has, what it owes and what comes next. */
export const CurrentSubscription = z
  .object({
    subscription: orNull(Subscription).openapi({ description: "Null without a live one." }),
    open_invoice: orNull(Invoice),
    next_period: z
      .object({
        tier,
        price_minor: minor,
        currency,
        interval: z.enum(intervals),
        starts_at: time,
      })
      .nullable()
      .openapi({ description: "As plans are now; null when none comes." }),
  })
  .openapi("CurrentSubscription");
export type CurrentSubscription = z.infer<typeof CurrentSubscription>;

export const StartedSubscription = CurrentSubscription.extend({
  checkout_url: z.url().nullable().openapi({
    description: "Where to pay at Stripe; the subscription begins when that is done.",
  }),
}).openapi("StartedSubscription");
export type StartedSubscription = z.infer<typeof StartedSubscription>;

export const Portal = z
  .object({ url: z.url().openapi({ description: "Good for a few minutes." }) })
  .openapi("Portal");

export const invoicesQuery = (pageSizeMax: number) => z.strictObject(pageQuery(pageSizeMax));
export const adminInvoicesQuery = (pageSizeMax: number) =>
  z.strictObject({
    ...pageQuery(pageSizeMax),
    user_id: uuid.optional(),
    status: z.enum(invoiceStatuses).optional(),
    format,
  });
export const adminSubscriptionsQuery = (pageSizeMax: number) =>
  z.strictObject({
    ...pageQuery(pageSizeMax),
    user_id: uuid.optional(),
    status: z.enum(subscriptionStatuses).optional(),
    tier: tier.optional(),
    provider: z.enum(providers).optional(),
    format,
  });
export const InvoiceList = z
  .object({ invoices: z.array(Invoice), ...pageShape })
  .openapi("InvoiceList");
export const AdminInvoiceList = z
  .object({ invoices: z.array(AdminInvoice), ...pageShape })
  .openapi("AdminInvoiceList");
export const AdminSubscriptionList = z
  .object({ subscriptions: z.array(AdminSubscription), ...pageShape })
  .openapi("AdminSubscriptionList");

/** A subscription as every answer shows it. */
export const subscriptionOf = (row: SubscriptionRow): Subscription => ({
  id: row.id,
  tier: row.tier,
  provider: row.provider,
  status: row.status,
  price_minor: row.priceMinor,
  currency: row.currency,
  interval: row.interval,
  created_at: row.createdAt.toISOString(),
  period_start: row.periodStart.toISOString(),
  period_end: row.periodEnd.toISOString(),
  trial_end: row.trialEnd?.toISOString() ?? null,
  cancel_at_period_end: row.cancelAtPeriodEnd,
  next_tier: row.nextTier,
  grace_until: row.graceUntil?.toISOString() ?? null,
  ended_at: row.endedAt?.toISOString() ?? null,
});

/** An invoice as every answer shows it. */
export const invoiceOf = (row: InvoiceRow): Invoice => ({
  id: row.id,
  subscription_id: row.subscriptionId,
  user_id: row.userId,
  reason: row.reason,
  tier: row.tier,
  amount_minor: row.amountMinor,
  currency: row.currency,
  period_start: row.periodStart.toISOString(),
  period_end: row.periodEnd.toISOString(),
  status: row.status,
  created_at: row.createdAt.toISOString(),
  paid_at: row.paidAt?.toISOString() ?? null,
});

/** The same as administrators see them. */
export const adminSubscriptionOf = (row: WithEmail<SubscriptionRow>): AdminSubscription =>
  Object.assign(subscriptionOf(row), { user_id: row.userId, email: row.email });

export const adminInvoiceOf = (row: WithEmail<InvoiceRow>): AdminInvoice =>
  Object.assign(invoiceOf(row), { email: row.email });
