import { describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { viewHeader, viewOf, viewText, type View } from "../../../src/http/entitlement.ts";
import { FarReader } from "../../../src/argo/signals/far.ts";
import { SignalReader } from "../../../src/argo/signals/store.ts";
import { Views } from "../../../src/argo/signals/views.ts";
import { NOON, openApp, SERVICE_TOKEN, signal, type App } from "../../harness/app.ts";
import { startServer, tempDir } from "../../harness/process.ts";

/** When a row comes to be seen, to the millisecond. */

const TABLE = `CREATE TABLE signals (
  id INTEGER PRIMARY KEY AUTOINCREMENT, symbol TEXT NOT NULL, action TEXT NOT NULL,
  entry_price REAL NOT NULL, target_price REAL, stop_price REAL, confidence REAL NOT NULL,
  strategy TEXT DEFAULT 'weighted_consensus', timestamp TEXT NOT NULL, sha256 TEXT)`;

interface Shown {
  id: number;
  confidence: number;
  received_at: string | null;
}

const all = viewOf(true, 0);
const starter = viewOf(false, 900);
const late = viewOf(true, 900);
const common = viewOf(false, 0);

const iso = (ms: number): string => new Date(ms).toISOString();
const headersOf = (view: View, more: Record<string, string> = {}): Record<string, string> => ({
  Authorization: `Bearer ${SERVICE_TOKEN}`,
  [viewHeader]: viewText(view),
  ...more,
});
const add = (db: Database, confidence: number, timestamp = "2026-01-01T00:00:00Z", id?: number) =>
  Number(
    db.run(
      `INSERT OR REPLACE INTO signals (id, symbol, action, entry_price, confidence, timestamp, sha256)
       VALUES (?, 'SPX', 'BUY', 1, ?, ?, printf('%064d', coalesce(?, 0)))`,
      [id ?? null, confidence, timestamp, id ?? null],
    ).lastInsertRowid,
  );
const arrivalMs = (db: Database, id: number): number => {
  const row = db
    .query<{ at: string }, [number]>("SELECT received_at AS at FROM argo_received WHERE id = ?")
    .get(id);
  return Date.parse(row?.at ?? "");
};

/** Which of the ids each route shows this view. All must agree. */
async function seen(app: App, view: View): Promise<number[]> {
  const latest = await app.get("/api/signals/latest?limit=500", headersOf(view));
  const ids = ((await latest.json()) as Shown[]).map(({ id }) => id).toSorted((a, b) => a - b);
  expect(latest.headers.get("signal-head")).toBe(String(Math.max(0, ...ids)));
  const rows = app.engine.query<{ id: number }, []>("SELECT id FROM signals ORDER BY id").all();
  for (const { id } of rows) {
    const { status } = await app.get(`/api/signals/${id}`, headersOf(view));
    expect(`${id} ${status}`).toBe(`${id} ${ids.includes(id) ? 200 : 404}`);
  }
  for (const path of ["/api/signals?limit=500", "/api/signals/subscribed?limit=500"]) {
    const { signals } = await app.json<{ signals: Shown[] }>(path, headersOf(view));
    expect(signals.map(({ id }) => id).toSorted((a, b) => a - b)).toEqual(ids);
  }
  const exported = await (await app.get("/api/signals/export", headersOf(view))).text();
  const lines = exported.split("\n").filter(Boolean);
  const sequence = lines.map((line) => (JSON.parse(line) as Shown).id);
  // It waits where lists do not: what is above a row that is still withheld comes after it.
  expect(sequence).toEqual(ids.slice(0, sequence.length));
  const { total } = await app.json<{ total: number }>("/api/stats", headersOf(view));
  expect(total).toBe(ids.length);
  return ids;
}

describe("rows that were there before", () => {
  const shift = -900_000;
  const rows: [what: string, confidence: number, timestamp: string, dueMs: number | null][] = [
    ["old", 50, "2026-01-01T00:00:00Z", null],
    ["old and premium", 97, "2026-01-01T00:00:00Z", null],
    ["recent", 50, iso(NOON - 100_000), NOON - 100_000],
    ["recent and premium", 97, iso(NOON - 90_000), NOON - 90_000],
    [
      "recent, of another zone",
      50,
      iso(NOON - 50_000 + 3_600_000).replace("Z", "+01:00"),
      NOON - 50_000,
    ],
    ["of the future", 50, iso(NOON + 5_000), NOON + 5_000],
    ["a word that is a time to SQLite", 50, "now", null],
    ["no time at all", 50, "yesterday evening", null],
    ["a date that is none", 50, "2026-13-45", null],
    ["a number", 50, "1795176000", null],
  ];

  test("fall due by their timestamp, and those that have none are old", async () => {
    await using app = await openApp({
      fixture: (db) => {
        db.run(TABLE);
        for (const [, confidence, timestamp] of rows) add(db, confidence, timestamp);
      },
    });
    const expected = (view: View): number[] =>
      rows.flatMap(([, confidence, , dueMs], i) => {
        const isDue = view.delaySeconds === 0 || dueMs === null || dueMs <= app.clock.ms + shift;
        return isDue && (view.premium || confidence < 95) ? [i + 1] : [];
      });
    const borders = rows.flatMap(([, , , dueMs]) => (dueMs === null ? [] : [dueMs - shift]));
    const moments = [NOON, ...borders.toSorted().flatMap((ms) => [ms - 1, ms])];
    for (const ms of [...moments, ...moments.toReversed()]) {
      app.clock.ms = ms;
      for (const view of [all, common, late, starter]) {
        expect([iso(ms), viewText(view), await seen(app, view)]).toEqual([
          iso(ms),
          viewText(view),
          expected(view),
        ]);
      }
    }
  });
});

describe("rows that others write", () => {
  async function openEmpty(): Promise<App> {
    return openApp({ fixture: (db) => void db.run(TABLE), now: Date.now() });
  }

  test("are withheld from their arrival on, whatever their timestamp says, and seen when due", async () => {
    await using app = await openEmpty();
    const { clock, engine } = app;
    const plain = add(engine, 50);
    const premium = add(engine, 95);
    expect(await seen(app, all)).toEqual([plain, premium]);
    expect(await seen(app, common)).toEqual([plain]);
    expect(await seen(app, late)).toEqual([]);
    clock.ms = arrivalMs(engine, plain) + 900_000 - 1;
    expect(await seen(app, starter)).toEqual([]);
    clock.ms += 1;
    expect(await seen(app, starter)).toEqual([plain]);
    clock.ms = arrivalMs(engine, premium) + 900_000;
    expect(await seen(app, late)).toEqual([plain, premium]);
    expect(await seen(app, starter)).toEqual([plain]);
  });

  test("and those that are posted as well", async () => {
    await using app = await openEmpty();
    const { signals } = (await (await app.post([signal({ confidence: 50 }), signal()])).json()) as {
      signals: Shown[];
    };
    const [plain = 0, premium = 0] = signals.map(({ id }) => id);
    expect(await seen(app, starter)).toEqual([]);
    expect(await seen(app, common)).toEqual([plain]);
    app.clock.ms = arrivalMs(app.engine, premium) + 900_000;
    expect(await seen(app, late)).toEqual([plain, premium]);
    expect(await seen(app, starter)).toEqual([plain]);
  });

  test("changed, replaced and deleted they are seen as they are now", async () => {
    await using app = await openEmpty();
    const { clock, engine } = app;
    const ids = [50, 60, 97].map((confidence) => add(engine, confidence));
    const [first = 0, second = 0, third = 0] = ids;
    clock.ms += 901_000;
    expect(await seen(app, starter)).toEqual([first, second]);
    engine.run("UPDATE signals SET confidence = 94 WHERE id = ?", [third]);
    engine.run("UPDATE signals SET confidence = 95 WHERE id = ?", [first]);
    expect(await seen(app, starter)).toEqual([second, third]);
    engine.run("DELETE FROM signals WHERE id = ?", [third]);
    expect(await seen(app, starter)).toEqual([second]);
    expect(await seen(app, late)).toEqual([first, second]);
    // Another row at its id has only just come: until now it was 15 minutes old.
    clock.ms = arrivalMs(engine, second) + 905_000;
    add(engine, 51, undefined, second);
    clock.ms = arrivalMs(engine, second) + 899_999;
    expect(await seen(app, starter)).toEqual([]);
    clock.ms += 1;
    expect(await seen(app, starter)).toEqual([second]);
  });

  test("a clock that is set back takes back what is not due by it, late commits too", async () => {
    await using app = await openEmpty();
    const { clock, engine } = app;
    const dueMs = clock.ms + 900_000;
    const at = (id: number, ms: number) =>
      engine.run("UPDATE argo_received SET received_at = ? WHERE id = ?", [iso(ms), id]);
    const write = (ms: number) =>
      engine.transaction(() => {
        const id = add(engine, 50);
        at(id, ms);
        return id;
      })();
    const first = write(dueMs - 900_000 - 60_000);
    clock.ms = dueMs + 30_000;
    expect(await seen(app, starter)).toEqual([first]);
    clock.ms = dueMs - 30_000;
    expect(await seen(app, starter)).toEqual([first]);
    // Committed now, and come between the two: not due by the clock as it is.
    const second = write(dueMs - 900_000);
    expect(await seen(app, starter)).toEqual([first]);
    clock.ms = dueMs - 1;
    expect(await seen(app, starter)).toEqual([first]);
    clock.ms = dueMs;
    expect(await seen(app, starter)).toEqual([first, second]);
  });

  test("one that takes another's place by a unique index leaves nothing of it", async () => {
    await using app = await openApp({
      now: Date.now(),
      fixture: (db) => {
        db.run(TABLE.replace(/\)$/, ", UNIQUE (symbol, timestamp))"));
        add(db, 50, "2026-01-01T00:00:00Z");
      },
    });
    const { clock, engine } = app;
    expect(await seen(app, starter)).toEqual([1]);
    const second = add(engine, 51, "2026-01-01T00:00:00Z");
    expect(second).toBe(2);
    expect(await seen(app, starter)).toEqual([]);
    clock.ms = arrivalMs(engine, second) + 900_000;
    expect(await seen(app, starter)).toEqual([second]);
  });

  test("a confidence that is no number is premium for all that is known", async () => {
    await using app = await openApp({
      fixture: (db) => {
        db.run(TABLE.replace("confidence REAL NOT NULL", "confidence TEXT"));
        db.run(
          `INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES
           ('SPX', 'BUY', 1, '10', '2026'), ('SPX', 'BUY', 1, 'high', '2026'), ('SPX', 'BUY', 1, NULL, '2026')`,
        );
      },
    });
    expect(await seen(app, all)).toEqual([1, 2, 3]);
    expect(await seen(app, common)).toEqual([]);
    expect(await seen(app, starter)).toEqual([]);
  });
});

