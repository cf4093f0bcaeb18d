import { sql } from "drizzle-orm";
import { type MovementKind, type Tier, tiers } from "../../../db/alpine/schema";
import type { Queries } from "../database";
import { type CurrencyRevenue, flowNames, type Revenue, type RevenueMonth } from "./schema";

const monthsShown = 12;

/** A figure, and what it is of. */
type Row = {
  what: "flow" | "tier" | "cash" | "subscribers" | "held";
  currency: string;
  /** `YYYY-MM`; what came before the months that are shown is in the month before them. */
  month: string;
  name: string;
  minor: string;
  count: string;
};

/**
 * Revenue as of a moment, for each currency. One statement, so that all figures are of one moment
 * and add up: MRR is the sum of all its movements.
 */
export async function countRevenue(db: Queries, nowMs: number): Promise<Revenue> {
  const months = lastMonths(nowMs, monthsShown + 1);
  const from = `${months[1]}-01T00:00:00Z`;
  const now = new Date(nowMs).toISOString();
  const monthOf = (at: string) =>
    sql.raw(
      `to_char(greatest(${at}, '${from}'::timestamptz - interval '1 day') AT TIME ZONE 'UTC', 'YYYY-MM')`,
    );
  const { rows } = await db.execute<Row>(sql`
    SELECT 'flow' AS what, currency, ${monthOf("at")} AS month, kind AS name,
      sum(delta_minor) AS minor, count(DISTINCT subscription_id) AS count
    FROM revenue_movements WHERE at <= ${now} GROUP BY currency, month, kind
    UNION ALL
    SELECT 'tier', currency, '', tier, sum(delta_minor), 0
    FROM revenue_movements WHERE at <= ${now} GROUP BY currency, tier
    UNION ALL
    SELECT 'cash', currency, ${monthOf("at")} AS month, kind, sum(amount_minor), count(*)
    FROM payments WHERE kind IN ('charge', 'refund') AND at >= ${from} AND at <= ${now}
    GROUP BY currency, month, kind
    UNION ALL
    SELECT 'subscribers', currency, CASE WHEN status = 'past_due' AND period_start = trial_end
      THEN 'unpaid' ELSE status END AS state, tier, 0, count(*)
    FROM subscriptions WHERE status <> 'ended' GROUP BY currency, state, tier
    UNION ALL
    SELECT 'held', '', '', '', 0, count(*)
    FROM provider_events WHERE applied_at IS NULL`);
  const currencies = [...new Set(rows.map(({ currency }) => currency))].filter((c) => c !== "");
  return {
    as_of: now,
    currencies: currencies.toSorted().map((currency) =>
      revenueOf(
        currency,
        months,
        rows.filter((r) => r.currency === currency),
      ),
    ),
    held_events: Number(rows.find(({ what }) => what === "held")?.count ?? 0),
  };
}

/** `YYYY-MM` in UTC, oldest first, the running one last. */
function lastMonths(nowMs: number, count: number): string[] {
  const now = new Date(nowMs);
  return Array.from({ length: count }, (_, i) => {
    const at = Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - (count - 1 - i), 1);
    return new Date(at).toISOString().slice(0, 7);
  });
}

function revenueOf(currency: string, months: string[], rows: Row[]): CurrencyRevenue {
  const [before = "", ...shown] = months;
  const of = (what: Row["what"]) => rows.filter((row) => row.what === what);
  const minorOf = (row: Row) => Number(row.minor);
  let mrr = of("flow")
    .filter(({ month }) => month === before)
    .reduce((sum, row) => sum + minorOf(row), 0);
  const history = shown.map((month) => {
    const flows = of("flow").filter((row) => row.month === month);
    mrr += flows.reduce((sum, row) => sum + minorOf(row), 0);
    const cash = of("cash").filter((row) => row.month === month);
    return Object.assign(flowsOf(flows, cash), { month, mrr_minor: mrr });
  });
  const byTier = (pick: (tier: Tier) => number) =>
    Object.fromEntries(tiers.map((tier) => [tier, pick(tier)]));
  const subscribers = of("subscribers");
  const count =
    (...states: string[]) =>
    (tier: Tier | null) =>
      subscribers
        .filter((row) => states.includes(row.month) && (tier === null || row.name === tier))
        .reduce((sum, row) => sum + Number(row.count), 0);
  const paying = count("active", "past_due");
  const { month: _, mrr_minor, ...running } = history.at(-1) as RevenueMonth;
  return {
    currency,
    mrr_minor,
    arr_minor: 12 * mrr_minor,
    mrr_by_tier: byTier((tier) => Number(of("tier").find(({ name }) => name === tier)?.minor ?? 0)),
    subscribers: paying(null),
    subscribers_by_tier: byTier(paying),
    trials: count("trialing")(null),
    past_due: count("past_due", "unpaid")(null),
    ...running,
    months: history,
  };
}

type Flows = Omit<RevenueMonth, "month" | "mrr_minor">;

function flowsOf(flows: Row[], cash: Row[]): Flows {
  const named = Object.entries(flowNames).flatMap(([kind, name]) => {
    const row = flows.find((flow) => flow.name === (kind as MovementKind));
    return [
      [`${name}_minor`, Math.abs(Number(row?.minor ?? 0))],
      [`${name}_count`, Number(row?.count ?? 0)],
    ];
  });
  const moved = (kind: string) => Number(cash.find(({ name }) => name === kind)?.minor ?? 0);
  return {
    ...(Object.fromEntries(named) as Omit<Flows, "received_minor" | "refunded_minor">),
    received_minor: moved("charge"),
    refunded_minor: moved("refund"),
  };
}
