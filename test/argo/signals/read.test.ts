import { afterAll, beforeAll, describe, expect, spyOn, test } from "bun:test";
import type { Database } from "bun:sqlite";
import { connect } from "node:net";
import fc from "fast-check";
import { FarReader } from "../../../src/argo/signals/far.ts";
import {
  fieldsOf,
  LEGACY_ROWS,
  openApp,
  problemOf,
  rowsOf,
  signal,
  unpacked,
  type App,
} from "../../harness/app.ts";
import { until } from "../../harness/process.ts";
import { seeded } from "../../harness/seed.ts";

interface Received {
  id: number;
  sha256: string;
  received_at: string | null;
  [name: string]: unknown;
}
interface Page {
  signals: Received[];
  next_cursor: string | null;
}

const INSERT =
  "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp, sha256) VALUES (?,?,?,?,?,?)";

describe("one signal", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp();
  });
  afterAll(() => app[Symbol.asyncDispose]());

  test("by its id", async () => {
    const [row] = rowsOf(app.engine);
    expect(await app.json<Received>("/api/signals/1")).toEqual({
      id: 1,
      symbol: row?.["symbol"],
      action: row?.["action"],
      confidence: row?.["confidence"],
      price: row?.["entry_price"],
      entry_price: row?.["entry_price"],
      stop_loss: row?.["stop_price"],
      take_profit: row?.["target_price"],
      target_price: row?.["target_price"],
      timestamp: row?.["timestamp"],
      strategy: "weighted_consensus",
      sha256: String(row?.["sha256"]),
      supersedes: null,
      received_at: null,
    });
  });

  test("by its hash; the newest of equal ones", async () => {
    const row = rowsOf(app.engine)[41];
    const found = await app.json<Received>(`/api/signals/hash/${row?.["sha256"]}`);
    expect(found.id).toBe(42);
    app.engine.run(INSERT, ["TWIN", "BUY", 1, 50, "1999", String(row?.["sha256"])]);
    const twin = await app.json<Received>(`/api/signals/hash/${row?.["sha256"]}`);
    expect(twin["symbol"]).toBe("TWIN");
    expect(twin.received_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  });

  test("is seen as soon as it is committed, and gone as soon as it is deleted", async () => {
    const at = `/api/signals/${LEGACY_ROWS + 50}`;
    expect((await app.get(at)).status).toBe(404);
    app.engine.run("INSERT INTO signals VALUES (?,'X','BUY',1,2,0.5,99,'x','2026','')", [
      LEGACY_ROWS + 50,
    ]);
    expect((await app.json<Received>(at))["symbol"]).toBe("X");
    app.engine.run("DELETE FROM signals WHERE id = ?", [LEGACY_ROWS + 50]);
    expect((await app.get(at)).status).toBe(404);
  });

  test.each(["999999", "9007199254740991", `hash/${"f".repeat(64)}`])(
    "%s that is not there is 404",
    async (path) => {
      const response = await app.get(`/api/signals/${path}`);
      expect(response.status).toBe(404);
      expect(await problemOf(response)).toMatchObject({
        code: "not_found",
        instance: `/api/signals/${path}`,
      });
    },
  );

  const bad = [
    "0",
    "-1",
    "abc",
    "1.5",
    "1e3",
    "0x1",
    "+1",
    "%20",
    "1%00",
    "١",
    "9007199254740993",
    "99999999999999999999",
    "1;--",
    "null",
    "%ED%A0%80",
    "%",
  ];
  test.each(bad)("the id %s is 400", async (id) => {
    const response = await app.get(`/api/signals/${id}`);
    expect(response.status).toBe(400);
    expect(await fieldsOf(response)).toEqual(["id"]);
  });

  const badHashes = ["x", "F".repeat(64), "f".repeat(63), "f".repeat(65), "g".repeat(64), "%00"];
  test.each(badHashes)("the hash %s is 400", async (hash) => {
    const response = await app.get(`/api/signals/hash/${hash}`);
    expect(response.status).toBe(400);
    expect(await fieldsOf(response)).toEqual(["sha256"]);
  });

  test.each(["/api/signals/1", `/api/signals/hash/${"0".repeat(64)}`, "/api/stats"])(
    "%s takes no parameters",
    async (path) => {
      for (const name of ["x", "__proto__", "limit", "constructor"]) {
        const response = await app.get(`${path}?${name}=1`);
        expect(response.status).toBe(400);
        expect(await fieldsOf(response)).toEqual([name]);
      }
    },
  );
});