describe("answers", () => {
  const path = "/api/signals/latest";
  const openOld = (): Promise<App> =>
    openApp({
      now: Date.now(),
      fixture: (db) => {
        db.run(TABLE);
        add(db, 50, "2026-01-01T00:00:00Z");
      },
    });

  test("stand while what comes is withheld, and their tags tell nothing of it", async () => {
    await using app = await openOld();
    const { clock, engine } = app;
    const { answers } = app.deps.argo;
    const ask = async (etag?: string): Promise<Response> =>
      app.get(path, headersOf(starter, etag === undefined ? {} : { "If-None-Match": etag }));
    const first = await ask();
    const etag = first.headers.get("etag") ?? "";
    const made = answers.made;
    for (let i = 0; i < 20; i += 1) {
      add(engine, i % 2 === 0 ? 50 : 99);
      const answer = await ask(etag);
      expect([answer.status, answer.headers.get("signal-head")]).toEqual([304, "1"]);
      clock.ms += 10;
      // Each in a millisecond of its own.
      await Bun.sleep(2);
    }
    expect(answers.made).toBe(made);
    // The one that is premium falls due as well, and nobody is told.
    clock.ms = arrivalMs(engine, 2) + 900_000;
    const second = await ask(etag);
    expect([second.status, second.headers.get("signal-head")]).toEqual([200, "2"]);
    clock.ms = arrivalMs(engine, 3) + 900_000;
    expect((await ask(second.headers.get("etag") ?? "")).status).toBe(304);
  });

  test("are right where thousands are withheld above them, and where they fall due at once", async () => {
    await using app = await openOld();
    const { clock, engine } = app;
    const many = (n: number) =>
      engine.run(
        `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
         INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
         SELECT 'SPX', 'BUY', i, iif(i % 3 = 0, 97, 50), '2026-02-' || printf('%05d', i) FROM n`,
        [n],
      );
    const newest = async (view: View): Promise<[number[], string | null]> => {
      const answer = await app.get(`${path}?limit=3`, headersOf(view));
      const ids = ((await answer.json()) as Shown[]).map(({ id }) => id);
      return [ids, answer.headers.get("signal-head")];
    };
    expect(await newest(starter)).toEqual([[1], "1"]);
    many(20_000);
    expect(await newest(starter)).toEqual([[1], "1"]);
    const list = await app.json<{ signals: Shown[] }>("/api/signals", headersOf(starter));
    expect(list.signals.map(({ id }) => id)).toEqual([1]);
    engine.run("UPDATE signals SET entry_price = 2 WHERE id = 1");
    expect(await newest(starter)).toEqual([[1], "1"]);
    clock.ms += 960_000;
    expect(await newest(starter)).toEqual([[20_001, 20_000, 19_998], "20001"]);
    expect(await newest(late)).toEqual([[20_001, 20_000, 19_999], "20001"]);
    const stats = await app.json<{ total: number }>("/api/stats", headersOf(starter));
    expect(stats.total).toBe(20_001 - 6_666);
    const lines = (await (await app.get("/api/signals/export", headersOf(starter))).text()).split(
      "\n",
    );
    expect(lines.filter(Boolean)).toHaveLength(20_001 - 6_666);
  });

  test("of a file that nobody watches count from timestamps, and are looked at again and again", async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    using engine = new Database(db, { create: true });
    engine.run("PRAGMA journal_mode = WAL");
    engine.run(TABLE);
    add(engine, 50, "2026-01-01T00:00:00Z");
    add(engine, 50, iso(NOON));
    add(engine, 50, "now");
    using reader = new SignalReader(db);
    await using far = new FarReader(reader, {
      path: db,
      deadlineMs: 5_000,
      onEvent: () => undefined,
    });
    let nowMs = NOON;
    const views = new Views(reader, far, () => nowMs);
    const ids = async (): Promise<number[]> => {
      const { sight } = views.current(starter);
      const rows = await far.rows({
        filter: {},
        sight,
        order: "asc",
        after: null,
        limit: 9,
        skip: 0,
        received: false,
      });
      return rows.map(({ id }) => id).toSorted();
    };
    expect(await ids()).toEqual([1, 3]);
    const before = views.current(starter).version;
    nowMs = NOON + 899_999;
    expect(await ids()).toEqual([1, 3]);
    nowMs = NOON + 900_049;
    expect(await ids()).toEqual([1, 2, 3]);
    expect(views.current(starter).version).toBeGreaterThan(before);
    expect((await views.current(starter).bounds()).headId).toBe(3);
  });
});

