import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Database } from "bun:sqlite";
import fc from "fast-check";
import { fieldsOf, LEGACY_ROWS, openApp, rowsOf, type App } from "../../harness/app.ts";
import { seeded } from "../../harness/seed.ts";

const PATH = "/api/signals";

type Query = Record<string, string>;
interface Listed {
  id: number;
  timestamp: string | null;
  symbol: string;
  received_at: string | null;
}
interface Page {
  signals: Listed[];
  next_cursor: string | null;
  has_more: boolean;
}

const TIMES = [
  "2026-01-01T00:00:00Z",
  "2026-01-01T00:00:00+00:00",
  "2026-01-02T00:00:00.5Z",
  "2026-01-02",
  "not a time",
  "",
  "Größe",
  null,
];

/** A table without NOT NULL, so that rows may have no time; many times are equal. */
function loose(db: Database): void {
  db.run(
    `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT, entry_price REAL,
     target_price REAL, stop_price REAL, confidence REAL, strategy TEXT, timestamp TEXT, sha256 TEXT)`,
  );
  const add = db.prepare("INSERT INTO signals VALUES (?,?,?,1,2,0.5,?,?,?,NULL)");
  db.transaction(() => {
    for (let id = 1; id <= 240; id += 1) {
      add.run(
        id * 3,
        ["A", "B"][id % 2] ?? "",
        ["BUY", "SELL", "HOLD"][id % 3] ?? "",
        [50, 95, 99][(id >> 1) % 3] ?? 0,
        [null, "trend"][(id >> 2) % 2] ?? null,
        TIMES[(id * 5) % TIMES.length] ?? null,
      );
    }
  })();
}

const byBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

/** The ids that a filter lists, in order, from the rows themselves. */
function expected(db: Database, query: Query): number[] {
  const { symbol, strategy, action, since, until } = query;
  const floor = Number(query["min_confidence"] ?? 0);
  const timeOf = (row: Record<string, unknown>): string | null => row["timestamp"] as string | null;
  const ids = rowsOf(db)
    .filter((row) => {
      const time = timeOf(row);
      if (symbol !== undefined && row["symbol"] !== symbol) return false;
      if (strategy !== undefined && (row["strategy"] ?? "weighted_consensus") !== strategy) {
        return false;
      }
      if (action !== undefined && row["action"] !== action) return false;
      if (Number(row["confidence"]) < floor) return false;
      if (since !== undefined && (time === null || byBytes(time, since) < 0)) return false;
      return until === undefined || (time !== null && byBytes(time, until) < 0);
    })
    .toSorted((a, b) => {
      const [s, t] = [timeOf(a), timeOf(b)];
      const time = s === null ? (t === null ? 0 : 1) : t === null ? -1 : byBytes(t, s);
      return time || Number(b["id"]) - Number(a["id"]);
    })
    .map((row) => Number(row["id"]));
  return query["order"] === "asc" ? ids.toReversed() : ids;
}

/** Follows the cursors to the end. */
async function walk(app: App, query: Query, between?: (page: number) => void): Promise<number[]> {
  const ids: number[] = [];
  let cursor: string | null = null;
  for (let page = 0; ; page += 1) {
    if (page > 500) throw new Error(`no end: ${ids.slice(0, 50).join(" ")}`);
    const asked: URLSearchParams = new URLSearchParams(query);
    if (cursor !== null) asked.set("cursor", cursor);
    const answer: Page = await app.json<Page>(`${PATH}?${asked}`);
    expect(answer.has_more).toBe(answer.next_cursor !== null);
    if (answer.next_cursor !== null) {
      expect(answer.next_cursor).toMatch(/^[\w-]+$/);
      expect(answer.signals).toHaveLength(Number(query["limit"] ?? 20));
    }
    ids.push(...answer.signals.map((signal) => signal.id));
    if (answer.next_cursor === null) return ids;
    cursor = answer.next_cursor;
    between?.(page);
  }
}

