import { guarded, type SignalFile } from "./file";
import { seen, type Sight } from "./sight";
import { type Tally, tallySql } from "./store";
import { type Bindings, type Key, keySql, placeOf } from "./walk";

/* What falls due with time for those who see rows later than they arrive. */

/** How far somebody who sees rows later has seen: those inserted so far, and arrived by `until`. */
export type Mark = { edition: number; inserts: number; maxId: number; until: string };

/** Between which arrivals (UTC, empty where there is none) somebody sees the same rows. */
export type Span = { from: string; next: string };

/** The newest row in the order of lists, and the highest id; nothing that is seen is above. */
export type Bounds = { top: Key | null; headId: number };

/** Rows that are looked at one by one when they fall due; when more did, all is read anew. */
const fallenMax = 5_000;

/**
 * Ids of the rows that somebody came to see between two marks: those that fell due, and those that
 * were committed so late that they were due by then.
 */
const fallen = `
  SELECT id FROM argo_received WHERE received_at > $from AND received_at <= $until AND +id <= $maxId
  UNION ALL SELECT id FROM argo_received WHERE id > $sinceId AND id <= $maxId AND +received_at <= $from
  UNION ALL SELECT id FROM argo_dated WHERE arrived_at > $from AND arrived_at <= $until AND +id <= $maxId`;

/** How far somebody sees who sees what had arrived by then. */
export function markAt({ head, edition }: SignalFile, until: string): Mark {
  const { inserts, maxId } = head;
  return { edition, inserts, maxId, until };
}

/** The arrivals around a moment: the last one by then, and the next one after it. */
export function spanAround(file: SignalFile, until: string): Span {
  const arrival = (what: "max" | "min", is: string, none: string) =>
    `${what}(coalesce((SELECT ${what}(received_at) FROM argo_received WHERE received_at ${is} $until), '${none}'),
             coalesce((SELECT ${what}(arrived_at) FROM argo_dated WHERE arrived_at ${is} $until), '${none}'))`;
  const sql = `SELECT ${arrival("max", "<=", "")} AS "from", ${arrival("min", ">", "~")} AS next`;
  const { from, next } = guarded(() => file.first<Span>(sql, { until })) ?? {
    from: "",
    next: "",
  };
  return { from, next: next === "~" ? "" : next };
}

/** How many rows arrived after this moment, at most `most`. */
export function arrivedAfter(file: SignalFile, until: string, most: number): number {
  const { books, tracked } = file.mustLayout();
  if (!books || !tracked) return 0;
  const after = (table: string, at: string) => `SELECT 1 FROM ${table} WHERE ${at} > $until`;
  const both = `${after("argo_received", "received_at")} UNION ALL ${after("argo_dated", "arrived_at")}`;
  const sql = `SELECT count(*) AS n FROM (${both} LIMIT +$most)`;
  return guarded(() => file.first<{ n: number }>(sql, { until, most })?.n ?? 0);
}

/** True when a row may have come since that had arrived by then: committed late. */
export function isLate(file: SignalFile, mark: Mark, until: string): boolean {
  const { inserts, maxId, edition } = mark;
  if (edition !== file.edition || file.head.inserts - inserts > fallenMax) return true;
  if (file.head.inserts === inserts) return false;
  const sql = "SELECT 1 FROM argo_received WHERE id > $sinceId AND +received_at <= $until LIMIT 1";
  return guarded(() => file.first(sql, { sinceId: maxId, until }) !== null);
}

/** The bounds of what is seen, from those of before; null when they are to be found anew. */
export function raise(
  file: SignalFile,
  bounds: Bounds,
  since: Mark,
  mark: Mark,
  sight: Sight,
): Bounds | null {
  const layout = file.mustLayout();
  // What was on top may have given way without a trace.
  if (layout.unique && since.inserts !== mark.inserts) return null;
  return guarded(() => {
    const bindings = fallenBetween(file, since, mark);
    if (!bindings) return null;
    const { id, timestamp: ts } = layout;
    const shown = [...seen(layout, sight && { ...sight, until: null })];
    const among = (ids: string) => [`${id} IN (${ids})`, ...shown].join(" AND ");
    const head = file.first<{ id: number | null }>(
      `SELECT max(+${id}) AS id FROM "signals" WHERE ${among(fallen)}`,
      bindings,
    );
    if (head?.id == null) return bounds;
    // The row that was on top stands as it was, and is compared as SQLite compares.
    const was = bounds.top?.timestamp == null ? null : placeOf(bounds.top).id;
    const top = file.first<Key>(
      `${keySql(layout)} WHERE ${among(`${fallen} UNION ALL SELECT $was`)} AND ${ts} IS NOT NULL
       ORDER BY ${ts} DESC, ${id} DESC LIMIT 1`,
      { ...bindings, was },
    );
    return { top: top ?? bounds.top, headId: Math.max(bounds.headId, head.id) };
  });
}

/** Counts the rows that fell due between two marks; null when all are to be counted anew. */
export function tallyFallen(file: SignalFile, since: Mark, mark: Mark, sight: Sight): Tally | null {
  const layout = file.mustLayout();
  return guarded(() => {
    const bindings = fallenBetween(file, since, mark);
    if (!bindings) return null;
    const where = [
      `${layout.id} IN (${fallen})`,
      ...seen(layout, sight && { ...sight, until: null }),
    ];
    return file.all<Tally[number]>(tallySql(layout, where), bindings);
  });
}

/** The bindings of `fallen`; null when these are not comparable, or too many. */
function fallenBetween(file: SignalFile, since: Mark, mark: Mark): Bindings | null {
  if (since.edition !== mark.edition || mark.until < since.until) return null;
  if (mark.inserts - since.inserts > fallenMax) return null;
  const { until, maxId } = mark;
  const bindings = { from: since.until, sinceId: since.maxId, until, maxId };
  const sql = `SELECT count(*) AS n FROM (${fallen} LIMIT +$most)`;
  const found = file.first<{ n: number }>(sql, { ...bindings, most: fallenMax + 1 });
  return found && found.n <= fallenMax ? bindings : null;
}
