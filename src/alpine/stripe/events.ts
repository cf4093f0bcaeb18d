import { z } from "zod";
import { intervals, type Tier, tiers } from "../../../db/alpine/schema";
import { minorMax } from "../payments/schema";

/** The parts of Stripe's objects that count here, wherever an API version puts them. */

/** Seconds since 1970, up to the year 9999. */
export const unixSeconds = z.int().min(0).max(253_402_300_799);
const seconds = unixSeconds.transform((at) => new Date(at * 1000));
/** Stripe sells for more in some currencies than the books can hold. */
const money = z.int().min(0).max(minorMax);
/** An id, or the whole object where it was expanded. */
const ref = z
  .union([z.string(), z.object({ id: z.string() }).transform(({ id }) => id)])
  .nullish()
  .transform((id) => id ?? null);
const metadata = z
  .object({
    user_id: z.uuid().toLowerCase().optional().catch(undefined),
    tier: z.enum(tiers).optional().catch(undefined),
    price_id: z.string().optional().catch(undefined),
  })
  .nullish()
  .transform((given) => given ?? {});
const currency = z
  .string()
  .length(3)
  .transform((code) => code.toUpperCase());

const Checkout = z.object({
  customer: ref,
  client_reference_id: z.uuid().toLowerCase().nullish().catch(null),
  metadata,
});

const Subscription = z.object({
  id: z.string(),
  customer: ref,
  status: z.string(),
  created: seconds,
  metadata,
  cancel_at_period_end: z.boolean().optional(),
  cancel_at: z.int().nullish(),
  ended_at: seconds.nullish(),
  trial_end: seconds.nullish(),
  billing_cycle_anchor: seconds.nullish(),
  current_period_start: seconds.nullish(),
  current_period_end: seconds.nullish(),
  items: z.object({
    data: z
      .array(
        z.object({
          quantity: z.int().nullish(),
          // Since the version 2025-03-31 an item has a period of its own, the subscription none.
          current_period_start: seconds.nullish(),
          current_period_end: seconds.nullish(),
          price: z.object({
            id: z.string(),
            unit_amount: money,
            currency,
            lookup_key: z.string().nullish(),
            metadata,
            recurring: z.object({
              interval: z.enum(intervals),
              interval_count: z.literal(1).optional(),
            }),
          }),
        }),
      )
      .length(1),
  }),
});

const period = z.object({ start: seconds, end: seconds });
const Invoice = z.object({
  id: z.string(),
  customer: ref,
  subscription: ref,
  parent: z
    .object({ subscription_details: z.object({ subscription: ref, metadata }).nullish() })
    .nullish(),
  billing_reason: z.string().nullish(),
  amount_due: money,
  amount_paid: money,
  attempt_count: z.int().nullish(),
  currency,
  period_start: seconds,
  period_end: seconds,
  lines: z.object({ data: z.array(z.object({ period: period.nullish() })) }).nullish(),
  status_transitions: z.object({ paid_at: seconds.nullish() }).nullish(),
});

const Charge = z.object({
  id: z.string(),
  customer: ref,
  invoice: ref,
  amount_refunded: money,
  currency,
});

export type SubscriptionTold = z.infer<typeof Subscription>;
export type InvoiceTold = z.infer<typeof Invoice>;
export type RefundTold = z.infer<typeof Charge>;

/** An event as it counts. Those of one moment count in the order in which they are listed here. */
export type Told = { id: string; at: Date } & (
  | { kind: "checkout"; userId: string | undefined }
  | { kind: "subscription"; told: SubscriptionTold; userId: string | undefined }
  | { kind: "failed"; told: InvoiceTold; userId: string | undefined }
  | { kind: "paid"; told: InvoiceTold; userId: string | undefined }
  | { kind: "refunded"; told: RefundTold; userId: undefined }
  | { kind: "deleted"; told: SubscriptionTold; userId: string | undefined }
);

const ranks: Record<string, number> = {
  "checkout.session.completed": 0,
  "customer.subscription.created": 1,
  "customer.subscription.updated": 2,
  "invoice.payment_failed": 3,
  "invoice.payment_succeeded": 4,
  "invoice.paid": 5,
  "charge.refunded": 6,
  "customer.subscription.deleted": 7,
};

/** What is journaled of an event. */
export type EventRow = { id: string; type: string; createdAt: Date; body: Record<string, unknown> };

const Envelope = z.object({ data: z.object({ object: z.looseObject({ customer: ref }) }) });

const Ended = z.object({ data: z.object({ object: z.object({ id: z.string() }) }) });

/** Whom an event is about; null for one that does not count here. */
export function subjectOf(type: string, body: unknown): string | null {
  if (!(type in ranks)) return null;
  const parsed = Envelope.safeParse(body);
  return parsed.success ? parsed.data.data.object.customer : null;
}

/** When subscriptions ended at Stripe, by their id there: known whatever else cannot be read. */
export const endsOf = (rows: readonly EventRow[]): Map<string, Date> =>
  new Map(
    rows.flatMap(({ type, createdAt, body }): [string, Date][] => {
      const { data } = type === "customer.subscription.deleted" ? Ended.safeParse(body) : {};
      return data ? [[data.data.object.id, createdAt]] : [];
    }),
  );

/** Events in the order in which they count, in whatever order they came. @throws ZodError. */
export function inOrder(rows: readonly EventRow[]): Told[] {
  return rows
    .filter(({ type }) => type in ranks)
    .toSorted(
      (a, b) =>
        a.createdAt.getTime() - b.createdAt.getTime() ||
        (ranks[a.type] ?? 0) - (ranks[b.type] ?? 0) ||
        (a.id < b.id ? -1 : 1),
    )
    .map(told);
}

function told({ id, type, createdAt: at, body }: EventRow): Told {
  const { object } = Envelope.parse(body).data;
  switch (type) {
    case "checkout.session.completed": {
      const session = Checkout.parse(object);
      const userId = session.client_reference_id ?? session.metadata.user_id;
      return { id, at, kind: "checkout", userId };
    }
    case "customer.subscription.created":
    case "customer.subscription.updated":
    case "customer.subscription.deleted": {
      const told = Subscription.parse(object);
      const kind = type.endsWith("deleted") ? "deleted" : "subscription";
      return { id, at, kind, told, userId: told.metadata.user_id };
    }
    case "charge.refunded":
      return { id, at, kind: "refunded", told: Charge.parse(object), userId: undefined };
    default: {
      const told = Invoice.parse(object);
      const kind = type === "invoice.payment_failed" ? "failed" : "paid";
      return { id, at, kind, told, userId: told.parent?.subscription_details?.metadata.user_id };
    }
  }
}

/** The subscription that an invoice is for; null for one that is for something else. */
export const subscriptionOfInvoice = ({ parent, subscription }: InvoiceTold): string | null =>
  parent?.subscription_details?.subscription ?? subscription;

/** The tier that a subscription is sold as; null when nothing says it. */
export function tierSold(
  { items, metadata }: SubscriptionTold,
  prices: ReadonlyMap<string, Tier>,
): Tier | null {
  const price = items.data[0]?.price;
  if (!price) return null;
  const named = tiers.find((tier) => tier === price.lookup_key);
  // Who bought at a price that its plan has no more goes on at it.
  const agreed = metadata.price_id === price.id ? metadata.tier : undefined;
  return prices.get(price.id) ?? price.metadata.tier ?? named ?? agreed ?? null;
}
