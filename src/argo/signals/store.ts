import type { Database, Statement } from "bun:sqlite";
import { AppError } from "../../errors";
import { openDatabase, translate } from "../../platform/sqlite";
import {
  DEFAULT_STRATEGY,
  indexesFor,
  inspect,
  type Layout,
  PREMIUM_CONFIDENCE,
  strategyOf,
} from "./layout";

/** A signal as every answer shows it, keys in wire order. */
export type Signal = {
  id: number;
  symbol: string;
  action: string;
  confidence: number | null;
  price: number | null;
  entry_price: number | null;
  stop_loss: number | null;
  take_profit: number | null;
  target_price: number | null;
  timestamp: string | null;
  strategy: string;
  sha256: string;
  supersedes: number | null;
};
export type ReceivedSignal = Signal & { received_at: string | null };

export type Filter = {
  symbol?: string | undefined;
  strategy?: string | undefined;
  action?: string | undefined;
  minConfidence?: number | undefined;
  /** Inclusive and exclusive bounds, compared by bytes with the stored text. */
  since?: string | undefined;
  until?: string | undefined;
};
export type Order = "desc" | "asc";
/** A place in the order of a list; a null timestamp comes last in `desc`. */
export type Key = { timestamp: string | number | null; id: number };

export type Walk = {
  filter: Filter;
  order: Order;
  after: Key | null;
  limit: number;
  /** Matches to pass over first. */
  skip: number;
  /** Rows that may be visited. */
  budget: number;
  received: boolean;
};
export type Page = {
  rows: Signal[];
  skipped: number;
  /** Where to go on when the budget ran out; null when the page is full or the end was reached. */
  resume: Key | null;
};

/** Rows by symbol, strategy, action and day in a stretch of ids. */
export type Tally = {
  groups: { symbol: string; strategy: string; action: string; day: string; rows: number }[];
  lastId: number;
  rows: number;
};

/** Counters of all changes ever seen by our triggers, with the highest id. */
export type Head = {
  inserts: number;
  updates: number;
  deletes: number;
  maxId: number;
  /** False while no row corrects another: then answers need not look for it. */
  corrections: boolean;
};

const unknownHead: Head = { inserts: -1, updates: -1, deletes: -1, maxId: 0, corrections: false };

/** Where rows with a timestamp begin in `asc`, after those without one. */
const firstTimed: Key = Object.freeze({ timestamp: "", id: -1 });

type Bindings = Record<string, string | number | null>;
const statementsMax = 256;

/**
 * One persistent read-only connection. Everything here is synchronous; what may visit many rows
 * takes a budget and says where to go on.
 */
export class SignalReader implements Disposable {
  readonly #db: Database;
  readonly #statements = new Map<string, Statement>();
  readonly #dataVersion: Statement;
  readonly #schemaVersion: Statement;
  #layout: Layout | null = null;
  #seenData = -1;
  #seenSchema = -1;
  #head: Head = unknownHead;
  #epoch = 0;

  /** @throws AppError 503 or SetupError when the file cannot be served. */
  constructor(path: string) {
    this.#db = guarded(() => openDatabase(path, "reader"));
    this.#dataVersion = guarded(() => this.#db.prepare("PRAGMA data_version"));
    this.#schemaVersion = guarded(() => this.#db.prepare("PRAGMA schema_version"));
    this.refresh();
  }

  /** How the table is made; null while there is none. */
  get layout(): Layout | null {
    return this.#layout;
  }

  /** True when every index that reads need is there. */
  get complete(): boolean {
    const layout = this.#layout;
    return layout !== null && indexesFor(layout).every(({ name }) => layout.indexes[name]);
  }

  /** Moves whenever the visible rows may have changed. */
  get epoch(): number {
    return this.#epoch;
  }

  /** As of the last refresh. */
  get head(): Head {
    return this.#head;
  }

