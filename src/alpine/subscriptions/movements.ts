import type { MovementKind, revenueMovements, Tier } from "../../../db/alpine/schema";
import { monthlyMinor } from "./period";
import type { SubscriptionRow } from "./schema";

/** What a subscription earns a month. */
export type Recurring = { tier: Tier; currency: string; minor: number };

export type Movement = Pick<
  typeof revenueMovements.$inferSelect,
  "kind" | "tier" | "deltaMinor" | "currency"
>;

/** Whether somebody pays for it: a trial that nobody has paid for yet earns nothing. */
export const earns = ({ status, trialEnd, periodStart }: SubscriptionRow): boolean =>
  status === "active" || (status === "past_due" && periodStart.getTime() !== trialEnd?.getTime());

/** Null for what earns nothing. */
export function recurringOf(row: SubscriptionRow | null): Recurring | null {
  if (!row || !earns(row) || row.priceMinor === 0) return null;
  const { tier, currency } = row;
  return { tier, currency, minor: monthlyMinor(row.priceMinor, row.interval) };
}

/**
 * What changes revenue from one state to the next, by tier: from one tier to another are two, of
 * the same kind. A beginning is `new`; `nameBeginnings` tells those who come back.
 */
export function movementsBetween(before: Recurring | null, after: Recurring | null): Movement[] {
  if (before && after && before.tier === after.tier && before.currency === after.currency) {
    const deltaMinor = after.minor - before.minor;
    if (deltaMinor === 0) return [];
    return [{ kind: kindOf(deltaMinor), tier: after.tier, currency: after.currency, deltaMinor }];
  }
  // In another currency nothing can be compared: the one loses, the other gains.
  const apart = before?.currency !== after?.currency;
  const change = (after?.minor ?? 0) - (before?.minor ?? 0);
  const lost = before && {
    kind: after === null ? ("churn" as const) : kindOf(apart ? -1 : change),
    tier: before.tier,
    currency: before.currency,
    deltaMinor: -before.minor,
  };
  const won = after && {
    kind: before === null ? ("new" as const) : kindOf(apart ? 1 : change),
    tier: after.tier,
    currency: after.currency,
    deltaMinor: after.minor,
  };
  return [lost, won].filter((movement) => movement !== null);
}

const kindOf = (change: number): MovementKind => (change < 0 ? "contraction" : "expansion");
