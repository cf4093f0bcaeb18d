import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Database } from "bun:sqlite";
import fc from "fast-check";
import {
  LEGACY_ROWS,
  openApp,
  problemOf,
  rowsOf,
  turn,
  unpacked,
  type App,
} from "../../harness/app.ts";
import { until } from "../../harness/process.ts";
import { findTool } from "../../harness/tools.ts";
import { seeded } from "../../harness/seed.ts";

const PATH = "/api/signals/latest";

type Query = Record<string, string | number>;

interface Signal {
  id: number;
  symbol: string;
  confidence: number | null;
  strategy: string;
  timestamp: string | null;
}

/** Rows that a filter can tell apart: three symbols, strategies with none, ties in time. */
function mixed(db: Database): void {
  db.run(
    `CREATE TABLE signals (id INTEGER PRIMARY KEY AUTOINCREMENT, symbol TEXT NOT NULL,
     action TEXT NOT NULL, entry_price REAL NOT NULL, target_price REAL, stop_price REAL,
     confidence REAL NOT NULL, strategy TEXT DEFAULT 'weighted_consensus', timestamp TEXT NOT NULL,
     sha256 TEXT)`,
  );
  const add = db.prepare(
    `INSERT INTO signals (symbol, action, entry_price, target_price, stop_price, confidence,
     strategy, timestamp, sha256) VALUES (?,?,?,?,?,?,?,?,?)`,
  );
  db.transaction(() => {
    for (let i = 0; i < 600; i += 1) {
      add.run(
        ["SPX", "NDX", "Größe €🚀"][i % 3] ?? "",
        i % 2 === 0 ? "BUY" : "SELL",
        100 + i / 7,
        i % 4 === 0 ? null : 200 + i,
        i % 5 === 0 ? null : 50 + i / 3,
        [40, 94.99, 95, 99.9, 80, 60, 97][i % 7] ?? 0,
        [null, "weighted_consensus", "trend"][(i >> 2) % 3] ?? null,
        // Ties, both ways of writing UTC, and a few that sort out of the order of arrival.
        `2026-01-${String(1 + ((i * 7) % 20)).padStart(2, "0")}T00:00:00${i % 2 ? "Z" : "+00:00"}`,
        i % 6 === 0 ? null : `${i}`.padStart(64, "0"),
      );
    }
  })();
}

const byBytes = (a: unknown, b: unknown): number =>
  Buffer.compare(Buffer.from(`${a}`), Buffer.from(`${b}`));

