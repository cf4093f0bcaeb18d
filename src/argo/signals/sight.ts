import { dated, type Layout, PREMIUM_CONFIDENCE } from "./layout";

/**
 * What of the rows somebody sees: those that had arrived by `until` (UTC, as `received_at` is
 * written; null for all), and premium ones or not. Null sees every row.
 */
export type Sight = { premium: boolean; until: string | null } | null;

/**
 * SQL of what must be true of a row that is seen; `$seenUntil` is to be bound. A confidence that
 * is no number may be premium: the plus keeps SQLite from reading one out of a text.
 */
export function seen(layout: Layout, sight: Sight, table = '"signals"'): string[] {
  if (sight === null) return [];
  const conditions = sight.premium ? [] : [`+${table}."confidence" < ${PREMIUM_CONFIDENCE}`];
  if (sight.until !== null) conditions.push(`${arrivedAt(layout, table)} <= $seenUntil`);
  return conditions;
}

/**
 * SQL of when a row arrived. One without a `received_at` counts from its own timestamp, and as old
 * (empty) where that is no date.
 */
export function arrivedAt(layout: Layout, table = '"signals"'): string {
  // Unwatched, what is noted may be of other rows than these.
  const noted =
    layout.books && layout.tracked
      ? `(SELECT received_at FROM argo_received WHERE id = ${table}.${layout.id}), `
      : "";
  return `coalesce(${noted}${dated(layout.timestampIn(table))}, '')`;
}

/** Tells one text of `seen` from another. */
export const sightKind = (sight: Sight): string =>
  sight === null ? "" : `${sight.premium} ${sight.until !== null}`;