describe("paging", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp({ fixture: loose });
  });
  afterAll(() => app[Symbol.asyncDispose]());

  const filters: Query[] = [
    {},
    { symbol: "A" },
    { strategy: "trend" },
    { strategy: "weighted_consensus" },
    { action: "HOLD" },
    { min_confidence: "95" },
    { min_confidence: "98" },
    { since: "2026-01-01T00:00:00Z" },
    { until: "2026-01-02" },
    { since: "2026-01-01", until: "2026-01-02T00:00:00.5Z" },
    { symbol: "B", action: "BUY", min_confidence: "60" },
    { symbol: "A", strategy: "trend", since: "2026" },
    { strategy: "trend", min_confidence: "95", until: "n" },
    { symbol: "none" },
  ];
  const cases: Query[] = [];
  for (const filter of filters) {
    for (const order of ["desc", "asc"]) {
      for (const limit of ["1", "7", "20"]) cases.push({ ...filter, order, limit });
    }
  }
  test.each(cases.map((query) => [new URLSearchParams(query).toString(), query] as const))(
    "every row once: %s",
    async (_text, query) => {
      expect(await walk(app, query)).toEqual(expected(app.engine, query));
    },
  );

  test("any filter, any page size", async () => {
    const maybe = <T>(...values: T[]): fc.Arbitrary<T> => fc.constantFrom(...values);
    const query = fc.record(
      {
        symbol: maybe("A", "B", "a"),
        strategy: maybe("trend", "weighted_consensus"),
        action: maybe("BUY", "SELL", "HOLD"),
        min_confidence: maybe("0", "50", "94.5", "95", "95.5", "100"),
        since: maybe("2026-01-01", "2026-01-01T00:00:00Z", "2026-01-02", "G"),
        until: maybe("2026-01-02", "2026-01-02T00:00:00.5Z", "not a time", "zz"),
        order: maybe("asc", "desc"),
        limit: fc.integer({ min: 3, max: 50 }).map(String),
      },
      { requiredKeys: ["limit"] },
    );
    await fc.assert(
      fc.asyncProperty(query, async (asked) => {
        const { since = "", until = "~~~" } = asked;
        fc.pre(byBytes(since, until) < 0);
        expect(await walk(app, asked)).toEqual(expected(app.engine, asked));
      }),
      seeded(150),
    );
  });

  test("the default is twenty, newest first", async () => {
    const page = await app.json<Page>(PATH);
    expect(page.signals.map((signal) => signal.id)).toEqual(expected(app.engine, {}).slice(0, 20));
    expect(Object.keys(page)).toEqual(["signals", "next_cursor", "has_more"]);
    expect(Object.keys(page.signals[0] ?? {}).at(-1)).toBe("received_at");
  });

  test("the page size may change on the way", async () => {
    const first = await app.json<Page>(`${PATH}?limit=5&order=asc`);
    const rest = await app.json<Page>(`${PATH}?limit=500&order=asc&cursor=${first.next_cursor}`);
    expect([...first.signals, ...rest.signals].map((signal) => signal.id)).toEqual(
      expected(app.engine, { order: "asc" }),
    );
    expect(rest).toMatchObject({ next_cursor: null, has_more: false });
  });

  test("a page that ends with the last row has no more", async () => {
    const all = expected(app.engine, { symbol: "A" }).length;
    const page = await app.json<Page>(`${PATH}?symbol=A&limit=${all}`);
    expect(page).toMatchObject({ next_cursor: null, has_more: false });
    const less = await app.json<Page>(`${PATH}?symbol=A&limit=${all - 1}`);
    expect(less.has_more).toBe(true);
  });
});

