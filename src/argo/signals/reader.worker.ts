import { serveThread } from "../../platform/thread";
import type { ExportSlice } from "./far";
import type { Sight } from "./sight";
import { SignalCounts } from "./stats";
import { SignalReader } from "./store";
import type { Walk } from "./walk";

/** Views whose counts are kept, to be added to. */
const viewsCounted = 8;

/** The reader of a second thread, for what may visit many rows. Opened at the first call. */
serveThread(({ path }: { path: string }) => {
  let reader: SignalReader | undefined;
  const counts = new Map<string, SignalCounts>();
  const open = () => (reader ??= new SignalReader(path));
  const fresh = () => {
    open().refresh();
    return open();
  };
  return {
    page: (walk: Walk) => fresh().page(walk),
    slice: (bounds: Parameters<SignalReader["slice"]>): ExportSlice => {
      const { rows, nextId } = fresh().slice(...bounds);
      const lines = rows.map((row) => JSON.stringify(row)).join("\n");
      return { lines, ids: rows.map(({ id }) => id), nextId };
    },
    seek: (bounds: Parameters<SignalReader["seek"]>) => fresh().seek(...bounds),
    stats: ([view, sight]: [string, Sight]) => {
      const known = counts.get(view);
      if (!known && counts.size >= viewsCounted) counts.clear();
      const counted = known ?? new SignalCounts(open());
      counts.set(view, counted);
      return counted.json(sight);
    },
    datedAfter: ([text, limit]: [string, number]) => fresh().datedAfter(text, limit).length,
    damage: () => open().damage(),
    close: () => reader?.[Symbol.dispose](),
  };
});
