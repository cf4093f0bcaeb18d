import { describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { adopt } from "../../../src/argo/signals/adopt.ts";
import { SignalReader } from "../../../src/argo/signals/store.ts";
import type { Filter, Key } from "../../../src/argo/signals/walk.ts";
import { SetupError } from "../../../src/errors.ts";
import { LEGACY, openApp, problemOf, rowsOf, signal, type App } from "../../harness/app.ts";
import { tempDir, until } from "../../harness/process.ts";
import { findTool } from "../../harness/tools.ts";

interface Shown {
  id: number;
  symbol: string;
  confidence: number | null;
  price: number | null;
  stop_loss: number | null;
  target_price: number | null;
  timestamp: string | null;
  strategy: string;
  sha256: string;
  supersedes: number | null;
  received_at?: string | null;
}
interface Page {
  signals: Shown[];
  next_cursor: string | null;
}

/** All there is, and what the lowest plan sees of it. */
const SIGHTS = [null, { premium: false, until: "2026-01-01T00:00:00.000Z" }];
const WHOLE = { create: true, nowMs: Date.now() };

const ENGINE_TABLE = `CREATE TABLE signals (
    id INTEGER PRIMARY KEY AUTOINCREMENT, symbol TEXT NOT NULL, action TEXT NOT NULL,
    entry_price REAL NOT NULL, target_price REAL, stop_price REAL, confidence REAL NOT NULL,
    strategy TEXT DEFAULT 'weighted_consensus', timestamp TEXT NOT NULL, sha256 TEXT)`;

/** A table of signals that is not quite the engine's. */
interface Relative {
  name: string;
  table: string;
  /** Extra statements before anything is served. */
  also?: string[];
  /** What a row needs besides the five columns that all have. */
  needs?: (at: number) => Record<string, string | number>;
  /** What a post is answered; 201 unless given. */
  posted?: number;
}

const RELATIVES: Relative[] = [
  { name: "the engine's own", table: ENGINE_TABLE },
  {
    name: "no strategy",
    table: `CREATE TABLE signals (id INTEGER PRIMARY KEY AUTOINCREMENT, symbol TEXT NOT NULL,
      action TEXT NOT NULL, entry_price REAL NOT NULL, target_price REAL, stop_price REAL,
      confidence REAL NOT NULL, timestamp TEXT NOT NULL, sha256 TEXT)`,
  },
  {
    name: "no sha256",
    table: `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT, entry_price REAL,
      target_price REAL, stop_price REAL, confidence REAL, strategy TEXT, timestamp TEXT)`,
  },
  {
    name: "neither, another order, upper case",
    table: `CREATE TABLE "Signals" (TIMESTAMP TEXT NOT NULL, Confidence REAL, ENTRY_PRICE REAL,
      Stop_Price REAL, Target_Price REAL, ACTION TEXT, Symbol TEXT, ID INTEGER PRIMARY KEY)`,
  },
  {
    name: "extra columns",
    table: `CREATE TABLE signals (note TEXT, id INTEGER PRIMARY KEY, symbol TEXT NOT NULL,
      weight REAL NOT NULL DEFAULT 1.5, action TEXT, entry_price REAL, target_price REAL,
      stop_price REAL, confidence REAL, strategy TEXT, "odd name" BLOB, timestamp TEXT, sha256 TEXT,
      doubled REAL GENERATED ALWAYS AS (entry_price * 2) VIRTUAL)`,
  },
  {
    name: "an extra column that must be filled",
    table: `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT, entry_price REAL,
      target_price REAL, stop_price REAL, confidence REAL, strategy TEXT, timestamp TEXT,
      broker TEXT NOT NULL)`,
    needs: () => ({ broker: "b" }),
    posted: 409,
  },
  {
    name: "a rowid alone",
    table: `CREATE TABLE signals (symbol TEXT, action TEXT, entry_price REAL, target_price REAL,
      stop_price REAL, confidence REAL, strategy TEXT, timestamp TEXT, sha256 TEXT)`,
  },
  {
    name: "a column named rowid",
    table: `CREATE TABLE signals (rowid TEXT, symbol TEXT, action TEXT, entry_price REAL,
      target_price REAL, stop_price REAL, confidence REAL, strategy TEXT, timestamp TEXT)`,
  },
  {
    name: "an id that is text",
    table: `CREATE TABLE signals (id TEXT, symbol TEXT, action TEXT, entry_price REAL,
      target_price REAL, stop_price REAL, confidence REAL, timestamp TEXT)`,
  },
  {
    name: "another primary key",
    table: `CREATE TABLE signals (id INTEGER, symbol TEXT, action TEXT, entry_price REAL,
      target_price REAL, stop_price REAL, confidence REAL, timestamp TEXT, sha256 TEXT,
      PRIMARY KEY (symbol, timestamp, action, entry_price))`,
  },
  {
    name: "a descending primary key",
    table: `CREATE TABLE signals (id INTEGER PRIMARY KEY DESC, symbol TEXT, action TEXT,
      entry_price REAL, target_price REAL, stop_price REAL, confidence REAL, timestamp TEXT)`,
  },
  {
    name: "NOCASE",
    table: `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT COLLATE NOCASE, action TEXT,
      entry_price REAL, target_price REAL, stop_price REAL, confidence REAL,
      strategy TEXT COLLATE NOCASE, timestamp TEXT COLLATE NOCASE, sha256 TEXT COLLATE NOCASE)`,
  },
  {
    name: "WITHOUT ROWID",
    table: `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT, entry_price REAL,
      target_price REAL, stop_price REAL, confidence REAL, strategy TEXT, timestamp TEXT,
      sha256 TEXT) WITHOUT ROWID`,
    needs: (id) => ({ id }),
    posted: 409,
  },
  {
    name: "names of our indexes taken",
    table: ENGINE_TABLE,
    also: [
      "CREATE INDEX idx_signal_created ON signals (confidence)",
      "CREATE TABLE idx_signal_symbol_created (x)",
      "CREATE INDEX idx_signal_sha256 ON idx_signal_symbol_created (x)",
    ],
  },
  {
    name: "indexes and triggers of the engine's own",
    table: ENGINE_TABLE,
    also: [
      "CREATE UNIQUE INDEX mine ON signals (symbol, timestamp, confidence)",
      "CREATE TABLE journal (what)",
      "CREATE TRIGGER engine_insert AFTER INSERT ON signals BEGIN INSERT INTO journal VALUES (NEW.id); END",
      "PRAGMA user_version = 42",
      "PRAGMA application_id = 77",
    ],
  },
  {
    name: "no prices to leave at",
    table:
      "CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol, action, entry_price, confidence, timestamp)",
    posted: 422,
  },
];

/** Writes one row by name; `more` are columns that it needs besides. */
function named(db: Database, at: number, more: Record<string, string | number> = {}): void {
  const values = {
    symbol: at % 2 === 0 ? "SPX" : "NDX",
    action: "BUY",
    entry_price: 100 + at,
    confidence: 90 + (at % 10),
    timestamp: `2026-01-${String(1 + (at % 28)).padStart(2, "0")}T00:00:00Z`,
    ...more,
  };
  const names = Object.keys(values);
  db.run(
    `INSERT INTO signals (${names.join(",")}) VALUES (${names.map(() => "?").join(",")})`,
    Object.values(values),
  );
}

/** Sixty rows in a table of this kind. */
const filled =
  ({ table, also = [], needs }: Relative) =>
  (db: Database): void => {
    db.run(table);
    for (const sql of also) db.run(sql);
    for (let i = 1; i <= 60; i += 1) named(db, i, needs?.(i));
  };

/** A listed signal as polls show it. */
function polled(shown: Shown): Shown {
  const { received_at: _, ...rest } = shown;
  return rest;
}

const tableSql = (db: Database): string =>
  db
    .query<{ sql: string }, []>(
      "SELECT sql FROM sqlite_master WHERE type = 'table' AND lower(name) = 'signals'",
    )
    .get()?.sql ?? "";

/** Ids by what the answers must be ordered by, read past every index and collation. */
function idsByTime(db: Database, where = "1"): number[] {
  const sql = tableSql(db).replaceAll(/\s+/g, " ");
  const id = /\bid integer primary key\b(?! desc)/i.test(sql)
    ? "id"
    : /\browid TEXT/.test(sql)
      ? "_rowid_"
      : "rowid";
  return db
    .query<{ i: number }, []>(
      `SELECT ${id} AS i FROM signals NOT INDEXED WHERE ${where}
       ORDER BY CAST(timestamp AS BLOB) DESC, ${id} DESC`,
    )
    .all()
    .map((row) => row.i);
}

describe.each(RELATIVES.map((relative) => [relative.name, relative] as const))(
  "%s",
  (_name, relative) => {
    test("is served, written to and left as it is", async () => {
      const before = { sql: "", rows: [] as unknown[] };
      await using app = await openApp({
        fixture: (db) => {
          filled(relative)(db);
          before.sql = tableSql(db);
          before.rows = db.query("SELECT * FROM signals").all();
        },
      });
      const { engine } = app;

      const latest = await app.json<Shown[]>("/api/signals/latest?limit=500");
      expect(latest.map((s) => s.id)).toEqual(idsByTime(engine));
      const premium = await app.json<Shown[]>("/api/signals/latest?limit=500&premium_only=1");
      expect(premium.map((s) => s.id)).toEqual(idsByTime(engine, "confidence >= 95"));
      const spx = await app.json<Shown[]>("/api/signals/latest?limit=500&symbol=SPX");
      expect(spx.map((s) => s.id)).toEqual(idsByTime(engine, "symbol = 'SPX'"));
      const plain = await app.json<Shown[]>(
        "/api/signals/latest?strategy=weighted_consensus&limit=500",
      );
      expect(plain).toHaveLength(60);
      for (const more of [
        "",
        "&premium_only=1",
        "&symbol=SPX",
        "&min_confidence=97",
        "&offset=3",
      ]) {
        expect(await app.json<Shown[]>(`/api/signals/latest?strategy=none${more}`)).toEqual([]);
      }
      const page = await app.json<Page>("/api/signals?limit=7&action=BUY");
      expect(page.signals.map((s) => s.id)).toEqual(idsByTime(engine).slice(0, 7));
      const next = await app.json<Page>(
        `/api/signals?limit=7&action=BUY&cursor=${page.next_cursor}`,
      );
      expect(next.signals.map((s) => s.id)).toEqual(idsByTime(engine).slice(7, 14));
      for (const shown of page.signals) {
        expect(shown.received_at).toBeNull();
        expect(shown.strategy).toBe("weighted_consensus");
        expect(shown.sha256).toBe("");
        expect(latest).toContainEqual(polled(shown));
        expect(await app.json<Shown>(`/api/signals/${shown.id}`)).toEqual(shown);
      }
      expect((await app.json<{ total: number }>("/api/stats")).total).toBe(60);
      const exported = await (await app.get("/api/signals/export")).text();
      expect(exported.trim().split("\n")).toHaveLength(60);

      // A post is written, or refused as a whole and in words.
      const response = await app.post(signal());
      const { posted = 201 } = relative;
      expect(response.status).toBe(posted);
      if (posted === 201) {
        const { signals } = (await response.json()) as {
          signals: { id: number; sha256: string }[];
        };
        const [row] = signals;
        const shown = await app.json<Shown>(`/api/signals/hash/${row?.sha256}`);
        expect(shown).toMatchObject({
          id: row?.id ?? -1,
          symbol: "SPX",
          price: 100,
          stop_loss: 95,
          target_price: 110,
          sha256: row?.sha256 ?? "",
          timestamp: "2026-11-20T11:59:00Z",
        });
        expect(shown.received_at).toMatch(/^20/);
        expect(await app.json<Shown[]>("/api/signals/latest?limit=1")).toMatchObject([
          { id: row?.id ?? -1, sha256: row?.sha256 ?? "" },
        ]);
        const again = (await (await app.post(signal())).json()) as unknown;
        expect(again).toEqual({ signals: [{ ...row, duplicate: true }] });
      } else {
        await problemOf(response);
        expect(engine.query("SELECT * FROM signals").all()).toEqual(before.rows);
      }

      expect(tableSql(engine)).toBe(before.sql);
      if (posted === 201) {
        const now = engine.query("SELECT * FROM signals").all();
        for (const row of before.rows) expect(now).toContainEqual(row);
        expect(now).toHaveLength(61);
      }
      expect(engine.query("PRAGMA integrity_check").all()).toEqual([{ integrity_check: "ok" }]);
      const unique = engine
        .query<{ name: string; unique: number; origin: string }, []>('PRAGMA index_list("signals")')
        .all()
        .filter((index) => index.unique === 1 && index.origin === "c");
      expect(unique.map((index) => index.name)).toEqual(
        relative.also?.length === 5 ? ["mine"] : [],
      );
    });

    test("every read walks an index in its order", async () => {
      await using app = await openApp({ fixture: filled(relative) });
      expectGoodPlans(app.deps.argo.reader);
    });
  },
);

/** No sorting and no scan without an index, for every filter, order and place. */
function expectGoodPlans(reader: SignalReader): void {
  const choices: [keyof Filter, (string | number)[]][] = [
    ["symbol", ["SPX"]],
    ["strategy", ["trend", "weighted_consensus"]],
    ["action", ["BUY"]],
    ["minConfidence", [50, 95, 97]],
    ["since", ["2026-01-05"]],
    ["until", ["2026-01-20"]],
  ];
  let filters: Filter[] = [{}];
  for (const [name, values] of choices) {
    const narrower: Filter[] = [];
    for (const filter of filters) {
      for (const value of values) narrower.push({ ...filter, [name]: value });
    }
    filters = filters.concat(narrower);
  }
  const places: (Key | null)[] = [null, { timestamp: "2026-01-10T00:00:00Z", id: 9 }];
  if (reader.layout?.timestampNullable) places.push({ timestamp: null, id: 9 });
  let plans = 0;
  for (const filter of filters) {
    for (const order of ["desc", "asc"] as const) {
      for (const after of places) {
        for (const received of [false, true]) {
          // Rows without a time have no place in a span of time.
          const timed = filter.since !== undefined || filter.until !== undefined;
          if (after?.timestamp === null && timed) continue;
          const lines = SIGHTS.flatMap((sight) =>
            reader.explain({
              filter,
              sight,
              order,
              after,
              limit: 10,
              skip: 0,
              budget: 500,
              received,
            }),
          );
          plans += 1;
          for (const line of lines) {
            const bad =
              /TEMP B-TREE|AUTOMATIC/.test(line) ||
              (line.startsWith("SCAN") && !/USING .*INDEX/.test(line));
            if (bad)
              throw new Error(`${JSON.stringify({ filter, order, after })}: ${lines.join("; ")}`);
          }
        }
      }
    }
  }
  expect(plans).toBeGreaterThan(700);
}

test("plans stay the same after ANALYZE, which the engine may run", async () => {
  await using app = await openApp();
  app.engine.run("ANALYZE");
  await app.json("/api/signals/latest");
  expectGoodPlans(app.deps.argo.reader);
});

describe("what is no table of signals is refused", () => {
  const open = (sql: string[]): Promise<App> =>
    openApp({
      fixture: (db) => {
        for (const line of sql) db.run(line);
      },
    });
  const failure = async (sql: string[]): Promise<SetupError> => {
    try {
      await using app = await open(sql);
      throw new Error(`served ${app.db}`);
    } catch (error) {
      if (error instanceof SetupError) return error;
      throw error;
    }
  };

  test("a view", async () => {
    const error = await failure([
      ENGINE_TABLE.replace("signals", "base"),
      "CREATE VIEW signals AS SELECT * FROM base",
    ]);
    expect(error.message).toContain("view");
    expect(error.fix).not.toBe("");
  });

  test.each(["symbol", "action", "entry_price", "confidence", "timestamp"])(
    "no %s",
    async (name) => {
      const columns = ["symbol", "action", "entry_price", "confidence", "timestamp"].filter(
        (c) => c !== name,
      );
      const error = await failure([
        `CREATE TABLE signals (id INTEGER PRIMARY KEY, ${columns.join(", ")})`,
      ]);
      expect(error.message).toContain(name);
    },
  );

  test("a file that is no database, and is left as it is", async () => {
    using dir = tempDir();
    const text = "this is no database, and it is long enough to be taken for one".repeat(100);
    await Bun.write(dir.file("signals.db"), text);
    await expect(openApp({ dir: dir.path, fixture: null })).rejects.toThrow(
      /damaged or no SQLite file/,
    );
    await openApp({ dir: dir.path, fixture: null }).catch(() => null);
    expect(await Bun.file(dir.file("signals.db")).text()).toBe(text);
  });

  test("a file of a newer release", async () => {
    const error = await failure([
      ENGINE_TABLE,
      "CREATE TABLE argo_migrations (version INTEGER PRIMARY KEY, applied_at TEXT)",
      "INSERT INTO argo_migrations VALUES (999, '')",
    ]).catch((fault: unknown) => fault);
    expect(`${error}`).toContain("newer release");
  });
});

describe("the engine goes on writing", () => {
  const row = "'SPX','BUY',100,110,95,99,'trend','2026-05-05T00:00:00Z','h'";
  const byPosition = (how: string, id: string): string =>
    `${how} INTO signals VALUES (${id},${row})`;
  const WRITES: [name: string, sql: string][] = [
    ["by position", byPosition("INSERT", "NULL")],
    ["by position, with an id", byPosition("INSERT", "700")],
    ["OR REPLACE of an id that is there", byPosition("INSERT OR REPLACE", "5")],
    ["OR REPLACE of a new id", byPosition("INSERT OR REPLACE", "701")],
    ["REPLACE", byPosition("REPLACE", "6")],
    ["OR IGNORE", byPosition("INSERT OR IGNORE", "7")],
    ["OR ABORT", byPosition("INSERT OR ABORT", "NULL")],
    ["OR FAIL", byPosition("INSERT OR FAIL", "NULL")],
    ["OR ROLLBACK", byPosition("INSERT OR ROLLBACK", "NULL")],
    ["UPSERT", `${byPosition("INSERT", "8")} ON CONFLICT (id) DO UPDATE SET confidence = 12`],
    ["UPSERT that does nothing", `${byPosition("INSERT", "9")} ON CONFLICT DO NOTHING`],
    ["UPDATE", "UPDATE signals SET confidence = 55 WHERE id = 10"],
    ["UPDATE of an id", "UPDATE signals SET id = 800 WHERE id = 11"],
    ["UPDATE OR REPLACE of an id", "UPDATE OR REPLACE signals SET id = 13 WHERE id = 12"],
    ["UPDATE OR REPLACE of its own id", "UPDATE OR REPLACE signals SET id = id WHERE id = 14"],
    ["DELETE", "DELETE FROM signals WHERE id = 15"],
    ["RETURNING", `${byPosition("INSERT", "NULL")} RETURNING id`],
    [
      "INSERT from a SELECT",
      "INSERT INTO signals SELECT NULL, symbol, action, entry_price, target_price, stop_price, confidence, strategy, timestamp, sha256 FROM signals WHERE id < 40",
    ],
    [
      "OR REPLACE from a SELECT",
      "INSERT OR REPLACE INTO signals SELECT * FROM signals WHERE id < 40",
    ],
  ];

  /** The same statements, on a file that is served and on one that nobody ever adopted. */
  async function both(unique: boolean, recursive: boolean): Promise<void> {
    const make = (db: Database): void => {
      db.run(ENGINE_TABLE);
      for (let i = 1; i <= 60; i += 1) named(db, i);
      db.run("UPDATE signals SET sha256 = 'u' || id");
      if (unique) db.run("CREATE UNIQUE INDEX by_hash ON signals (sha256) WHERE sha256 <> 'h'");
    };
    await using app = await openApp({ fixture: make });
    using alone = new Database(":memory:");
    make(alone);
    for (const db of [app.engine, alone]) {
      db.run(`PRAGMA recursive_triggers = ${recursive ? "ON" : "OFF"}`);
      db.run("PRAGMA foreign_keys = ON");
    }
    const writes = [...WRITES];
    if (unique) {
      writes.push(
        [
          "OR REPLACE through a unique index",
          "INSERT OR REPLACE INTO signals SELECT NULL, 'SPX', 'BUY', 1, 2, 0.5, 99, NULL, '2026', sha256 FROM signals WHERE id IN (20, 21, 22)",
        ],
        [
          "OR REPLACE that takes two rows",
          "INSERT OR REPLACE INTO signals VALUES (23, 'SPX', 'BUY', 1, 2, 0.5, 99, NULL, '2026', 'u24')",
        ],
      );
    }
    for (const [name, sql] of writes) {
      const outcome = (db: Database): string => {
        try {
          return `changed ${db.run(sql).changes > 0}`;
        } catch (error) {
          return `${error}`;
        }
      };
      expect(`${name}: ${outcome(app.engine)}`).toBe(`${name}: ${outcome(alone)}`);
      expect(rowsOf(app.engine)).toEqual(rowsOf(alone));
      const latest = await app.json<Shown[]>("/api/signals/latest?limit=500");
      expect(latest.map((s) => s.id)).toEqual(idsByTime(alone));
    }
    app.engine.run("DELETE FROM signals");
    expect(await app.json<Shown[]>("/api/signals/latest")).toEqual([]);
    expect(app.engine.query("SELECT count(*) AS n FROM argo_received").get()).toEqual({
      n: expect.any(Number),
    });
  }

  test("with every kind of statement, to the same effect as without us", () => both(false, false));
  test("and through a unique index", () => both(true, false));
  test("and with recursive triggers", () => both(true, true));

  test("before, while and after it is served, from Python", async () => {
    const python = await findTool("python3");
    if (python.path === null) throw new Error(python.reason);
    const { path } = python;
    const script = `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=10)
row = ("SPX","BUY",100.0,110.0,95.0,99.0,"trend","2026-05-05T00:00:00Z","h")
db.execute("INSERT INTO signals VALUES (NULL,?,?,?,?,?,?,?,?,?)", row)
db.execute("INSERT OR REPLACE INTO signals VALUES (17,?,?,?,?,?,?,?,?,?)", row)
db.execute("INSERT OR IGNORE INTO signals VALUES (18,?,?,?,?,?,?,?,?,?)", row)
db.execute("UPDATE signals SET confidence = 1 WHERE id = 19")
db.execute("DELETE FROM signals WHERE id = (SELECT min(id) FROM signals)")
db.commit()
print(db.execute("SELECT count(*), max(id) FROM signals").fetchone(), db.execute("PRAGMA integrity_check").fetchone()[0])
`;
    const write = async (db: string): Promise<string> => {
      const child = Bun.spawn([path, "-c", script, db], { stdout: "pipe", stderr: "inherit" });
      expect(await child.exited).toBe(0);
      return (await child.stdout.text()).trim();
    };
    using dir = tempDir();
    await Bun.write(dir.file("signals.db"), Bun.file(LEGACY));
    expect(await write(dir.file("signals.db"))).toBe("(3489, 3490) ok");
    {
      await using app = await openApp({ dir: dir.path, fixture: null });
      const [first] = await app.json<Shown[]>("/api/signals/latest?limit=1");
      expect(first?.id).toBe(3490);
      expect(await write(app.db)).toBe("(3489, 3491) ok");
      const shown = await app.json<Shown[]>("/api/signals/latest?limit=2");
      expect(shown.map((s) => s.id)).toEqual([3491, 3490]);
      const { signals } = await app.json<Page>("/api/signals?limit=3");
      expect(signals.map((s) => [s.id, s.received_at === null])).toEqual([
        [3491, false],
        [3490, true],
        [17, false],
      ]);
    }
    expect(await write(dir.file("signals.db"))).toBe("(3489, 3492) ok");
    await using again = await openApp({ dir: dir.path, fixture: null });
    const shown = await again.json<Shown[]>("/api/signals/latest?limit=3");
    expect(shown.map((s) => s.id)).toEqual([3492, 3491, 3490]);
    expect((await again.json<{ total: number }>("/api/stats")).total).toBe(3489);
  });

  test("an arrival is noted with its row, and goes with it", async () => {
    await using app = await openApp({
      fixture: (db) => {
        db.run(ENGINE_TABLE.replace(" AUTOINCREMENT", ""));
        for (let i = 1; i <= 5; i += 1) named(db, i);
      },
    });
    const { engine } = app;
    const received = async (id: number): Promise<boolean> =>
      (await app.json<Shown>(`/api/signals/${id}`)).received_at !== null;
    named(engine, 6);
    expect([await received(5), await received(6)]).toEqual([false, true]);
    await app.post(signal({ supersedes: 5 }));
    expect((await app.json<Shown>("/api/signals/7")).supersedes).toBe(5);
    // The id is used again: nothing of the row that was there may be said of the new one.
    engine.run("DELETE FROM signals WHERE id = 7");
    named(engine, 7);
    expect(await app.json<Shown>("/api/signals/7")).toMatchObject({ supersedes: null });
    engine.run("UPDATE signals SET id = 70 WHERE id = 6");
    expect((await app.json<Shown>("/api/signals/70")).received_at).not.toBeUndefined();
    named(engine, 8);
  });

  test("what we know of a row goes with it when its id is changed", async () => {
    await using app = await openApp({
      fixture: (db) => {
        db.run(
          `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT, entry_price REAL,
           target_price REAL, stop_price REAL, confidence REAL, timestamp TEXT)`,
        );
        for (let i = 1; i <= 5; i += 1) named(db, i);
      },
    });
    const answer = await app.post(signal({ supersedes: 2 }));
    const { signals } = (await answer.json()) as { signals: { id: number; sha256: string }[] };
    const [row] = signals;
    const was = await app.json<Shown>(`/api/signals/${row?.id}`);
    app.engine.run("UPDATE signals SET id = 90 WHERE id = ?", [row?.id ?? 0]);
    expect(await app.json<Shown>("/api/signals/90")).toEqual({ ...was, id: 90 });
    // Row 90 takes the place of row 3: what it says is what is said of row 90.
    app.engine.run("UPDATE OR REPLACE signals SET id = 3 WHERE id = 90");
    expect(await app.json<Shown>("/api/signals/3")).toEqual({ ...was, id: 3 });
    app.engine.run("UPDATE OR REPLACE signals SET id = 3 WHERE id = 4");
    expect(await app.json<Shown>("/api/signals/3")).toMatchObject({ supersedes: null, sha256: "" });
  });
});

describe("the table is made anew while it is served", () => {
  const READS = ["latest", "", "1", "export", `hash/${"0".repeat(64)}`]
    .map((path) => `/api/signals/${path}`.replace(/\/$/, ""))
    .concat("/api/stats");
  const adopted = (app: App): boolean => {
    const { reader } = app.deps.argo;
    reader.refresh();
    return reader.layout?.tracked === true && reader.complete;
  };

  test("dropped and created: right at once, then adopted again", async () => {
    await using app = await openApp();
    const { engine } = app;
    await app.json("/api/signals/latest");
    engine.transaction(() => {
      engine.run("DROP TABLE signals");
      engine.run(ENGINE_TABLE);
      for (let i = 1; i <= 3; i += 1) named(engine, i);
    })();
    expect((await app.json<Shown[]>("/api/signals/latest")).map((s) => s.id)).toEqual([3, 2, 1]);
    expect(await app.json<{ total: number }>("/api/stats")).toMatchObject({ total: 3 });
    named(engine, 4);
    expect(await app.json<Shown[]>("/api/signals/latest")).toHaveLength(4);
    await until(() => adopted(app), "the new table to be adopted");
    named(engine, 5);
    const { signals } = await app.json<Page>("/api/signals");
    expect(signals.map((s) => [s.id, s.received_at === null])).toEqual([
      [5, false],
      [4, true],
      [3, true],
      [2, true],
      [1, true],
    ]);
    expect((await app.post(signal())).status).toBe(201);
    expectGoodPlans(app.deps.argo.reader);
  });

  test("nothing of the rows before is said of the rows after", async () => {
    await using app = await openApp({ fixture: null });
    for (let i = 0; i < 3; i += 1) {
      await app.post(signal({ symbol: `OLD${i}`, ...(i > 0 && { supersedes: i }) }));
    }
    expect((await app.json<Shown>("/api/signals/2")).supersedes).toBe(1);
    const { engine } = app;
    engine.transaction(() => {
      engine.run("DROP TABLE signals");
      engine.run(ENGINE_TABLE);
      for (let i = 1; i <= 3; i += 1) named(engine, i);
    })();
    // At once: the new table is not adopted yet.
    for (const shown of (await app.json<Page>("/api/signals")).signals) {
      expect(shown).toMatchObject({ supersedes: null, received_at: null, sha256: "" });
    }
    expect(await app.json<Shown[]>("/api/signals/latest")).toMatchObject([
      { supersedes: null },
      { supersedes: null },
      { supersedes: null },
    ]);
  });

  test("between the two there are no signals, and a 503 that says so", async () => {
    await using app = await openApp();
    await app.json("/api/signals/latest");
    app.engine.run("DROP TABLE signals");
    for (const path of READS) {
      const response = await app.get(path);
      expect(`${path} ${response.status}`).toBe(`${path} 503`);
      expect(response.headers.get("retry-after")).toMatch(/^\d+$/);
      expect((await problemOf(response)).code).toBe("unavailable");
    }
    expect((await app.post(signal())).status).toBe(503);
    expect((await app.get("/readyz")).status).toBe(503);
    app.engine.run(ENGINE_TABLE);
    named(app.engine, 1);
    expect(await app.json<Shown[]>("/api/signals/latest")).toHaveLength(1);
    expect((await app.get("/readyz")).status).toBe(200);
  });

  test.each([
    ["a view", ["ALTER TABLE signals RENAME TO base", "CREATE VIEW signals AS SELECT * FROM base"]],
    ["another table", ["DROP TABLE signals", "CREATE TABLE signals (x)"]],
  ])("%s in its place is a 503, until it is mended", async (_name, statements) => {
    await using app = await openApp();
    const { engine } = app;
    await app.json("/api/signals/latest");
    engine.transaction(() => {
      for (const sql of statements) engine.run(sql);
    })();
    for (const path of READS) {
      const response = await app.get(path);
      expect(`${path} ${response.status}`).toBe(`${path} 503`);
      expect((await problemOf(response)).code).toBe("unavailable");
    }
    expect((await app.post(signal())).status).toBe(503);
    expect((await app.get("/readyz")).status).toBe(503);
    engine.run(`DROP ${statements[1]?.includes("VIEW") ? "VIEW" : "TABLE"} signals`);
    engine.run(ENGINE_TABLE);
    named(engine, 1);
    expect(await app.json<Shown[]>("/api/signals/latest")).toHaveLength(1);
  });

  test("renamed and created, again and again: adopted each time", async () => {
    await using app = await openApp();
    const { engine } = app;
    for (let round = 1; round <= 4; round += 1) {
      engine.transaction(() => {
        engine.run(`ALTER TABLE signals RENAME TO signals_${round}`);
        engine.run(ENGINE_TABLE);
        for (let i = 1; i <= round; i += 1) named(engine, i);
      })();
      expect(await app.json<Shown[]>("/api/signals/latest")).toHaveLength(round);
      await until(() => adopted(app), `round ${round} to be adopted`);
      named(engine, 9);
      expect(await app.json<Shown[]>("/api/signals/latest")).toHaveLength(round + 1);
      const { signals } = await app.json<Page>("/api/signals?limit=1&order=asc");
      expect(signals[0]?.received_at).toBeNull();
      // What was set aside is the engine's alone: writing to it is no news here.
      const head = app.deps.argo.reader.head.inserts;
      engine.run(
        `INSERT INTO signals_${round} SELECT NULL, symbol, action, 1, 2, 0.5, 99, 'x', '2026', '' FROM signals LIMIT 1`,
      );
      app.deps.argo.reader.refresh();
      expect(app.deps.argo.reader.head.inserts).toBe(head);
    }
  });

  test("a column more while it is served", async () => {
    await using app = await openApp();
    await app.json("/api/signals/latest");
    app.engine.run("ALTER TABLE signals ADD COLUMN note TEXT DEFAULT 'n'");
    named(app.engine, 1);
    expect(await app.json<Shown[]>("/api/signals/latest?limit=1")).toHaveLength(1);
    await until(() => adopted(app), "adopted");
    expect((await app.post(signal())).status).toBe(201);
  });

  test("an index of ours dropped by somebody is built again", async () => {
    await using app = await openApp();
    app.engine.run("DROP INDEX idx_signal_created");
    expect(await app.json<Shown[]>("/api/signals/latest")).toHaveLength(10);
    await until(() => adopted(app), "the index to be there again");
    expectGoodPlans(app.deps.argo.reader);
  });

  test("a trigger of ours dropped by somebody is made again, and no answer is stale meanwhile", async () => {
    await using app = await openApp();
    await app.json("/api/signals/latest");
    app.engine.run("DROP TRIGGER argo_signals_insert");
    named(app.engine, 1);
    app.engine.run("UPDATE signals SET timestamp = '2027' WHERE id = 3490");
    expect(await app.json<Shown[]>("/api/signals/latest?limit=1")).toMatchObject([{ id: 3490 }]);
    await until(() => adopted(app), "the trigger to be there again");
    expect(await app.json<{ total: number }>("/api/stats")).toMatchObject({ total: 3490 });
  });
});

describe("whatever is in the rows", () => {
  const weird = (db: Database): void => {
    db.run(
      `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol, action, entry_price REAL, target_price,
       stop_price, confidence REAL, strategy, timestamp, sha256)`,
    );
    const values = [
      "NULL",
      "x'ff00fe'",
      "'text'",
      "9e999",
      "-9e999",
      "1700000000",
      "1.5",
      "''",
      "'a' || char(0) || 'b'",
      "'\"\\' || char(10) || char(8232)",
      "CAST(x'eda080' AS TEXT)",
      "9223372036854775807",
      "'🚀'",
    ];
    for (const [i, value] of values.entries()) {
      const columns = Array.from({ length: 9 }, () => value).join(",");
      db.run(`INSERT INTO signals VALUES (${i + 1},${columns})`);
      db.run(
        `INSERT INTO signals VALUES (${i + 101},'SPX','BUY',1,2,0.5,${value},NULL,'2026-01-01',NULL)`,
      );
    }
  };

  test("it is shown as valid JSON of the promised types", async () => {
    await using app = await openApp({ fixture: weird });
    const { signals } = await app.json<Page>("/api/signals?limit=100");
    expect(signals).toHaveLength(26);
    expect((await app.json<Page>("/api/signals?limit=100&order=asc")).signals).toHaveLength(26);
    const exported = (await (await app.get("/api/signals/export")).text()).trim().split("\n");
    expect(exported.map((line) => JSON.parse(line) as unknown)).toEqual(
      signals.toSorted((a, b) => a.id - b.id),
    );
    const latest = await app.json<Shown[]>("/api/signals/latest?limit=100");
    expect(latest).toEqual(signals.map(polled));
    for (const shown of signals) {
      for (const [name, value] of Object.entries(shown)) {
        const numeric =
          /^(id|confidence|price|entry_price|stop_loss|take_profit|target_price)$/.test(name);
        const nullable = numeric || /^(timestamp|supersedes|received_at)$/.test(name);
        const type = value === null && nullable ? "null" : typeof value;
        const wanted = value === null && nullable ? "null" : numeric ? "number" : "string";
        expect(`${name}: ${type}`).toBe(`${name}: ${wanted}`);
      }
      expect(await app.json<Shown>(`/api/signals/${shown.id}`)).toEqual(shown);
    }
    expect(await app.json<{ total: number }>("/api/stats")).toMatchObject({ total: 26 });
    for (const query of [
      "symbol=text",
      "strategy=text",
      "min_confidence=1",
      "premium_only=1",
      "symbol=SPX",
    ]) {
      await app.json(`/api/signals/latest?${query}`);
      await app.json(`/api/signals?${query.replace("premium_only=1", "since=2026")}`);
    }
    await app.post(signal());
    expect((await app.get("/readyz")).status).toBe(200);
  });

  test("case tells two symbols apart, whatever the column's collation", async () => {
    await using app = await openApp({
      fixture: (db) => db.run(RELATIVES.find((r) => r.name === "NOCASE")?.table ?? ""),
    });
    for (const symbol of ["spx", "SPX", "Spx"]) {
      const answer = await app.post(signal({ symbol }));
      const { signals } = (await answer.json()) as { signals: { duplicate: boolean }[] };
      expect(signals[0]?.duplicate).toBe(false);
    }
    for (const symbol of ["spx", "SPX", "Spx"]) {
      const shown = await app.json<Shown[]>(`/api/signals/latest?symbol=${symbol}`);
      expect(shown.map((s) => s.symbol)).toEqual([symbol]);
    }
  });

  test("ids below one are listed, and nothing else counts them differently", async () => {
    await using app = await openApp({
      fixture: (db) => {
        db.run(ENGINE_TABLE);
        for (const id of [-5, 0, 1]) {
          db.run("INSERT INTO signals VALUES (?,'SPX','BUY',1,2,0.5,99,'x','2026','h')", [id]);
        }
      },
    });
    expect((await app.json<Shown[]>("/api/signals/latest")).map((s) => s.id)).toEqual([1, 0, -5]);
    expect(await app.json<{ total: number }>("/api/stats")).toMatchObject({ total: 3 });
  });
});

describe("adopting", () => {
  test("twice changes nothing, and each step may be the last", async () => {
    using dir = tempDir();
    await Bun.write(dir.file("a.db"), Bun.file(LEGACY));
    using db = new Database(dir.file("a.db"), { readwrite: true, strict: true });
    const schema = (): unknown =>
      db.query("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").all();
    const notes: string[] = [];
    adopt(db, (message) => void notes.push(message), WHOLE);
    const after = schema();
    const { length } = notes;
    adopt(db, (message) => void notes.push(message), WHOLE);
    expect(schema()).toEqual(after);
    expect(notes).toHaveLength(length);
    // Undo it step by step: whatever is missing comes back.
    for (const name of ["argo_signals_update", "argo_signals_insert"]) {
      db.run(`DROP TRIGGER ${name}`);
      adopt(db, () => undefined, WHOLE);
      expect(schema()).toEqual(after);
    }
    for (const name of ["idx_signal_created", "idx_signal_premium_created"]) {
      db.run(`DROP INDEX ${name}`);
      adopt(db, () => undefined, WHOLE);
      expect(schema()).toEqual(after);
    }
    using reader = new SignalReader(dir.file("a.db"));
    expect(reader.complete).toBe(true);
  });

  test("makes the engine's table where there is none, and nothing more strict", async () => {
    await using app = await openApp({ fixture: null });
    const columns = (db: Database): unknown => db.query('PRAGMA table_info("signals")').all();
    using legacy = new Database(LEGACY, { readonly: true });
    expect(columns(app.engine)).toEqual(columns(legacy));
    expect(tableSql(app.engine)).toMatch(/AUTOINCREMENT/);
    expect(await app.json<Shown[]>("/api/signals/latest")).toEqual([]);
    named(app.engine, 1);
    expect(await app.json<Shown[]>("/api/signals/latest")).toHaveLength(1);
  });

  test("leaves the header of the file to its owner", async () => {
    await using app = await openApp({
      fixture: (db) => {
        db.run(ENGINE_TABLE);
        db.run("PRAGMA user_version = 42");
        db.run("PRAGMA application_id = 77");
      },
    });
    expect(app.engine.query("PRAGMA user_version").get()).toEqual({ user_version: 42 });
    expect(app.engine.query("PRAGMA application_id").get()).toEqual({ application_id: 77 });
  });
});
