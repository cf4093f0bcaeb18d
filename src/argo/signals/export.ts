import { AppError } from "../../errors";
import type { FarReader } from "./far";
import type { Sight } from "./sight";

/** Up to `gapTo` rows may be missing that were deleted for their age. */
type Asked = { sinceId: number; untilId: number; sight: Sight; gapTo: number };

const rowsPerSlice = 500;

/**
 * The rows after `sinceId` up to `untilId` as NDJSON, ascending by id. One slice is read when the
 * client has taken the last: a slow client holds one slice in memory and no read transaction.
 * It breaks off where rows are deleted for their age before it came to them: who asks again is told.
 * @param deliver told the ids of each slice when it is sent.
 */
export function exportSignals(
  far: FarReader,
  { sinceId, untilId, sight, gapTo: toldTo }: Asked,
  deliver: (ids: readonly number[]) => void,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let at: number | null = sinceId;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        // Where almost nothing is seen of many rows, slices are empty.
        while (at !== null) {
          const { lines, ids, nextId, gapTo } = await far.slice(at, untilId, rowsPerSlice, sight);
          if (gapTo > Math.max(at, toldTo)) {
            throw new AppError("unavailable", `Signals up to ${gapTo} were deleted meanwhile.`);
          }
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