describe("one signal by its hash, without the index of hashes", () => {
  const ROWS = 12_000;
  const hashOf = (i: number): string => `${i}`.padStart(64, "0");
  let app: App;
  beforeAll(async () => {
    app = await openApp({
      fixture: (db) => {
        db.run(
          `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT, entry_price REAL,
           confidence REAL, strategy TEXT, timestamp TEXT, sha256 TEXT)`,
        );
        db.run(
          `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${ROWS})
           INSERT INTO signals SELECT i, 'SPX', 'BUY', i, 99, 'trend', '2026-01-01T00:00:00Z',
           printf('%064d', i) FROM n`,
        );
      },
    });
    app.engine.run("UPDATE signals SET sha256 = ? WHERE id IN (5001, 7000)", [hashOf(7_000)]);
    app.engine.run("DROP INDEX idx_signal_sha256");
    // Nobody builds it again while somebody else holds the lock.
    app.engine.run("BEGIN IMMEDIATE");
  });
  afterAll(async () => {
    app.engine.run("ROLLBACK");
    await app[Symbol.asyncDispose]();
  });

  test("is looked for away from the server's thread, newest first", async () => {
    const { reader } = app.deps.argo;
    const near = spyOn(reader, "byHash");
    for (const [hash, id] of [
      [hashOf(1), 1],
      [hashOf(7_000), 7_000],
      [hashOf(2_000), 2_000],
      [hashOf(2_001), 2_001],
      [hashOf(ROWS), ROWS],
    ] as const) {
      expect((await app.json<Received>(`/api/signals/hash/${hash}`)).id).toBe(id);
    }
    for (const none of [5_001, 0]) {
      expect((await app.get(`/api/signals/hash/${hashOf(none)}`)).status).toBe(404);
    }
    expect(reader.hashIndexed).toBe(false);
    expect(near).not.toHaveBeenCalled();
    near.mockRestore();
  });

  test("is given up at the deadline, with the fix", async () => {
    const { reader } = app.deps.argo;
    const onEvent = (): void => undefined;
    await using far = new FarReader(reader, { path: app.db, deadlineMs: 0, onEvent });
    const failed = await Promise.resolve(far.byHash(hashOf(1), null)).catch(
      (error: unknown) => error,
    );
    expect(failed).toMatchObject({ code: "unavailable", detail: expect.stringContaining("index") });
  });
});

interface Stats {
  total: number;
  by_symbol: Record<string, number>;
  by_strategy: Record<string, number>;
  by_action: Record<string, number>;
  by_day: Record<string, number>;
}

/** The counts, from the rows. */
function countOf(db: Database): Stats {
  const rows = rowsOf(db);
  const by = (name: (row: Record<string, unknown>) => unknown): Record<string, number> => {
    const counts = new Map<string, number>();
    for (const row of rows) counts.set(`${name(row)}`, (counts.get(`${name(row)}`) ?? 0) + 1);
    return Object.fromEntries(counts);
  };
  return {
    total: rows.length,
    by_symbol: by((row) => row["symbol"] ?? ""),
    by_strategy: by((row) => row["strategy"] ?? "weighted_consensus"),
    by_action: by((row) => row["action"] ?? ""),
    by_day: by((row) => `${row["timestamp"] ?? ""}`.slice(0, 10)),
  };
}

