import {
  CONFIDENCE_END,
  DEFAULT_STRATEGY,
  type Layout,
  PREMIUM,
  PREMIUM_CONFIDENCE,
  strategyOf,
} from "./layout";
import { seen, type Sight, sightKind } from "./sight";
import { columns, type Signal } from "./signal";

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
/**
 * A place in the order of a list; a null timestamp comes last in `desc`. Where the values as read
 * would not find the row again (a blob, bytes that are not UTF-8, an id that a double rounds),
 * `exact` spells them out: type, hex of the timestamp, id.
 */
export type Key = { timestamp: string | null; id: number; exact?: string | null };

export type Walk = {
  filter: Filter;
  sight: Sight;
  order: Order;
  after: Key | null;
  limit: number;
  /** Matches to pass over first. */
  skip: number;
  /** Rows that may be visited. */
  budget: number;
  /** True for the rows of lists: they say when they came, and their exact place for the cursor. */
  received: boolean;
};
export type Page = {
  rows: Signal[];
  skipped: number;
  /** Where to go on when the budget ran out; null when the page is full or the end was reached. */
  resume: Key | null;
};

export type Bindings = Record<string, string | number | bigint | Uint8Array | null>;

/** Where rows with a timestamp begin in `asc`, after those without one: before every id. */
const firstTimed: Key = Object.freeze({ timestamp: "", id: -Infinity });

/**
 * From where a step goes: the very start, a place among the timed rows (`timedRaw`: by the bytes
 * of a text that is not UTF-8), or among those without a timestamp.
 */
type Start = "top" | "timed" | "timedRaw" | "untimed";

/**
 * The SQL of one bounded step of a walk. Conditions that an index answers in order come first; the
 * rest is tested on the rows between the start and a boundary key that the index alone gives.
 */
export type StepSql = {
  /** The key at which the budget ends; null when no condition is left to test. */
  boundary: string | null;
  /** All rows from the start, and those up to the boundary ($stopTs, $stopId). */
  open: string;
  bounded: string;
};

/** What tells one step's SQL from another's: which conditions there are, not their values. */
type Shape = {
  layout: Layout;
  corrections: boolean;
  received: boolean;
  order: Order;
  start: Start;
  filter: Filter;
  sight: Sight;
};

export function shapeKey({ corrections, received, order, start, filter, sight }: Shape): string {
  const { minConfidence, strategy } = filter;
  return [
    order,
    start,
    sightKind(sight),
    corrections,
    received,
    filter.symbol !== undefined,
    strategy === undefined ? "" : strategy === DEFAULT_STRATEGY,
    filter.action !== undefined,
    confidenceKind(minConfidence),
    filter.since !== undefined,
    filter.until !== undefined,
  ].join();
}

/** What a walk starts from, and what follows when its rows end. */
export function zoneOf(
  layout: Layout,
  walk: Walk,
  after: Key | null,
): { start: Start; next: Key | null } {
  const { filter, order } = walk;
  const bounded = filter.since !== undefined || filter.until !== undefined;
  const withUntimed = layout.timestampNullable && !bounded;
  const down = order === "desc";
  if (after === null) {
    if (!withUntimed) return { start: "top", next: null };
    return down
      ? { start: "top", next: untimedFrom(true) }
      : { start: "untimed", next: firstTimed };
  }
  if (after.timestamp === null) return { start: "untimed", next: down ? null : firstTimed };
  const raw = after.exact?.startsWith("text:");
  const start = after.id === firstTimed.id ? "top" : raw ? "timedRaw" : "timed";
  return { start, next: withUntimed && down ? untimedFrom(true) : null };
}

export const untimedFrom = (down: boolean): Key => ({
  timestamp: null,
  id: down ? Infinity : -Infinity,
});

/** The highest id that SQLite can hold. */
const lastId = "9223372036854775807";

/** The place just above a row: a walk that comes after it begins with the row and its equals. */
function above({ timestamp, exact }: Key): Key {
  const id = Infinity;
  return exact == null
    ? { timestamp, id }
    : { timestamp, id, exact: `${exact.slice(0, exact.lastIndexOf(":"))}:${lastId}` };
}

/** The same walk, without the rows above the newest that is seen (null where it is not known). */
export function newestFrom<W extends Omit<Walk, "budget">>(top: Key | null, walk: W): W {
  const { after, filter, order } = walk;
  // Two bounds from above: SQLite would begin at one of them, and it may be the wrong one.
  if (top === null || after !== null || order === "asc" || filter.until !== undefined) return walk;
  return { ...walk, after: above(top) };
}

/** The values of a place as SQLite compares them. */
export function placeOf({ timestamp, id, exact }: Key): {
  timestamp: string | Uint8Array | null;
  id: number | bigint;
} {
  const [type, hex = "", exactId = ""] = exact?.split(":") ?? [];
  if (type === undefined) return { timestamp, id };
  return { timestamp: type === "null" ? null : Buffer.from(hex, "hex"), id: BigInt(exactId) };
}

/** The values of a step; those that its SQL does not name are ignored. */
export function bindingsOf({ filter, order, sight }: Walk, after: Key | null): Bindings {
  const { symbol, strategy, action, minConfidence, since, until } = filter;
  const from = placeOf(after ?? untimedFrom(order === "desc"));
  return {
    symbol: symbol ?? null,
    strategy: strategy ?? null,
    action: action ?? null,
    minConfidence: minConfidence ?? null,
    since: since ?? null,
    until: until ?? null,
    seenUntil: sight?.until ?? null,
    afterTs: from.timestamp,
    afterId: from.id,
  };
}

