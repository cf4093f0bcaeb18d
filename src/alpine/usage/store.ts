import { and, desc, eq, gte, lte, sql } from "drizzle-orm";
import { deliveries, usage, usageDays } from "../../../db/alpine/schema";
import type { Delivery, UsageRow } from "../../http/meter";
import { PostgresError } from "../../platform/postgres";
import { first, type Queries, type Transaction } from "../database";

/** As Postgres reads an array of what needs no quotes: thousands of values in one parameter. */
const array = (values: readonly (string | number)[]) => `{${values.join(",")}}`;

/**
 * Adds counts to those of their account and day, and to those of the day. Accounts that are gone
 * are passed over in the first, never in the second. Rows are locked in their order: processes that
 * write the same ones do not block each other for good.
 * @returns the id of the transaction.
 */
export async function addUsage(tx: Transaction, rows: readonly UsageRow[]): Promise<string> {
  const own = rows.filter(({ userId }) => userId !== null);
  // Each owner is looked up by their id: a plain join of thousands would read all users.
  await tx.execute(sql`
    INSERT INTO usage (user_id, day, route_class, requests, errors, delivered)
    SELECT given.*
    FROM (
      SELECT * FROM unnest(
        ${array(own.map(({ userId }) => userId ?? ""))}::uuid[],
        ${array(own.map(({ day }) => day))}::date[],
        ${array(own.map(({ routeClass }) => routeClass))}::text[],
        ${array(own.map(({ requests }) => requests))}::bigint[],
        ${array(own.map(({ errors }) => errors))}::bigint[],
        ${array(own.map(({ delivered }) => delivered))}::bigint[]
      ) AS row (user_id, day, route_class, requests, errors, delivered)
      ORDER BY user_id, day, route_class
    ) AS given
    CROSS JOIN LATERAL (SELECT FROM users WHERE users.id = given.user_id LIMIT 1) AS owner
    ON CONFLICT (user_id, day, route_class) DO UPDATE SET
      requests = usage.requests + excluded.requests,
      errors = usage.errors + excluded.errors,
      delivered = usage.delivered + excluded.delivered`);
  const days = sumByDay(rows);
  // Last, since every process adds to these few.
  await tx.execute(sql`
    INSERT INTO usage_days (day, route_class, requests, errors, delivered)
    SELECT * FROM unnest(
      ${array(days.map(({ day }) => day))}::date[],
      ${array(days.map(({ routeClass }) => routeClass))}::text[],
      ${array(days.map(({ requests }) => requests))}::bigint[],
      ${array(days.map(({ errors }) => errors))}::bigint[],
      ${array(days.map(({ delivered }) => delivered))}::bigint[]
    ) AS given (day, route_class, requests, errors, delivered)
    ORDER BY day, route_class
    ON CONFLICT (day, route_class) DO UPDATE SET
      requests = usage_days.requests + excluded.requests,
      errors = usage_days.errors + excluded.errors,
      delivered = usage_days.delivered + excluded.delivered`);
  const { rows: ids } = await tx.execute<{ id: string }>(
    sql`SELECT pg_current_xact_id()::text AS id`,
  );
  return first(ids)?.id ?? "";
}

function sumByDay(rows: readonly UsageRow[]): UsageRow[] {
  const sums = new Map<string, UsageRow>();
  for (const row of rows) {
    const key = `${row.day} ${row.routeClass}`;
    const sum = sums.get(key);
    if (sum) {
      sum.requests += row.requests;
      sum.errors += row.errors;
      sum.delivered += row.delivered;
    } else sums.set(key, { ...row, userId: null });
  }
  return [...sums.values()];
}

/**
 * Whether a transaction whose end is not known was committed. One that this database does not know
 * was none of its own: a backup was put back. @throws while it is under way, AppError 503.
 */
export async function isCommitted(db: Queries, transactionId: string): Promise<boolean> {
  try {
    const { rows } = await db.execute<{ status: string | null }>(
      sql`SELECT pg_xact_status(${transactionId}::xid8) AS status`,
    );
    const status = first(rows)?.status;
    if (status === "in progress") throw new Error("A transaction of usage has not ended yet");
    return status === "committed";
  } catch (error) {
    if (error instanceof PostgresError && error.code === "22023") return false;
    throw error;
  }
}

