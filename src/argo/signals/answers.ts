import type { View } from "../../http/entitlement";
import { asciiJson } from "../../http/respond";
import type { FarReader } from "./far";
import { onceThere } from "./whenever";
import type { Signal } from "./signal";
import type { Bounds } from "./due";
import type { SignalReader } from "./store";
import { AnswerHeaders, Variant } from "./variant";
import type { Horizon, Views } from "./views";
import { newestFrom, type Walk } from "./walk";

/** What a query asks for, once it was understood. */
export type Question = {
  /** The same for all spellings; null for what is hardly ever asked again. */
  key: string | null;
  walk: Pick<Walk, "after" | "filter" | "limit" | "received" | "skip">;
  /** What is answered with the rows of that walk, and which of them it shows. */
  show: (rows: Signal[]) => { body: unknown; shown: readonly Signal[] };
};

/** `held` entries count against the bound on bytes. */
type Entry = { version: number; plain: Variant; gzip: Variant | null; held: boolean };

/** A question with its answer: all its spellings share it. */
type Plan = {
  question: Question;
  entry: Entry | null;
  /** An answer that another thread is reading for; polls of its version share it. */
  making: { version: number; entry: Promise<Entry> } | null;
};

/** The answers to those who see the same. Nobody's questions push out those of others. */
type Shelf = {
  horizon: Horizon;
  /** The turn in which the horizon was last looked at. */
  turn: number;
  version: number;
  spellings: Map<string, Plan>;
  plans: Map<string, Plan>;
  bytes: number;
};

type Options = {
  /** Understands a query string. @throws AppError 400 that names the field. */
  understand: (search: string, horizon: Horizon) => Question;
  /** False makes every poll read the file; answers stay the same. */
  cache: boolean;
  /** Of each view. */
  entriesMax: number;
  bytesMax: number;
  /** Headers that every full answer carries beside its own. */
  headers: Readonly<Record<string, string>>;
};

const gzipBytesMin = 1_024;
/** What an entry costs beside its bytes: headers, mostly. */
const overheadBytes = 4_096;
/** A longer query is understood anew each time instead of being kept. */
const spellingMax = 512;
/** Views whose answers are held at once. */
const shelvesMax = 16;

type Waiting<T, C> = {
  search: string;
  gzip: boolean;
  view: View;
  context: C;
  use: (variant: Variant, context: C) => T;
  fail: (error: unknown, context: C) => T | Promise<T>;
  resolve: (value: T | Promise<T>) => void;
};

/**
 * The answers to polls, as bytes. An answer is valid exactly as long as what its view sees stands,
 * so a poll that begins after anybody's commit has returned shows that commit. The file is looked
 * at once for all polls of a turn of the event loop, after the last of them has arrived: a look
 * before would miss what is committed while further connections are still being accepted.
 */
export class Answers {
  readonly #headers: AnswerHeaders;
  readonly #shelves = new Map<View, Shelf>();
  #turn = 0;
  #waiting: Waiting<unknown, unknown>[] = [];
  reused = 0;
  made = 0;

  constructor(
    private readonly reader: SignalReader,
    private readonly far: FarReader,
    private readonly views: Views,
    private readonly options: Options,
  ) {
    this.#headers = new AnswerHeaders(options.headers);
  }

  /** Bytes held at the moment. */
  get bytes(): number {
    return this.#sum((shelf) => shelf.bytes);
  }

  get entries(): number {
    return this.#sum((shelf) => shelf.plans.size);
  }

  /**
   * Answers a query string such as `?limit=10`, once the file has been looked at after this call.
   * @param context handed on to the two functions, which are the same for all calls.
   * @param use makes the result of an answer; called at once after the look where that can be.
   * @param fail makes the result of an error: AppError 400 that names the field, or 503.
   */
  answer<T, C>(
    search: string,
    gzip: boolean,
    view: View,
    context: C,
    use: (variant: Variant, context: C) => T,
    fail: (error: unknown, context: C) => T | Promise<T>,
  ): Promise<T> {
    return new Promise<T>((resolve) => {
      const waiting: Waiting<T, C> = { search, gzip, view, context, use, fail, resolve };
      if (this.#waiting.push(waiting as Waiting<unknown, unknown>) === 1) {
        setImmediate(this.#answerAll);
      }
    });
  }

  readonly #answerAll = (): void => {
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#turn += 1;
    try {
      this.reader.refresh();
    } catch (error) {
      for (const { context, fail, resolve } of waiting) resolve(fail(error, context));
      return;
    }
    for (const one of waiting) this.#settle(one);
  };

