import { z } from "@hono/zod-openapi";
import { type MovementKind, tiers } from "../../../db/alpine/schema";
import { fresh } from "../admin/figures";
import { format } from "../csv";
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

const flows = {
  new_minor: minor,
  reactivation_minor: minor,
  expansion_minor: minor,
  contraction_minor: minor,
  churned_minor: minor,
  new_count: count,
  reactivation_count: count,
  expansion_count: count,
  contraction_count: count,
  churned_count: count,
  received_minor: minor,
  refunded_minor: minor,
};

export const RevenueMonth = z
  .object({
    month: z.string().openapi({ example: "2026-11", description: "In UTC." }),
    mrr_minor: minor.openapi({ description: "At its end; of the running month, now." }),
    ...flows,
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
    ...flows,
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

export const revenueQuery = z.strictObject({ fresh, format });
