import { AppError } from "../../errors";
import { Gate } from "../../platform/gate";
import { Thread } from "../../platform/thread";
import type { ReceivedSignal, Signal } from "./signal";
import type { PremiumStep } from "./reader.worker";
import type { Sight } from "./sight";
import type { EventFilter, Form } from "./event";
import type { Seek, SignalReader } from "./store";
import type { Page, Walk } from "./walk";

/** Rows that one read may visit on the server's own thread: well under a millisecond. */
const nearRowsMax = 500;
/** Rows that the other thread visits before it looks at its next call. */
const farRowsMax = 5_000;
const walksMax = 3;
const walksWaitingMax = 100;
/** Exports take turns slice by slice, so that they leave room for everybody else. */
const slicesMax = 4;
const slicesWaitingMax = 10_000;

/** Lines of NDJSON without the last line break, and the ids of their rows; see `Slice`. */
export type ExportSlice = { lines: string; ids: number[]; nextId: number | null; gapTo: number };
/** Signals as a stream carries them, one after the other, and their ids; see `Slice`. */
export type ReplaySlice = { text: string; ids: number[]; nextId: number | null; gapTo: number };
/** Premium signals of a stretch of the file, in the order of their ids; `shown` are the first. */
export type PremiumRows = { count: number; shown: ReceivedSignal[]; untilId: number };

type Options = {
  path: string;
  /** How long one read may take in all, milliseconds. */
  deadlineMs: number;
  onEvent: (event: string, data: unknown) => void;
};

/**
 * Reads that may be long: a little on the server's thread, the rest on another one, in steps, so
 * that many share it fairly and each can be given up at its deadline.
 */
export class FarReader implements AsyncDisposable {
  readonly #thread: Thread;
  readonly #walks = new Gate(walksMax, walksWaitingMax);
  readonly #slices = new Gate(slicesMax, slicesWaitingMax);
  readonly #joined = new Map<string, Promise<Signal[]>>();

