import { z } from "@hono/zod-openapi";
import { sql } from "drizzle-orm";
import { tiers, usageDays } from "../../../db/alpine/schema";
import { first, type Queries } from "../database";
import { intervalSeconds } from "../usage/schema";
import { usageIntervalSeconds } from "../usage/usage";

const count = z.int().min(0);

export const Analytics = z
  .object({
    total_users: count,
    active_users: count.openapi({ description: "Who are not shut out." }),
    new_users_today: count.openapi({ description: "Days are UTC." }),
    new_users_this_week: count.openapi({ description: "Weeks begin on Monday." }),
    new_users_this_month: count,
    users_by_tier: z.object({ starter: count, pro: count, elite: count }),
    signals_delivered_today: count,
    signals_delivered_this_week: count,
    signals_delivered_this_month: count,
    api_requests_today: count,
    api_requests_this_week: count,
    error_rate: z.number().min(0).max(1).openapi({
      description: "The part of today's requests that was answered with status 400 or above.",
    }),
    generated_at: z.iso.datetime(),
    usage_interval_seconds: intervalSeconds,
  })
  .openapi("Analytics");
export type Analytics = z.infer<typeof Analytics>;

const dayMs = 86_400_000;

/** Where the day, the week and the month of a moment begin, UTC. */
export function periodsOf(nowMs: number): { today: Date; week: Date; month: Date } {
  const day = Math.floor(nowMs / dayMs);
  // The epoch was a Thursday.
  const week = new Date((day - ((day + 3) % 7)) * dayMs);
  const today = new Date(day * dayMs);
  const month = new Date(Date.UTC(today.getUTCFullYear(), today.getUTCMonth(), 1));
  return { today, week, month };
}

/** Everything that is counted of users and of what they did, as of now. */
export async function countAnalytics(db: Queries, nowMs: number): Promise<Analytics> {
  const periods = periodsOf(nowMs);
  const people = await countUsers(db, periods);
  const done = await countUsage(db, periods);
  return {
    total_users: people.total,
    active_users: people.active,
    new_users_today: people.today,
    new_users_this_week: people.week,
    new_users_this_month: people.month,
    users_by_tier: { starter: people.starter, pro: people.pro, elite: people.elite },
    signals_delivered_today: done.delivered_today,
    signals_delivered_this_week: done.delivered_week,
    signals_delivered_this_month: done.delivered_month,
    api_requests_today: done.requests_today,
    api_requests_this_week: done.requests_week,
    error_rate: done.requests_today === 0 ? 0 : done.errors_today / done.requests_today,
    generated_at: new Date(nowMs).toISOString(),
    usage_interval_seconds: usageIntervalSeconds,
  };
}

type Periods = ReturnType<typeof periodsOf>;
type Numbers<K extends string> = Record<K, number>;

/**
 * One statement, which reads two indexes and no row: each entry of (tier, is_active) once, and of
 * the times of creation those that are new. A plain count of each group is half the work of
 * grouping, and Postgres makes them side by side.
 */
async function countUsers(db: Queries, { today, week, month }: Periods) {
  const groups = tiers.flatMap((tier) =>
    [true, false].map((active) =>
      sql.raw(`
        SELECT '${tier}' AS tier, ${active} AS is_active, count(*) AS n
        FROM users WHERE tier = '${tier}' AND is_active = ${active}`),
    ),
  );
  const since = (from: Date) =>
    sql`(SELECT count(*)::int FROM users WHERE created_at >= ${from.toISOString()}::timestamptz)`;
  const { rows } = await db.execute<
    Numbers<"total" | "active" | "today" | "week" | "month" | "starter" | "pro" | "elite">
  >(sql`
    SELECT
      sum(n)::int AS total,
      sum(n) FILTER (WHERE is_active)::int AS active,
      sum(n) FILTER (WHERE tier = 'starter')::int AS starter,
      sum(n) FILTER (WHERE tier = 'pro')::int AS pro,
      sum(n) FILTER (WHERE tier = 'elite')::int AS elite,
      ${since(today)} AS today,
      ${since(week)} AS week,
      ${since(month)} AS month
    FROM (${sql.join(groups, sql` UNION ALL `)}) AS standing`);
  return must(first(rows));
}

async function countUsage(db: Queries, { today, week, month }: Periods) {
  const day = (at: Date) => at.toISOString().slice(0, 10);
  const sum = (column: string, from: Date) =>
    sql`coalesce(sum(${sql.identifier(column)}) FILTER (WHERE day >= ${day(from)}::date), 0)::float8`;
  const { rows } = await db.execute<
    Numbers<
      | "delivered_today"
      | "delivered_week"
      | "delivered_month"
      | "requests_today"
      | "requests_week"
      | "errors_today"
    >
  >(sql`
    SELECT
      ${sum("delivered", today)} AS delivered_today,
      ${sum("delivered", week)} AS delivered_week,
      ${sum("delivered", month)} AS delivered_month,
      ${sum("requests", today)} AS requests_today,
      ${sum("requests", week)} AS requests_week,
      ${sum("errors", today)} AS errors_today
    FROM ${usageDays} WHERE day >= ${day(week < month ? week : month)}::date`);
  return must(first(rows));
}

function must<T>(row: T | undefined): T {
  if (row) return row;
  throw new Error("An aggregate without a row");
}
