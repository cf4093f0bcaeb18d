import { z } from "@hono/zod-openapi";
import { and, desc, eq, lt, type SQL, sql } from "drizzle-orm";
import { unionAll } from "drizzle-orm/pg-core";
import { auditLog } from "../../db/alpine/schema";
import type { Queries } from "./database";

/** Everything that is written down, by what it is about. */
export const auditEvents = [
  "signup",
  "signup_refused",
  "login",
  "login_failed",
  "logout",
  "logout_all",
  "refreshed",
  "refresh_reused",
  "session_revoked",
  "password_changed",
  "password_reset_requested",
  "password_reset",
  "email_verified",
  "verification_sent",
  "totp_begun",
  "totp_enabled",
  "totp_disabled",
  "recovery_code_used",
  "recovery_codes_renewed",
  "confirmation_failed",
  "profile_changed",
  "account_deleted",
  "data_exported",
  "key_created",
  "key_rotated",
  "key_revoked",
  "admin_created",
  "admin_refused",
  "plan_changed",
  "tier_granted",
  "tier_changed",
  "role_changed",
  "activation_changed",
  "limit_exceeded",
  "subscription_started",
  "subscription_changed",
  "subscription_cancelled",
  "subscription_resumed",
  "subscription_ended",
  "payment_recorded",
  "payment_failed",
  "payment_refunded",
  "webhook_created",
  "webhook_changed",
  "webhook_secret_rotated",
  "webhook_deleted",
  "webhook_stopped",
] as const;
export type AuditEvent = (typeof auditEvents)[number];

export type AuditEntry = {
  event: AuditEvent;
  /** Who did it; absent for somebody unknown. */
  actorId?: string | null;
  /** Whom it concerns; by default the actor. */
  subjectId?: string | null;
  /** Never a secret, and nothing that a user typed into a field for one. */
  details?: Record<string, unknown>;
};

/** Where a request came from, as the log of events names it. */
export type Origin = { address: string; requestId: string; userAgent: string | null };

/** Writes one event, in the transaction of what it tells where there is one. */
export async function audit(
  db: Queries,
  nowMs: number,
  origin: Origin | null,
  { event, actorId = null, subjectId = actorId, details = {} }: AuditEntry,
): Promise<void> {
  await db.insert(auditLog).values({
    at: new Date(nowMs),
    event,
    actorId,
    subjectId,
    address: origin?.address ?? null,
    requestId: origin?.requestId ?? null,
    details,
  });
}

type AuditRow = typeof auditLog.$inferSelect;

export const AuditRecord = z
  .object({
    id: z.int(),
    at: z.iso.datetime(),
    event: z.string(),
    actor_id: z.uuid().nullable().openapi({ description: "Who did it; null for the unknown." }),
    subject_id: z.uuid().nullable().openapi({ description: "Whom it concerns." }),
    address: z.string().nullable(),
    request_id: z.string().nullable(),
    details: z.record(z.string(), z.unknown()),
  })
  .openapi("AuditRecord");
export type AuditRecord = z.infer<typeof AuditRecord>;

/** An entry as administrators see it. */
export const recordOf = (row: AuditRow): AuditRecord => ({
  id: row.id,
  at: row.at.toISOString(),
  event: row.event,
  actor_id: row.actorId,
  subject_id: row.subjectId,
  address: row.address,
  request_id: row.requestId,
  details: row.details,
});

export type AuditFilter = {
  event?: AuditEvent | undefined;
  /** Who did it, or whom it concerns. */
  userId?: string | undefined;
  /** Whom it concerns. */
  subjectId?: string | undefined;
};

/** Entries before an id, newest first. */
export function auditEntries(
  db: Queries,
  { event, userId, subjectId }: AuditFilter,
  beforeId: number | null,
  limit: number,
): Promise<AuditRow[]> {
  const entries = (whose?: SQL) =>
    db
      .select()
      .from(auditLog)
      .where(
        and(
          whose,
          subjectId === undefined ? undefined : eq(auditLog.subjectId, subjectId),
          event === undefined ? undefined : eq(auditLog.event, event),
          beforeId === null ? undefined : lt(auditLog.id, beforeId),
        ),
      )
      .orderBy(desc(auditLog.id))
      .limit(limit);
  if (userId === undefined) return entries();
  // Each half ends by its own index: a condition with OR would be looked for in the whole log.
  return unionAll(
    entries(eq(auditLog.subjectId, userId)),
    entries(
      and(eq(auditLog.actorId, userId), sql`${auditLog.subjectId} IS DISTINCT FROM ${userId}`),
    ),
  )
    .orderBy(desc(auditLog.id))
    .limit(limit);
}
