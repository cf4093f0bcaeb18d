import { sql } from "drizzle-orm";
import { type NotificationKind, notifications } from "../../../db/alpine/schema";
import type { Transaction } from "../database";

/** Where somebody wants to be told. */
export type Wanted = { inApp: boolean; email: boolean };

/** What holds for whoever has said nothing. */
export const usual: Record<NotificationKind, Wanted> = {
  premium_signal: { inApp: true, email: false },
  payment_failed: { inApp: true, email: true },
  key_expiring: { inApp: true, email: true },
  new_login: { inApp: true, email: true },
  webhook_disabled: { inApp: true, email: true },
};

export type News = {
  userId: string;
  kind: NotificationKind;
  /** Names the event: a user is told once of it, however often this is called. */
  reference: string;
  title: string;
  /** Lines end in `\n`, the last one does not. Shown to the user alone. */
  body: string;
  /** Keys as they are on the wire. */
  details: Record<string, unknown>;
  /** Not worth a mail, whatever the user wants of this kind. */
  quiet?: boolean;
};

/**
 * Tells a user of an event, in the transaction of the event itself and where they want to be told;
 * a mail is sent by whoever runs background tasks. @returns false when they know, or want nothing.
 */
export async function notify(tx: Transaction, nowMs: number, news: News): Promise<boolean> {
  const { userId, kind, reference, title, body, details, quiet = false } = news;
  const { inApp, email } = usual[kind];
  const now = sql`${new Date(nowMs).toISOString()}::timestamptz`;
  const { rowCount } = await tx.execute(sql`
    INSERT INTO ${notifications} (id, user_id, kind, reference, title, body, details, in_app,
      is_read, created_at, mail_due_at)
    SELECT ${Bun.randomUUIDv7("hex", nowMs)}::uuid, ${userId}::uuid, ${kind}, ${reference},
      ${title}, ${body}, ${JSON.stringify(details)}::jsonb, wanted.in_app, NOT wanted.in_app,
      ${now}, CASE WHEN wanted.email THEN ${now} END
    FROM (
      SELECT coalesce(p.in_app, ${inApp}::boolean) AS in_app,
        NOT ${quiet}::boolean AND coalesce(p.email, ${email}::boolean) AS email
      FROM (SELECT 1) AS one
      LEFT JOIN notification_preferences p ON p.user_id = ${userId}::uuid AND p.kind = ${kind}
    ) AS wanted
    WHERE wanted.in_app OR wanted.email
    ON CONFLICT DO NOTHING`);
  return rowCount === 1;
}

/** A time as people read it, in UTC. */
export function timeText(at: Date): string {
  const text = at.toISOString();
  return `${text.slice(0, 10)} at ${text.slice(11, 16)} UTC`;
}
