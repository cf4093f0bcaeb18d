import { lt, sql } from "drizzle-orm";
import type { PgColumn, PgTable } from "drizzle-orm/pg-core";
import {
  auditLog,
  oneTimeTokens,
  refreshTokens,
  revocations,
  sessions,
} from "../../db/alpine/schema";
import type { Database } from "./database";

/** Sessions are shown to their user for so long after they have ended. */
const sessionsKeptMs = 30 * 86_400_000;
/** What happened is kept for a year and what it takes to notice, and no longer. */
const auditKeptMs = 400 * 86_400_000;
/** In one statement: more wait for the next round, so that nobody waits for them. */
const rowsAtOnce = 5_000;

/** Deletes what has expired and means nothing to anybody any more. */
export async function forgetExpired(db: Database, nowMs: number): Promise<void> {
  await forget(db, oneTimeTokens, oneTimeTokens.expiresAt, nowMs);
  await forget(db, revocations, revocations.expiresAt, nowMs);
  await forget(db, refreshTokens, refreshTokens.expiresAt, nowMs);
  await forget(db, sessions, sessions.expiresAt, nowMs - sessionsKeptMs);
  await forget(db, auditLog, auditLog.at, nowMs - auditKeptMs);
}

async function forget(
  db: Database,
  table: PgTable,
  expiresAt: PgColumn,
  beforeMs: number,
): Promise<void> {
  const expired = db
    .select({ row: sql`ctid` })
    .from(table)
    .where(lt(expiresAt, new Date(beforeMs)))
    .limit(rowsAtOnce);
  await db.delete(table).where(sql`ctid IN (${expired})`);
}