describe("rows that no text finds again", () => {
  /** Blobs, text that is not UTF-8, ids that a double rounds: each row known by its symbol. */
  function odd(db: Database): void {
    db.run(
      `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT, entry_price REAL,
       target_price REAL, stop_price REAL, confidence REAL, strategy TEXT, timestamp TEXT, sha256 TEXT)`,
    );
    const times = [
      "x'ff'",
      "x'fe01'",
      "x''",
      "CAST(x'ff' AS TEXT)",
      "CAST(x'41ff42' AS TEXT)",
      "CAST(x'41fe42' AS TEXT)",
      "'A\u{fffd}B'",
      "'2026-01-01T00:00:00Z'",
      "'Größe'",
      "''",
      "NULL",
    ];
    const ids = ["-1", "9007199254740993", "9007199254740995", "9223372036854775800"];
    let n = 0;
    for (const time of [...times, ...times, ...times]) {
      n += 1;
      const id = n <= 4 ? (ids[n - 1] ?? "") : n % 5 === 0 ? `9007199254741${100 + n}` : n;
      db.run(
        `INSERT INTO signals VALUES (${id},'S${n}','${n % 2 ? "BUY" : "SELL"}',1,2,0.5,${n % 3 ? 50 : 96},NULL,${time},NULL)`,
      );
    }
    db.run("INSERT INTO signals VALUES (-9,'S0','BUY',1,2,0.5,96,NULL,'',NULL)");
    db.run(
      "INSERT INTO signals VALUES (-9223372036854775807,'S-1','SELL',1,2,0.5,96,NULL,NULL,NULL)",
    );
  }

  test.each([
    ["", "1"],
    ["min_confidence=95", "confidence >= 95"],
    ["min_confidence=60", "confidence >= 60"],
    ["action=BUY", "action = 'BUY'"],
    ["action=SELL", "action = 'SELL'"],
  ])("are listed once each: %s", async (query, where) => {
    await using app = await openApp({ fixture: odd });
    for (const order of ["desc", "asc"]) {
      const wanted = app.engine
        .query<{ symbol: string }, []>(
          `SELECT symbol FROM signals WHERE ${where} ORDER BY timestamp ${order}, id ${order}`,
        )
        .all()
        .map((row) => row.symbol);
      for (const limit of [1, 3, 500]) {
        const seen: string[] = [];
        let cursor = "";
        do {
          const page: Page = await app.json<Page>(
            `${PATH}?${query}&order=${order}&limit=${limit}${cursor && `&cursor=${cursor}`}`,
          );
          expect(Object.keys(page.signals[0] ?? {})).not.toContain("exact");
          seen.push(...page.signals.map((signal) => signal.symbol));
          cursor = page.next_cursor ?? "";
        } while (cursor !== "" && seen.length <= wanted.length);
        expect(seen).toEqual(wanted);
      }
    }
  });
});

describe("rows that come and go between pages", () => {
  test("what was there and stays is listed once, whatever is written meanwhile", async () => {
    await using app = await openApp({ fixture: loose });
    const { engine } = app;
    for (const order of ["desc", "asc"]) {
      const before = expected(engine, { order });
      let next = Math.max(...before) + 1;
      const ids = await walk(app, { order, limit: "9" }, (page) => {
        const time = TIMES[page % TIMES.length] ?? null;
        engine.run("INSERT INTO signals VALUES (?,'A','BUY',1,2,0.5,60,NULL,?,NULL)", [next, time]);
        next += 1;
      });
      expect(new Set(ids).size).toBe(ids.length);
      const known = new Set(before);
      expect(ids.filter((id) => known.has(id))).toEqual(before);
      const all = expected(engine, { order });
      expect(ids).toEqual(all.filter((id) => ids.includes(id)));
    }
  });

  test("the row a cursor stands on may be deleted", async () => {
    await using app = await openApp({ fixture: loose });
    const before = expected(app.engine, {});
    const ids = await walk(app, { limit: "10" }, (page) => {
      app.engine.run("DELETE FROM signals WHERE id = ?", [before[page * 10 + 9] ?? 0]);
    });
    expect(ids).toEqual(before);
  });

  test("a long page begun before a commit does not answer one asked after it", async () => {
    await using app = await openApp();
    // A page of more than 500 rows is read on another thread, and equal reads are shared.
    const request = (): Promise<Response> =>
      Promise.resolve(app.fetch(new Request(`http://argo.test${PATH}?limit=500`), null));
    const first = request();
    for (let i = 0; i < 200; i += 1) await Promise.resolve();
    // The other thread has read by now, and this one has not heard of it.
    Bun.sleepSync(100);
    app.engine.run(
      "INSERT INTO signals VALUES (NULL,'SPX','BUY',1,2,0.5,99,'x','2026-11-20T00:00:00Z','')",
    );
    const second = (await (await request()).json()) as Page;
    await (await first).text();
    expect(second.signals[0]?.id).toBe(LEGACY_ROWS + 1);
  });
});