/** Notes when signals were first given to accounts; the earliest time stands, whoever wrote it. */
export async function addDeliveries(db: Queries, given: readonly Delivery[]): Promise<void> {
  const [users, signals, times]: [string[], number[], number[]] = [[], [], []];
  for (const { userId, ids, atMs } of given) {
    for (const id of ids) {
      users.push(userId);
      signals.push(id);
      times.push(atMs);
    }
  }
  await db.execute(sql`
    INSERT INTO deliveries (user_id, signal_id, delivered_at)
    SELECT given.user_id, given.signal_id, to_timestamp(given.at_ms / 1000.0)
    FROM (
      SELECT user_id, signal_id, min(at_ms) AS at_ms
      FROM unnest(${array(users)}::uuid[], ${array(signals)}::bigint[], ${array(times)}::bigint[])
        AS row (user_id, signal_id, at_ms)
      GROUP BY user_id, signal_id
      ORDER BY user_id, signal_id
    ) AS given
    CROSS JOIN LATERAL (SELECT FROM users WHERE users.id = given.user_id LIMIT 1) AS owner
    ON CONFLICT (user_id, signal_id) DO UPDATE SET delivered_at = excluded.delivered_at
    WHERE excluded.delivered_at < deliveries.delivered_at`);
}

/** Rows are locked in their order: two processes that use the same keys do not block for good. */
export async function writeKeysUsed(db: Queries, ids: string[], times: Date[]): Promise<void> {
  await db.execute(sql`
    UPDATE api_keys SET last_used_at = used.at
    FROM (
      SELECT k.id, given.at
      FROM unnest(${array(ids)}::uuid[],
        ${array(times.map((time) => time.toISOString()))}::timestamptz[]) AS given (id, at)
      JOIN api_keys k ON k.id = given.id
      WHERE k.last_used_at IS NULL OR k.last_used_at < given.at
      ORDER BY k.id FOR NO KEY UPDATE OF k
    ) AS used
    WHERE api_keys.id = used.id`);
}

export type UsageRecord = typeof usageDays.$inferSelect;
/** A place in a list of usage. */
export type UsagePlace = [day: string, routeClass: string];
/** Both inclusive, YYYY-MM-DD. */
export type Days = { since?: string | undefined; until?: string | undefined };

export const usagePlaceOf = ({ day, routeClass }: UsageRecord): UsagePlace => [day, routeClass];

/** What an account did, or everybody where none is named; newest day first. */
export function usageOf(
  db: Queries,
  userId: string | null,
  { since, until }: Days,
  after: UsagePlace | null,
  limit: number,
): Promise<UsageRecord[]> {
  const counted = userId === null ? usageDays : usage;
  const { day, routeClass, requests, errors, delivered } = counted;
  return db
    .select({ day, routeClass, requests, errors, delivered })
    .from(counted)
    .where(
      and(
        userId === null ? undefined : eq(usage.userId, userId),
        since === undefined ? undefined : gte(day, since),
        until === undefined ? undefined : lte(day, until),
        after === null
          ? undefined
          : sql`(${day}, ${routeClass}) < (${after[0]}::date, ${after[1]}::text)`,
      ),
    )
    .orderBy(desc(day), desc(routeClass))
    .limit(limit);
}

/** A place in the journal of an account. */
export type DeliveryPlace = [deliveredAt: string, signalId: number];
export type DeliveryRow = Pick<typeof deliveries.$inferSelect, "signalId" | "deliveredAt">;

export const deliveryPlaceOf = ({ deliveredAt, signalId }: DeliveryRow): DeliveryPlace => [
  deliveredAt.toISOString(),
  signalId,
];

/** What an account was given first since a time, newest first. */
export function deliveriesOf(
  db: Queries,
  userId: string,
  sinceMs: number | null,
  after: DeliveryPlace | null,
  limit: number,
): Promise<DeliveryRow[]> {
  const { signalId, deliveredAt } = deliveries;
  return db
    .select({ signalId, deliveredAt })
    .from(deliveries)
    .where(
      and(
        eq(deliveries.userId, userId),
        sinceMs === null ? undefined : gte(deliveredAt, new Date(sinceMs)),
        after === null
          ? undefined
          : sql`(${deliveredAt}, ${signalId}) < (${after[0]}::timestamptz, ${after[1]}::bigint)`,
      ),
    )
    .orderBy(desc(deliveredAt), desc(signalId))
    .limit(limit);
}
