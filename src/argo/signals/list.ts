import { AppError } from "../../errors";
import type { Cursors } from "../../http/cursor";
import type { FarReader } from "./far";
import type { ListQuery } from "./schema";
import type { ReceivedSignal, Signal } from "./signal";
import type { Horizon } from "./views";
import { type Filter, type Key, newestFrom } from "./walk";

export type SignalListPage = {
  signals: ReceivedSignal[];
  next_cursor: string | null;
  has_more: boolean;
};

/** One page of the list. @throws AppError 400 for a bad cursor, 503 past the deadline. */
export async function listSignals(
  { cursor, limit, order, ...query }: ListQuery,
  horizon: Horizon,
  far: FarReader,
  cursors: Cursors,
): Promise<SignalListPage> {
  if (query.since !== undefined && query.until !== undefined && query.since >= query.until) {
    throw new AppError("bad_request", "The request is not valid: until.", {
      errors: [{ field: "until", detail: "must come after since" }],
    });
  }
  const { sight, name } = horizon;
  const filter = listFilter(query);
  const bound = JSON.stringify([order, filter, ...(name === "" ? [] : [name])]);
  const after = placeAfter(cursor, bound, cursors);
  const { top } = await horizon.bounds();
  const asked = { filter, sight, order, after, limit: limit + 1, skip: 0, received: true };
  return showPage(await far.rows(newestFrom(top, asked)), limit, bound, cursors);
}

/** The filter of a list's query. */
export function listFilter({
  min_confidence: minConfidence,
  ...rest
}: Omit<Filter, "minConfidence"> & { min_confidence?: number | undefined }): Filter {
  return { ...rest, minConfidence };
}

/**
 * Where a page begins.
 * @param bound what the cursor was made for: the list, its filter, and what the reader sees.
 * @throws AppError 400 for a cursor that was not made for it.
 */
export const placeAfter = (cursor: string | undefined, bound: string, cursors: Cursors) =>
  cursor === undefined ? null : keyOf(cursors.read(cursor, bound));

/** A page of `limit` signals, from its rows and one more where there is one. */
export function showPage(
  rows: Signal[],
  limit: number,
  bound: string,
  cursors: Cursors,
): SignalListPage {
  const placed = rows as (ReceivedSignal & Key)[];
  const last = placed.at(limit - 1);
  const more = rows.length > limit && last !== undefined;
  return {
    signals: placed.slice(0, limit).map(withoutPlace),
    next_cursor: more ? cursors.write(placeOf(last), bound) : null,
    has_more: more,
  };
}

function withoutPlace({ exact: _exact, ...signal }: ReceivedSignal & Key): ReceivedSignal {
  return signal;
}

type Place = [exact: string] | [timestamp: Key["timestamp"], id: number];

const placeOf = ({ timestamp, id, exact }: Key): Place => (exact ? [exact] : [timestamp, id]);

function keyOf(place: Place): Key {
  if (place.length === 2) return { timestamp: place[0], id: place[1] };
  const [exact] = place;
  return { timestamp: exact.startsWith("null:") ? null : "", id: 0, exact };
}
