import type { Database } from "bun:sqlite";
import books from "../../../db/argo/0001_books.sql" with { type: "text" };
import expired from "../../../db/argo/0004_expired.sql" with { type: "text" };
import forgotten from "../../../db/argo/0003_forgotten.sql" with { type: "text" };
import tail from "../../../db/argo/0005_tail.sql" with { type: "text" };
import views from "../../../db/argo/0002_views.sql" with { type: "text" };
import table from "../../../db/argo/signals.sql" with { type: "text" };
import { SetupError } from "../../errors";
import { delaySecondsMax } from "../../http/entitlement";
import { dated, indexesFor, inspect, type Layout, noted, triggersFor } from "./layout";

/** Own tables, in order; each runs once, in a transaction of its own. */
const migrations: readonly string[] = [books, views, forgotten, expired, tail];

export type Note = (message: string, data?: Record<string, unknown>) => void;

/**
 * Makes a file ready to be served: WAL, our own tables, triggers and indexes; nothing of the
 * engine's is changed. Safe to repeat, to run twice at once and to be killed at any point: each
 * step is one transaction that looks first.
 * @param create make the table `signals` where there is none; false while the engine may be
 *   between dropping it and making it anew, and would fail on ours.
 * @param nowMs the clock by which rows without a `received_at` may still be withheld.
 * @returns how the table is made now; null when there is none.
 */
export function adopt(
  db: Database,
  note: Note,
  { create, nowMs }: { create: boolean; nowMs: number },
): Layout | null {
  // One view of the file: another server may be making its table just now.
  db.transaction(() => {
    if (booksVersion(db) > 0) return;
    if (inspect(db)) mustBeSound(db);
    else mustBeEmpty(db);
  }).deferred();
  useWal(db, note);
  migrate(db, note);
  const made = transaction(db, () => {
    const before = inspect(db);
    if (before || !create) return before;
    db.run(table);
    note("made the table signals");
    return inspect(db);
  });
  if (!made) return null;
  track(db, note, nowMs);
  return index(db, note);
}

/** Version of our own tables in this file; 0 when they are not there. */
export function booksVersion(db: Database): number {
  const there = db
    .query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'argo_migrations'")
    .get();
  if (!there) return 0;
  const row = db
    .query<{ version: number | null }, []>("SELECT max(version) AS version FROM argo_migrations")
    .get();
  return row?.version ?? 0;
}

/** Before anything is written into a file for the first time. @throws SetupError */
function mustBeSound(db: Database): void {
  const lines = db.query<{ quick_check: string }, []>("PRAGMA quick_check(1)").all();
  const damage = lines.map((line) => line.quick_check).find((line) => line !== "ok");
  if (damage === undefined) return;
  throw new SetupError(
    `The signal file is damaged: ${damage}. It is left as it is.`,
    "Run `argo-alpine restore BACKUP`, or point SIGNALS_DB elsewhere.",
  );
}

/** Somebody else's database must not become ours by a slip of the path. @throws SetupError */
function mustBeEmpty(db: Database): void {
  const there = db
    .query<{ name: string }, []>(
      // Ours, with their indexes, are there when another server began a moment ago.
      String.raw`SELECT name FROM sqlite_master
       WHERE tbl_name NOT LIKE 'sqlite\_%' ESCAPE '\' AND tbl_name NOT LIKE 'argo\_%' ESCAPE '\'`,
    )
    .get();
  if (!there) return;
  throw new SetupError(
    `The file holds "${there.name}" and no table of signals. It is left as it is.`,
    "Point SIGNALS_DB at the file that the engine writes, or at a new one.",
  );
}

function useWal(db: Database, note: Note): void {
  const mode = () =>
    db.query<{ journal_mode: string }, []>("PRAGMA journal_mode").get()?.journal_mode;
  const before = mode();
  if (before === "wal") return;
  db.run("PRAGMA journal_mode = WAL");
  note("journal mode changed", { from: before, to: mode() });
}

