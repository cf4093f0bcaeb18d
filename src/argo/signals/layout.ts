import type { Database } from "bun:sqlite";
import { SetupError } from "../../errors";

/** The strategy of a row that names none. */
export const DEFAULT_STRATEGY = "weighted_consensus";
/** Confidence from which a signal is premium. A literal in SQL: a bound one cannot use the index. */
export const PREMIUM_CONFIDENCE = 95;

const required = ["symbol", "action", "entry_price", "confidence", "timestamp"];

export type IndexName = "time" | "symbol" | "strategy" | "premium" | "hash";

/** How one signal table is made: the SQL of everything is built from this. */
export type Layout = {
  /** SQL of the row's id: the rowid, by a name that no column hides. */
  id: string;
  /** SQL of the ordering text: by bytes, whatever the column's type and collation. */
  timestamp: string;
  /** The same for a row by another name, such as NEW. */
  timestampIn: (table: string) => string;
  /** SQL that makes a column compare by bytes where the table may say otherwise. */
  collation: string;
  timestampNullable: boolean;
  has: { strategy: boolean; sha256: boolean; target: boolean; stop: boolean };
  /** Columns that the table requires and that this server does not know how to fill. */
  unfillable: string[];
  /** True when the table itself says what becomes of a row in conflict, such as IGNORE. */
  conflicts: boolean;
  /** True when a unique index may make an insert take the place of another row. */
  unique: boolean;
  /** Our indexes that are there, by their name in this file. */
  indexes: Partial<Record<IndexName, string>>;
  /** True when our triggers count every change, so that the head can be trusted. */
  tracked: boolean;
  /** True when our own tables are there, all that this release knows of. */
  books: boolean;
};

type Column = { name: string; type: string; notnull: number; dflt_value: unknown; pk: number };
type Master = { type: string; name: string; tbl_name: string; sql: string | null };

/** Reads how the table `signals` is made; null when there is none.
 * @throws SetupError when it cannot be a signal table. */
export function inspect(db: Database): Layout | null {
  const master = db.query<Master, []>("SELECT type, name, tbl_name, sql FROM sqlite_master").all();
  const table = master.find((m) => m.name.toLowerCase() === "signals" && m.type !== "index");
  if (!table) return null;
  if (table.type !== "table") {
    throw new SetupError(
      `"signals" is a ${table.type}, not a table.`,
      "Point SIGNALS_DB at the file whose table the engine writes.",
    );
  }
  const columns = db.query<Column, []>('PRAGMA table_xinfo("signals")').all();
  const named = new Map(columns.map((c) => [c.name.toLowerCase(), c]));
  const missing = required.filter((name) => !named.has(name));
  if (missing.length > 0) {
    throw new SetupError(
      `The table signals has no column ${missing.join(", ")}.`,
      "Point SIGNALS_DB at a file of the signal engine, or at a new one.",
    );
  }
  const collation = /\bcollate\b/i.test(table.sql ?? "") ? " COLLATE BINARY" : "";
  const indexes = db
    .query<{ unique: number; origin: string }, []>('PRAGMA index_list("signals")')
    .all();
  const layout: Layout = {
    id: idOf(
      columns,
      indexes.some((index) => index.origin === "pk"),
      withoutRowid(db),
    ),
    ...timestampOf(named.get("timestamp")?.type ?? "", collation),
    collation,
    timestampNullable: named.get("timestamp")?.notnull !== 1,
    has: {
      strategy: named.has("strategy"),
      sha256: named.has("sha256"),
      target: named.has("target_price"),
      stop: named.has("stop_price"),
    },
    unfillable: columns
      .filter((c) => c.notnull === 1 && c.dflt_value === null && c.pk === 0 && !known.has(c.name))
      .map((c) => c.name),
    conflicts: /\bon\s+conflict\b/i.test(table.sql ?? ""),
    unique: indexes.some((index) => index.unique === 1),
    indexes: {},
    tracked: false,
    books: master.some((m) => m.type === "table" && m.name === "argo_tail"),
  };
  for (const { name, names, sql } of indexesFor(layout)) {
    const there = master.find(
      (m) => m.type === "index" && names.includes(m.name) && same(m.sql, sql(m.name)),
    );
    if (there) layout.indexes[name] = there.name;
  }
  layout.tracked =
    layout.books &&
    triggersFor(layout).every((t) =>
      master.some((m) => m.type === "trigger" && m.name === t.name && same(m.sql, t.sql)),
    );
  return layout;
}

