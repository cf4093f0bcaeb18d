import type { View } from "../../http/entitlement";
import { type Mark, markAt, tallyFallen } from "./due";
import type { FarReader } from "./far";
import type { Stats } from "./schema";
import type { Sight } from "./sight";
import type { SignalReader, Tally } from "./store";
import type { Horizon, Views } from "./views";

const rowsPerStretch = 20_000;
/** Distinct values counted by name in each dimension; what comes after is counted as "(other)". */
const namesMax = 10_000;
const otherName = "(other)";

/** The counts for those who ask: a few names or 40,000, the server's thread hands bytes on. */
export class SignalStats {
  readonly #shared = new Map<string, Shared>();

  constructor(
    private readonly views: Views,
    private readonly far: FarReader,
  ) {}

  /** The counts as of now, as JSON. Calls share a counting that begins after them, or sees what they see. */
  current(view: View): Promise<string> {
    const horizon = this.views.current(view);
    const shared = this.#shared.get(horizon.name);
    if (!shared) return this.#run(horizon);
    if (shared.version === horizon.version) return shared.json;
    const again = () => this.current(view);
    return (shared.next ??= shared.json.then(again, again));
  }

  #run({ name, sight, version }: Horizon): Promise<string> {
    const shared: Shared = { version, json: this.far.stats(name, sight), next: null };
    this.#shared.set(name, shared);
    const done = () => {
      if (this.#shared.get(name) === shared) this.#shared.delete(name);
    };
    shared.json.then(done, done);
    return shared.json;
  }
}

/** A counting that runs, and the one that those wait for who came too late for it. */
type Shared = { version: number; json: Promise<string>; next: Promise<string> | null };

type Counted = { mark: Mark; sight: Sight; rows: number };

/**
 * Counts what one view sees by symbol, strategy, action and day. New rows, and those that fell
 * due, are added to what is known; anything else (an update, a delete, a row replaced) makes the
 * counting start anew. For a thread of its own, one call at a time.
 */
export class SignalCounts {
  #counts = empty();
  #counted: Counted | null = null;

  constructor(private readonly reader: SignalReader) {}

  /** The counts as of now, as JSON. Lets other calls in between its stretches. */
  async json(sight: Sight): Promise<string> {
    const { reader } = this;
    reader.look();
    const mark = markAt(reader, sight?.until ?? "");
    const rows = reader.layout?.unique ? reader.countRows() : 0;
    if (!this.#counted || !(await this.#extend(this.#counted, { mark, sight, rows }))) {
      this.#counted = null;
      this.#counts = empty();
      await this.#add(this.#counts, -Infinity, mark.maxId, sight);
    }
    this.#counted = { mark, sight, rows };
    return JSON.stringify(shown(this.#counts));
  }

  /** Adds what came to be seen; false when something else has happened. */
  async #extend(was: Counted, { mark, sight, rows }: Counted): Promise<boolean> {
    if (!this.reader.layout?.tracked || mark.edition !== was.mark.edition) return false;
    // A row that took the place of another by a unique index is one more without one row more.
    const inserted = mark.inserts - was.mark.inserts;
    if (this.reader.layout.unique && rows - was.rows !== inserted) return false;
    if (sight !== null && sight.until !== null) {
      const tally = tallyFallen(this.reader, was.mark, mark, sight);
      if (tally) addTally(this.#counts, tally);
      return tally !== null;
    }
    const counts = structuredClone(this.#counts);
    await this.#add(counts, was.mark.maxId, mark.maxId, sight);
    this.#counts = counts;
    return true;
  }

  async #add(counts: Counts, sinceId: number, untilId: number, sight: Sight): Promise<void> {
    for (let id: number | null = sinceId; id !== null && id < untilId;) {
      const { tally, nextId } = this.reader.tally(id, untilId, rowsPerStretch, sight);
      addTally(counts, tally);
      id = nextId;
      if (id !== null) await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

type Counts = {
  total: number;
  symbols: Map<string, number>;
  strategies: Map<string, number>;
  actions: Map<string, number>;
  days: Map<string, number>;
};

const empty = (): Counts => ({
  total: 0,
  symbols: new Map(),
  strategies: new Map(),
  actions: new Map(),
  days: new Map(),
});

function addTally(counts: Counts, tally: Tally): void {
  for (const { symbol, strategy, action, day, rows } of tally) {
    counts.total += rows;
    add(counts.symbols, symbol, rows);
    add(counts.strategies, strategy, rows);
    add(counts.actions, action, rows);
    add(counts.days, day, rows);
  }
}

function add(counts: Map<string, number>, name: string, rows: number): void {
  const key = counts.has(name) || counts.size < namesMax ? name : otherName;
  counts.set(key, (counts.get(key) ?? 0) + rows);
}

const shown = (counts: Counts): Stats => ({
  total: counts.total,
  by_symbol: inOrder(counts.symbols),
  by_strategy: inOrder(counts.strategies),
  by_action: inOrder(counts.actions),
  by_day: inOrder(counts.days),
});

const inOrder = (counts: Map<string, number>): Record<string, number> =>
  Object.fromEntries([...counts].toSorted(([a], [b]) => (a < b ? -1 : 1)));
