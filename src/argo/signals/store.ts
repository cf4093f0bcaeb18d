import { guarded, SignalFile } from "./file";
import { type Layout, strategyOf } from "./layout";
import { columns, type ReceivedSignal, type Signal, tidy } from "./signal";
import { arrivedAt, seen, type Sight } from "./sight";
import {
  type Bindings,
  bindingsOf,
  canMatch,
  type Filter,
  hasIndex,
  type Key,
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

const stepsMax = 256;

/**
 * The rows of the signal file, by whatever they are asked for. What may visit many rows takes a
 * budget and says where to go on.
 */
export class SignalReader extends SignalFile {
  readonly #steps = new Map<string, StepSql>();
  /** What they were made for. */
  #stepsOf: Layout | null = null;

  /** False when a walk with this filter would have to sort: the index for it is not there. */
  indexed(filter: Filter): boolean {
    return this.layout === null || hasIndex(this.layout, filter);
  }

  /** One page of at most `limit` rows, of the file as it was when last looked at or newer. */
  page(walk: Walk): Page {
    const layout = this.layout ?? this.mustLayout();
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
    const layout = this.mustLayout();
    return guarded(() => {
      const sql = `${this.#select(layout, sight, [`${layout.id} = $id`])}`;
      return this.#signals<ReceivedSignal>(sql, { id, ...bound(sight) })[0] ?? null;
    });
  }

  /** The newest row that carries this hash. */
  byHash(sha256: string, sight: Sight): ReceivedSignal | null {
    const layout = this.mustLayout();
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
    const layout = this.mustLayout();
    return !layout.has.sha256 || layout.indexes.hash !== undefined;
  }

  /**
   * The row of the highest id that is seen, and carries this hash where one is given, among the
   * `budget` rows next below an id, without any index; `belowId` is null when nothing is further.
   */
  seek(sha256: string | null, belowId: number, budget: number, sight: Sight): Seek {
    const layout = this.mustLayout();
    const { id } = layout;
    return guarded(() => {
      const last = this.first<{ id: number }>(
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
    const layout = this.mustLayout();
    return guarded(() =>
      this.db.transaction(() => {
        const slice = this.#slice(layout, sinceId, untilId, limit, sight);
        return { ...slice, gapTo: this.#expired(layout) };
      })(),
    );
  }

  /** Nothing at or below this id need be there any more: the highest that was deleted for its age. */
  expired(): number {
    const layout = this.mustLayout();
    return guarded(() => this.#expired(layout));
  }

  /**
   * The rows that are seen of the next `limit` after an id, ascending, up to the first one that is
   * withheld for now: what comes after it waits for it, so that ids come in order. One that arrived
   * after `aheadUntil`, by whatever clock, is waited for by none.
   */
  follow(sinceId: number, limit: number, sight: Sight, aheadUntil: string): Followed {
    const layout = this.mustLayout();
    const { id } = layout;
    return guarded(() => {
      const last = this.#lastOf(layout, sinceId, Number.MAX_SAFE_INTEGER, limit);
      const untilId = Math.max(sinceId, last ?? this.head.maxId);
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
    const layout = this.mustLayout();
    if (!layout.books || !layout.tracked) return null;
    const lowest = (table: string, at: string) =>
      `SELECT min(+id) AS id FROM ${table} WHERE ${at} > $until AND ${at} <= $aheadUntil`;
    const sql = `SELECT min(id) AS id FROM (${lowest("argo_received", "received_at")} UNION ALL ${lowest("argo_dated", "arrived_at")})`;
    return guarded(() => this.first<{ id: number | null }>(sql, { until, aheadUntil })?.id ?? null);
  }

  /** Counts the rows that are seen of the next `limit` with `sinceId < id <= untilId`. */
  tally(
    sinceId: number,
    untilId: number,
    limit: number,
    sight: Sight,
  ): { tally: Tally; nextId: number | null } {
    const layout = this.mustLayout();
    return guarded(() => {
      const last = this.#lastOf(layout, sinceId, untilId, limit);
      const where = [`${layout.id} > $sinceId`, `${layout.id} <= $lastId`, ...seen(layout, sight)];
      const bindings = { sinceId, lastId: last ?? untilId, ...bound(sight) };
      return { tally: this.all<Tally[number]>(tallySql(layout, where), bindings), nextId: last };
    });
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

  /** The plan of a page's queries, for the test that looks at it. */
  explain(walk: Walk): string[] {
    const layout = this.mustLayout();
    const details: string[] = [];
    const watch = (sql: string, bindings: Bindings) => {
      const rows = this.db
        .query<{ detail: string }, [Bindings]>(`EXPLAIN QUERY PLAN ${sql}`)
        .all(bindings);
      details.push(...rows.map((row) => row.detail));
    };
    this.#step(layout, walk, walk.after, walk.limit, walk.budget, watch);
    return details;
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
    const { corrections } = this.head;
    const sql = this.#stepSql({ layout, corrections, received, order, start, filter, sight });
    const bindings = bindingsOf(walk, after);
    bindings["limit"] = want;
    let boundary: Key | null = null;
    if (sql.boundary !== null) {
      bindings["offset"] = budget - 1;
      watch?.(sql.boundary, bindings);
      boundary = this.first<Key>(sql.boundary, bindings);
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
    if (shape.layout !== this.#stepsOf || this.#steps.size >= stepsMax) this.#steps.clear();
    this.#stepsOf = shape.layout;
    const key = shapeKey(shape);
    const known = this.#steps.get(key);
    if (known) return known;
    const made = stepSql(shape);
    this.#steps.set(key, made);
    return made;
  }

  #select(layout: Layout, sight: Sight, where: string[], by = ""): string {
    const { corrections } = this.head;
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
    return this.first<{ id: number }>("SELECT id FROM argo_expired", {})?.id ?? 0;
  }

  /** The last of the next `limit` ids; null when no more than these are left. */
  #lastOf({ id }: Layout, sinceId: number, untilId: number, limit: number): number | null {
    const last = this.first<{ id: number }>(
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
    return this.first<{ id: number }>(sql, bindings)?.id ?? null;
  }

  #signals<T extends Signal>(sql: string, bindings: Bindings): T[] {
    const rows = this.all<T>(sql, bindings);
    for (const row of rows) tidy(row);
    return rows;
  }
}

const bound = (sight: Sight): Bindings => ({ seenUntil: sight?.until ?? null });

/** SQL of a `Tally` of the rows that meet these conditions. */
export const tallySql = (layout: Layout, where: string[]): string =>
  `SELECT coalesce(CAST("symbol" AS TEXT), '') AS symbol, CAST(${strategyOf(layout)} AS TEXT) AS strategy,
          coalesce(CAST("action" AS TEXT), '') AS action, coalesce(substr(${layout.timestamp}, 1, 10), '') AS day,
          count(*) AS rows
   FROM "signals" WHERE ${where.join(" AND ")}
   GROUP BY 1, 2, 3, 4`;
