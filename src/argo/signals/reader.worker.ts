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
const replayRowsMin = 16;
const replayRowsMax = 500;
type Replaying = [bounds: Parameters<SignalReader["slice"]>, filter: EventFilter, form: Form];
export type PremiumStep = PremiumRows & { more: boolean };

/** The reader of a second thread, for what may visit many rows. Opened at the first call. */
serveThread(({ path }: { path: string }) => {
  let reader: SignalReader | undefined;
  const counts = new Map<string, SignalCounts>();
  /** Fewer while rows are long: those that have no room are read again by the next replay. */
  let replayRows = replayRowsMax;
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
    replay: ([[sinceId, untilId, limit, sight], filter, form]: Replaying): ReplaySlice => {
      const rowsMax = Math.min(limit, replayRows);
      const { rows, nextId, gapTo } = fresh().slice(sinceId, untilId, rowsMax, sight);
      const passed = rows.filter((row) => passes(row, filter));
      const told = written(passed, form, nextId);
      const isWhole = told.nextId === nextId;
      replayRows = isWhole
        ? Math.min(replayRowsMax, replayRows * 2)
        : Math.max(replayRowsMin, told.ids.length);
      return { ...told, gapTo };
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