export function stepSql(shape: Shape): StepSql {
  const { layout, received, order, start, filter, sight } = shape;
  const { index, indexed, residual } = conditions(layout, filter);
  residual.push(...seen(layout, sight));
  const { id, timestamp: ts } = layout;
  const down = order === "desc";
  const [before, upTo, direction] = down ? ["<", ">=", "DESC"] : [">", "<=", "ASC"];
  const untimed = start === "untimed";
  const where = [...indexed];
  if (untimed) where.push(`${ts} IS NULL`, `${id} ${before} $afterId`);
  else if (layout.timestampNullable) where.push(`${ts} IS NOT NULL`);
  if (start === "timed") where.push(`(${ts}, ${id}) ${before} ($afterTs, $afterId)`);
  if (start === "timedRaw") {
    where.push(`(${ts}, ${id}) ${before} (CAST($afterTs AS TEXT), $afterId)`);
  }
  const stopTs = `iif($stopIsText, CAST($stopTs AS TEXT), $stopTs)`;
  const stop = untimed ? `${id} ${upTo} $stopId` : `(${ts}, ${id}) ${upTo} (${stopTs}, $stopId)`;
  const by = index ? `INDEXED BY "${index}"` : "";
  const ordered = untimed
    ? `ORDER BY ${id} ${direction}`
    : `ORDER BY ${ts} ${direction}, ${id} ${direction}`;
  const place = exactPlace(layout);
  const select = `SELECT ${received ? `${place}, ` : ""}${columns(shape, by)}`;
  // "+" before a bound limit: a bare one makes SQLite prepare the statement anew at each bind,
  // which doubles the cost of a page.
  const rows = (conditions: string[]) =>
    `${select}${whereSql(conditions)} ${ordered} LIMIT +$limit`;
  return {
    boundary:
      residual.length === 0
        ? null
        : `${keySql(layout, by)}${whereSql(where)} ${ordered} LIMIT 1 OFFSET +$offset`,
    open: rows([...where, ...residual]),
    bounded: rows([...where, stop, ...residual]),
  };
}

/** Selects the places of rows. */
export const keySql = (layout: Layout, by = ""): string =>
  `SELECT ${layout.timestamp} AS timestamp, ${layout.id} AS id, ${exactPlace(layout)} FROM "signals" ${by}`;

/** SQL of `Key.exact`: null where timestamp and id are read just as they are stored. */
function exactPlace({ id, timestamp: ts }: Layout): string {
  const plainText = `(${ts} IS NULL OR typeof(${ts}) = 'text' AND ${ts} NOT GLOB '*[^ -~]*')`;
  const plainId = `${id} BETWEEN ${Number.MIN_SAFE_INTEGER} AND ${Number.MAX_SAFE_INTEGER}`;
  return `iif(${plainText} AND ${plainId}, NULL, typeof(${ts}) || ':' || hex(${ts}) || ':' || ${id}) AS exact`;
}

type Conditions = {
  index: string | undefined;
  indexed: string[];
  residual: string[];
};

/** How a lowest confidence stands to the premium index. */
function confidenceKind(min: number | undefined): "any" | "below" | "premium" | "above" {
  if (min === undefined || min <= 0) return "any";
  if (min === PREMIUM_CONFIDENCE) return "premium";
  return min < PREMIUM_CONFIDENCE ? "below" : "above";
}

/**
 * False for a strategy that a table without that column cannot hold, and for premium rows where
 * they are not seen.
 */
export function canMatch(layout: Layout, { filter, sight }: Walk): boolean {
  const { strategy, minConfidence = 0 } = filter;
  if (sight !== null && !sight.premium && minConfidence >= PREMIUM_CONFIDENCE) return false;
  return layout.has.strategy || strategy === undefined || strategy === DEFAULT_STRATEGY;
}

/** Chooses the index that a filter walks, and says what that index does not answer. */
function conditions(layout: Layout, filter: Filter): Conditions {
  const { collation, indexes, timestamp } = layout;
  const kind = confidenceKind(filter.minConfidence);
  const bySymbol = filter.symbol !== undefined;
  const byStrategy = filter.strategy !== undefined && layout.has.strategy;
  const byPremium = !bySymbol && !byStrategy && (kind === "premium" || kind === "above");
  const sameStrategy = `${strategyOf(layout)}${collation} = $strategy`;
  const indexed: string[] = [];
  const residual: string[] = [];
  if (bySymbol) indexed.push(`"symbol"${collation} = $symbol`);
  else if (byStrategy) indexed.push(sameStrategy);
  else if (byPremium) indexed.push(PREMIUM);
  if (bySymbol && byStrategy) residual.push(sameStrategy);
  if (kind !== "any" && !(byPremium && kind === "premium")) {
    residual.push(`"confidence" >= $minConfidence AND "confidence" <= ${CONFIDENCE_END}`);
  }
  if (filter.action !== undefined) residual.push(`"action"${collation} = $action`);
  if (filter.since !== undefined) indexed.push(`${timestamp} >= $since`);
  if (filter.until !== undefined) indexed.push(`${timestamp} < $until`);
  const walked = bySymbol ? "symbol" : byStrategy ? "strategy" : byPremium ? "premium" : "time";
  return { index: indexes[walked], indexed, residual };
}

export const hasIndex = (layout: Layout, filter: Filter): boolean =>
  conditions(layout, filter).index !== undefined;

const whereSql = (where: string[]) => (where.length > 0 ? ` WHERE ${where.join(" AND ")}` : "");