/** What the answer must be, byte by byte, worked out from the rows. */
function expected(db: Database, query: Query): string {
  const premium = /^(true|1|yes|on)$/i.test(`${query["premium_only"] ?? ""}`);
  const floor = Math.max(Number(query["min_confidence"] ?? 0), premium ? 95 : 0);
  const offset = Number(query["offset"] ?? 0);
  const shown = rowsOf(db)
    .map((row) => ({
      id: row["id"],
      symbol: row["symbol"],
      action: row["action"],
      confidence: row["confidence"],
      price: row["entry_price"],
      entry_price: row["entry_price"],
      stop_loss: row["stop_price"],
      take_profit: row["target_price"],
      target_price: row["target_price"],
      timestamp: row["timestamp"],
      strategy: row["strategy"] ?? "weighted_consensus",
      sha256: row["sha256"] ?? "",
      supersedes: null,
    }))
    .filter((row) => query["symbol"] === undefined || row.symbol === query["symbol"])
    .filter((row) => query["strategy"] === undefined || row.strategy === query["strategy"])
    .filter((row) => Number(row.confidence) >= floor)
    .toSorted((a, b) => byBytes(b.timestamp, a.timestamp) || Number(b.id) - Number(a.id))
    .slice(offset, offset + Number(query["limit"] ?? 10));
  return JSON.stringify(shown).replace(
    /[^ -~]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

const search = (query: Query): string => {
  const pairs = Object.entries(query).map(([name, value]): [string, string] => [name, `${value}`]);
  const text = new URLSearchParams(pairs).toString();
  return text === "" ? "" : `?${text}`;
};

describe("what a poll answers", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp({ fixture: mixed });
  });
  afterAll(() => app[Symbol.asyncDispose]());

  const words = ["true", "false", "1", "0", "yes", "no", "on", "off"];
  const queries: Query[] = [
    {},
    ...[...words, ...words.map((w) => w.toUpperCase()), "tRuE", "oFf"].map((word) => ({
      premium_only: word,
      limit: 20,
    })),
    { symbol: "SPX" },
    { symbol: "Größe €🚀", limit: 3 },
    { symbol: "NONE" },
    { strategy: "trend", limit: 300 },
    { strategy: "weighted_consensus", limit: 500 },
    { strategy: "none such" },
    { min_confidence: 0 },
    { min_confidence: "94.99", limit: 400 },
    { min_confidence: 95, limit: 400 },
    { min_confidence: "95.000001", limit: 400 },
    { min_confidence: 100 },
    { symbol: "NDX", strategy: "weighted_consensus", limit: 200 },
    { symbol: "NDX", premium_only: "yes", limit: 200 },
    { symbol: "SPX", strategy: "trend", min_confidence: 80, premium_only: 1, limit: 7, offset: 3 },
    { strategy: "trend", premium_only: "on", min_confidence: "99.9" },
    { limit: 1 },
    { limit: 500 },
    { limit: 500, offset: 200 },
    { limit: 10, offset: 595 },
    { offset: 10_000 },
    { offset: 599, limit: 500 },
  ];
  test.each(queries.map((query) => [search(query), query] as const))(
    "exactly these bytes for %s",
    async (text, query) => {
      const response = await app.get(PATH + text);
      expect(response.status).toBe(200);
      expect(await response.text()).toBe(expected(app.engine, query));
    },
  );

  test("the keys come in this order, and the prices under both names", async () => {
    const [first] = await app.json<Record<string, unknown>[]>(PATH);
    expect(Object.keys(first ?? {})).toEqual([
      ..."id symbol action confidence price entry_price stop_loss take_profit".split(" "),
      ..."target_price timestamp strategy sha256 supersedes".split(" "),
    ]);
  });

  test("the headers of an answer", async () => {
    const { headers } = await app.get(PATH);
    expect(headers.get("content-type")).toMatch(/^application\/json/);
    expect(headers.get("etag")).toMatch(/^"[\w-]+"$/);
    expect(headers.get("cache-control")).toBe("private, no-cache");
    expect(headers.get("signal-head")).toBe("600");
    expect(headers.get("vary")).toMatch(/accept-encoding/i);
    expect(headers.get("vary")).toMatch(/origin/i);
    expect(headers.get("content-encoding")).toBeNull();
    for (const name of ["ratelimit", "ratelimit-policy", "x-ratelimit-remaining"]) {
      expect(headers.get(name)).not.toBeNull();
    }
  });

  test("the head is the highest id, whatever the filter shows", async () => {
    const response = await app.get(`${PATH}?symbol=NONE`);
    expect(await response.text()).toBe("[]");
    expect(response.headers.get("signal-head")).toBe("600");
  });

  test("a compressed answer holds the same bytes under a tag of its own", async () => {
    const plain = await app.get(PATH);
    const text = await plain.text();
    for (const accept of ["gzip", "gzip, deflate, br", "br;q=1.0, gzip;q=0.5", "*", "GZIP"]) {
      const packed = await app.get(PATH, { "Accept-Encoding": accept });
      expect(packed.headers.get("content-encoding")).toBe("gzip");
      expect(packed.headers.get("vary")).toMatch(/accept-encoding/i);
      expect(await unpacked(packed)).toBe(text);
      expect(packed.headers.get("etag")).toMatch(/^"[\w-]+"$/);
      expect(packed.headers.get("etag")).not.toBe(plain.headers.get("etag"));
    }
  });

  test.each(["gzip;q=0", "gzip; q=0.000", "deflate", "identity", "*;q=0", "gzip;q=0, *"])(
    "Accept-Encoding: %s gets the plain bytes",
    async (accept) => {
      const response = await app.get(PATH, { "Accept-Encoding": accept });
      expect(response.headers.get("content-encoding")).toBeNull();
      expect(await response.text()).toBe(expected(app.engine, {}));
    },
  );

  test("an answer below 1 KB is not compressed", async () => {
    const response = await app.get(`${PATH}?limit=1`, { "Accept-Encoding": "gzip" });
    expect(response.headers.get("content-encoding")).toBeNull();
    expect(await response.text()).toBe(expected(app.engine, { limit: 1 }));
  });

  test("any of the tags makes it 304, without a body and with what a cache needs", async () => {
    const plain = (await app.get(PATH)).headers.get("etag") ?? "";
    const packed = (await app.get(PATH, { "Accept-Encoding": "gzip" })).headers.get("etag") ?? "";
    const given = [
      plain,
      packed,
      "*",
      `W/${plain}`,
      `W/${packed}`,
      `"other", ${plain}`,
      `"other","more" , W/${packed},"last"`,
    ];
    for (const tag of given) {
      for (const encoding of ["identity", "gzip"]) {
        const headers = { "If-None-Match": tag, "Accept-Encoding": encoding };
        const response = await app.get(PATH, headers);
        expect(response.status).toBe(304);
        expect(await response.text()).toBe("");
        expect(response.headers.get("etag")).toBe(encoding === "gzip" ? packed : plain);
        expect(response.headers.get("signal-head")).toBe("600");
        expect(response.headers.get("cache-control")).toBe("private, no-cache");
        expect(response.headers.get("vary")).toMatch(/accept-encoding/i);
        expect(response.headers.get("content-encoding")).toBeNull();
        expect(response.headers.get("content-type")).toBeNull();
      }
    }
  });

  test("no other tag does", async () => {
    const plain = (await app.get(PATH)).headers.get("etag") ?? "";
    const bare = plain.slice(1, -1);
    const others = ['"other"', bare, `"${bare}x"`, `"${bare}-br"`, '""', "", "W/", `'${bare}'`];
    for (const tag of others) {
      expect((await app.get(PATH, { "If-None-Match": tag })).status).toBe(200);
    }
    const filtered = (await app.get(`${PATH}?limit=11`)).headers.get("etag");
    expect(filtered).not.toBe(plain);
  });

  test("HEAD says what GET does, without the body", async () => {
    const got = await app.get(PATH);
    // Over a socket: it is the listener that leaves the body out.
    const ask = (headers = {}): Promise<Response> =>
      fetch(app.listen() + PATH, { method: "HEAD", headers });
    const head = await ask({ "Accept-Encoding": "identity" });
    expect(head.status).toBe(200);
    expect(await head.text()).toBe("");
    const tag = got.headers.get("etag");
    expect(tag).not.toBeNull();
    for (const name of ["etag", "signal-head", "cache-control", "content-type", "vary"]) {
      expect(head.headers.get(name)).toBe(got.headers.get(name));
    }
    expect((await ask({ "If-None-Match": tag ?? "" })).status).toBe(304);
  });

  const refused: [string, string][] = [
    ["limit=0", "limit"],
    ["limit=-1", "limit"],
    ["limit=1e9", "limit"],
    ["limit=501", "limit"],
    ["limit=abc", "limit"],
    ["limit=", "limit"],
    ["limit", "limit"],
    ["limit=1.5", "limit"],
    ["limit=+1", "limit"],
    ["limit=0x10", "limit"],
    ["limit=99999999999999999999", "limit"],
    ["limit=1&limit=1", "limit"],
    ["limit=1&%6Cimit=1", "limit"],
    ["limit[]=1", "limit[]"],
    ["offset=-1", "offset"],
    ["offset=10001", "offset"],
    ["premium_only=maybe", "premium_only"],
    ["premium_only=", "premium_only"],
    ["premium_only=2", "premium_only"],
    ["symbol=", "symbol"],
    [`symbol=${"x".repeat(65)}`, "symbol"],
    ["symbol=%00", "symbol"],
    ["symbol=a%0Ab", "symbol"],
    ["symbol=%7F", "symbol"],
    ["symbol=%ED%A0%80", "symbol"],
    ["symbol=%E2%82", "symbol"],
    ["symbol=%", "symbol"],
    ["symbol=%zz", "symbol"],
    ["strategy=", "strategy"],
    ["min_confidence=200", "min_confidence"],
    ["min_confidence=-1", "min_confidence"],
    ["min_confidence=100.1", "min_confidence"],
    ["min_confidence=NaN", "min_confidence"],
    ["min_confidence=Infinity", "min_confidence"],
    ["min_confidence=", "min_confidence"],
    ["min_confidence=1e1", "min_confidence"],
    ["nonsense=1", "nonsense"],
    ["Limit=1", "Limit"],
    ["__proto__=1", "__proto__"],
    ["constructor=1", "constructor"],
    ["toString", "toString"],
  ];
  test.each(refused)("?%s is 400 and names %s", async (text, field) => {
    const response = await app.get(`${PATH}?${text}`);
    expect(response.status).toBe(400);
    const problem = await problemOf(response);
    expect(problem.code).toBe("bad_request");
    expect(problem.errors?.map((error) => error.field)).toContain(field);
  });

  test.each(["=1", "%00=1", "%FF=1", "%=1"])("a parameter ?%s is refused", async (text) => {
    const response = await app.get(`${PATH}?${text}`);
    expect(response.status).toBe(400);
    expect((await problemOf(response)).code).toBe("bad_request");
  });
});