describe("stats", () => {
  test("count the legacy file", async () => {
    await using app = await openApp();
    const stats = await app.json<Stats>("/api/stats");
    expect(stats).toEqual(countOf(app.engine));
    expect(stats).toMatchObject({ total: LEGACY_ROWS, by_symbol: { SPX: LEGACY_ROWS } });
  });

  test("are right after every kind of write", async () => {
    // A unique index makes OR REPLACE take away rows whose id it does not name.
    await using app = await openApp({
      fixture: (db) => {
        db.run(
          `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT, entry_price REAL,
           confidence REAL, strategy TEXT, timestamp TEXT, tag INTEGER UNIQUE)`,
        );
      },
    });
    const { engine } = app;
    const write = fc.record({
      how: fc.constantFrom(
        ...([
          "INSERT",
          "REPLACE",
          "INSERT OR IGNORE",
          "UPDATE",
          "MOVE",
          "DELETE",
          "NEWEST",
        ] as const),
      ),
      id: fc.option(fc.integer({ min: 1, max: 30 }), { nil: null }),
      symbol: fc.constantFrom("A", "B", "__proto__", "constructor", ""),
      strategy: fc.constantFrom(null, "trend", "weighted_consensus"),
      day: fc.integer({ min: 1, max: 3 }),
      tag: fc.option(fc.integer({ min: 1, max: 12 }), { nil: null }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(write, { maxLength: 5 }), { maxLength: 10 }),
        async (groups) => {
          for (const group of groups) {
            engine.transaction(() => {
              for (const { how, id, symbol, strategy, day, tag } of group) {
                const time = `2026-01-0${day}T00:00:00Z`;
                if (how === "UPDATE") {
                  engine.run("UPDATE signals SET symbol = ? WHERE id = ?", [symbol, id]);
                } else if (how === "MOVE") {
                  engine.run("UPDATE OR REPLACE signals SET id = id + 3 WHERE id = ?", [id]);
                } else if (how === "DELETE") engine.run("DELETE FROM signals WHERE id = ?", [id]);
                else if (how === "NEWEST") {
                  engine.run("DELETE FROM signals WHERE id = (SELECT max(id) FROM signals)");
                } else {
                  const or = how === "INSERT" ? "INSERT OR REPLACE" : how;
                  engine.run(`${or} INTO signals VALUES (?,?,'BUY',1,99,?,?,?)`, [
                    how === "INSERT" ? null : id,
                    symbol,
                    strategy,
                    time,
                    tag,
                  ]);
                }
              }
            })();
            expect(await app.json<Stats>("/api/stats")).toEqual(countOf(engine));
          }
        },
      ),
      seeded(60),
    );
  });

  test("of more names than are told apart are counted, by no read of the server's thread", async () => {
    const names = 60_000;
    await using app = await openApp({
      fixture: (db) => {
        db.run(
          "CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol, action, entry_price, confidence, timestamp)",
        );
        db.run(
          `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${names})
           INSERT INTO signals SELECT i, 'S' || i, 'BUY', 1, 99, '2026-01-01' FROM n`,
        );
      },
    });
    const near = spyOn(app.deps.argo.reader, "tally");
    for (const total of [names, names + 1]) {
      const stats = await app.json<Stats>("/api/stats");
      expect(stats.total).toBe(total);
      expect(Object.keys(stats.by_symbol)).toHaveLength(10_001);
      expect(stats.by_symbol["S1"]).toBe(1);
      expect(stats.by_symbol["(other)"]).toBe(total - 10_000);
      app.engine.run("INSERT INTO signals VALUES (NULL,'S7777777','BUY',1,99,'2026-01-02')");
    }
    // A list is answered while they are counted anew.
    app.engine.run("UPDATE signals SET action = 'SELL' WHERE id = 1");
    const counting = app.json<Stats>("/api/stats");
    expect(await app.json<Page>("/api/signals?limit=1")).toMatchObject({ has_more: true });
    expect((await counting).by_action).toEqual({ BUY: names + 1, SELL: 1 });
    expect(near).not.toHaveBeenCalled();
  });

  test("are right after posts, and a repeated post counts once", async () => {
    await using app = await openApp();
    await app.json("/api/stats");
    for (let i = 0; i < 3; i += 1) {
      await app.post([signal(), signal({ symbol: "NDX", strategy: "trend" })]);
      expect(await app.json<Stats>("/api/stats")).toEqual(countOf(app.engine));
    }
    expect((await app.json<Stats>("/api/stats")).total).toBe(LEGACY_ROWS + 2);
  });

  test("asked for after a commit show it, though a counting begun before is under way", async () => {
    await using app = await openApp();
    const ask = (): Promise<Response> =>
      Promise.resolve(app.fetch(new Request("http://argo.test/api/stats"), null));
    const first = ask();
    for (let i = 0; i < 300; i += 1) await Promise.resolve();
    // The other thread has counted by now, and this one has not heard of it.
    Bun.sleepSync(100);
    app.engine.run(INSERT, ["LATE", "BUY", 1, 50, "2026", ""]);
    const second = (await (await ask()).json()) as Stats;
    await (await first).text();
    expect(second.total).toBe(LEGACY_ROWS + 1);
  });

  test("name an unknown symbol as the signals themselves do", async () => {
    await using app = await openApp({
      fixture: (db) => {
        db.run("CREATE TABLE signals (symbol, action, entry_price, confidence, timestamp)");
        db.run(
          `INSERT INTO signals VALUES (NULL,NULL,1,99,NULL), (7,8,1,99,20260101),
           (x'41','BUY',1,99,x'323032362d30312d3031'), ('A','BUY',1,99,'2026-01-01T00')`,
        );
      },
    });
    const stats = await app.json<Stats>("/api/stats");
    const { signals } = await app.json<Page>("/api/signals");
    for (const [shown, counted] of [
      ["symbol", stats.by_symbol],
      ["action", stats.by_action],
      ["strategy", stats.by_strategy],
    ] as const) {
      const names = new Set(signals.map((s) => `${s[shown]}`));
      expect(Object.keys(counted).toSorted()).toEqual([...names].toSorted());
    }
    expect(stats.by_day).toEqual({ "": 1, "20260101": 1, "2026-01-01": 2 });
  });
});

const linesOf = (text: string): Received[] =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Received);

async function listed(app: App): Promise<Received[]> {
  const rows: Received[] = [];
  let cursor = "";
  do {
    const page: Page = await app.json<Page>(`/api/signals?limit=400&order=asc${cursor}`);
    rows.push(...page.signals);
    cursor = page.next_cursor === null ? "" : `&cursor=${page.next_cursor}`;
  } while (cursor !== "");
  return rows;
}

