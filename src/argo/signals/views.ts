import { fullView, type View } from "../../http/entitlement";
import { type Bounds, isLate, type Mark, markAt, raise, spanAround } from "./due";
import type { FarReader } from "./far";
import { onceThere } from "./whenever";
import type { Sight } from "./sight";
import type { SignalReader } from "./store";
import { type Key, untimedFrom } from "./walk";

/** Views that are followed at once; there are as many as plans that differ. */
const viewsMax = 16;
/** Where nothing tells what falls due next, it is looked at this often. */
const unwatchedMs = 50;

/** What each view sees of the signal file at the moment. */
export class Views {
  readonly #horizons = new Map<View, Horizon>();

  constructor(
    private readonly reader: SignalReader,
    private readonly far: FarReader,
    private readonly now: () => number,
  ) {}

  /** The horizon of this view, to be looked at. */
  horizon(view: View): Horizon {
    const held = this.#horizons.get(view);
    if (held) return held;
    if (this.#horizons.size >= viewsMax) this.#horizons.clear();
    const made = new Horizon(view, this.reader, this.far, this.now);
    this.#horizons.set(view, made);
    return made;
  }

  /** The same, as of now: the file is looked at first. @throws AppError 503. */
  current(view: View): Horizon {
    this.reader.look();
    const horizon = this.horizon(view);
    horizon.look();
    return horizon;
  }
}

/**
 * How far one view sees. What it sees is the same until the file changes in more than rows that
 * are withheld from it, or the next of these falls due; both are found by an index.
 */
export class Horizon {
  /** Moves whenever the rows that are seen may have changed. */
  version = 0;
  sight: Sight;
  /** Tells this view from others in cursors and between threads; empty for the one that sees all. */
  readonly name: string;
  readonly #premium: boolean;
  readonly #delayMs: number;
  /** Between which times by the clock, less the delay, the rows that are seen are the same. */
  #fromMs = Infinity;
  #toMs = -Infinity;
  #epoch = -1;
  #mark: Mark | null = null;
  #from = "";
  #bounds: (Bounds & { version: number; mark: Mark | null }) | null = null;
  #finding: { version: number; bounds: Promise<Bounds> } | null = null;

  constructor(
    view: View,
    private readonly reader: SignalReader,
    private readonly far: FarReader,
    private readonly now: () => number,
  ) {
    const { premium, delaySeconds } = view;
    this.#premium = premium;
    this.#delayMs = delaySeconds * 1_000;
    this.name = view === fullView ? "" : `${premium} ${delaySeconds}`;
    this.sight = view === fullView ? null : { premium, until: null };
  }

  /** To be called after the file was looked at. Two comparisons as long as nothing moves. */
  look(): void {
    const { reader } = this;
    if (this.#delayMs === 0) {
      this.version = reader.epoch;
      return;
    }
    const dueMs = this.now() - this.#delayMs;
    if (reader.epoch === this.#epoch && this.#fromMs <= dueMs && dueMs < this.#toMs) return;
    if (reader.layout?.tracked) this.#lookWatched(dueMs);
    else this.#lookUnwatched(dueMs);
    this.#epoch = reader.epoch;
  }

  /** What nothing that is seen is above. A promise where many withheld rows are passed. */
  bounds(): Bounds | Promise<Bounds> {
    const { version, sight } = this;
    if (sight === null) return { top: null, headId: this.reader.head.maxId };
    const was = this.#bounds;
    if (was?.version === version) return was;
    if (this.#finding?.version === version) return this.#finding.bounds;
    const mark = this.#mark;
    const raised = was?.mark && mark && raise(this.reader, was, was.mark, mark, sight);
    if (raised) {
      this.#bounds = { ...raised, version, mark };
      return raised;
    }
    const found = onceThere(this.#find(sight), (bounds) => {
      if (this.version === version) this.#bounds = { ...bounds, version, mark };
      return bounds;
    });
    if (found instanceof Promise) {
      const finding = { version, bounds: found };
      this.#finding = finding;
      const done = () => {
        if (this.#finding === finding) this.#finding = null;
      };
      found.then(done, done);
    }
    return found;
  }

  #lookWatched(dueMs: number): void {
    const { reader } = this;
    const until = new Date(dueMs).toISOString();
    const { from, next } = spanAround(reader, until);
    const mark = markAt(reader, until);
    const was = this.#mark;
    const same =
      was !== null &&
      was.edition === mark.edition &&
      this.#from === from &&
      !isLate(reader, was, from) &&
      // Of two rows that a unique index keeps apart one may have gone without a trace.
      !(reader.layout?.unique && was.inserts !== mark.inserts);
    // By a clock that was set back less is due of what may yet be committed late.
    const by = same && was.until < until ? was.until : until;
    this.#mark = { ...mark, until: by };
    this.sight = { premium: this.#premium, until: by };
    if (!same) this.version += 1;
    this.#from = from;
    this.#fromMs = from === "" ? -Infinity : Date.parse(from);
    this.#toMs = next === "" ? Infinity : Date.parse(next);
  }

  #lookUnwatched(dueMs: number): void {
    this.#fromMs = Math.floor(dueMs / unwatchedMs) * unwatchedMs;
    this.#toMs = this.#fromMs + unwatchedMs;
    this.#mark = null;
    this.sight = { premium: this.#premium, until: new Date(this.#fromMs).toISOString() };
    this.version += 1;
  }

  #find(sight: NonNullable<Sight>): Bounds | Promise<Bounds> {
    return onceThere(this.far.highest(sight), (highest) => {
      const headId = highest?.id ?? 0;
      if (sight.until === null) return { top: null, headId };
      const rows = this.far.rows({
        filter: {},
        sight,
        order: "desc",
        after: null,
        limit: 1,
        skip: 0,
        received: true,
      });
      return onceThere(rows, ([row]) => ({
        top: (row as Key | undefined) ?? untimedFrom(true),
        headId,
      }));
    });
  }
}
