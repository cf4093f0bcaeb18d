import { setTimeout as pause } from "node:timers/promises";
import { and, asc, gt, isNull, lt, type SQL, sql } from "drizzle-orm";
import type { PgTable } from "drizzle-orm/pg-core";
import {
  auditLog,
  notifications,
  oneTimeTokens,
  providerEvents,
  refreshTokens,
  revocations,
  sessions,
  type Tier,
  usage,
  type UserRole,
  users,
  webhookMessages,
} from "../../db/alpine/schema";
import { clocksApartMs } from "./clocks";
import type { Database } from "./database";
import type { Plans } from "./plans/registry";

const dayMs = 86_400_000;
/** Sessions are shown to their user for so long after they have ended. */
const sessionsKeptMs = 30 * dayMs;
/** What happened, who came how often and what a provider told: a year and what it takes to notice. */
const recordsKeptMs = 400 * dayMs;
const readKeptMs = 30 * dayMs;
const unreadKeptMs = 90 * dayMs;
/** What was sent to webhooks, or could not be. */
const sentKeptMs = 7 * dayMs;
/** In one statement: more wait for the next round, so that nobody waits for them. */
const rowsAtOnce = 5_000;
const usersAtOnce = 500;
const restMs = 50;

/**
 * Deletes some of what has expired and means nothing to anybody any more.
 * @returns whether there may be more of it.
 */
export async function forgetExpired(db: Database, nowMs: number): Promise<boolean> {
  const before = (keptMs: number) => new Date(nowMs - keptMs);
  const day = before(recordsKeptMs).toISOString().slice(0, 10);
  const expired: [PgTable, SQL | undefined][] = [
    [oneTimeTokens, lt(oneTimeTokens.expiresAt, before(0))],
    [revocations, lt(revocations.expiresAt, before(0))],
    [refreshTokens, lt(refreshTokens.expiresAt, before(0))],
    [sessions, lt(sessions.expiresAt, before(sessionsKeptMs))],
    [auditLog, lt(auditLog.at, before(recordsKeptMs))],
    [usage, lt(usage.day, day)],
    // Those of a customer are kept: what they bought is what all of their events come to.
    [
      providerEvents,
      and(isNull(providerEvents.subject), lt(providerEvents.appliedAt, before(recordsKeptMs))),
    ],
    [webhookMessages, lt(webhookMessages.endedAt, before(sentKeptMs))],
    [notifications, lt(notifications.readAt, before(readKeptMs))],
    // Those that went by mail alone as well.
    [
      notifications,
      and(isNull(notifications.readAt), lt(notifications.createdAt, before(unreadKeptMs))),
    ],
  ];
  let more = false;
  for (const [table, which] of expired) {
    const rows = db
      .select({ row: sql`ctid` })
      .from(table)
      .where(which)
      .limit(rowsAtOnce);
    // As an array: joined with, they might be looked for in the whole table.
    const { rowCount } = await db.delete(table).where(sql`ctid = ANY(ARRAY(${rows}))`);
    more ||= rowCount === rowsAtOnce;
  }
  return more;
}

/** All of it, some at a time. @throws AppError 503; what `signal` is aborted with. */
export async function forgetAll(
  db: () => Database,
  nowMs: number,
  signal: AbortSignal,
): Promise<void> {
  while (await forgetExpired(db(), nowMs - clocksApartMs)) {
    await pause(restMs, undefined, { signal, ref: false });
  }
}

/** Deletes what was delivered before the history that an account's plan keeps. */
export async function forgetDeliveries(
  db: () => Database,
  plans: Plans,
  nowMs: number,
  signal: AbortSignal,
): Promise<void> {
  const before = new Map<Tier, Date>();
  for (const { tier, historyDays } of plans.all) {
    if (historyDays === null) continue;
    before.set(tier, new Date(nowMs - historyDays * dayMs - clocksApartMs));
  }
  let after: string | null = null;
  for (;;) {
    const page: { id: string; tier: Tier; role: UserRole }[] = await db()
      .select({ id: users.id, tier: users.tier, role: users.role })
      .from(users)
      .where(after === null ? undefined : gt(users.id, after))
      .orderBy(asc(users.id))
      .limit(usersAtOnce);
    after = page.at(-1)?.id ?? null;
    if (after === null) return;
    const bounded = page.flatMap(({ id, tier, role }) => {
      const at = role === "admin" ? undefined : before.get(tier);
      return at ? [{ id, before: at.toISOString() }] : [];
    });
    while (bounded.length > 0 && (await forgetDelivered(db(), bounded)) === rowsAtOnce) {
      await pause(restMs, undefined, { signal, ref: false });
    }
    await pause(1, undefined, { signal, ref: false });
  }
}

async function forgetDelivered(
  db: Database,
  bounded: { id: string; before: string }[],
): Promise<number> {
  const ids = sql.param(bounded.map(({ id }) => id));
  const times = sql.param(bounded.map(({ before }) => before));
  const { rowCount } = await db.execute(sql`
    DELETE FROM deliveries WHERE ctid = ANY(ARRAY(
      SELECT d.row
      FROM unnest(${ids}::uuid[], ${times}::timestamptz[]) AS bound (id, before)
      CROSS JOIN LATERAL (
        SELECT ctid AS row FROM deliveries
        WHERE user_id = bound.id AND delivered_at < bound.before
        ORDER BY delivered_at LIMIT ${rowsAtOnce}
      ) AS d
      LIMIT ${rowsAtOnce}))`);
  return rowCount ?? 0;
}
