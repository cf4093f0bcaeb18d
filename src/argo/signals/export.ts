import type { FarReader } from "./far";

const rowsPerSlice = 500;

/**
 * The rows after `sinceId` up to `headId` as NDJSON, ascending by id. One slice is read when the
 * client has taken the last: a slow client holds one slice in memory and no read transaction.
 */
export function exportSignals(
  far: FarReader,
  sinceId: number,
  headId: number,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let at = sinceId;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const lines = await far.slice(at, headId, rowsPerSlice);
        if (lines === "") return controller.close();
        controller.enqueue(encoder.encode(`${lines}\n`));
        const lastLine = lines.slice(lines.lastIndexOf("\n") + 1);
        at = (JSON.parse(lastLine) as { id: number }).id;
      },
    },
    { highWaterMark: 0 },
  );
}
