import type { Database } from "bun:sqlite";
import { delaySecondsMax } from "../../http/entitlement";
import { dated, inspect } from "../signals/layout";
import { Backwards, copied, copiedSql, type Identity } from "./origin";
import { markOf, type OriginRow, type Place } from "./rows";

const insertSql = `INSERT INTO "signals" (${copiedSql}) VALUES (${copied.map(() => "?").join(",")})`;

/** How far this file is a copy; null while it is a file of its own. */
export function placeOf(db: Database): Place | null {
  const row = db
    .query<Omit<Place, "whole"> & { whole: number }, []>(
      "SELECT origin, id, row_sha256 AS rowSha256, whole FROM argo_tail",
    )
    .get();
  return row && { ...row, whole: row.whole === 1 };
}

/** Makes an empty file the copy of this server's. Inside a transaction. @throws Backwards. */
export function join(db: Database, { name, secret }: Identity): void {
  if (placeOf(db) !== null) return;
  if (db.query('SELECT 1 FROM "signals" LIMIT 1').get()) throw strangers();
  db.query("INSERT INTO argo_tail (one, origin, id, row_sha256) VALUES (1, ?, 0, '')").run(name);
  // So that a list can be paged through whichever node answers.
  db.query("UPDATE argo_secret SET secret = ?").run(Uint8Array.fromHex(secret));
  // Nobody reads it before it is whole: then they are built, in half the time that they would take.
  for (const name of Object.values(inspect(db)?.indexes ?? {})) db.run(`DROP INDEX "${name}"`);
}

type Copied = { origin: string; expiredId: number; whole: boolean; nowMs: number };

/**
 * Adds the rows that follow, with when they arrived at the server. Inside a transaction, so that
 * the place is always that of the rows; what another process has added meanwhile is left out.
 * @param whole nothing more was there.
 * @throws Backwards when somebody else writes into this file.
 */
export function copyRows(
  db: Database,
  rows: readonly OriginRow[],
  { origin, expiredId, whole, nowMs }: Copied,
): number {
  const place = placeOf(db);
  if (place?.origin !== origin) throw strangers();
  const fresh = rows.filter(({ id }) => id > place.id);
  const last = fresh.at(-1);
  if (!last && (!whole || place.whole)) return 0;
  const highest = db.query<{ id: number | null }, []>('SELECT max(id) AS id FROM "signals"').get();
  if ((highest?.id ?? 0) > place.id) throw strangers();
  const insert = db.query(insertSql);
  const receive = db.query("UPDATE argo_received SET received_at = ? WHERE id = ?");
  const supersede = db.query("INSERT INTO argo_supersedes (id, supersedes) VALUES (?, ?)");
  for (const row of fresh) {
    insert.run(...row.values);
    if (row.receivedAt === null) keepUndated(db, row.id, nowMs);
    else receive.run(row.receivedAt, row.id);
    if (row.supersedes !== null) supersede.run(row.id, row.supersedes);
  }
  // What the server has deleted before it came here may be missed by whoever resumes from below.
  if (expiredId > place.id) {
    db.query("UPDATE argo_expired SET id = max(id, ?)").run(expiredId);
  }
  const { id, rowSha256 } = last ? { id: last.id, rowSha256: markOf(last) } : place;
  db.query("UPDATE argo_tail SET id = ?, row_sha256 = ?, whole = max(whole, ?)").run(
    id,
    rowSha256,
    whole ? 1 : 0,
  );
  return fresh.length;
}

/** A row that nobody saw arrive counts from its own timestamp, as in a file that is adopted. */
function keepUndated(db: Database, id: number, nowMs: number): void {
  const at = dated('"signals"."timestamp"');
  db.query("DELETE FROM argo_received WHERE id = ?").run(id);
  db.query(
    `INSERT INTO argo_dated (id, arrived_at) SELECT id, ${at} FROM "signals" WHERE id = $id AND ${at} > $old`,
  ).run({ id, old: new Date(nowMs - delaySecondsMax * 1_000).toISOString() });
}

const strangers = (): Backwards =>
  new Backwards("is not the one whose rows the signal file holds: somebody else writes into it");
