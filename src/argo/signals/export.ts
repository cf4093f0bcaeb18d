import { AppError } from "../../errors";
import type { FarReader } from "./far";
import type { Sight } from "./sight";

/** Up to `gapTo` rows may be missing that were deleted for their age. */
type Asked = { sinceId: number; untilId: number; sight: Sight; gapTo: number };

/** What is called before each piece of an export is sent. */
export type Piecewise = {
  /** Rejects once the reader may not read on: the export breaks off. */
  still: () => Promise<void>;
  /** Told the ids of the piece. */
  deliver: (ids: readonly number[]) => void;
};

const rowsPerSlice = 500;

/**
 * The rows after `sinceId` up to `untilId` as NDJSON, ascending by id. One slice is read when the
 * client has taken the last: a slow client holds one slice in memory and no read transaction.
 * It breaks off where rows are deleted for their age before it came to them: who asks again is told.
 */
export function exportSignals(
  far: FarReader,
  { sinceId, untilId, sight, gapTo: toldTo }: Asked,
  { still, deliver }: Piecewise,
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
          await still();
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
