import { auditLog } from "../../db/alpine/schema";
import type { Queries } from "./database";

/** Everything that is written down, by what it is about. */
export const auditEvents = [
  "signup",
  "login",
  "login_failed",
  "logout",
  "logout_all",
  "refresh_reused",
  "session_revoked",
  "password_changed",
  "password_reset_requested",
  "password_reset",
  "email_verified",
  "verification_sent",
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
  "tier_changed",
  "role_changed",
  "activation_changed",
  "limit_exceeded",
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
