import type { Database, Statement } from "bun:sqlite";
import { AppError, SetupError } from "../../errors";
import type { Place } from "../origin/rows";
import { openDatabase, translate } from "../../platform/sqlite";
import { indexesFor, inspect, type Layout, strategyOf } from "./layout";
import { arrivedAt, seen, type Sight } from "./sight";
import { columns, type ReceivedSignal, type Signal, tidy } from "./signal";
import {
  type Bindings,
  bindingsOf,
  type Filter,
  hasIndex,
  canMatch,
  type Key,
  keySql,
  type Page,
  placeOf,
  shapeKey,
  stepSql,
  type StepSql,
  type Walk,
  zoneOf,
} from "./walk";

/** Rows by symbol, strategy, action and day. */
export type Tally = {
  symbol: string;
  strategy: string;
  action: string;
  day: string;
  rows: number;
}[];

/** What a stretch of a search came to; `belowId` is where to go on. */
export type Seek = { signal: ReceivedSignal | null; belowId: number | null };

/** A stretch of the sequence; up to `gapTo` rows may be missing that were deleted for their age. */
export type Slice = { rows: ReceivedSignal[]; nextId: number | null; gapTo: number };

/** Rows that came to be seen; all up to `lastId` were looked at, and `more` are left. */
export type Followed = { rows: ReceivedSignal[]; lastId: number; more: boolean };

/** How far somebody who sees rows later has seen: those inserted so far, and arrived by `until`. */
export type Mark = { edition: number; inserts: number; maxId: number; until: string };

/** Between which arrivals (UTC, empty where there is none) somebody sees the same rows. */
export type Span = { from: string; next: string };

/** The newest row in the order of lists, and the highest id; nothing that is seen is above. */
export type Bounds = { top: Key | null; headId: number };

/** Counters of all changes ever seen by our triggers, with the highest id. */
export type Head = {
  inserts: number;
  updates: number;
  deletes: number;
  /** Of the inserts those that were not above all before. */
  outOfOrder: number;
  /** The highest id that was inserted under our eyes, or was there at adoption. */
  lastId: number;
  maxId: number;
  /** False while no row corrects another: then answers need not look for it. */
  corrections: boolean;
};

const unknownHead: Head = {
  inserts: -1,
  updates: -1,
  deletes: -1,
  outOfOrder: -1,
  lastId: 0,
  maxId: 0,
  corrections: false,
};

const statementsMax = 256;
/** Rows that are looked at one by one when they fall due; when more did, all is read anew. */
const fallenMax = 5_000;

/**
 * Ids of the rows that somebody came to see between two marks: those that fell due, and those that
 * were committed so late that they were due by then.
 */
const fallen = `
  SELECT id FROM argo_received WHERE received_at > $from AND received_at <= $until AND +id <= $maxId
  UNION ALL SELECT id FROM argo_received WHERE id > $sinceId AND id <= $maxId AND +received_at <= $from
  UNION ALL SELECT id FROM argo_dated WHERE arrived_at > $from AND arrived_at <= $until AND +id <= $maxId`;

/**
 * One persistent read-only connection. Everything here is synchronous; what may visit many rows
 * takes a budget and says where to go on.
 */
export class SignalReader implements Disposable {
  readonly #db: Database;
  readonly #statements = new Map<string, Statement>();
  readonly #steps = new Map<string, StepSql>();
  readonly #dataVersion: Statement;
  readonly #schemaVersion: Statement;
  #layout: Layout | null = null;
  #fault: SetupError | null = null;
  #condemned: SetupError | null = null;
  #seenData = -1;
  #seenSchema = -1;
  #head: Head = unknownHead;
  #epoch = 0;
  #edition = 0;

  /** @throws AppError 503 or SetupError when the file cannot be served. */
  constructor(path: string) {
    this.#db = guarded(() => openDatabase(path, "reader"));
    this.#dataVersion = guarded(() => this.#db.prepare("PRAGMA data_version"));
    this.#schemaVersion = guarded(() => this.#db.prepare("PRAGMA schema_version"));
    this.refresh();
  }

