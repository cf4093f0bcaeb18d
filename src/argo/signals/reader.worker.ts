import { serveThread } from "../../platform/thread";
import { type EventFilter, type Form, passes, written } from "./event";
import type { ExportSlice, PremiumRows, ReplaySlice } from "./far";
import { PREMIUM_CONFIDENCE } from "./layout";
import type { Sight } from "./sight";
import { SignalCounts } from "./stats";
import { SignalReader } from "./store";
import type { Walk } from "./walk";

/** Views whose counts are kept, to be added to. */
const viewsCounted = 8;
type Replaying = [bounds: Parameters<SignalReader["slice"]>, filter: EventFilter, form: Form];
export type PremiumStep = PremiumRows & { more: boolean };

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
      const { rows, nextId, gapTo } = fresh().slice(...bounds);
      const lines = rows.map((row) => JSON.stringify(row)).join("\n");
      return { lines, ids: rows.map(({ id }) => id), nextId, gapTo };
    },
    replay: ([bounds, filter, form]: Replaying): ReplaySlice => {
      const { rows, nextId, gapTo } = fresh().slice(...bounds);
      const passed = rows.filter((row) => passes(row, filter));
      return { ...written(passed, form, nextId), gapTo };
    },
    lowestWithheld: (bounds: Parameters<SignalReader["lowestWithheld"]>) =>
      fresh().lowestWithheld(...bounds),
    premium: ([sinceId, limit, shownMax]: [number, number, number]): PremiumStep => {
      const { rows, nextId } = fresh().slice(sinceId, Number.MAX_SAFE_INTEGER, limit, null);
      const premium = rows.filter(({ confidence }) => (confidence ?? 0) >= PREMIUM_CONFIDENCE);
      return {
        count: premium.length,
        shown: premium.slice(0, shownMax),
        untilId: rows.at(-1)?.id ?? sinceId,
        more: nextId !== null,
      };
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