describe("never stale", () => {
  test("whatever another connection commits is in the very next poll", async () => {
    await using app = await openApp({ fixture: mixed });
    const { engine } = app;
    const check = async (what: string): Promise<void> => {
      const queries: Query[] = [{}, { symbol: "SPX" }, { premium_only: "true" }, { limit: 500 }];
      for (const query of queries) {
        const response = await app.get(PATH + search(query));
        expect(`${what} ${await response.text()}`).toBe(`${what} ${expected(engine, query)}`);
        const head = rowsOf(engine).at(-1)?.["id"] ?? 0;
        expect(response.headers.get("signal-head")).toBe(`${head}`);
      }
    };
    const insert = (id: number | null, how = "INSERT"): void => {
      engine.run(
        `${how} INTO signals VALUES (?, 'SPX', 'BUY', 1, 2, 0.5, 99, 'x', '2026-02-28T00:00:00Z', 'h')`,
        [id],
      );
    };
    await check("at first");
    insert(null);
    await check("insert");
    insert(null, "INSERT OR REPLACE");
    await check("or replace, new");
    insert(601, "INSERT OR REPLACE");
    await check("or replace, old id");
    engine.run(
      "REPLACE INTO signals VALUES (600, 'NDX', 'SELL', 5, 4, 6, 96, NULL, '2026-09-01', '')",
    );
    await check("replace");
    engine.run("UPDATE signals SET confidence = 11 WHERE id = 600");
    await check("update of a value");
    engine.run("UPDATE signals SET timestamp = '2027' WHERE id = 5");
    await check("update of the order");
    engine.run("UPDATE signals SET symbol = 'SPX' WHERE symbol = 'NDX'");
    await check("update of many");
    engine.run("DELETE FROM signals WHERE id = 602");
    await check("delete of the highest");
    engine.run("DELETE FROM signals WHERE id % 2 = 0");
    await check("delete of many");
    engine.transaction(() => {
      insert(null);
      engine.run("DELETE FROM signals WHERE id = 1");
      insert(null);
    })();
    await check("a transaction");
    engine.run("BEGIN");
    insert(null);
    expect(await (await app.get(PATH)).text()).not.toBe(expected(engine, {}));
    engine.run("ROLLBACK");
    await check("rolled back");
    engine.run("DELETE FROM signals");
    await check("delete of all");
    expect(await (await app.get(PATH)).text()).toBe("[]");
    insert(null);
    await check("insert into nothing");
  });

  test("a poll over a socket shows what another process has just committed", async () => {
    const python = await findTool("python3");
    if (python.path === null) throw new Error(python.reason);
    await using app = await openApp();
    const url = app.listen();
    const script = `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
for line in sys.stdin:
    db.execute("INSERT INTO signals VALUES (NULL,'SPX','BUY',1,2,0.5,99,'x','2026-11-20T00:00:00Z','')")
    print(db.execute("SELECT max(id) FROM signals").fetchone()[0], flush=True)
`;
    const child = Bun.spawn([python.path, "-c", script, app.db], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    const chunks = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    let said = "";
    const line = async (): Promise<string> => {
      while (!said.includes("\n")) said += (await chunks.read()).value ?? "\n";
      const [first = ""] = said.split("\n", 1);
      said = said.slice(first.length + 1);
      return first;
    };
    for (let i = 1; i <= 100; i += 1) {
      child.stdin.write("\n");
      await child.stdin.flush();
      expect(await line()).toBe(`${LEGACY_ROWS + i}`);
      const response = await fetch(`${url}${PATH}?limit=1`);
      const [newest] = (await response.json()) as Signal[];
      expect(newest?.id).toBe(LEGACY_ROWS + i);
      expect(response.headers.get("signal-head")).toBe(`${LEGACY_ROWS + i}`);
    }
    await child.stdin.end();
    expect(await child.exited).toBe(0);
  });

  test("a poll that meets a long walk begun before a commit still shows that commit", async () => {
    await using app = await openApp({ fixture: mixed });
    // 500 and one to skip are more than the server's own thread reads.
    const path = `${PATH}?limit=500&offset=1`;
    for (let round = 0; round < 20; round += 1) {
      await turn();
      const before = app.fetch(new Request(`http://argo.test${path}`), null);
      app.engine.run(
        "INSERT INTO signals VALUES (NULL,'SPX','BUY',1,2,0.5,99,'x','2026-01-30T00:00:00Z','')",
      );
      await turn();
      const after = await app.fetch(new Request(`http://argo.test${path}`), null);
      expect(await after.text()).toBe(expected(app.engine, { limit: 500, offset: 1 }));
      await (await before).text();
      const again = await app.get(path);
      expect(await again.text()).toBe(expected(app.engine, { limit: 500, offset: 1 }));
    }
  });

  test("a look that fails is made again, not taken for done", async () => {
    await using app = await openApp();
    await app.json(PATH);
    app.engine.transaction(() => {
      app.engine.run("ALTER TABLE argo_head RENAME COLUMN deletes TO gone");
      app.engine.run("UPDATE signals SET symbol = 'NEW'");
    })();
    for (let i = 0; i < 3; i += 1) expect((await app.get(`${PATH}?limit=1`)).status).toBe(503);
    app.engine.run("ALTER TABLE argo_head RENAME COLUMN gone TO deletes");
    expect(await app.json<Signal[]>(`${PATH}?limit=1`)).toMatchObject([{ symbol: "NEW" }]);
  });

  test("writes to other tables keep the bytes", async () => {
    await using app = await openApp({ fixture: mixed });
    const { answers } = app.deps.argo;
    await app.get(PATH);
    app.engine.run("CREATE TABLE other (x)");
    // A new table may be anything: the first look after it reads anew.
    await app.get(PATH);
    const { made, reused } = answers;
    for (let i = 0; i < 20; i += 1) {
      app.engine.run("INSERT INTO other VALUES (1)");
      await app.get(PATH);
    }
    expect({ made: answers.made - made, reused: answers.reused - reused }).toEqual({
      made: 0,
      reused: 20,
    });
    app.engine.run("UPDATE signals SET strategy = strategy WHERE id = 1");
    await app.get(PATH);
    expect(answers.made - made).toBe(1);
  });

  test("cached answers are those that are read each time", async () => {
    await using app = await openApp({ fixture: mixed });
    await using plain = await openApp({
      dir: app.dir,
      fixture: null,
      env: { ENABLE_CACHE: "false" },
    });
    const { engine } = app;
    const symbol = fc.constantFrom("SPX", "NDX", "Größe €🚀", "NONE", "spx");
    const strategy = fc.constantFrom("trend", "weighted_consensus", "none");
    const query = fc.record(
      {
        limit: fc.integer({ min: 1, max: 40 }),
        offset: fc.constantFrom(0, 1, 7, 650),
        premium_only: fc.constantFrom("true", "false", "YES", "0"),
        min_confidence: fc.constantFrom("0", "60", "94.99", "95", "99"),
        symbol,
        strategy,
      },
      { requiredKeys: [] },
    );
    const id = fc.integer({ min: 1, max: 700 });
    const write = fc.oneof(
      fc.tuple(fc.constant("INSERT INTO"), fc.constant(null)),
      fc.tuple(fc.constantFrom("INSERT OR REPLACE INTO", "INSERT OR IGNORE INTO"), id),
      fc.tuple(fc.constantFrom("DELETE", "UPDATE", "MOVE", "OTHER"), id),
    );
    engine.run("CREATE TABLE IF NOT EXISTS other (x)");
    const run = (how: string, at: number | null, name: string): void => {
      if (how === "DELETE") engine.run("DELETE FROM signals WHERE id = ?", [at]);
      else if (how === "UPDATE") {
        engine.run("UPDATE signals SET confidence = 100 - confidence, symbol = ? WHERE id = ?", [
          name,
          at,
        ]);
      } else if (how === "MOVE")
        engine.run("UPDATE OR IGNORE signals SET id = id + 7 WHERE id = ?", [at]);
      else if (how === "OTHER") engine.run("INSERT INTO other VALUES (1)");
      else {
        engine.run(`${how} signals VALUES (?, ?, 'BUY', 10, 11, 9, 97, NULL, '2026-01-10', NULL)`, [
          at,
          name,
        ]);
      }
    };
    let equal = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(write, symbol, fc.array(query, { maxLength: 4 })), { maxLength: 12 }),
        async (steps) => {
          for (const [[how, at], name, queries] of steps) {
            run(how, at, name);
            for (const asked of [...queries, {}]) {
              const path = PATH + search(asked as Record<string, string>);
              const cached = await app.get(path);
              const read = await plain.get(path);
              const text = await cached.text();
              expect(text).toBe(await read.text());
              expect(cached.headers.get("etag")).toBe(read.headers.get("etag"));
              expect(text).toBe(expected(engine, asked as Record<string, string>));
              equal += 1;
            }
          }
        },
      ),
      seeded(60),
    );
    expect(equal).toBeGreaterThan(60);
    expect(plain.deps.argo.answers.reused).toBe(0);
    expect(app.deps.argo.answers.reused).toBeGreaterThan(0);
  });
});

