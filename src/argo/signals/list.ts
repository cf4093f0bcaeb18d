import { AppError } from "../../errors";
import type { Cursors } from "../../http/cursor";
import type { FarReader } from "./far";
import type { ListQuery } from "./schema";
import type { ReceivedSignal } from "./signal";
import type { SignalReader } from "./store";
import type { Key } from "./walk";

export type SignalListPage = {
  signals: ReceivedSignal[];
  next_cursor: string | null;
  has_more: boolean;
};

/** One page of the list. @throws AppError 400 for a bad cursor, 503 past the deadline. */
export async function listSignals(
  query: ListQuery,
  reader: SignalReader,
  far: FarReader,
  cursors: Cursors,
): Promise<SignalListPage> {
  const { cursor, limit, order, min_confidence: minConfidence, ...rest } = query;
  if (query.since !== undefined && query.until !== undefined && query.since >= query.until) {
    throw new AppError("bad_request", "The request is not valid: until.", {
      errors: [{ field: "until", detail: "must come after since" }],
    });
  }
  const filter = { ...rest, minConfidence };
  const bound = JSON.stringify([order, filter]);
  const after = cursor === undefined ? null : keyOf(cursors.read(cursor, bound));
  reader.refresh();
  const rows = (await far.rows({
    filter,
    order,
    after,
    limit: limit + 1,
    skip: 0,
    received: true,
  })) as (ReceivedSignal & Key)[];
  const last = rows.at(limit - 1);
  const more = rows.length > limit && last !== undefined;
  return {
    signals: rows.slice(0, limit).map(withoutPlace),
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