  /**
   * Looks whether anybody has committed since the last look. The version is read before any row,
   * so that rows read after it are at least as new. `data_version` also moves for writes to other
   * tables; our change counters tell those apart.
   */
  refresh(): void {
    const data = firstNumber(this.#dataVersion);
    if (data === this.#seenData) return;
    guarded(() => {
      const schema = firstNumber(this.#schemaVersion);
      if (schema !== this.#seenSchema) {
        this.#forgetStatements();
        this.#layout = inspect(this.#db);
        this.#seenSchema = schema;
        this.#epoch += 1;
      }
      const head = this.#readHead();
      const was = this.#head;
      const unchanged =
        this.#layout?.tracked &&
        head !== unknownHead &&
        head.inserts === was.inserts &&
        head.updates === was.updates &&
        head.deletes === was.deletes;
      if (!unchanged) this.#epoch += 1;
      this.#head = head;
    });
    // Last, so that a failure above is met again by the next look instead of being taken as seen.
    this.#seenData = data;
  }

  /** One page of at most `limit` rows, in the one order there is. */
  page(walk: Walk): Page {
    const layout = this.#mustLayout();
    return guarded(() => {
      let { after, budget } = walk;
      const rows: Signal[] = [];
      let skipped = 0;
      for (;;) {
        const want = walk.limit + walk.skip - rows.length - skipped;
        const step = this.#step(layout, walk, after, want, budget);
        for (const row of step.rows) {
          if (skipped < walk.skip) skipped += 1;
          else rows.push(row);
        }
        budget -= step.visited;
        after = step.next;
        if (rows.length >= walk.limit) return { rows, skipped, resume: null };
        if (after === null || budget <= 0) return { rows, skipped, resume: after };
      }
    });
  }

  byId(id: number): ReceivedSignal | null {
    const layout = this.#mustLayout();
    return guarded(() => {
      const sql = `SELECT ${this.#columns(layout, true)} WHERE ${layout.id} = $id`;
      return this.#signals<ReceivedSignal>(sql, { id })[0] ?? null;
    });
  }

  /** The newest row that carries this hash. */
  byHash(sha256: string): ReceivedSignal | null {
    const layout = this.#mustLayout();
    const { id, has, indexes } = layout;
    const where = has.sha256
      ? `${indexes.hash ? `INDEXED BY "${indexes.hash}"` : ""} WHERE "sha256" = $sha256`
      : layout.books
        ? `WHERE ${id} IN (SELECT id FROM argo_hashes WHERE sha256 = $sha256)`
        : "WHERE 0";
    return guarded(() => {
      const sql = `SELECT ${this.#columns(layout, true)} ${where} ORDER BY ${id} DESC LIMIT 1`;
      return this.#signals<ReceivedSignal>(sql, { sha256 })[0] ?? null;
    });
  }

  /** Up to `limit` rows with `sinceId < id <= untilId`, ascending: the sequence of exports. */
  slice(sinceId: number, untilId: number, limit: number): ReceivedSignal[] {
    const layout = this.#mustLayout();
    return guarded(() =>
      this.#signals<ReceivedSignal>(
        `SELECT ${this.#columns(layout, true)} WHERE ${layout.id} > $sinceId AND ${layout.id} <= $untilId
         ORDER BY ${layout.id} LIMIT +$limit`,
        { sinceId, untilId, limit },
      ),
    );
  }

  /** Counts up to `limit` rows with `sinceId < id <= untilId`. */
  tally(sinceId: number, untilId: number, limit: number): Tally {
    const layout = this.#mustLayout();
    return guarded(() => {
      const last = this.#first<{ id: number }>(
        `SELECT ${layout.id} AS id FROM "signals" WHERE ${layout.id} > $sinceId AND ${layout.id} <= $untilId
         ORDER BY ${layout.id} LIMIT 1 OFFSET +$offset`,
        { sinceId, untilId, offset: limit - 1 },
      );
      const lastId = last?.id ?? untilId;
      const groups = this.#all<Tally["groups"][number]>(
        `SELECT CAST("symbol" AS TEXT) AS symbol, CAST(${strategyOf(layout)} AS TEXT) AS strategy,
                CAST("action" AS TEXT) AS action, coalesce(substr(${layout.timestamp}, 1, 10), '') AS day,
                count(*) AS rows
         FROM "signals" WHERE ${layout.id} > $sinceId AND ${layout.id} <= $lastId
         GROUP BY 1, 2, 3, 4`,
        { sinceId, lastId },
      );
      return { groups, lastId, rows: groups.reduce((sum, g) => sum + g.rows, 0) };
    });
  }

