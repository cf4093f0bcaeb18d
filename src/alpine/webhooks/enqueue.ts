import { type SQL, sql } from "drizzle-orm";
import { PREMIUM_CONFIDENCE } from "../../argo/signals/layout";
import type { ReceivedSignal } from "../../argo/signals/signal";
import { fullView, type View } from "../../http/entitlement";
import type { Queries } from "../database";
import type { Slice } from "./source";

/** Webhooks that one statement hands signals to: a step is some thousand rows at most. */
const webhooksAtOnce = 200;

/** What is true of webhooks whose owner sees this: by the plan as it is when the statement runs. */
const ofView = (view: View): SQL => sql`
  w.status = 'enabled' AND u.is_active AND (
    (u.role = 'admin' AND ${view === fullView}::boolean)
    OR (u.role <> 'admin' AND p.premium = ${view.premium}::boolean
      AND p.delay_seconds = ${view.delaySeconds}::int))`;
const owners = sql`JOIN users u ON u.id = w.user_id JOIN plans p ON p.tier = u.tier`;

/** What a webhook wants of the signals that its owner sees, as `passes` has it. */
const wanted = sql`
  (w.symbol IS NULL OR w.symbol = s.symbol)
  AND (w.strategy IS NULL OR w.strategy = s.strategy)
  AND (NOT w.premium_only OR s.confidence >= ${PREMIUM_CONFIDENCE})
  AND (coalesce(w.min_confidence, 0) <= 0 OR s.confidence >= w.min_confidence)`;

/** The lowest place before a position, of the webhooks of a view; null when all are there. */
export async function lowestPlace(
  db: Queries,
  view: View,
  position: number,
): Promise<number | null> {
  const { rows } = await db.execute<{ place: string }>(sql`
    SELECT w.place FROM webhooks w ${owners}
    WHERE ${ofView(view)} AND w.place < ${position}::bigint ORDER BY w.place LIMIT 1`);
  return rows[0] ? Number(rows[0].place) : null;
}

/**
 * Hands a slice to some webhooks of a view that stand at its beginning, and moves them to its end:
 * one statement, so killed anywhere each signal is handed over once. Who moves meanwhile is passed by.
 * @returns how many messages there are of it.
 */
export async function enqueue(
  db: Queries,
  view: View,
  sinceId: number,
  slice: Slice,
  nowMs: number,
): Promise<number> {
  const now = sql`${new Date(nowMs).toISOString()}::timestamptz`;
  const { rowCount } = await db.execute(sql`
    WITH w AS (
      SELECT w.* FROM webhooks w ${owners}
      WHERE ${ofView(view)} AND w.place = ${sinceId}::bigint
      ORDER BY w.id LIMIT ${webhooksAtOnce} FOR NO KEY UPDATE OF w
    ), moved AS (
      UPDATE webhooks SET place = ${slice.untilId}::bigint FROM w WHERE webhooks.id = w.id
    )
    INSERT INTO webhook_messages (id, webhook_id, type, signal_id, body, status, lane, attempts,
      next_attempt_at, created_at)
    SELECT ${idOf}, w.id, 'signal.created', s.id, s.body, 'waiting', 0, 0, ${now}, ${now}
    FROM w JOIN ${signalsOf(slice, nowMs)} ON ${wanted}
    ON CONFLICT DO NOTHING`);
  return rowCount ?? 0;
}

/**
 * Has one webhook be sent a slice, also what it was sent before. One that is being stopped is waited
 * for: it gives up what waits, and would not know of this. @returns how many signals.
 */
export async function enqueueAgain(
  db: Queries,
  webhookId: string,
  slice: Slice,
  nowMs: number,
): Promise<number> {
  if (slice.lines.length === 0) return 0;
  const now = sql`${new Date(nowMs).toISOString()}::timestamptz`;
  const { rowCount } = await db.execute(sql`
    INSERT INTO webhook_messages (id, webhook_id, type, signal_id, body, status, lane, attempts,
      next_attempt_at, created_at)
    SELECT ${idOf}, w.id, 'signal.created', s.id, s.body, 'waiting', 1, 0, ${now}, ${now}
    FROM webhooks w JOIN ${signalsOf(slice, nowMs)} ON ${wanted}
    WHERE w.id = ${webhookId}::uuid AND w.status = 'enabled'
    FOR SHARE OF w
    ON CONFLICT (webhook_id, signal_id) DO UPDATE
    SET status = 'waiting', lane = 1, attempts = 0, next_attempt_at = ${now}, ended_at = NULL`);
  return rowCount ?? 0;
}

/**
 * Brings webhooks back whose place is above all there is: the table of signals was made anew and
 * ids count from the beginning. What was sent of the table before keeps no id of the new one.
 */
export async function rewindPlaces(db: Queries, maxId: number): Promise<void> {
  await db.execute(sql`
    WITH w AS (
      UPDATE webhooks SET place = ${maxId}::bigint
      WHERE status = 'enabled' AND place > ${maxId}::bigint RETURNING id
    )
    UPDATE webhook_messages m SET signal_id = NULL
    FROM w WHERE m.webhook_id = w.id AND m.signal_id > ${maxId}::bigint`);
}

/** The highest place of all; null while no webhook is enabled. */
export async function highestPlace(db: Queries): Promise<number | null> {
  const { rows } = await db.execute<{ place: string }>(
    sql`SELECT place FROM webhooks WHERE status = 'enabled' ORDER BY place DESC LIMIT 1`,
  );
  return rows[0] ? Number(rows[0].place) : null;
}

/**
 * Ascends with the signals, so that a log is in their order where one moment made them. What is
 * random of it is made by the database, for each webhook.
 */
const idOf = sql`overlay(gen_random_uuid()::text PLACING s.head FROM 1 FOR 18)::uuid`;

/** A slice as rows `s`, each with the body that is signed and sent. */
function signalsOf({ lines }: Slice, nowMs: number): SQL {
  const timestamp = new Date(nowMs).toISOString();
  const signals = lines.map((line) => JSON.parse(line) as ReceivedSignal);
  const bodies = lines.map(
    (line) => `{"type":"signal.created","timestamp":"${timestamp}","data":${line}}`,
  );
  // The database takes no NUL, which an engine may have written; in JSON it is escaped.
  const texts = (name: "symbol" | "strategy") =>
    sql`${sql.param(signals.map((signal) => signal[name].replaceAll("\0", "\uFFFD")))}::text[]`;
  const ids = sql`${sql.param(signals.map(({ id }) => id))}::bigint[]`;
  const heads = sql`${sql.param(lines.map(() => Bun.randomUUIDv7("hex", nowMs).slice(0, 18)))}::text[]`;
  const confidences = sql`${sql.param(signals.map(({ confidence }) => confidence))}::float8[]`;
  return sql`unnest(${ids}, ${texts("symbol")}, ${texts("strategy")}, ${confidences},
    ${sql.param(bodies)}::text[], ${heads}) AS s (id, symbol, strategy, confidence, body, head)`;
}
