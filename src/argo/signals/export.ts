import type { FarReader } from "./far";
import type { Sight } from "./sight";

const rowsPerSlice = 500;

/**
 * The rows after `sinceId` up to `headId` as NDJSON, ascending by id. One slice is read when the
 * client has taken the last: a slow client holds one slice in memory and no read transaction.
 * @param deliver told the ids of each slice when it is sent.
 */
export function exportSignals(
  far: FarReader,
  { sinceId, headId, sight }: { sinceId: number; headId: number; sight: Sight },
  deliver: (ids: readonly number[]) => void,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let at: number | null = sinceId;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        // Where almost nothing is seen of many rows, slices are empty.
        while (at !== null) {
          const { lines, ids, nextId } = await far.slice(at, headId, rowsPerSlice, sight);
          at = nextId;
          if (ids.length === 0) continue;
          deliver(ids);
          return controller.enqueue(encoder.encode(`${lines}\n`));
        }
        controller.close();
      },
    },
    { highWaterMark: 0 },
  );
}
