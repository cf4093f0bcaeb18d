import { setTimeout as pause } from "node:timers/promises";
import { sql } from "drizzle-orm";
import { z } from "zod";
import type { Database } from "../database";
import type { Plans } from "../plans/registry";
import { first } from "../database";
import { usual } from "./notify";

/** One signal, or a number of them at once: what a job of a fan-out carries. */
export const SignalNews = z.object({
  reference: z.string(),
  title: z.string(),
  body: z.string(),
  details: z.record(z.string(), z.unknown()),
  /** From when on the delay of a plan counts, milliseconds since the epoch. */
  fromMs: z.number(),
});
export type SignalNews = z.infer<typeof SignalNews>;

type Options = {
  db: () => Database;
  plans: Plans;
  now: () => number;
  signal: AbortSignal;
  /** Accounts in one statement. */
  accountsAtOnce?: number;
};

/** A statement of so many takes well under 100 ms, which others wait for in the embedded one. */
const accountsAtOnceUsual = 2_000;
const restMsMax = 200;

/**
 * Tells every active account whose plan shows premium signals, and shows them by now. Killed
 * anywhere and done again, everybody is told once: whoever knows is passed by.
 * @returns when the next plan is due, milliseconds since the epoch; null when all are told.
 */
export async function fanOut(options: Options, news: SignalNews): Promise<number | null> {
  const { plans, now } = options;
  const nowMs = now();
  const due = plans.all
    .filter(({ premium }) => premium)
    .map(({ tier, delaySeconds }) => ({ tier, dueMs: news.fromMs + delaySeconds * 1000 }));
  const tiers = due.filter(({ dueMs }) => dueMs <= nowMs).map(({ tier }) => tier);
  if (tiers.length > 0) await tellAll(options, news, tiers, nowMs);
  const later = due.map(({ dueMs }) => dueMs).filter((dueMs) => dueMs > nowMs);
  return later.length === 0 ? null : Math.min(...later);
}

async function tellAll(
  { db, signal, accountsAtOnce = accountsAtOnceUsual }: Options,
  news: SignalNews,
  tiers: string[],
  nowMs: number,
): Promise<void> {
  for (let after: string | null = null; ;) {
    signal.throwIfAborted();
    const begunAt = performance.now();
    after = await tellSome(db(), news, { tiers, nowMs, after, accountsAtOnce });
    if (after === null) return;
    // The others get as much of the database as this.
    const restMs = Math.min(performance.now() - begunAt, restMsMax);
    await pause(restMs, undefined, { signal, ref: false });
  }
}

type Stretch = { tiers: string[]; nowMs: number; after: string | null; accountsAtOnce: number };

/** One short transaction. @returns the last account of the stretch; null when there is no further. */
async function tellSome(
  db: Database,
  { reference, title, body, details }: SignalNews,
  { tiers, nowMs, after, accountsAtOnce }: Stretch,
): Promise<string | null> {
  const { inApp, email } = usual.premium_signal;
  const now = sql`${new Date(nowMs).toISOString()}::timestamptz`;
  const { rows } = await db.execute<{ accounts: string; last: string | null }>(sql`
    WITH stretch AS (
      SELECT u.id, coalesce(wanted.in_app, ${inApp}::boolean) AS in_app,
        coalesce(wanted.email, ${email}::boolean) AS email
      FROM users u
      -- One by one, by their key: joined with, they might all be read each time.
      LEFT JOIN LATERAL (
        SELECT in_app, email FROM notification_preferences
        WHERE user_id = u.id AND kind = 'premium_signal' LIMIT 1
      ) AS wanted ON true
      WHERE u.is_active AND u.tier = ANY(${sql.param(tiers)}::text[])
        ${after === null ? sql`` : sql`AND u.id > ${after}::uuid`}
      ORDER BY u.id LIMIT ${accountsAtOnce} FOR KEY SHARE OF u
    ), made AS (
      INSERT INTO notifications (id, user_id, kind, reference, title, body, details, in_app,
        is_read, created_at, mail_due_at)
      SELECT gen_random_uuid(), id, 'premium_signal', ${reference}, ${title}, ${body},
        ${JSON.stringify(details)}::jsonb, in_app, NOT in_app, ${now}, CASE WHEN email THEN ${now} END
      FROM stretch WHERE in_app OR email
      ON CONFLICT DO NOTHING
    )
    SELECT count(*) AS accounts, (SELECT id FROM stretch ORDER BY id DESC LIMIT 1) AS last
    FROM stretch`);
  const { accounts, last } = first(rows) ?? { accounts: "0", last: null };
  return Number(accounts) < accountsAtOnce ? null : last;
}