test("a file that the former release adopted keeps what was noted of its rows", async () => {
  using dir = tempDir();
  {
    await using app = await openApp({
      dir: dir.path,
      fixture: (db) => {
        db.run(TABLE);
        add(db, 50, iso(NOON - 100_000));
        add(db, 50, "2026-01-01T00:00:00Z");
      },
    });
    await app.post(signal({ confidence: 50, supersedes: 1 }));
  }
  const file = new Database(dir.file("signals.db"));
  const received = () => file.query("SELECT * FROM argo_received").all();
  const before = received();
  expect(before).toHaveLength(1);
  // What version 1 was made of.
  const forget = (row: string) =>
    ["received", "supersedes", "hashes"]
      .map((table) => `DELETE FROM argo_${table} WHERE id = ${row}.id;`)
      .join(" ");
  for (const sql of [
    "DROP TRIGGER argo_signals_insert",
    "DROP TRIGGER argo_signals_update",
    "DROP TRIGGER argo_signals_move",
    "DROP TRIGGER argo_signals_delete",
    "DROP TABLE argo_dated",
    "DROP TABLE argo_forgotten",
    "DROP TABLE argo_expired",
    "DROP TABLE argo_tail",
    "DROP INDEX idx_argo_received_at",
    "ALTER TABLE argo_head DROP COLUMN last_id",
    "ALTER TABLE argo_head DROP COLUMN out_of_order",
    "DELETE FROM argo_migrations WHERE version > 1",
    `CREATE TRIGGER argo_signals_insert AFTER INSERT ON "signals" BEGIN UPDATE argo_head SET inserts = inserts + 1; ${forget("NEW")} INSERT INTO argo_received (id, received_at) VALUES (NEW.id, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')); END`,
    `CREATE TRIGGER argo_signals_update AFTER UPDATE ON "signals" BEGIN UPDATE argo_head SET updates = updates + 1; END`,
    `CREATE TRIGGER argo_signals_move AFTER UPDATE ON "signals" WHEN NEW.id <> OLD.id BEGIN ${forget("NEW")} END`,
    `CREATE TRIGGER argo_signals_delete AFTER DELETE ON "signals" BEGIN UPDATE argo_head SET deletes = deletes + 1; ${forget("OLD")} END`,
  ]) {
    file.run(sql);
  }
  const third = add(file, 50, "2026-01-01T00:00:00Z");
  const arrived = arrivalMs(file, third);
  file.close();

  await using app = await openApp({ dir: dir.path, fixture: null });
  const rows = app.engine.query("SELECT * FROM argo_received ORDER BY id").all();
  expect(rows).toEqual([...before, { id: third, received_at: iso(arrived) }]);
  expect(app.engine.query("SELECT id FROM argo_dated").all()).toEqual([{ id: 1 }]);
  expect(await app.json<unknown>(`/api/signals/${third - 1}`)).toMatchObject({ supersedes: 1 });
  app.clock.ms = NOON + 800_000 - 1;
  const first = [2, 3, 4].filter((id) => id === 2 || arrivalMs(app.engine, id) <= NOON - 100_001);
  expect(await seen(app, starter)).toEqual(first);
  app.clock.ms = Math.max(NOON, arrived) + 900_000;
  expect(await seen(app, starter)).toEqual([1, 2, 3, 4]);
  const fourth = add(app.engine, 50);
  app.clock.ms = arrivalMs(app.engine, fourth) + 899_999;
  expect(await seen(app, starter)).not.toContain(fourth);
});

