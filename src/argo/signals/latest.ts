import { AppError } from "../../errors";
import { asciiJson } from "../../http/respond";
import { fieldErrors, namesOf, readQuery } from "../../http/validate";
import type { FarReader } from "./far";
import { PREMIUM_CONFIDENCE } from "./layout";
import { latestQuery, type LatestQuery } from "./schema";
import type { Signal } from "./signal";
import type { SignalReader } from "./store";
import { AnswerHeaders, Variant } from "./variant";
import type { Filter } from "./walk";

/** `held` entries count against the bound on bytes. */
type Entry = { epoch: number; plain: Variant; gzip: Variant | null; held: boolean };

/** A query that was understood once: all its spellings share it. */
type Plan = {
  walk: { filter: Filter; limit: number; skip: number };
  key: string;
  entry: Entry | null;
  /** An answer that another thread is reading for; polls of its epoch share it. */
  making: { epoch: number; entry: Promise<Entry> } | null;
};

type Options = {
  pageSizeMax: number;
  /** False makes every poll read the file; answers stay the same. */
  cache: boolean;
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

type Waiting<T, C> = {
  search: string;
  gzip: boolean;
  context: C;
  use: (variant: Variant, context: C) => T;
  fail: (error: unknown, context: C) => T | Promise<T>;
  resolve: (value: T | Promise<T>) => void;
};

/**
 * The answers to polls, as bytes. An answer is valid exactly as long as the reader's epoch stands,
 * so a poll that begins after anybody's commit has returned shows that commit. The epoch is looked
 * at once for all polls of a turn of the event loop, after the last of them has arrived: a look
 * before would miss what is committed while further connections are still being accepted.
 */
export class LatestAnswers {
  readonly #schema: ReturnType<typeof latestQuery>;
  readonly #headers: AnswerHeaders;
  readonly #spellings = new Map<string, Plan>();
  readonly #plans = new Map<string, Plan>();
  #bytes = 0;
  #epoch = -1;
  #waiting: Waiting<unknown, unknown>[] = [];
  reused = 0;
  made = 0;

  constructor(
    private readonly reader: SignalReader,
    private readonly far: FarReader,
    private readonly options: Options,
  ) {
    this.#schema = latestQuery(options.pageSizeMax);
    this.#headers = new AnswerHeaders(options.headers);
  }

  /** Bytes held at the moment. */
  get bytes(): number {
    return this.#bytes;
  }

  get entries(): number {
    return this.#plans.size;
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
    context: C,
    use: (variant: Variant, context: C) => T,
    fail: (error: unknown, context: C) => T | Promise<T>,
  ): Promise<T> {
    return new Promise<T>((resolve) => {
      const waiting: Waiting<T, C> = { search, gzip, context, use, fail, resolve };
      if (this.#waiting.push(waiting as Waiting<unknown, unknown>) === 1) {
        setImmediate(this.#answerAll);
      }
    });
  }

  readonly #answerAll = (): void => {
    const waiting = this.#waiting;
    this.#waiting = [];
    try {
      this.#look();
    } catch (error) {
      for (const { context, fail, resolve } of waiting) resolve(fail(error, context));
      return;
    }
    for (const one of waiting) this.#settle(one);
  };

  #settle({ search, gzip, context, use, fail, resolve }: Waiting<unknown, unknown>): void {
    try {
      const variant = this.#answer(search, gzip);
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

  #answer(search: string, gzip: boolean): Variant | Promise<Variant> {
    const entry = this.#entry(this.#spellings.get(search) ?? this.#understand(search));
    return entry instanceof Promise
      ? entry.then((made) => this.#variant(made, gzip))
      : this.#variant(entry, gzip);
  }

  #entry(plan: Plan): Entry | Promise<Entry> {
    const { entry, making } = plan;
    if (this.options.cache) {
      if (entry !== null && entry.epoch === this.#epoch) {
        this.reused += 1;
        return entry;
      }
      if (making !== null && making.epoch === this.#epoch) {
        this.reused += 1;
        return making.entry;
      }
    }
    return this.#make(plan);
  }

  #look(): void {
    this.reader.refresh();
    if (this.#epoch === this.reader.epoch) return;
    this.#epoch = this.reader.epoch;
    this.#drop();
  }

  #understand(search: string): Plan {
    const query = this.#parse(search);
    const key = JSON.stringify(query);
    const { entriesMax } = this.options;
    if (this.#spellings.size >= entriesMax || this.#plans.size >= entriesMax) this.#forget();
    const known = this.#plans.get(key);
    const plan = known ?? { key, walk: walkOf(query), entry: null, making: null };
    this.#plans.set(key, plan);
    if (search.length <= spellingMax) this.#spellings.set(search, plan);
    return plan;
  }

  #parse(search: string): LatestQuery {
    const parsed = this.#schema.safeParse({ ...readQuery(search) });
    if (parsed.success) return parsed.data;
    const errors = fieldErrors(parsed.error);
    throw new AppError("bad_request", `The request is not valid: ${namesOf(errors)}.`, { errors });
  }

  #make(plan: Plan): Entry | Promise<Entry> {
    this.made += 1;
    const epoch = this.#epoch;
    const head = this.reader.head.maxId;
    const rows = this.far.rows({ ...plan.walk, order: "desc", after: null, received: false });
    if (!(rows instanceof Promise)) return this.#fill(plan, epoch, head, rows);
    const entry = rows.then((found) => this.#fill(plan, epoch, head, found));
    const making = { epoch, entry };
    plan.making = making;
    const done = () => {
      if (plan.making === making) plan.making = null;
    };
    entry.then(done, done);
    return entry;
  }

  #fill(plan: Plan, epoch: number, head: number, rows: Signal[]): Entry {
    const body = asciiJson(rows);
    const tag = Bun.hash.xxHash3(body).toString(36) + body.length.toString(36);
    // Rows are read after the head: what they show must not be above it.
    const shown = rows.reduce((highest, row) => Math.max(highest, row.id), head);
    const plain = new Variant(this.#headers, body, `"${tag}"`, shown);
    const entry: Entry = { epoch, plain, gzip: null, held: false };
    if (this.options.cache && epoch === this.#epoch) this.#hold(plan, entry);
    return entry;
  }

  #hold(plan: Plan, entry: Entry): void {
    // Forgotten meanwhile, or made twice: only what the plans still lead to is counted.
    if (this.#plans.get(plan.key) !== plan || plan.entry?.epoch === entry.epoch) return;
    const size = entry.plain.body.length + overheadBytes;
    if (this.#bytes + size > this.options.bytesMax) this.#drop();
    this.#bytes += size;
    entry.held = true;
    plan.entry = entry;
  }

  #variant(entry: Entry, gzip: boolean): Variant {
    const { plain } = entry;
    if (!gzip || typeof plain.body !== "string" || plain.body.length < gzipBytesMin) return plain;
    if (entry.gzip) return entry.gzip;
    const body = Bun.gzipSync(plain.body, { level: 6 });
    if (entry.held) {
      if (this.#bytes + body.length > this.options.bytesMax) this.#drop();
      else this.#bytes += body.length;
    }
    const etag = `${plain.etag.slice(0, -1)}-gzip"`;
    return (entry.gzip = new Variant(this.#headers, body, etag, plain.head, "gzip"));
  }

  #drop(): void {
    for (const plan of this.#plans.values()) {
      if (plan.entry) plan.entry.held = false;
      plan.entry = null;
    }
    this.#bytes = 0;
  }

  #forget(): void {
    this.#drop();
    this.#spellings.clear();
    this.#plans.clear();
  }
}

function walkOf(query: LatestQuery): Plan["walk"] {
  const { symbol, strategy, limit, offset: skip } = query;
  const floor = query.premium_only ? PREMIUM_CONFIDENCE : 0;
  const minConfidence = Math.max(query.min_confidence ?? 0, floor);
  return { filter: { symbol, strategy, minConfidence }, limit, skip };
}