const known = new Set([...required, "id", "target_price", "stop_price", "strategy", "sha256"]);

const ID_COLUMN = '"id"';

/**
 * The `id` column where it is the rowid or the key of a table without one, else the rowid.
 * An `INTEGER PRIMARY KEY DESC` is not the rowid: it has an index of its own (lang_createtable §5).
 */
function idOf(columns: Column[], keyIndexed: boolean, withoutRowid: boolean): string {
  const id = columns.find((c) => c.name.toLowerCase() === "id");
  const keys = columns.filter((c) => c.pk > 0);
  const isKey = id?.pk === 1 && keys.length === 1 && /^integer$/i.test(id.type);
  if (isKey && (withoutRowid || !keyIndexed)) return ID_COLUMN;
  const taken = new Set(columns.map((c) => c.name.toLowerCase()));
  const alias = ["rowid", "_rowid_", "oid"].find((name) => !taken.has(name));
  if (withoutRowid || !alias) {
    throw new SetupError(
      "The table signals has neither an integer primary key nor a rowid.",
      "Point SIGNALS_DB at a file of the signal engine, or at a new one.",
    );
  }
  return alias;
}

function withoutRowid(db: Database): boolean {
  const row = db
    .query<{ wr: number }, []>("SELECT wr FROM pragma_table_list('signals') WHERE schema = 'main'")
    .get();
  return row?.wr === 1;
}

/** Text has its own order; in a column of another type each value is taken as the text it shows. */
function timestampOf(type: string, collation: string): Pick<Layout, "timestamp" | "timestampIn"> {
  const isText = /char|clob|text/i.test(type) && !/int/i.test(type);
  const timestampIn = (table: string) => {
    const column = table === "" ? '"timestamp"' : `${table}."timestamp"`;
    return `${isText ? column : `CAST(${column} AS TEXT)`}${collation}`;
  };
  return { timestamp: timestampIn('"signals"'), timestampIn };
}

/**
 * SQL of when a row arrived as far as its own timestamp tells (UTC, as `received_at` is written);
 * null where that is no date. SQLite would take words such as "now" for one.
 */
export const dated = (timestamp: string): string =>
  `CASE WHEN ${timestamp} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]*' ` +
  `THEN strftime('%Y-%m-%dT%H:%M:%fZ', ${timestamp}) END`;

const same = (a: string | null, b: string): boolean => a?.trim() === b.trim();

/** SQL of the strategy as it is shown. */
export const strategyOf = (layout: Layout): string =>
  layout.has.strategy ? `coalesce("strategy",'${DEFAULT_STRATEGY}')` : `'${DEFAULT_STRATEGY}'`;

const namesMax = 99;

type WantedIndex = { name: IndexName; names: string[]; sql: (name: string) => string };

/** Above every confidence and below all text, which SQLite sorts after the numbers. */
export const CONFIDENCE_END = "1e308";
/** True for a premium row. */
export const PREMIUM = `"confidence" >= ${PREMIUM_CONFIDENCE} AND "confidence" <= ${CONFIDENCE_END}`;

/** The indexes that reads need. A name may be taken: by something else, or by our own index on a
 * table that was renamed. Then the next one is used. */
