import { serveThread } from "../../platform/thread";
import { SignalCounts } from "./stats";
import { SignalReader } from "./store";
import type { Walk } from "./walk";

/** The reader of a second thread, for what may visit many rows. Opened at the first call. */
serveThread(({ path }: { path: string }) => {
  let reader: SignalReader | undefined;
  let counts: SignalCounts | undefined;
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
    seekHash: ([sha256, belowId, budget]: [string, number, number]) =>
      fresh().seekHash(sha256, belowId, budget),
    stats: () => (counts ??= new SignalCounts(open())).json(),
    datedAfter: ([text, limit]: [string, number]) => fresh().datedAfter(text, limit).length,
    damage: () => open().damage(),
    close: () => reader?.[Symbol.dispose](),
  };
});