describe("export", () => {
  test("holds every row as the list shows it, by ascending id, and goes on after one", async () => {
    await using app = await openApp();
    await app.post([signal({ symbol: "Größe 🚀" }), signal({ supersedes: 7, entry_price: 101 })]);
    app.engine.run("DELETE FROM signals WHERE id % 7 = 0");
    const response = await app.get("/api/signals/export");
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe("application/x-ndjson");
    expect(response.headers.get("signal-head")).toBe(`${LEGACY_ROWS + 2}`);
    const text = await response.text();
    expect(text.endsWith("}\n")).toBe(true);
    const exported = linesOf(text);
    const rows = (await listed(app)).toSorted((a, b) => a.id - b.id);
    expect(exported).toEqual(rows);
    const after = await app.get("/api/signals/export?since_id=1000");
    expect(linesOf(await after.text())).toEqual(rows.filter((row) => row.id > 1_000));
    const packed = await app.get("/api/signals/export", { "Accept-Encoding": "gzip" });
    expect(packed.headers.get("content-encoding")).toBe("gzip");
    expect(await unpacked(packed)).toBe(text);
  });

  test("ends with the head at its start", async () => {
    await using app = await openApp();
    const response = await app.get("/api/signals/export?since_id=3400");
    app.engine.run(INSERT, ["LATE", "BUY", 1, 50, "2026", ""]);
    const ids = linesOf(await response.text()).map((row) => row.id);
    expect(ids.at(-1)).toBe(LEGACY_ROWS);
  });

  test("is empty past the head, and on an empty file", async () => {
    await using app = await openApp();
    for (const since of [LEGACY_ROWS, 10_000_000]) {
      const response = await app.get(`/api/signals/export?since_id=${since}`);
      expect([response.status, await response.text()]).toEqual([200, ""]);
    }
    await using none = await openApp({ fixture: null });
    const response = await none.get("/api/signals/export");
    expect([await response.text(), response.headers.get("signal-head")]).toEqual(["", "0"]);
  });

  test.each(["-1", "x", "", "1.0", "1&since_id=2", "1e3"])("since_id=%s is 400", async (value) => {
    await using app = await openApp({ fixture: null });
    const response = await app.get(`/api/signals/export?since_id=${value}`);
    expect(response.status).toBe(400);
    expect(await fieldsOf(response)).toEqual(["since_id"]);
  });

  test.each(["identity", "gzip"])(
    "a reader that stalls is read ahead for a little only (%s)",
    async (encoding) => {
      await using app = await openApp({
        fixture: (db) => {
          db.run(
            `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT, entry_price REAL,
           confidence REAL, strategy TEXT, timestamp TEXT, sha256 TEXT)`,
          );
          db.run(
            `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
           INSERT INTO signals SELECT i, 'SPX', 'BUY', i, 99, 'trend', '2026-01-01T00:00:00Z',
           hex(randomblob(32)) FROM n`,
          );
        },
      });
      let bytesRead = 0;
      const { far } = app.deps.argo;
      const slice = far.slice.bind(far);
      far.slice = async (...args) => {
        const read = await slice(...args);
        bytesRead += read.lines.length;
        return read;
      };
      const url = new URL(app.listen());
      const socket = connect(Number(url.port), url.hostname);
      try {
        socket.on("error", () => undefined);
        socket.write(
          `GET /api/signals/export HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: ${encoding}\r\n\r\n`,
        );
        socket.pause();
        await until(() => bytesRead > 0, "the first slice");
        // Still, for as long as reading everything would take.
        let [was, still] = [bytesRead, 0];
        await until(() => {
          still = bytesRead === was ? still + 1 : 0;
          was = bytesRead;
          return still > 60;
        }, "the reading to pause");
        const mebibytes = bytesRead / 1024 / 1024;
        expect(mebibytes).toBeLessThan(encoding === "gzip" ? 30 : 12);
        // And the rest comes once it is taken.
        let received = 0;
        socket.on("data", (bytes) => void (received += bytes.length));
        socket.resume();
        const all = 150_000 * 200;
        await until(() => bytesRead > all, "the rest");
        expect(received).toBeGreaterThan(0);
      } finally {
        socket.destroy();
      }
    },
  );

  test("a reader that goes away ends the reading", async () => {
    await using app = await openApp();
    const { far } = app.deps.argo;
    let calls = 0;
    const slice = far.slice.bind(far);
    far.slice = (...args) => {
      calls += 1;
      return slice(...args);
    };
    const response = await app.get("/api/signals/export");
    const reader = response.body?.getReader();
    await reader?.read();
    await reader?.cancel();
    const after = calls;
    await app.get("/livez");
    expect(after).toBeLessThan(4);
    expect(calls).toBe(after);
  });
});
