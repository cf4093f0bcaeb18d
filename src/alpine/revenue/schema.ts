import { z } from "@hono/zod-openapi";
import { type MovementKind, tiers } from "../../../db/alpine/schema";
import { fresh } from "../admin/figures";
import { formatOf } from "../csv";
import { minor } from "../subscriptions/schema";

const count = z.int();

/** How the movements of each kind are called where they are added up; what is lost is positive. */
export const flowNames = {
  new: "new",
  reactivation: "reactivation",
  expansion: "expansion",
  contraction: "contraction",
  churn: "churned",
} as const satisfies Record<MovementKind, string>;

/** What came and went within a period. */
const flowsOf = (period: string) => {
  const flow = minor.openapi({ description: `${period}, in minor units.` });
  const times = count.openapi({ description: `Subscriptions, ${period.toLowerCase()}.` });
  return {
    new_minor: flow,
    reactivation_minor: flow,
    expansion_minor: flow,
    contraction_minor: flow,
    churned_minor: flow,
    new_count: times,
    reactivation_count: times,
    expansion_count: times,
    contraction_count: times,
    churned_count: times,
    received_minor: flow,
    refunded_minor: flow,
  };
};

export const RevenueMonth = z
  .object({
    month: z.string().openapi({ example: "2026-11", description: "In UTC." }),
    mrr_minor: minor.openapi({ description: "At its end; of the running month, now." }),
    ...flowsOf("In that month"),
  })
  .openapi("RevenueMonth");
export type RevenueMonth = z.infer<typeof RevenueMonth>;

const byTier = (value: z.ZodInt) =>
  z.object(Object.fromEntries(tiers.map((tier) => [tier, value]))).openapi({
    description: "By tier, in the currency's minor units or subscribers.",
  });

export const CurrencyRevenue = z
  .object({
    currency: z.string(),
    mrr_minor: minor.openapi({ description: "Monthly recurring revenue, now." }),
    arr_minor: minor.openapi({ description: "Twelve times that." }),
    mrr_by_tier: byTier(minor),
    subscribers: count.openapi({
      description: "Who pay: trials and the unpaid are not among them.",
    }),
    subscribers_by_tier: byTier(count),
    trials: count,
    past_due: count,
    ...flowsOf("In this month (UTC)"),
    months: z.array(RevenueMonth).openapi({ description: "The last twelve, oldest first." }),
  })
  .openapi("CurrencyRevenue");
export type CurrencyRevenue = z.infer<typeof CurrencyRevenue>;

export const Revenue = z
  .object({
    as_of: z.iso.datetime(),
    currencies: z.array(CurrencyRevenue),
    held_events: count.openapi({
      description: "Events of Stripe that could not be applied yet: the log says why.",
    }),
  })
  .openapi("Revenue");
export type Revenue = z.infer<typeof Revenue>;

export const revenueQuery = z.strictObject({
  fresh,
  format: formatOf("As csv the months alone are sent, those of every currency."),
});