  #settle({ search, gzip, view, context, use, fail, resolve }: Waiting<unknown, unknown>): void {
    try {
      const variant = this.#answer(search, gzip, view);
      if (variant instanceof Promise) {
        resolve(
          variant.then(
            (made) => use(made, context),
            (error: unknown) => fail(error, context),
          ),
        );
      } else resolve(use(variant, context));
    } catch (error) {
      resolve(fail(error, context));
    }
  }

  #answer(search: string, gzip: boolean, view: View): Variant | Promise<Variant> {
    const shelf = this.#shelves.get(view) ?? this.#shelve(view);
    if (shelf.turn !== this.#turn) this.#look(shelf);
    const plan = shelf.spellings.get(search) ?? this.#understand(shelf, search);
    const entry = this.#entry(shelf, plan);
    return entry instanceof Promise
      ? entry.then((made) => this.#variant(shelf, made, gzip))
      : this.#variant(shelf, entry, gzip);
  }

  #shelve(view: View): Shelf {
    if (this.#shelves.size >= shelvesMax) this.#shelves.clear();
    const shelf: Shelf = {
      horizon: this.views.horizon(view),
      turn: -1,
      version: -1,
      spellings: new Map(),
      plans: new Map(),
      bytes: 0,
    };
    this.#shelves.set(view, shelf);
    return shelf;
  }

  #look(shelf: Shelf): void {
    const { horizon } = shelf;
    horizon.look();
    shelf.turn = this.#turn;
    if (shelf.version === horizon.version) return;
    shelf.version = horizon.version;
    drop(shelf);
  }

  #entry(shelf: Shelf, plan: Plan): Entry | Promise<Entry> {
    const { entry, making } = plan;
    if (this.options.cache) {
      if (entry !== null && entry.version === shelf.version) {
        this.reused += 1;
        return entry;
      }
      if (making !== null && making.version === shelf.version) {
        this.reused += 1;
        return making.entry;
      }
    }
    return this.#make(shelf, plan);
  }

  #understand(shelf: Shelf, search: string): Plan {
    const { entriesMax, understand } = this.options;
    const question = understand(search, shelf.horizon);
    const { key } = question;
    if (key === null) return { question, entry: null, making: null };
    const { spellings, plans } = shelf;
    if (spellings.size >= entriesMax || plans.size >= entriesMax) forget(shelf);
    const plan = plans.get(key) ?? { question, entry: null, making: null };
    plans.set(key, plan);
    if (search.length <= spellingMax) spellings.set(search, plan);
    return plan;
  }

  #make(shelf: Shelf, plan: Plan): Entry | Promise<Entry> {
    this.made += 1;
    const { version, horizon } = shelf;
    const { sight } = horizon;
    const entry = onceThere(horizon.bounds(), (bounds) => {
      const walk = newestFrom(bounds.top, { ...plan.question.walk, order: "desc", sight });
      return onceThere(this.far.rows(walk), (rows) =>
        this.#fill(shelf, plan, version, bounds, rows),
      );
    });
    if (!(entry instanceof Promise)) return entry;
    const making = { version, entry };
    plan.making = making;
    const done = () => {
      if (plan.making === making) plan.making = null;
    };
    entry.then(done, done);
    return entry;
  }

  #fill(shelf: Shelf, plan: Plan, version: number, bounds: Bounds, rows: Signal[]): Entry {
    const { body: answer, shown } = plan.question.show(rows);
    const body = asciiJson(answer);
    const tag = Bun.hash.xxHash3(body).toString(36) + body.length.toString(36);
    const ids = shown.map(({ id }) => id);
    // Rows are read after the head: what they show must not be above it.
    const head = ids.reduce((highest, id) => Math.max(highest, id), bounds.headId);
    const plain = new Variant(this.#headers, { body, etag: `"${tag}"`, head, ids });
    const entry: Entry = { version, plain, gzip: null, held: false };
    if (this.options.cache && version === shelf.version) this.#hold(shelf, plan, entry);
    return entry;
  }

  #hold(shelf: Shelf, plan: Plan, entry: Entry): void {
    const { key } = plan.question;
    // Forgotten meanwhile, or made twice: only what the plans still lead to is counted.
    if (key === null || shelf.plans.get(key) !== plan) return;
    if (plan.entry?.version === entry.version) return;
    const size = entry.plain.body.length + overheadBytes;
    if (shelf.bytes + size > this.options.bytesMax) drop(shelf);
    shelf.bytes += size;
    entry.held = true;
    plan.entry = entry;
  }

  #variant(shelf: Shelf, entry: Entry, gzip: boolean): Variant {
    const { plain } = entry;
    if (!gzip || typeof plain.body !== "string" || plain.body.length < gzipBytesMin) return plain;
    if (entry.gzip) return entry.gzip;
    const body = Bun.gzipSync(plain.body, { level: 6 });
    if (entry.held) {
      if (shelf.bytes + body.length > this.options.bytesMax) drop(shelf);
      else shelf.bytes += body.length;
    }
    const { head, ids } = plain;
    const etag = `${plain.etag.slice(0, -1)}-gzip"`;
    return (entry.gzip = new Variant(this.#headers, { body, etag, head, ids, encoding: "gzip" }));
  }

  #sum(of: (shelf: Shelf) => number): number {
    return [...this.#shelves.values()].reduce((sum, shelf) => sum + of(shelf), 0);
  }
}

function drop(shelf: Shelf): void {
  for (const plan of shelf.plans.values()) {
    if (plan.entry) plan.entry.held = false;
    plan.entry = null;
  }
  shelf.bytes = 0;
}

function forget(shelf: Shelf): void {
  drop(shelf);
  shelf.spellings.clear();
  shelf.plans.clear();
}