  /** All rows, by a walk over the smallest index: for a thread of its own. */
  countRows(): number {
    return guarded(
      () => this.#first<{ n: number }>('SELECT count(*) AS n FROM "signals"', {})?.n ?? 0,
    );
  }

  /** Newest rows by time whose text is after `text`: those that pin the top of every answer. */
  datedAfter(text: string, limit: number): Signal[] {
    return this.page({
      filter: { since: text },
      order: "desc",
      after: null,
      limit,
      skip: 0,
      budget: limit,
      received: false,
    }).rows;
  }

  /** Damage that SQLite's own check finds; empty when there is none. Slow: not on a server's thread. */
  damage(): string[] {
    return guarded(() =>
      this.#db
        .query<{ quick_check: string }, []>("PRAGMA quick_check(10)")
        .all()
        .map((row) => row.quick_check)
        .filter((line) => line !== "ok"),
    );
  }

  /** The secret of this file; null before adoption. */
  secret(): Uint8Array | null {
    if (!this.#layout?.books) return null;
    return guarded(
      () =>
        this.#first<{ secret: Uint8Array }>("SELECT secret FROM argo_secret", {})?.secret ?? null,
    );
  }

  /** The plan of a page's queries, for the test that looks at it. */
  explain(walk: Walk): string[] {
    const layout = this.#mustLayout();
    const details: string[] = [];
    const watch = (sql: string, bindings: Bindings) => {
      const rows = this.#db
        .query<{ detail: string }, [Bindings]>(`EXPLAIN QUERY PLAN ${sql}`)
        .all(bindings);
      details.push(...rows.map((row) => row.detail));
    };
    this.#step(layout, walk, walk.after, walk.limit, walk.budget, watch);
    return details;
  }

  [Symbol.dispose](): void {
    this.#forgetStatements();
    this.#dataVersion.finalize();
    this.#schemaVersion.finalize();
    this.#db.close();
  }

  /**
   * One bounded step of a walk. Conditions that an index answers in order come first; the rest
   * (`residual`) are tested on the at most `budget` rows between the start and a boundary key
   * that the index alone gives.
   */
  #step(
    layout: Layout,
    { filter, order, received }: Walk,
    after: Key | null,
    want: number,
    budget: number,
    watch?: (sql: string, bindings: Bindings) => void,
  ): { rows: Signal[]; visited: number; next: Key | null } {
    const { index, indexed, residual, bindings } = conditions(layout, filter);
    const ts = layout.timestamp;
    const down = order === "desc";
    const [before, upTo, direction] = down ? ["<", ">=", "DESC"] : [">", "<=", "ASC"];
    const untimed = filter.since === undefined && filter.until === undefined;
    const withNulls = layout.timestampNullable && untimed;
    const start = after ?? (down || !withNulls ? null : { timestamp: null, id: 0 });
    const inNulls = start !== null && start.timestamp === null;
    const where = [...indexed];
    if (inNulls) {
      where.push(`${ts} IS NULL`, `${layout.id} ${before} $afterId`);
      bindings["afterId"] = start.id;
    } else {
      if (layout.timestampNullable) where.push(`${ts} IS NOT NULL`);
      if (start && !(start.timestamp === firstTimed.timestamp && start.id === firstTimed.id)) {
        where.push(`(${ts}, ${layout.id}) ${before} ($afterTs, $afterId)`);
        bindings["afterTs"] = start.timestamp;
        bindings["afterId"] = start.id;
      }
    }
    const by = index ? `INDEXED BY "${index}"` : "";
    const ordered = inNulls
      ? `ORDER BY ${layout.id} ${direction}`
      : `ORDER BY ${ts} ${direction}, ${layout.id} ${direction}`;
    const zoneEnd = (): Key | null => {
      if (!withNulls || inNulls !== !down) return null;
      return down ? { timestamp: null, id: Number.MAX_SAFE_INTEGER } : firstTimed;
    };

    let boundary: Key | null = null;
    if (residual.length > 0) {
      const sql =
        `SELECT ${ts} AS timestamp, ${layout.id} AS id FROM "signals" ${by}` +
        `${whereSql(where)} ${ordered} LIMIT 1 OFFSET +$offset`;
      const bound = { ...bindings, offset: budget - 1 };
      watch?.(sql, bound);
      boundary = this.#first<Key>(sql, bound);
      if (boundary) {
        where.push(
          inNulls
            ? `${layout.id} ${upTo} $stopId`
            : `(${ts}, ${layout.id}) ${upTo} ($stopTs, $stopId)`,
        );
        bindings["stopId"] = boundary.id;
        if (!inNulls) bindings["stopTs"] = boundary.timestamp;
      }
    }
    // "+" before a bound limit: a bare one makes SQLite prepare the statement anew at each bind,
    // which doubles the cost of a page.
    const sql = `SELECT ${this.#columns(layout, received, by)}${whereSql([...where, ...residual])} ${ordered} LIMIT +$limit`;
    watch?.(sql, { ...bindings, limit: want });
    const rows = this.#signals<Signal>(sql, { ...bindings, limit: want });
    if (rows.length >= want) return { rows, visited: rows.length, next: null };
    return {
      rows,
      visited: residual.length > 0 && boundary ? budget : rows.length,
      next: boundary ?? zoneEnd(),
    };
  }

