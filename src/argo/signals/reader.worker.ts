import { serveThread } from "../../platform/thread";
import { SignalReader } from "./store";
import type { Walk } from "./walk";

/** The reader of a second thread, for what may visit many rows. Opened at the first call. */
serveThread(({ path }: { path: string }) => {
  let reader: SignalReader | undefined;
  const open = () => (reader ??= new SignalReader(path));
  const fresh = () => {
    open().refresh();
    return open();
  };
  return {
    page: (walk: Walk) => fresh().page(walk),
    slice: ([sinceId, untilId, limit]: [number, number, number]) =>
      open()
        .slice(sinceId, untilId, limit)
        .map((row) => JSON.stringify(row))
        .join("\n"),
    tally: ([sinceId, untilId, limit]: [number, number, number]) =>
      open().tally(sinceId, untilId, limit),
    countRows: () => open().countRows(),
    datedAfter: ([text, limit]: [string, number]) => fresh().datedAfter(text, limit).length,
    damage: () => open().damage(),
    close: () => reader?.[Symbol.dispose](),
  };
});
