import { z } from "@hono/zod-openapi";
import { type SQL, sql } from "drizzle-orm";
import type { PgColumn } from "drizzle-orm/pg-core";
import type { Cursors } from "../http/cursor";
import { whole } from "../http/fields";

const rowsUnasked = 20;
/** Of what is sent page by page. */
const rowsAtOnce = 500;

/** What every list takes. */
export const pageQuery = (pageSizeMax: number) => ({
  cursor: z.string().min(1).max(512).optional(),
  limit: whole(1, pageSizeMax).default(Math.min(rowsUnasked, pageSizeMax)),
});
export type PageQuery = { cursor?: string | undefined; limit: number };

/** What every list says of what comes after it. */
export const pageShape = { next_cursor: z.string().nullable(), has_more: z.boolean() };

export type Page<Row> = { rows: Row[]; next_cursor: string | null; has_more: boolean };

/**
 * A page of a list. `bound` says which list this is, whose, and how it is filtered: its cursors
 * are good for nothing else. @throws AppError 400 for another cursor.
 */
export async function readPage<Row, Place>(
  cursors: Cursors,
  bound: readonly unknown[],
  { cursor, limit }: PageQuery,
  read: (after: Place | null, limit: number) => Promise<Row[]>,
  placeOf: (row: Row) => Place,
): Promise<Page<Row>> {
  const after = pageStart<Place>(cursors, bound, cursor);
  const rows = await read(after, limit + 1);
  const last = rows.at(limit - 1);
  const more = rows.length > limit && last !== undefined;
  return {
    rows: rows.slice(0, limit),
    next_cursor: more ? cursors.write(placeOf(last), JSON.stringify(bound)) : null,
    has_more: more,
  };
}

/** Where a list goes on; null is its beginning. @throws AppError 400 for another cursor. */
export const pageStart = <Place>(
  cursors: Cursors,
  bound: readonly unknown[],
  cursor: string | undefined,
): Place | null =>
  cursor === undefined ? null : cursors.read<Place>(cursor, JSON.stringify(bound));

/** Every row of a list after a place as answers show it, page after page. */
export async function* allRows<Row, Place, Shown>(
  read: (after: Place | null, limit: number) => Promise<Row[]>,
  placeOf: (row: Row) => Place,
  show: (row: Row) => Shown,
  begin: Place | null = null,
): AsyncGenerator<Shown[]> {
  for (let after = begin; ;) {
    const rows: Row[] = await read(after, rowsAtOnce);
    const last = rows.at(-1);
    if (last === undefined) return;
    yield rows.map(show);
    after = placeOf(last);
  }
}

/** A place in a list that is sorted by the time of creation, newest first. */
export type TimePlace = [createdAt: string, id: string];

export const timePlaceOf = ({ createdAt, id }: { createdAt: Date; id: string }): TimePlace => [
  createdAt.toISOString(),
  id,
];

/** What comes after a place, by row comparison. */
export const olderThan = (
  createdAt: PgColumn,
  id: PgColumn,
  after: TimePlace | null,
): SQL | undefined =>
  after === null
    ? undefined
    : sql`(${createdAt}, ${id}) < (${after[0]}::timestamptz, ${after[1]}::uuid)`;