test("by the clock on the wall: never early, and within 100 ms", async () => {
  using dir = tempDir();
  await using server = await startServer({
    cwd: dir.path,
    env: {
      DATA_DIR: dir.path,
      ARGO_SERVICE_TOKEN: SERVICE_TOKEN,
      RATE_LIMIT_PER_MINUTE: "1000000000",
      SHUTDOWN_DELAY_SECONDS: "0",
    },
  });
  using engine = new Database(dir.file("signals.db"));
  engine.run("PRAGMA busy_timeout = 5000");
  const ids: number[] = [];
  const seenMs = new Map<number, number>();
  /** When the last poll was sent that did not show it. */
  const missedMs = new Map<number, number>();
  const url = `${server.url}/api/signals/latest?limit=100`;
  for (const view of [viewOf(false, 1), viewOf(true, 1)]) {
    const begun = Date.now();
    ids.length = 0;
    let etag = "";
    let shown = new Set<number>();
    // Until all are seen; what never is ends after a while.
    while (ids.length < 12 || (!ids.every((id) => seenMs.has(id)) && Date.now() - begun < 20_000)) {
      if (ids.length < 12 && Date.now() - begun > ids.length * 50) ids.push(add(engine, 50));
      const sentMs = Date.now();
      const answer = await fetch(url, {
        headers: { ...headersOf(view), ...(etag !== "" && { "If-None-Match": etag }) },
      });
      const atMs = Date.now();
      etag = answer.headers.get("etag") ?? "";
      if (answer.status !== 304) {
        shown = new Set(((await answer.json()) as Shown[]).map(({ id }) => id));
      }
      for (const id of ids) {
        if (!shown.has(id)) missedMs.set(id, sentMs);
        else if (!seenMs.has(id)) seenMs.set(id, atMs);
      }
    }
    for (const id of ids) {
      const arrived = arrivalMs(engine, id);
      expect((seenMs.get(id) ?? -Infinity) - arrived).toBeGreaterThanOrEqual(1_000);
      expect((missedMs.get(id) ?? -Infinity) - arrived).toBeLessThanOrEqual(1_100);
    }
  }
});