function migrate(db: Database, note: Note): void {
  for (;;) {
    const done = transaction(db, () => {
      const version = booksVersion(db);
      if (version > migrations.length) {
        throw new SetupError(
          `The signal file is of a newer release (version ${version}, known ${migrations.length}).`,
          "Run the newer release, or restore a backup made by this one.",
        );
      }
      const sql = migrations[version];
      if (sql === undefined) return true;
      const begun = performance.now();
      if (version === 0) {
        db.run("CREATE TABLE argo_migrations (version INTEGER PRIMARY KEY, applied_at TEXT)");
      }
      db.run(sql);
      db.query("INSERT INTO argo_migrations VALUES (?, strftime('%Y-%m-%dT%H:%M:%fZ','now'))").run(
        version + 1,
      );
      const durationMs = Math.round(performance.now() - begun);
      note("own tables migrated", { version: version + 1, duration_ms: durationMs });
      return false;
    });
    if (done) return;
  }
}

function track(db: Database, note: Note, nowMs: number): void {
  transaction(db, () => {
    const layout = inspect(db);
    if (!layout || layout.tracked) return;
    const triggers = triggersFor(layout);
    const watched = db
      .query<{ name: string }, []>(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND lower(tbl_name) = 'signals'",
      )
      .all();
    for (const { name, sql } of triggers) {
      db.run(`DROP TRIGGER IF EXISTS ${name}`);
      db.run(sql);
    }
    // Unwatched until now: these may be other rows than those that were noted.
    if (!triggers.every((t) => watched.some((w) => w.name === t.name))) {
      for (const name of noted) db.run(`DELETE FROM ${name}`);
      db.run("UPDATE argo_expired SET id = 0");
      db.run("UPDATE argo_head SET updates = updates + 1");
      note("table adopted");
    }
    db.run(`UPDATE argo_head SET last_id = coalesce((SELECT max(${layout.id}) FROM "signals"), 0)`);
    noteDates(db, layout, nowMs);
  });
}

/** Notes the rows without a `received_at` that somebody may not see before they are older. */
function noteDates(db: Database, { id, timestamp }: Layout, nowMs: number): void {
  const old = new Date(nowMs - delaySecondsMax * 1_000);
  // A text says its own zone: in its bytes a moment may be a day off, and an index knows no more.
  const floor = new Date(old.getTime() - 2 * dayMs).toISOString().slice(0, 10);
  db.run("DELETE FROM argo_dated");
  db.query(
    `INSERT INTO argo_dated (id, arrived_at)
     SELECT ${id}, ${dated(timestamp)} FROM "signals"
     WHERE ${timestamp} >= $floor AND ${dated(timestamp)} > $old
       AND NOT EXISTS (SELECT 1 FROM argo_received WHERE id = "signals".${id})`,
  ).run({ floor, old: old.toISOString() });
}

const dayMs = 86_400_000;
const giveWayMs = 150;

/** Each index is a transaction of its own: a build holds the engine's lock while it lasts. */
function index(db: Database, note: Note): Layout | null {
  for (;;) {
    let durationMs = 0;
    const done = transaction(db, () => {
      const layout = inspect(db);
      const wanted = layout && indexesFor(layout).find((i) => !layout.indexes[i.name]);
      if (!wanted) return true;
      const taken = new Set(
        db
          .query<{ name: string }, []>("SELECT name FROM sqlite_master")
          .all()
          .map((m) => m.name),
      );
      const name = wanted.names.find((n) => !taken.has(n));
      if (!name) {
        throw new SetupError(
          `The index name ${wanted.names[0]} and all its substitutes are taken.`,
          "Drop one of them, then start again.",
        );
      }
      const begun = performance.now();
      db.run(wanted.sql(name));
      durationMs = performance.now() - begun;
      note("index built", { index: name, duration_ms: Math.round(durationMs) });
      return false;
    });
    // An engine that waited for the lock comes first: it may give up after a few seconds.
    if (durationMs > giveWayMs) Bun.sleepSync(giveWayMs);
    if (done) return inspect(db);
  }
}

function transaction<T>(db: Database, work: () => T): T {
  return db.transaction(work).immediate();
}