describe("the cache is bounded", () => {
  test("in entries: ten thousand different queries keep no more than the bound", async () => {
    await using app = await openApp();
    const { answers } = app.deps.argo;
    for (let i = 0; i < 10_000; i += 1) {
      await app.fetch(new Request(`http://argo.test${PATH}?limit=1&symbol=S${i}`), null);
      if (answers.entries > 4_096) throw new Error(`${answers.entries} entries`);
    }
    expect(answers.entries).toBeGreaterThan(0);
    expect(await app.json(`${PATH}?limit=1&symbol=S1`)).toEqual([]);
  });

  test("in bytes, compressed variants included", async () => {
    await using app = await openApp();
    const { answers } = app.deps.argo;
    let most = 0;
    for (let offset = 0; offset < 250; offset += 1) {
      const request = new Request(`http://argo.test${PATH}?limit=500&offset=${offset}`, {
        headers: { "Accept-Encoding": "gzip" },
      });
      await app.fetch(request, null);
      most = Math.max(most, answers.bytes);
    }
    expect(most).toBeGreaterThan(1024 * 1024);
    expect(most).toBeLessThanOrEqual(4 * 1024 * 1024);
  });

  test("an answer that many waited for counts once", async () => {
    await using app = await openApp();
    const { answers } = app.deps.argo;
    const request = (): Request => new Request(`http://argo.test${PATH}?limit=500&offset=5`);
    const all = await Promise.all(Array.from({ length: 50 }, () => app.fetch(request(), null)));
    const { length } = (await all[0]?.text()) ?? "";
    expect(length).toBeGreaterThan(100_000);
    expect(answers.bytes).toBeWithin(length, 2 * length);
  });

  test("a query spelled at great length is not kept at that length", async () => {
    await using app = await openApp();
    Bun.gc(true);
    await turn();
    const before = process.memoryUsage.rss();
    for (let i = 0; i < 4_000; i += 1) {
      // Empty pairs mean nothing, so all of these are one query.
      const long = `&`.repeat(12_000) + `limit=${1 + (i % 3)}` + "&".repeat(1 + i);
      await app.fetch(new Request(`http://argo.test${PATH}?${long}`), null);
    }
    // What is kept stays; what is not goes when the collector comes to it.
    let grownMiB = Infinity;
    await until(
      () => {
        Bun.gc(true);
        grownMiB = (process.memoryUsage.rss() - before) / 1024 / 1024;
        return grownMiB < 30;
      },
      () => `nothing of 48 MB to be kept, not ${grownMiB.toFixed(0)} MiB`,
    );
  });
});
