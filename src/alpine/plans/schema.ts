import { z } from "@hono/zod-openapi";
import { intervals, type plans, type Tier, tiers } from "../../../db/alpine/schema";
import { delaySecondsMax } from "../../http/entitlement";
import { isPrintable } from "../users/schema";

export type PlanRow = typeof plans.$inferSelect;

const currencies = new Set(Intl.supportedValuesOf("currency"));
const anyNumber = 1_000_000_000;

const whole = (min: number, max: number, description?: string) =>
  z.int().min(min).max(max).openapi({ description });

const shape = {
  name: z.string().min(1).max(64).refine(isPrintable, { message: "must be printable text" }),
  price_minor: whole(0, 100_000_000, "In the minor unit of the currency, such as cents."),
  currency: z
    .string()
    .refine((code) => currencies.has(code), { message: "must be a currency of ISO 4217" })
    .openapi({ example: "USD" }),
  interval: z.enum(intervals),
  trial_days: whole(0, 365, "Free days at the first subscription of an account."),
  premium: z.boolean().openapi({ description: "Signals of confidence 95 and above." }),
  delay_seconds: whole(0, delaySecondsMax, "How long after its arrival a signal is withheld."),
  requests_per_minute: whole(1, anyNumber, "Reads of signals."),
  streams_max: whole(0, 10_000, "Streams at once; one more ends the oldest."),
  webhooks_max: whole(
    0,
    10_000,
    "Webhooks that are enabled at once; beyond it the newest are paused.",
  ),
  history_days: whole(1, 36_500).nullable().openapi({
    description: "How far back the journal of deliveries reaches; null: without end.",
  }),
  export: z.boolean().openapi({ description: "Export of all signals." }),
};

export const TierParam = z.object({ tier: z.enum(tiers) });

export const Plan = z.object({ tier: z.enum(tiers), ...shape }).openapi("Plan");
export type Plan = z.infer<typeof Plan>;
export const PlanList = z.object({ plans: z.array(Plan) }).openapi("PlanList");

const adminShape = {
  stripe_price_id: z
    .string()
    .regex(/^price_\w{1,250}$/, "must be the id of a price at Stripe")
    .nullable(),
};
export const AdminPlan = Plan.extend({ ...adminShape, updated_at: z.iso.datetime() }).openapi(
  "AdminPlan",
);
export type AdminPlan = z.infer<typeof AdminPlan>;
export const AdminPlanList = z.object({ plans: z.array(AdminPlan) }).openapi("AdminPlanList");

export const PlanChange = z
  .strictObject({ ...shape, ...adminShape })
  .partial()
  .refine((change) => Object.values(change).some((value) => value !== undefined), {
    message: "must hold what is to be changed",
  })
  .openapi("PlanChange");
export type PlanChange = z.infer<typeof PlanChange>;

/** A plan as everybody sees it. */
export const planOf = (row: PlanRow): Plan => ({
  tier: row.tier,
  name: row.name,
  price_minor: row.priceMinor,
  currency: row.currency,
  interval: row.interval,
  trial_days: row.trialDays,
  premium: row.premium,
  delay_seconds: row.delaySeconds,
  requests_per_minute: row.requestsPerMinute,
  streams_max: row.streamsMax,
  webhooks_max: row.webhooksMax,
  history_days: row.historyDays,
  export: row.export,
});

export const adminPlanOf = (row: PlanRow): AdminPlan =>
  Object.assign(planOf(row), {
    stripe_price_id: row.stripePriceId,
    updated_at: row.updatedAt.toISOString(),
  });

/** The columns that a change sets; undefined leaves one as it is. */
export const columnsOf = (change: PlanChange): Partial<Omit<PlanRow, "tier">> =>
  withoutUndefined({
    name: change.name,
    priceMinor: change.price_minor,
    currency: change.currency,
    interval: change.interval,
    trialDays: change.trial_days,
    premium: change.premium,
    delaySeconds: change.delay_seconds,
    requestsPerMinute: change.requests_per_minute,
    streamsMax: change.streams_max,
    webhooksMax: change.webhooks_max,
    historyDays: change.history_days,
    export: change.export,
    stripePriceId: change.stripe_price_id,
  });

function withoutUndefined<T extends object>(
  given: T,
): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const known = Object.entries(given).filter(([, value]) => value !== undefined);
  return Object.fromEntries(known) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

/** Cheapest first: the order of tiers. */
export const rankOf = (tier: Tier): number => tiers.indexOf(tier);
