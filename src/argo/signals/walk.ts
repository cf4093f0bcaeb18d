import {
  CONFIDENCE_END,
  DEFAULT_STRATEGY,
  type Layout,
  PREMIUM,
  PREMIUM_CONFIDENCE,
  strategyOf,
} from "./layout";
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

export type Bindings = Record<string, string | number | null>;

/** Where rows with a timestamp begin in `asc`, after those without one. */
const firstTimed: Key = Object.freeze({ timestamp: "", id: -1 });

/** From where a step goes: the very start, a place among the timed rows, or among those without. */
type Start = "top" | "timed" | "untimed";

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
};

export function shapeKey({ corrections, received, order, start, filter }: Shape): string {
  const { minConfidence, strategy } = filter;
  return [
    order,
    start,
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
  const isFirst = after.timestamp === firstTimed.timestamp && after.id === firstTimed.id;
  return { start: isFirst ? "top" : "timed", next: withUntimed && down ? untimedFrom(true) : null };
}

const untimedFrom = (down: boolean): Key => ({
  timestamp: null,
  id: down ? Number.MAX_SAFE_INTEGER : Number.MIN_SAFE_INTEGER,
});

/** The values of a step; those that its SQL does not name are ignored. */
export function bindingsOf({ filter, order }: Walk, after: Key | null): Bindings {
  const { symbol, strategy, action, minConfidence, since, until } = filter;
  const from = after ?? untimedFrom(order === "desc");
  return {
    symbol: symbol ?? null,
    strategy: strategy ?? null,
    action: action ?? null,
    minConfidence: minConfidence ?? null,
    since: since ?? null,
    until: until ?? null,
    afterTs: from.timestamp,
    afterId: from.id,
  };
}

export function stepSql({ layout, corrections, received, order, start, filter }: Shape): StepSql {
  const { index, indexed, residual } = conditions(layout, filter);
  const { id, timestamp: ts } = layout;
  const down = order === "desc";
  const [before, upTo, direction] = down ? ["<", ">=", "DESC"] : [">", "<=", "ASC"];
  const untimed = start === "untimed";
  const where = [...indexed];
  if (untimed) where.push(`${ts} IS NULL`, `${id} ${before} $afterId`);
  else if (layout.timestampNullable) where.push(`${ts} IS NOT NULL`);
  if (start === "timed") where.push(`(${ts}, ${id}) ${before} ($afterTs, $afterId)`);
  const stop = untimed ? `${id} ${upTo} $stopId` : `(${ts}, ${id}) ${upTo} ($stopTs, $stopId)`;
  const by = index ? `INDEXED BY "${index}"` : "";
  const ordered = untimed
    ? `ORDER BY ${id} ${direction}`
    : `ORDER BY ${ts} ${direction}, ${id} ${direction}`;
  const select = `SELECT ${columns(layout, corrections, received, by)}`;
  // "+" before a bound limit: a bare one makes SQLite prepare the statement anew at each bind,
  // which doubles the cost of a page.
  const rows = (conditions: string[]) =>
    `${select}${whereSql(conditions)} ${ordered} LIMIT +$limit`;
  return {
    boundary:
      residual.length === 0
        ? null
        : `SELECT ${ts} AS timestamp, ${id} AS id FROM "signals" ${by}${whereSql(where)} ${ordered} LIMIT 1 OFFSET +$offset`,
    open: rows([...where, ...residual]),
    bounded: rows([...where, stop, ...residual]),
  };
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

/** False for a strategy that a table without that column cannot hold. */
export function canMatch(layout: Layout, { strategy }: Filter): boolean {
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