export function indexesFor(layout: Layout): WantedIndex[] {
  const ts = layout.timestampIn("");
  const { has } = layout;
  const covering = [
    ts,
    '"id"',
    '"symbol"',
    '"action"',
    '"confidence"',
    '"entry_price"',
    ...(has.stop ? ['"stop_price"'] : []),
    ...(has.target ? ['"target_price"'] : []),
    ...(has.strategy ? ['"strategy"'] : []),
    ...(has.sha256 ? ['"sha256"'] : []),
  ];
  const wanted: [IndexName, string, string][] = [
    ["time", "idx_signal_created", `(${ts})`],
    ["symbol", "idx_signal_symbol_created", `("symbol"${layout.collation},${ts})`],
    [
      "premium",
      "idx_signal_premium_created",
      // A bare rowid cannot stand in an index ahead of the columns that it would cover.
      `(${layout.id === ID_COLUMN ? covering.join(",") : ts}) WHERE ${PREMIUM}`,
    ],
  ];
  if (has.strategy) {
    const strategy = `${strategyOf(layout)}${layout.collation}`;
    wanted.push(["strategy", "idx_signal_strategy_created", `(${strategy},${ts})`]);
  }
  if (has.sha256) wanted.push(["hash", "idx_signal_sha256", '("sha256")']);
  return wanted.map(([name, label, body]) => ({
    name,
    names: [label, ...Array.from({ length: namesMax }, (_, n) => `argo_${label}_${n + 1}`)],
    sql: (as) => `CREATE INDEX "${as}" ON "signals" ${body}`,
  }));
}

/** Own tables with what is noted of single rows. */
export const noted = ["argo_received", "argo_supersedes", "argo_hashes", "argo_dated"] as const;

/**
 * The triggers that count changes and note arrivals. Only what SQLite 3.31 knows, and nothing
 * that could fail the engine's own statement: the conflict clause of that statement overrides
 * the one in a trigger, so each insert here deletes first and conflicts with nothing.
 */
export function triggersFor(layout: Layout): { name: string; sql: string }[] {
  const id = layout.id;
  const forget = (row: string) =>
    noted.map((table) => `DELETE FROM ${table} WHERE id = ${row}.${id};`).join(" ");
  const move = noted
    .map((table) => `UPDATE ${table} SET id = NEW.${id} WHERE id = OLD.${id};`)
    .join(" ");
  const [was, is] = [layout.timestampIn("OLD"), layout.timestampIn("NEW")];
  /** A row that counts from its own timestamp counts from another one. */
  const redate = (when: string) =>
    `DELETE FROM argo_dated WHERE id = NEW.${id} AND ${when}; ` +
    `INSERT INTO argo_dated (id, arrived_at) SELECT NEW.${id}, ${dated(is)} ` +
    `WHERE ${when} AND ${dated(is)} IS NOT NULL ` +
    `AND NOT EXISTS (SELECT 1 FROM argo_received WHERE id = NEW.${id});`;
  return [
    {
      name: "argo_signals_insert",
      sql:
        `CREATE TRIGGER argo_signals_insert AFTER INSERT ON "signals" BEGIN ` +
        `UPDATE argo_head SET inserts = inserts + 1, ` +
        `out_of_order = out_of_order + (NEW.${id} <= last_id), ` +
        `last_id = max(last_id, NEW.${id}); ${forget("NEW")} ` +
        `INSERT INTO argo_received (id, received_at) ` +
        `VALUES (NEW.${id}, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')); END`,
    },
    {
      name: "argo_signals_update",
      sql:
        `CREATE TRIGGER argo_signals_update AFTER UPDATE ON "signals" BEGIN ` +
        `UPDATE argo_head SET updates = updates + 1; ` +
        // Which of two triggers comes first is not known: the other one is for rows that move.
        `${redate(`NEW.${id} = OLD.${id} AND ${is} IS NOT ${was}`)} END`,
    },
    {
      name: "argo_signals_move",
      sql:
        `CREATE TRIGGER argo_signals_move AFTER UPDATE ON "signals" WHEN NEW.${id} <> OLD.${id} ` +
        `BEGIN ${forget("NEW")} ${move} ${redate(`${is} IS NOT ${was}`)} END`,
    },
    {
      name: "argo_signals_delete",
      sql:
        `CREATE TRIGGER argo_signals_delete AFTER DELETE ON "signals" BEGIN ` +
        `UPDATE argo_head SET deletes = deletes + 1; ${forget("OLD")} END`,
    },
  ];
}
