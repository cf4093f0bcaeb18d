import { dated, DEFAULT_STRATEGY } from "../signals/layout";
import { hashOfRow } from "../signals/ledger";
import { type Signal, tidy } from "../signals/signal";
import type { Origin } from "./origin";
import { type OriginRow, page, rowsOf } from "./rows";

/** How many rows were deleted, and the last one that was looked at; null at the end. */
export type Expired = { deleted: number; lastId: number | null };

export const nothingExpired: Expired = { deleted: 0, lastId: null };

const rowsPerRun = 200;

/**
 * Deletes those of the next rows after an id that arrived by a time, never the newest one; their
 * content stays known. Two nodes at once do the same as one.
 * @param before UTC, as `received_at` is written.
 */
export async function expireSome(origin: Origin, before: string, after: number): Promise<Expired> {
  const arrived = `coalesce((SELECT received_at FROM argo_received WHERE id = "signals".id), ${dated("timestamp")}, '')`;
  const next = `SELECT id FROM "signals" WHERE id > ? AND id < (SELECT max(id) FROM "signals") ORDER BY id LIMIT ?`;
  const [looked, found] = await origin.read([
    { sql: `SELECT max(id) AS id FROM (${next})`, args: [after, rowsPerRun] },
    page(`id IN (${next}) AND ${arrived} <= ? ORDER BY id`, [after, rowsPerRun, before]),
  ]);
  const old = rowsOf(found);
  if (old.length > 0) {
    await origin.write([
      {
        sql: `INSERT OR IGNORE INTO argo_forgotten (content, id, sha256) VALUES ${old.map(() => "(?,?,?)").join(",")}`,
        args: old.flatMap(buried),
      },
      {
        sql: "UPDATE argo_origin SET expired = max(expired, ?)",
        args: [Math.max(...old.map(({ id }) => id))],
      },
      {
        sql: 'DELETE FROM "signals" WHERE id IN (SELECT value FROM json_each(?))',
        args: [JSON.stringify(old.map(({ id }) => id))],
      },
    ]);
  }
  const lastId = looked?.rows[0]?.["id"] ?? null;
  return { deleted: old.length, lastId: lastId === null ? null : Number(lastId) };
}

function buried({ id, values }: OriginRow): (string | number | null | Uint8Array)[] {
  const [, symbol, action, entry, target, stop, confidence, strategy, timestamp, sha256] = values;
  const shown = {
    id,
    symbol,
    action,
    confidence,
    price: entry,
    entry_price: entry,
    stop_loss: stop,
    take_profit: target,
    target_price: target,
    timestamp,
    strategy: strategy ?? DEFAULT_STRATEGY,
    sha256: sha256 ?? "",
    supersedes: null,
  };
  const row = tidy(shown as Signal);
  const content = hashOfRow(row);
  return [Uint8Array.fromHex(content), id, row.sha256 === content ? null : row.sha256];
}