  constructor(
    private readonly near: SignalReader,
    private readonly options: Options,
  ) {
    this.#thread = new Thread({
      module: "argo/signals/reader.worker",
      start: { path: options.path },
      pendingMax: 64,
      onEvent: options.onEvent,
    });
  }

  /**
   * Rows of a walk: at once where few rows are visited, else a promise.
   * @throws AppError 503 when the deadline passes first.
   */
  rows(walk: Omit<Walk, "budget">): Signal[] | Promise<Signal[]> {
    const near = walk.limit + walk.skip <= nearRowsMax && this.near.indexed(walk.filter);
    if (!near) return this.#rest(walk, []);
    const page = this.near.page({ ...walk, budget: nearRowsMax });
    if (page.resume === null) return page.rows;
    return this.#rest(
      {
        ...walk,
        after: page.resume,
        limit: walk.limit - page.rows.length,
        skip: walk.skip - page.skipped,
      },
      page.rows,
    );
  }

  /** One stretch of the export. */
  slice(...bounds: Parameters<SignalReader["slice"]>): Promise<ExportSlice> {
    return this.#slices.run(() => this.#thread.call<ExportSlice>("slice", bounds));
  }

  /** One stretch of what a stream has missed. */
  replay(
    bounds: Parameters<SignalReader["slice"]>,
    filter: EventFilter,
    form: Form,
  ): Promise<ReplaySlice> {
    return this.#slices.run(() => this.#thread.call<ReplaySlice>("replay", [bounds, filter, form]));
  }

  /** The lowest id of those that are withheld for now; null when none is. */
  lowestWithheld(until: string, aheadUntil: string): Promise<number | null> {
    return this.#thread.call("lowestWithheld", [until, aheadUntil]);
  }

  /**
   * All premium signals after an id, the first few of them wholly, and where the file ended then.
   * @throws AppError 503.
   */
  async premiumAfter(sinceId: number, shownMax: number): Promise<PremiumRows> {
    const found: PremiumRows = { count: 0, shown: [], untilId: sinceId };
    for (;;) {
      const step = await this.#slices.run(() =>
        this.#thread.call<PremiumStep>("premium", [found.untilId, farRowsMax, shownMax]),
      );
      found.count += step.count;
      found.shown = [...found.shown, ...step.shown].slice(0, shownMax);
      found.untilId = step.untilId;
      if (!step.more) return found;
    }
  }

  /**
   * The newest row that carries this hash: at once by the index, else a promise.
   * @throws AppError 503 when the deadline passes first.
   */
  byHash(sha256: string, sight: Sight): ReceivedSignal | null | Promise<ReceivedSignal | null> {
    if (this.near.hashIndexed) return this.near.byHash(sha256, sight);
    return this.#seek(sha256, Infinity, sight);
  }

  /**
   * The row of the highest id that is seen.
   * @throws AppError 503 when the deadline passes first.
   */
  highest(sight: Sight): ReceivedSignal | null | Promise<ReceivedSignal | null> {
    const { signal, belowId } = this.near.seek(null, Infinity, nearRowsMax, sight);
    return belowId === null ? signal : this.#seek(null, belowId, sight);
  }

  /** The counts of all rows that are seen as JSON, as of this call or newer. */
  stats(view: string, sight: Sight): Promise<string> {
    return this.#thread.call("stats", [view, sight]);
  }

  /** How many rows are dated after this text, at most `limit`. */
  datedAfter(text: string, limit: number): Promise<number> {
    return this.#thread.call("datedAfter", [text, limit]);
  }

  /** What SQLite's check finds; long on a large file. */
  damage(): Promise<string[]> {
    return this.#thread.call("damage", null);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#thread.end();
  }

  /** Equal walks over the same rows are one walk: a rare filter polled by many costs once. */
  #rest(walk: Omit<Walk, "budget">, found: Signal[]): Promise<Signal[]> {
    const key = JSON.stringify([this.near.epoch, walk]);
    const running = this.#joined.get(key);
    const rest = running ?? this.#walk(walk).finally(() => this.#joined.delete(key));
    if (!running) this.#joined.set(key, rest);
    return rest.then((rows) => (found.length === 0 ? rows : [...found, ...rows]));
  }

  /** A few at a time in the order in which they came: all at once, none would be done in time. */
  #walk(walk: Omit<Walk, "budget">): Promise<Signal[]> {
    const until = performance.now() + this.options.deadlineMs;
    return this.#walks.run(() => this.#steps(walk, until));
  }

  async #steps(walk: Omit<Walk, "budget">, until: number): Promise<Signal[]> {
    const rows: Signal[] = [];
    let { after, limit, skip } = walk;
    while (performance.now() < until) {
      const page: Page = await this.#thread.call("page", {
        ...walk,
        after,
        limit,
        skip,
        budget: Math.max(farRowsMax, limit + skip),
      });
      rows.push(...page.rows);
      if (page.resume === null) return rows;
      after = page.resume;
      limit -= page.rows.length;
      skip -= page.skipped;
    }
    throw this.#late(
      "too few of the signals match. Narrow the filter by symbol, strategy or since.",
    );
  }

  #seek(sha256: string | null, fromId: number, sight: Sight): Promise<ReceivedSignal | null> {
    const until = performance.now() + this.options.deadlineMs;
    return this.#walks.run(async () => {
      let belowId: number | null = fromId;
      while (performance.now() < until) {
        const found: Seek = await this.#thread.call("seek", [sha256, belowId, farRowsMax, sight]);
        belowId = found.belowId;
        if (belowId === null) return found.signal;
      }
      throw this.#late(
        sha256 === null
          ? "too many of the newest signals are withheld. Try again."
          : "the signal file has no index of its hashes. Let this server write it, so that it is adopted.",
      );
    });
  }

  #late(reason: string): AppError {
    const detail = `No answer within ${this.options.deadlineMs} ms: ${reason}`;
    return new AppError("unavailable", detail, { retryAfterSeconds: 5 });
  }
}
