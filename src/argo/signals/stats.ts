import type { FarReader } from "./far";
import type { Stats } from "./schema";
import type { Head, SignalReader, Tally } from "./store";

const rowsPerStretch = 20_000;
/** Distinct values counted by name in each dimension; what comes after is counted as "(other)". */
const namesMax = 10_000;
const otherName = "(other)";

type Counted = Pick<Head, "inserts" | "updates" | "deletes" | "maxId">;

/** The counts for those who ask: a few names or 40,000, the server's thread hands bytes on. */
export class SignalStats {
  #running: { epoch: number; json: Promise<string> } | null = null;
  #next: Promise<string> | null = null;

  constructor(
    private readonly reader: SignalReader,
    private readonly far: FarReader,
  ) {}

  /** The counts as of now, as JSON. Calls share a counting that begins after them, or sees what they see. */
  current(): Promise<string> {
    this.reader.refresh();
    const { epoch } = this.reader;
    if (!this.#running) return this.#run(epoch);
    if (this.#running.epoch === epoch) return this.#running.json;
    const again = () => {
      this.#next = null;
      return this.#run(this.reader.epoch);
    };
    return (this.#next ??= this.#running.json.then(again, again));
  }

  #run(epoch: number): Promise<string> {
    const running = { epoch, json: this.far.stats() };
    this.#running = running;
    const done = () => {
      if (this.#running === running) this.#running = null;
    };
    running.json.then(done, done);
    return running.json;
  }
}

/**
 * Counts by symbol, strategy, action and day. New rows are added to what is known; anything but
 * new rows (an update, a delete, a row replaced) is found by the change counters and makes the
 * counting start anew. For a thread of its own, one call at a time.
 */
export class SignalCounts {
  #counts = empty();
  #counted: Counted | null = null;

  constructor(private readonly reader: SignalReader) {}

  /** The counts as of now, as JSON. Lets other calls in between its stretches. */
  async json(): Promise<string> {
    const head = this.reader.look();
    if (!this.#counted || !(await this.#extend(this.#counted, head))) {
      this.#counted = null;
      this.#counts = empty();
      await this.#add(this.#counts, Number.MIN_SAFE_INTEGER, head.maxId);
      this.#counted = head;
    }
    return JSON.stringify(shown(this.#counts));
  }

  /** Adds the rows since `was`; false when something else than new rows has happened. */
  async #extend(was: Counted, head: Counted): Promise<boolean> {
    if (!this.reader.layout?.tracked) return false;
    if (head.updates !== was.updates || head.deletes !== was.deletes) return false;
    if (head.inserts === was.inserts) return head.maxId === was.maxId;
    const counts = structuredClone(this.#counts);
    const added = await this.#add(counts, was.maxId, head.maxId);
    // A row that took the place of an older one by its id or by a unique index counts as one
    // insert without one row more.
    if (added !== head.inserts - was.inserts) return false;
    if (this.reader.layout.unique && this.reader.countRows() !== counts.total) return false;
    this.#counts = counts;
    this.#counted = head;
    return true;
  }

  async #add(counts: Counts, sinceId: number, untilId: number): Promise<number> {
    let added = 0;
    for (let id = sinceId; id < untilId;) {
      const tally = this.reader.tally(id, untilId, rowsPerStretch);
      addTally(counts, tally);
      added += tally.rows;
      id = tally.lastId;
      if (id < untilId) await new Promise((resolve) => setImmediate(resolve));
    }
    return added;
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
  counts.total += tally.rows;
  for (const { symbol, strategy, action, day, rows } of tally.groups) {
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