  #readHead(): Head {
    const layout = this.#layout;
    if (!layout) return unknownHead;
    const books = layout.books
      ? "inserts, updates, deletes, (SELECT count(*) FROM (SELECT 1 FROM argo_supersedes LIMIT 1))"
      : "-1, -1, -1, 0";
    const sql =
      `SELECT (SELECT max(${layout.id}) FROM "signals"), ${books}` +
      (layout.books ? " FROM argo_head" : "");
    const row = (this.#statement(sql).values() as (number | null)[][])[0];
    if (!row) return unknownHead;
    const [maxId, inserts, updates, deletes, corrections] = row.map((value) => value ?? 0);
    return {
      inserts: inserts ?? -1,
      updates: updates ?? -1,
      deletes: deletes ?? -1,
      maxId: maxId ?? 0,
      corrections: corrections === 1,
    };
  }

  #mustLayout(): Layout {
    this.refresh();
    if (this.#layout) return this.#layout;
    throw new AppError(
      "unavailable",
      "The signal file has no table of signals at the moment. Try again.",
      { retryAfterSeconds: 1 },
    );
  }

  #columns(layout: Layout, received: boolean, by = ""): string {
    return columns(layout, this.#head.corrections, received, by);
  }

  #signals<T extends Signal>(sql: string, bindings: Bindings): T[] {
    const rows = this.#all<T>(sql, bindings);
    for (const row of rows) tidy(row);
    return rows;
  }

  #all<T>(sql: string, bindings: Bindings): T[] {
    return this.#statement(sql).all(bindings) as T[];
  }

  #first<T>(sql: string, bindings: Bindings): T | null {
    return this.#statement(sql).get(bindings) as T | null;
  }

  #statement(sql: string): Statement {
    const held = this.#statements.get(sql);
    if (held) return held;
    if (this.#statements.size >= statementsMax) this.#forgetStatements();
    const made = this.#db.prepare(sql);
    this.#statements.set(sql, made);
    return made;
  }

  #forgetStatements(): void {
    for (const statement of this.#statements.values()) statement.finalize();
    this.#statements.clear();
  }
}