describe("cursors", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp({ fixture: loose });
  });
  afterAll(() => app[Symbol.asyncDispose]());

  const refused = async (query: Query): Promise<void> => {
    const response = await app.get(`${PATH}?${new URLSearchParams(query)}`);
    expect(response.status).toBe(400);
    expect(await fieldsOf(response)).toEqual(["cursor"]);
  };
  const cursorOf = async (query: Query, from: App = app): Promise<string> => {
    const page = await from.json<Page>(`${PATH}?${new URLSearchParams(query)}`);
    return page.next_cursor ?? "";
  };

  test("one of another filter or order is refused", async () => {
    const cursor = await cursorOf({ symbol: "A" });
    const others: Query[] = [
      {},
      { symbol: "B" },
      { symbol: "A", order: "asc" },
      { symbol: "A", action: "BUY" },
      { symbol: "A", strategy: "trend" },
      { symbol: "A", min_confidence: "1" },
      { symbol: "A", since: "2026" },
      { symbol: "A", until: "2026" },
      { strategy: "A" },
    ];
    for (const other of others) await refused({ ...other, cursor });
    await app.json(`${PATH}?symbol=A&cursor=${cursor}`);
    await app.json(`${PATH}?cursor=${cursor}&order=desc&symbol=A&limit=3`);
  });

  test("one that is cut, changed or made up is refused", async () => {
    const cursor = await cursorOf({});
    for (let length = 1; length < cursor.length; length += 1) {
      await refused({ cursor: cursor.slice(0, length) });
    }
    for (let at = 0; at < cursor.length; at += 1) {
      const other = cursor[at] === "A" ? "B" : "A";
      await refused({ cursor: cursor.slice(0, at) + other + cursor.slice(at + 1) });
    }
    const place = Buffer.from('["2026-01-01T00:00:00Z",3]');
    for (const made of [
      place.toString("base64url"),
      Buffer.concat([Buffer.alloc(9), place]).toString("base64url"),
      `${cursor}A`,
      `${cursor}=`,
      `${cursor}==`,
      ` ${cursor}`,
      "A",
      "null",
      "0",
      "🚀",
      "../../etc/passwd",
      "' OR 1=1 --",
      "A".repeat(400),
    ]) {
      await refused({ cursor: made });
    }
    await refused({ cursor: "A".repeat(401) });
    await refused({ cursor: "" });
  });

  test("one of another file is refused", async () => {
    await using other = await openApp({ fixture: loose });
    await refused({ cursor: await cursorOf({}, other) });
  });

  test("one is good after a restart", async () => {
    let cursor = "";
    await using first = await openApp({ fixture: loose });
    {
      await using again = await openApp({ dir: first.dir, fixture: null });
      cursor = await cursorOf({}, again);
    }
    await using again = await openApp({ dir: first.dir, fixture: null });
    const page = await again.json<Page>(`${PATH}?cursor=${cursor}`);
    expect(page.signals.map((s) => s.id)).toEqual(expected(app.engine, {}).slice(20, 40));
  });

  test("pages follow each other past a time of any length", async () => {
    await using odd = await openApp({
      fixture: (db) => {
        loose(db);
        db.run("UPDATE signals SET timestamp = timestamp || ?", ["ü".repeat(300)]);
      },
    });
    const ids = await walk(odd, { limit: "20" });
    expect(ids).toEqual(expected(odd.engine, {}));
  });

  test.each(["BLOB", "", "DATETIME", "INTEGER"])(
    "pages follow each other where the time is %s and holds numbers and blobs",
    async (type) => {
      await using odd = await openApp({
        fixture: (db) => {
          db.run(
            `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT,
             entry_price REAL, confidence REAL, timestamp ${type})`,
          );
          const add = db.prepare("INSERT INTO signals VALUES (?,'A','BUY',1,99,?)");
          for (let i = 1; i <= 10; i += 1) add.run(i, 1_700_000_000 + i);
          for (let i = 11; i <= 20; i += 1) add.run(i, 1_700_000_000.5 + i);
          for (let i = 21; i <= 30; i += 1) add.run(i, new TextEncoder().encode(`2026-01-${i}`));
          for (let i = 31; i <= 40; i += 1) add.run(i, `2026-01-01T00:00:${i}Z`);
          for (let i = 41; i <= 50; i += 1) add.run(i, null);
        },
      });
      const all = (order: string): number[] =>
        odd.engine
          .query<{ id: number }, []>(
            `SELECT id FROM signals ORDER BY timestamp ${order}, id ${order}`,
          )
          .all()
          .map((row) => row.id);
      expect(await walk(odd, { limit: "4" })).toEqual(all("DESC"));
      expect(await walk(odd, { limit: "4", order: "asc" })).toEqual(all("ASC"));
    },
  );
});

