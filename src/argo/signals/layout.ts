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
  /** SQL of the ordering text, by bytes whatever the column's collation. */
  timestamp: string;
  /** SQL for the collation of the ordering text inside an index. */
  collation: string;
  timestampNullable: boolean;
  has: { strategy: boolean; sha256: boolean; target: boolean; stop: boolean };
  /** Columns that the table requires and that this server does not know how to fill. */
  unfillable: string[];
  /** True when a unique index may make an insert take the place of another row. */
  unique: boolean;
  /** Our indexes that are there, by their name in this file. */
  indexes: Partial<Record<IndexName, string>>;
  /** True when our triggers count every change, so that the head can be trusted. */
  tracked: boolean;
  /** True when our own tables are there. */
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
  const layout: Layout = {
    id: idOf(columns, table.sql ?? ""),
    timestamp: `"signals"."timestamp"${collation}`,
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
    unique: db
      .query<{ unique: number }, []>('PRAGMA index_list("signals")')
      .all()
      .some((index) => index.unique === 1),
    indexes: {},
    tracked: false,
    books: master.some((m) => m.type === "table" && m.name === "argo_head"),
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

/** The `id` column where it is the rowid or the key of a table without one, else the rowid. */
function idOf(columns: Column[], sql: string): string {
  const id = columns.find((c) => c.name.toLowerCase() === "id");
  const keys = columns.filter((c) => c.pk > 0);
  const withoutRowid = /\bwithout\s+rowid\b[^()]*$/i.test(sql);
  const isKey = id?.pk === 1 && keys.length === 1 && /^integer$/i.test(id.type);
  if (isKey) return ID_COLUMN;
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

const same = (a: string | null, b: string): boolean => a?.trim() === b.trim();

/** SQL of the strategy as it is shown. */
export const strategyOf = (layout: Layout): string =>
  layout.has.strategy ? `coalesce("strategy",'${DEFAULT_STRATEGY}')` : `'${DEFAULT_STRATEGY}'`;

type WantedIndex = { name: IndexName; names: string[]; sql: (name: string) => string };

/** The indexes that reads need, with a second name for a file in which the first is taken. */
export function indexesFor(layout: Layout): WantedIndex[] {
  const ts = `"timestamp"${layout.collation}`;
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
    ["symbol", "idx_signal_symbol_created", `("symbol",${ts})`],
    [
      "premium",
      "idx_signal_premium_created",
      // A bare rowid cannot stand in an index ahead of the columns that it would cover.
      `(${layout.id === ID_COLUMN ? covering.join(",") : ts}) WHERE "confidence" >= ${PREMIUM_CONFIDENCE}`,
    ],
  ];
  if (has.strategy) {
    wanted.push(["strategy", "idx_signal_strategy_created", `(${strategyOf(layout)},${ts})`]);
  }
  if (has.sha256) wanted.push(["hash", "idx_signal_sha256", '("sha256")']);
  return wanted.map(([name, label, body]) => ({
    name,
    names: [label, `argo_${label}`],
    sql: (as) => `CREATE INDEX "${as}" ON "signals" ${body}`,
  }));
}

/**
 * The triggers that count changes and note arrivals. Only what SQLite 3.31 knows, and nothing
 * that could fail the engine's own statement: the conflict clause of that statement overrides
 * the one in a trigger, so each insert here deletes first and conflicts with nothing.
 */
export function triggersFor(layout: Layout): { name: string; sql: string }[] {
  const id = layout.id;
  const forget = (row: string) =>
    ["argo_received", "argo_supersedes", "argo_hashes"]
      .map((table) => `DELETE FROM ${table} WHERE id = ${row}.${id};`)
      .join(" ");
  return [
    {
      name: "argo_signals_insert",
      sql:
        `CREATE TRIGGER argo_signals_insert AFTER INSERT ON "signals" BEGIN ` +
        `UPDATE argo_head SET inserts = inserts + 1; ${forget("NEW")} ` +
        `INSERT INTO argo_received (id, received_at) ` +
        `VALUES (NEW.${id}, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')); END`,
    },
    {
      name: "argo_signals_update",
      sql:
        `CREATE TRIGGER argo_signals_update AFTER UPDATE ON "signals" BEGIN ` +
        `UPDATE argo_head SET updates = updates + 1; END`,
    },
    {
      name: "argo_signals_delete",
      sql:
        `CREATE TRIGGER argo_signals_delete AFTER DELETE ON "signals" BEGIN ` +
        `UPDATE argo_head SET deletes = deletes + 1; ${forget("OLD")} END`,
    },
  ];
}