/** The columns of an answer in wire order, from the columns that are there. */
function columns(layout: Layout, corrections: boolean, received: boolean, by = ""): string {
  const { has, id, books } = layout;
  const target = has.target ? '"target_price"' : "NULL";
  const own = (table: string, column: string) =>
    books ? `(SELECT ${column} FROM ${table} WHERE id = "signals".${id})` : "NULL";
  const shown = [
    `${id} AS id`,
    '"symbol" AS symbol',
    '"action" AS action',
    '"confidence" AS confidence',
    '"entry_price" AS price',
    '"entry_price" AS entry_price',
    `${has.stop ? '"stop_price"' : "NULL"} AS stop_loss`,
    `${target} AS take_profit`,
    `${target} AS target_price`,
    '"timestamp" AS timestamp',
    `${strategyOf(layout)} AS strategy`,
    `coalesce(${has.sha256 ? '"sha256"' : own("argo_hashes", "sha256")},'') AS sha256`,
    `${corrections ? own("argo_supersedes", "supersedes") : "NULL"} AS supersedes`,
  ];
  if (received) shown.push(`${own("argo_received", "received_at")} AS received_at`);
  return `${shown.join(", ")} FROM "signals" ${by}`;
}

const numeric = [
  "confidence",
  "price",
  "entry_price",
  "stop_loss",
  "take_profit",
  "target_price",
] as const;
const textual = ["symbol", "action", "strategy", "sha256"] as const;

/** An engine nobody controls may leave any type in any column: here a number is one or null. */
function tidy<T extends Signal>(row: T): T {
  for (const name of numeric) {
    const value: unknown = row[name];
    if (value !== null && !Number.isFinite(value)) row[name] = null;
  }
  for (const name of textual) if (typeof row[name] !== "string") row[name] = text(row[name]);
  if (row.timestamp !== null && typeof row.timestamp !== "string")
    row.timestamp = text(row.timestamp);
  return row;
}

function text(value: unknown): string {
  if (value instanceof Uint8Array) return new TextDecoder().decode(value);
  return value === null ? "" : String(value);
}

type Conditions = {
  index: string | undefined;
  indexed: string[];
  residual: string[];
  bindings: Bindings;
};

/** Chooses the index that a filter walks, and says what that index does not answer. */
function conditions(layout: Layout, filter: Filter): Conditions {
  const indexed: string[] = [];
  const residual: string[] = [];
  const bindings: Bindings = {};
  let index = layout.indexes.time;
  let premiumServed = false;
  const strategyMatters = filter.strategy !== undefined && layout.has.strategy;
  if (filter.symbol !== undefined) {
    index = layout.indexes.symbol;
    indexed.push('"symbol" = $symbol');
    bindings["symbol"] = filter.symbol;
  } else if (strategyMatters) {
    index = layout.indexes.strategy;
    indexed.push(`${strategyOf(layout)} = $strategy`);
  } else if ((filter.minConfidence ?? 0) >= PREMIUM_CONFIDENCE) {
    index = layout.indexes.premium;
    indexed.push(`"confidence" >= ${PREMIUM_CONFIDENCE}`);
    premiumServed = true;
  }
  if (strategyMatters) {
    bindings["strategy"] = filter.strategy ?? null;
    if (filter.symbol !== undefined) residual.push(`${strategyOf(layout)} = $strategy`);
  } else if (filter.strategy !== undefined && filter.strategy !== DEFAULT_STRATEGY) {
    indexed.push("0");
  }
  const served = premiumServed ? PREMIUM_CONFIDENCE : 0;
  if (filter.minConfidence !== undefined && filter.minConfidence > served) {
    residual.push('"confidence" >= $minConfidence');
    bindings["minConfidence"] = filter.minConfidence;
  }
  if (filter.action !== undefined) {
    residual.push('"action" = $action');
    bindings["action"] = filter.action;
  }
  if (filter.since !== undefined) {
    indexed.push(`${layout.timestamp} >= $since`);
    bindings["since"] = filter.since;
  }
  if (filter.until !== undefined) {
    indexed.push(`${layout.timestamp} < $until`);
    bindings["until"] = filter.until;
  }
  return { index, indexed, residual, bindings };
}

const whereSql = (where: string[]) => (where.length > 0 ? ` WHERE ${where.join(" AND ")}` : "");

function firstNumber(statement: Statement): number {
  return guarded(() => (statement.values() as number[][])[0]?.[0] ?? -1);
}

/** Runs one use of SQLite and puts its failure in our words. */
function guarded<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw translate(error);
  }
}