  /** What is wrong with the table; null when nothing is, or there is none. */
  get fault(): SetupError | null {
    return this.#fault;
  }

  /** Answers every read with this fault from now on, until it is called with null. */
  condemn(fault: SetupError | null): void {
    if (this.#condemned === fault) return;
    this.#condemned = fault;
    // Nothing of what was read before is an answer any more; after null all is looked at anew.
    this.#seenData = -1;
    this.#seenSchema = -1;
    this.#epoch += 1;
    this.#edition += 1;
  }

  /** How the table is made; null while there is none, or none that can be served. */
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

  /** Moves whenever something else than rows above all others may have come. */
  get edition(): number {
    return this.#edition;
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
    if (this.#condemned) throw unfit(this.#condemned);
    const data = firstNumber(this.#dataVersion);
    if (data === this.#seenData) return;
    guarded(() => {
      const schema = firstNumber(this.#schemaVersion);
      if (schema !== this.#seenSchema) {
        this.#forgetStatements();
        this.#inspect();
        this.#seenSchema = schema;
        this.#epoch += 1;
        this.#edition += 1;
      }
      const head = this.#readHead();
      const was = this.#head;
      const alike =
        this.#layout?.tracked &&
        head !== unknownHead &&
        head.updates === was.updates &&
        head.deletes === was.deletes;
      // A connection may have triggers switched off: then ids move that nothing counted.
      const same = alike && head.inserts === was.inserts && head.maxId === was.maxId;
      const grown =
        alike &&
        head.inserts > was.inserts &&
        head.outOfOrder === was.outOfOrder &&
        head.maxId === head.lastId;
      if (!same) this.#epoch += 1;
      if (!same && !grown) this.#edition += 1;
      this.#head = head;
    });
    // Last, so that a failure above is met again by the next look instead of being taken as seen.
    this.#seenData = data;
  }

  /** Looks at the file and says where it stands. @throws AppError 503 when it cannot be served. */
  look(): Head {
    this.#mustLayout();
    return this.#head;
  }

  /** Of which libSQL server's rows this file is a copy; null where it is nobody's. */
  copyOf(): Place | null {
    if (!this.#layout?.books) return null;
    const sql = "SELECT origin, id, row_sha256 AS rowSha256, whole FROM argo_tail";
    const row = guarded(() => this.#first<Omit<Place, "whole"> & { whole: number }>(sql, {}));
    return row && { ...row, whole: row.whole === 1 };
  }

  /** Reads one row, whichever is at hand. @throws AppError 503 when that cannot be done. */
  touch(): void {
    this.#mustLayout();
    guarded(() => this.#first('SELECT 1 FROM "signals" LIMIT 1', {}));
  }

  /** False when a walk with this filter would have to sort: the index for it is not there. */
  indexed(filter: Filter): boolean {
    return this.#layout === null || hasIndex(this.#layout, filter);
  }

  /** One page of at most `limit` rows, of the file as it was when last looked at or newer. */
  page(walk: Walk): Page {
    const layout = this.#layout ?? this.#mustLayout();
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

  byId(id: number, sight: Sight): ReceivedSignal | null {
    const layout = this.#mustLayout();
    return guarded(() => {
      const sql = `${this.#select(layout, sight, [`${layout.id} = $id`])}`;
      return this.#signals<ReceivedSignal>(sql, { id, ...bound(sight) })[0] ?? null;
    });
  }

  /** The newest row that carries this hash. */
  byHash(sha256: string, sight: Sight): ReceivedSignal | null {
    const layout = this.#mustLayout();
    const { id, has, indexes } = layout;
    const by = has.sha256 && indexes.hash ? `INDEXED BY "${indexes.hash}"` : "";
    const where = has.sha256
      ? '"sha256" = $sha256'
      : layout.books
        ? `${id} IN (SELECT id FROM argo_hashes WHERE sha256 = $sha256)`
        : "0";
    return guarded(() => {
      const sql = `${this.#select(layout, sight, [where], by)} ORDER BY ${id} DESC LIMIT 1`;
      return this.#signals<ReceivedSignal>(sql, { sha256, ...bound(sight) })[0] ?? null;
    });
  }

  /** False when looking for a hash would have to visit all rows: the index for it is not there. */
  get hashIndexed(): boolean {
    const layout = this.#mustLayout();
    return !layout.has.sha256 || layout.indexes.hash !== undefined;
  }

  /**
   * The row of the highest id that is seen, and carries this hash where one is given, among the
   * `budget` rows next below an id, without any index; `belowId` is null when nothing is further.
   */
  seek(sha256: string | null, belowId: number, budget: number, sight: Sight): Seek {
    const layout = this.#mustLayout();
    const { id } = layout;
    return guarded(() => {
      const last = this.#first<{ id: number }>(
        `SELECT ${id} AS id FROM "signals" WHERE ${id} < $belowId ORDER BY ${id} DESC LIMIT 1 OFFSET +$offset`,
        { belowId, offset: budget - 1 },
      );
      const where = [`${id} < $belowId`, `${id} >= $lastId`];
      if (sha256 !== null) where.push('+"sha256" = $sha256');
      const sql = `${this.#select(layout, sight, where)} ORDER BY ${id} DESC LIMIT 1`;
      const lastId = last?.id ?? -Infinity;
      const bindings = { sha256, belowId, lastId, ...bound(sight) };
      const signal = this.#signals<ReceivedSignal>(sql, bindings)[0] ?? null;
      return { signal, belowId: signal ? null : (last?.id ?? null) };
    });
  }

  /**
   * The rows that are seen of the next `limit` with `sinceId < id <= untilId`, ascending: the
   * sequence of exports and replays. `nextId` is where to go on; null at the end. As of one moment.
   */
  slice(sinceId: number, untilId: number, limit: number, sight: Sight): Slice {
    const layout = this.#mustLayout();
    return guarded(() =>
      this.#db.transaction(() => {
        const slice = this.#slice(layout, sinceId, untilId, limit, sight);
        return { ...slice, gapTo: this.#expired(layout) };
      })(),
    );
  }

  /** Nothing at or below this id need be there any more: the highest that was deleted for its age. */
  expired(): number {
    const layout = this.#mustLayout();
    return guarded(() => this.#expired(layout));
  }

  /**
   * The rows that are seen of the next `limit` after an id, ascending, up to the first one that is
   * withheld for now: what comes after it waits for it, so that ids come in order. One that arrived
   * after `aheadUntil`, by whatever clock, is waited for by none.
   */
  follow(sinceId: number, limit: number, sight: Sight, aheadUntil: string): Followed {
    const layout = this.#mustLayout();
    const { id } = layout;
    return guarded(() => {
      const last = this.#lastOf(layout, sinceId, Number.MAX_SAFE_INTEGER, limit);
      const untilId = Math.max(sinceId, last ?? this.#head.maxId);
      const bindings = { sinceId, lastId: untilId, ...bound(sight) };
      const among = [`${id} > $sinceId`, `${id} <= $lastId`];
      const held = this.#withheld(layout, among, sight, { ...bindings, aheadUntil });
      const lastId = held === null ? untilId : held - 1;
      const sql = `${this.#select(layout, sight, among)} ORDER BY ${id}`;
      const rows = this.#signals<ReceivedSignal>(sql, { ...bindings, lastId });
      return { rows, lastId, more: held === null && last !== null };
    });
  }

  /**
   * The lowest id of those that are withheld for now; null when none is. Looks at all of them: for
   * a thread of its own.
   */
  lowestWithheld(until: string, aheadUntil: string): number | null {
    const layout = this.#mustLayout();
    if (!layout.books || !layout.tracked) return null;
    const lowest = (table: string, at: string) =>
      `SELECT min(+id) AS id FROM ${table} WHERE ${at} > $until AND ${at} <= $aheadUntil`;
    const sql = `SELECT min(id) AS id FROM (${lowest("argo_received", "received_at")} UNION ALL ${lowest("argo_dated", "arrived_at")})`;
    return guarded(
      () => this.#first<{ id: number | null }>(sql, { until, aheadUntil })?.id ?? null,
    );
  }

  /** Counts the rows that are seen of the next `limit` with `sinceId < id <= untilId`. */
  tally(
    sinceId: number,
    untilId: number,
    limit: number,
    sight: Sight,
  ): { tally: Tally; nextId: number | null } {
    const layout = this.#mustLayout();
    return guarded(() => {
      const last = this.#lastOf(layout, sinceId, untilId, limit);
      const where = [`${layout.id} > $sinceId`, `${layout.id} <= $lastId`, ...seen(layout, sight)];
      const bindings = { sinceId, lastId: last ?? untilId, ...bound(sight) };
      return { tally: this.#all<Tally[number]>(tallySql(layout, where), bindings), nextId: last };
    });
  }

  /** How far somebody sees who sees what had arrived by then. */
  mark(until: string): Mark {
    const { inserts, maxId } = this.#head;
    return { edition: this.#edition, inserts, maxId, until };
  }

  /** The arrivals around a moment: the last one by then, and the next one after it. */
  span(until: string): Span {
    const arrival = (what: "max" | "min", is: string, none: string) =>
      `${what}(coalesce((SELECT ${what}(received_at) FROM argo_received WHERE received_at ${is} $until), '${none}'),
               coalesce((SELECT ${what}(arrived_at) FROM argo_dated WHERE arrived_at ${is} $until), '${none}'))`;
    const sql = `SELECT ${arrival("max", "<=", "")} AS "from", ${arrival("min", ">", "~")} AS next`;
    const { from, next } = guarded(() => this.#first<Span>(sql, { until })) ?? {
      from: "",
      next: "",
    };
    return { from, next: next === "~" ? "" : next };
  }

  /** True when a row may have come since that had arrived by then: committed late. */
  isLate({ inserts, maxId, edition }: Mark, until: string): boolean {
    if (edition !== this.#edition || this.#head.inserts - inserts > fallenMax) return true;
    if (this.#head.inserts === inserts) return false;
    const sql =
      "SELECT 1 FROM argo_received WHERE id > $sinceId AND +received_at <= $until LIMIT 1";
    return guarded(() => this.#first(sql, { sinceId: maxId, until }) !== null);
  }

  /** The bounds of what is seen, from those of before; null when they are to be found anew. */
  raise(bounds: Bounds, since: Mark, mark: Mark, sight: Sight): Bounds | null {
    const layout = this.#mustLayout();
    // What was on top may have given way without a trace.
    if (layout.unique && since.inserts !== mark.inserts) return null;
    return guarded(() => {
      const bindings = this.#fallenBetween(since, mark);
      if (!bindings) return null;
      const { id, timestamp: ts } = layout;
      const shown = [...seen(layout, sight && { ...sight, until: null })];
      const among = (ids: string) => [`${id} IN (${ids})`, ...shown].join(" AND ");
      const head = this.#first<{ id: number | null }>(
        `SELECT max(+${id}) AS id FROM "signals" WHERE ${among(fallen)}`,
        bindings,
      );
      if (head?.id == null) return bounds;
      // The row that was on top stands as it was, and is compared as SQLite compares.
      const was = bounds.top?.timestamp == null ? null : placeOf(bounds.top).id;
      const top = this.#first<Key>(
        `${keySql(layout)} WHERE ${among(`${fallen} UNION ALL SELECT $was`)} AND ${ts} IS NOT NULL
         ORDER BY ${ts} DESC, ${id} DESC LIMIT 1`,
        { ...bindings, was },
      );
      return { top: top ?? bounds.top, headId: Math.max(bounds.headId, head.id) };
    });
  }

  /** Counts the rows that fell due between two marks; null when all are to be counted anew. */
  tallyFallen(since: Mark, mark: Mark, sight: Sight): Tally | null {
    const layout = this.#mustLayout();
    return guarded(() => {
      const bindings = this.#fallenBetween(since, mark);
      if (!bindings) return null;
      const where = [
        `${layout.id} IN (${fallen})`,
        ...seen(layout, sight && { ...sight, until: null }),
      ];
      return this.#all<Tally[number]>(tallySql(layout, where), bindings);
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
      sight: null,
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

  /** One step of a walk: at most `want` rows, visiting at most `budget`. */
  #step(
    layout: Layout,
    walk: Walk,
    after: Key | null,
    want: number,
    budget: number,
    watch?: (sql: string, bindings: Bindings) => void,
  ): { rows: Signal[]; visited: number; next: Key | null } {
    if (!canMatch(layout, walk)) return { rows: [], visited: 0, next: null };
    const { start, next } = zoneOf(layout, walk, after);
    const { order, received, filter, sight } = walk;
    const { corrections } = this.#head;
    const sql = this.#stepSql({ layout, corrections, received, order, start, filter, sight });
    const bindings = bindingsOf(walk, after);
    bindings["limit"] = want;
    let boundary: Key | null = null;
    if (sql.boundary !== null) {
      bindings["offset"] = budget - 1;
      watch?.(sql.boundary, bindings);
      boundary = this.#first<Key>(sql.boundary, bindings);
      const stop = boundary ? placeOf(boundary) : null;
      bindings["stopTs"] = stop?.timestamp ?? null;
      bindings["stopIsText"] = boundary?.exact?.startsWith("text:") ? 1 : 0;
      bindings["stopId"] = stop?.id ?? null;
    }
    const chosen = boundary ? sql.bounded : sql.open;
    watch?.(chosen, bindings);
    const rows = this.#signals<Signal>(chosen, bindings);
    if (rows.length >= want) return { rows, visited: rows.length, next: null };
    return { rows, visited: boundary ? budget : rows.length, next: boundary ?? next };
  }

  #stepSql(shape: Parameters<typeof stepSql>[0]): StepSql {
    const key = shapeKey(shape);
    const known = this.#steps.get(key);
    if (known) return known;
    const made = stepSql(shape);
    this.#steps.set(key, made);
    return made;
  }

  #inspect(): void {
    this.#layout = null;
    this.#fault = null;
    try {
      this.#layout = inspect(this.#db);
    } catch (error) {
      if (!(error instanceof SetupError)) throw error;
      this.#fault = error;
    }
  }

  #readHead(): Head {
    const layout = this.#layout;
    if (!layout) return unknownHead;
    const books = layout.books
      ? "inserts, updates, deletes, out_of_order, last_id, (SELECT count(*) FROM (SELECT 1 FROM argo_supersedes LIMIT 1))"
      : "-1, -1, -1, -1, 0, 0";
    const sql =
      `SELECT (SELECT max(${layout.id}) FROM "signals"), ${books}` +
      (layout.books ? " FROM argo_head" : "");
    const row = (this.#statement(sql).values() as (number | null)[][])[0];
    if (!row) return unknownHead;
    const [
      maxId = 0,
      inserts = -1,
      updates = -1,
      deletes = -1,
      outOfOrder = -1,
      lastId = 0,
      corrections,
    ] = row.map((value) => value ?? 0);
    return {
      inserts,
      updates,
      deletes,
      outOfOrder,
      lastId,
      maxId,
      corrections: corrections === 1,
    };
  }

  #mustLayout(): Layout {
    this.refresh();
    if (this.#layout) return this.#layout;
    if (this.#fault) throw unfit(this.#fault);
    const reason = "The signal file has no table of signals at the moment. Try again.";
    throw new AppError("unavailable", reason, { retryAfterSeconds: 1 });
  }

  #select(layout: Layout, sight: Sight, where: string[], by = ""): string {
    const { corrections } = this.#head;
    const shown = columns({ layout, corrections, received: true, sight }, by);
    return `SELECT ${shown} WHERE ${[...where, ...seen(layout, sight)].join(" AND ")}`;
  }

  #slice(
    layout: Layout,
    sinceId: number,
    untilId: number,
    limit: number,
    sight: Sight,
  ): Omit<Slice, "gapTo"> {
    const last = this.#lastOf(layout, sinceId, untilId, limit);
    const where = [`${layout.id} > $sinceId`, `${layout.id} <= $lastId`];
    const sql = `${this.#select(layout, sight, where)} ORDER BY ${layout.id}`;
    const bindings = { sinceId, lastId: last ?? untilId, ...bound(sight) };
    return { rows: this.#signals<ReceivedSignal>(sql, bindings), nextId: last };
  }

  #expired({ books }: Layout): number {
    if (!books) return 0;
    return this.#first<{ id: number }>("SELECT id FROM argo_expired", {})?.id ?? 0;
  }

  /** The last of the next `limit` ids; null when no more than these are left. */
  #lastOf({ id }: Layout, sinceId: number, untilId: number, limit: number): number | null {
    const last = this.#first<{ id: number }>(
      `SELECT ${id} AS id FROM "signals" WHERE ${id} > $sinceId AND ${id} <= $untilId
       ORDER BY ${id} LIMIT 1 OFFSET +$offset`,
      { sinceId, untilId, offset: limit - 1 },
    );
    return last && last.id < untilId ? last.id : null;
  }

  /** The first row among these that is not seen yet, and will be. */
  #withheld(layout: Layout, among: string[], sight: Sight, bindings: Bindings): number | null {
    if (sight === null || sight.until === null) return null;
    const at = arrivedAt(layout);
    const where = [...among, `${at} > $seenUntil`, `${at} <= $aheadUntil`];
    where.push(...seen(layout, { ...sight, until: null }));
    const sql = `SELECT ${layout.id} AS id FROM "signals" WHERE ${where.join(" AND ")} ORDER BY ${layout.id} LIMIT 1`;
    return this.#first<{ id: number }>(sql, bindings)?.id ?? null;
  }

  /** The bindings of `fallen`; null when these are not comparable, or too many. */
  #fallenBetween(since: Mark, mark: Mark): Bindings | null {
    if (since.edition !== mark.edition || mark.until < since.until) return null;
    if (mark.inserts - since.inserts > fallenMax) return null;
    const { until, maxId } = mark;
    const bindings = { from: since.until, sinceId: since.maxId, until, maxId };
    const sql = `SELECT count(*) AS n FROM (${fallen} LIMIT +$most)`;
    const found = this.#first<{ n: number }>(sql, { ...bindings, most: fallenMax + 1 });
    return found && found.n <= fallenMax ? bindings : null;
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
    this.#steps.clear();
  }
}

const bound = (sight: Sight): Bindings => ({ seenUntil: sight?.until ?? null });

const tallySql = (layout: Layout, where: string[]): string =>
  `SELECT coalesce(CAST("symbol" AS TEXT), '') AS symbol, CAST(${strategyOf(layout)} AS TEXT) AS strategy,
          coalesce(CAST("action" AS TEXT), '') AS action, coalesce(substr(${layout.timestamp}, 1, 10), '') AS day,
          count(*) AS rows
   FROM "signals" WHERE ${where.join(" AND ")}
   GROUP BY 1, 2, 3, 4`;

const unfit = ({ message, fix }: SetupError): AppError =>
  new AppError("unavailable", `${message} ${fix}`, { retryAfterSeconds: 5 });

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