describe("parameters", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp({ fixture: loose, env: { MAX_PAGE_SIZE: "50" } });
  });
  afterAll(() => app[Symbol.asyncDispose]());

  test("since is inclusive and until exclusive, by bytes", async () => {
    const since = "2026-01-01T00:00:00+00:00";
    const until = "2026-01-01T00:00:00Z";
    const page = await app.json<Page>(
      `${PATH}?${new URLSearchParams({ since, until, limit: "50" })}`,
    );
    expect(new Set(page.signals.map((s) => s.timestamp))).toEqual(new Set([since]));
    expect(page.signals).toHaveLength(30);
  });

  test('a "+" that was not written as %2B is told, not taken for a space', async () => {
    for (const name of ["since", "until"]) {
      const response = await app.get(`${PATH}?${name}=2026-01-01T00:00:00+00:00`);
      expect(response.status).toBe(400);
      expect(await fieldsOf(response)).toEqual([name]);
    }
  });

  test("the page size is bounded by MAX_PAGE_SIZE", async () => {
    expect((await app.json<Page>(`${PATH}?limit=50`)).signals).toHaveLength(50);
    const response = await app.get(`${PATH}?limit=51`);
    expect(response.status).toBe(400);
    expect(await fieldsOf(response)).toEqual(["limit"]);
  });

  const refused: [string, string][] = [
    ["limit=0", "limit"],
    ["limit=-1", "limit"],
    ["limit=abc", "limit"],
    ["limit=", "limit"],
    ["limit=1e1", "limit"],
    ["limit=2&limit=3", "limit"],
    ["order=up", "order"],
    ["order=DESC", "order"],
    ["action=buy", "action"],
    ["action=", "action"],
    ["symbol=", "symbol"],
    ["symbol=%00", "symbol"],
    ["symbol=%ED%B0%80", "symbol"],
    [`strategy=${"s".repeat(65)}`, "strategy"],
    ["min_confidence=200", "min_confidence"],
    ["min_confidence=-0", "min_confidence"],
    ["since=", "since"],
    ["until=%0A", "until"],
    [`since=${"2".repeat(65)}`, "since"],
    ["since=2026-02&until=2026-01", "until"],
    ["since=2026-01&until=2026-01", "until"],
    ["premium_only=true", "premium_only"],
    ["offset=1", "offset"],
    ["nonsense=1", "nonsense"],
    ["__proto__=1", "__proto__"],
    ["constructor=1", "constructor"],
    ["toString=1", "toString"],
    ["hasOwnProperty", "hasOwnProperty"],
  ];
  test.each(refused)("?%s is 400 and names %s", async (text, field) => {
    const response = await app.get(`${PATH}?${text}`);
    expect(response.status).toBe(400);
    expect(await fieldsOf(response)).toContain(field);
  });
});

describe("what a filter must not take for its match", () => {
  test("since and until compare text in a column that likes numbers", async () => {
    await using app = await openApp({
      fixture: (db) => {
        db.run(
          `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT,
           entry_price REAL, confidence REAL, timestamp DATETIME NOT NULL)`,
        );
        db.run(
          `INSERT INTO signals VALUES (1,'A','BUY',1,99,'2024-05-05T00:00:00Z'),
           (2,'A','BUY',1,99,'2026-05-05T00:00:00Z')`,
        );
      },
    });
    const ids = async (query: string): Promise<number[]> =>
      (await app.json<Page>(`${PATH}?${query}`)).signals.map((s) => s.id);
    expect(await ids("since=2025-01-01")).toEqual([2]);
    expect(await ids("since=2025")).toEqual([2]);
    expect(await ids("until=2025")).toEqual([1]);
  });

  test("a confidence that is no number is not above a floor", async () => {
    await using app = await openApp({
      fixture: (db) => {
        loose(db);
        db.run("DELETE FROM signals");
        db.run(
          `INSERT INTO signals VALUES (1,'A','BUY',1,2,0.5,'high',NULL,'2026','h'),
           (2,'A','BUY',1,2,0.5,x'ff',NULL,'2026','h'), (3,'A','BUY',1,2,0.5,9e999,NULL,'2026','h'),
           (4,'A','BUY',1,2,0.5,NULL,NULL,'2026','h'), (5,'A','BUY',1,2,0.5,96,NULL,'2026','h')`,
        );
      },
    });
    const ids = (signals: Listed[]): number[] => signals.map((s) => s.id);
    expect(ids((await app.json<Page>(PATH)).signals)).toEqual([5, 4, 3, 2, 1]);
    for (const query of ["min_confidence=95", "min_confidence=50", "symbol=A&min_confidence=96"]) {
      expect(ids((await app.json<Page>(`${PATH}?${query}`)).signals)).toEqual([5]);
    }
    expect(ids(await app.json<Listed[]>(`${PATH}/latest?premium_only=true`))).toEqual([5]);
  });
});
