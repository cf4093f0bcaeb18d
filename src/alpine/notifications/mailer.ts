import { sql } from "drizzle-orm";
import type { Config } from "../../config";
import type { Mail, Outbox } from "../../platform/mail";
import { baseUrl } from "../auth/mails";
import type { Database } from "../database";

type Options = {
  config: Config;
  db: () => Database;
  outbox: Outbox;
  now: () => number;
};

/** At once, and each within 20 s: before a process that claimed them may be thought dead. */
const mailsAtOnce = 4;

type Due = {
  id: string;
  title: string;
  body: string;
  email: string;
  /** News of a day ago goes by mail no more, and none goes to who may not be the user. */
  wanted: boolean;
};

/**
 * Sends a few of the mails that notifications are waiting for. A mail is claimed before it is sent
 * and crossed off after: one that fails is tried again, each time after twice as long; one whose
 * process is killed between the two is sent once more, and none is lost.
 * @returns how many were looked at: more wait when that is as many as at once.
 */
export async function sendDue(options: Options): Promise<{ more: boolean }> {
  const { db, now } = options;
  const due = await claim(db(), now());
  await Promise.all(due.map((each) => sendOne(options, each)));
  return { more: due.length === mailsAtOnce };
}

async function sendOne({ config, db, outbox }: Options, due: Due): Promise<void> {
  const outcome = due.wanted ? await outbox.deliver(mailOf(config, due)) : "refused";
  if (outcome === "failed") return;
  await db().execute(sql`UPDATE notifications SET mail_due_at = NULL WHERE id = ${due.id}::uuid`);
}

async function claim(db: Database, nowMs: number): Promise<Due[]> {
  const now = sql`${new Date(nowMs).toISOString()}::timestamptz`;
  const { rows } = await db.execute<Due>(sql`
    WITH due AS (
      SELECT id FROM notifications WHERE mail_due_at <= ${now}
      ORDER BY mail_due_at LIMIT ${mailsAtOnce} FOR UPDATE SKIP LOCKED
    )
    UPDATE notifications n
    SET mail_due_at = ${now} + greatest(interval '1 minute', ${now} - n.created_at)
    FROM due, users u
    WHERE n.id = due.id AND u.id = n.user_id
    RETURNING n.id, n.title, n.body, u.email,
      u.is_active AND u.is_verified AND n.created_at > ${now} - interval '1 day' AS wanted`);
  return rows;
}

function mailOf(config: Config, { title, body, email }: Due): Mail {
  const text = `${body}

You are told this at ${baseUrl(config)}, and choose there what you are told by mail:

PUT ${baseUrl(config)}/api/notifications/preferences
`;
  return { to: email, subject: title, text };
}
