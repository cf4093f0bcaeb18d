import { expect, test } from "bun:test";
import { join } from "node:path";
import { type Content, hashOf } from "../../src/argo/signals/hash.ts";
import { startEngine, startServer, tempDir, until } from "../harness/process.ts";
import {
  ask,
  change,
  copyLegacy,
  countRows,
  json,
  LEGACY_ROWS,
  ndjson,
  run,
  signal,
  startFed,
} from "./run.ts";

const DEMO = join(import.meta.dir, "../../db/demo/spx-signals.ndjson.gz");

type Summary = {
  read: number;
  written: number;
  duplicates: number;
  skipped: number;
  unlinked: number;
  ignored: string[];
  bad: { line?: number; row?: number; reason: string }[];
};
const brief = ({ read, written, duplicates, skipped }: Summary) => [
  read,
  written,
  duplicates,
  skipped,
];

test("takes compressed NDJSON once, however often it is run", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  expect(brief(await json<Summary>(["--db", db, "import", DEMO]))).toEqual([3489, 3489, 0, 0]);
  expect(brief(await json<Summary>(["--db", db, "import", DEMO]))).toEqual([3489, 0, 3489, 0]);
  const [row] = ask<Content & { sha256: string }>(db, "SELECT * FROM signals ORDER BY id LIMIT 1");
  expect(row?.sha256).toBe(row && hashOf(row));
});

test("takes an engine's file as it is, with the engine's hashes", async () => {
  using dir = tempDir();
  const legacy = copyLegacy(dir.file("legacy.db"));
  const odd =
    "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp, sha256) VALUES ('','LONG',-1,250,'once','')";
  change(legacy, odd);
  const db = dir.file("signals.db");
  const all = LEGACY_ROWS + 1;
  expect(brief(await json<Summary>(["--db", db, "import", legacy]))).toEqual([all, all, 0, 0]);
  expect(brief(await json<Summary>(["--db", db, "import", legacy]))).toEqual([all, 0, all, 0]);
  const sql = `SELECT symbol, action, entry_price, stop_price, target_price, confidence, strategy,
    timestamp, sha256 FROM signals WHERE symbol <> '' ORDER BY id`;
  expect(ask(db, sql)).toEqual(ask(legacy, sql));
  expect(ask(db, "SELECT action, length(sha256) AS n FROM signals WHERE symbol = ''")).toEqual([
    { action: "LONG", n: 64 },
  ]);
});

test("takes files of engines with fewer columns and without ids", async () => {
  using dir = tempDir();
  const old = dir.file("old.db");
  change(
    old,
    "CREATE TABLE signals (timestamp TEXT, confidence REAL, entry_price REAL, action TEXT, symbol TEXT, note TEXT)",
    "INSERT INTO signals VALUES ('2020-01-01', 90, 10, 'BUY', 'A', 'x'), ('2020-01-02', 91, 11, 'SELL', 'B', 'y')",
  );
  const db = dir.file("signals.db");
  expect(brief(await json<Summary>(["--db", db, "import", old]))).toEqual([2, 2, 0, 0]);
  expect(ask(db, "SELECT symbol, strategy, stop_price FROM signals")).toEqual([
    { symbol: "A", strategy: "weighted_consensus", stop_price: null },
    { symbol: "B", strategy: "weighted_consensus", stop_price: null },
  ]);

  const none = dir.file("none.db");
  change(none, "CREATE TABLE other (a)");
  const refused = await run(["--db", db, "import", none]);
  expect(refused.code).toBe(1);
  expect(refused.err).toContain("no table of signals");
});

test("reads CSV by its header row: names of ingest, of answers, empty cells, quotes", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const ingest = dir.file("ingest.csv");
  await Bun.write(
    ingest,
    "\ufeffSymbol,action,confidence,entry_price,stop_price,target_price,timestamp,strategy,rsi\r\n" +
      'SPX,BUY,95.5,100.25,,120,2020-01-01T00:00:00+00:00,"a, ""b""",70\r\n\r\n' +
      "SPX,HOLD,60,1e2,,,2020-01-02T00:00:00+00:00,,\r\n",
  );
  const first = await json<Summary>(["--db", db, "import", ingest]);
  expect(first).toMatchObject({ written: 2, ignored: ["rsi"] });
  const answers = dir.file("answers.csv");
  await Bun.write(
    answers,
    "id,symbol,action,confidence,price,stop_loss,take_profit,timestamp,sha256,supersedes\n" +
      "7,NDX,SELL,80,50,60,40,2020-01-03T00:00:00Z,abc,\n" +
      "9,NDX,SELL,81,50,60,40,2020-01-03T00:00:00Z,def,7\n",
  );
  await json(["--db", db, "import", answers]);
  const sql = `SELECT id, symbol, entry_price, stop_price, target_price, strategy,
    (SELECT supersedes FROM argo_supersedes s WHERE s.id = signals.id) AS supersedes FROM signals`;
  expect(ask<Record<string, unknown>>(db, sql).map((row) => Object.values(row))).toEqual([
    [1, "SPX", 100.25, null, 120, 'a, "b"', null],
    [2, "SPX", 100, null, null, "weighted_consensus", null],
    [3, "NDX", 50, 60, 40, "weighted_consensus", null],
    [4, "NDX", 50, 60, 40, "weighted_consensus", 3],
  ]);
  expect(ask(db, "SELECT sha256 FROM signals WHERE id > 2")).toEqual([
    { sha256: "abc" },
    { sha256: "def" },
  ]);
});

test("faults of CSV are named by their line", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const head = "symbol,action,confidence,entry_price,timestamp\n";
  const good = "A,BUY,60,1,2020-01-01\n";
  const cases: [csv: string, message: RegExp][] = [
    [`symbol,action,entry_price\n${good}`, /header row.*confidence, timestamp/],
    [`symbol,${head}A,${good}`, /names symbol more than once/],
    [`${head}${good}A,BUY,60,1\n`, /Line 3: has 4 cells, the header row 5/],
    [`${head}${good}A,BUY,60,x,2020\n`, /Line 3: entry_price must be a positive number/],
    [`${head}${good}A,BU"Y,60,1,2020\n`, /Line 3: is not CSV/],
    [`${head}${good}"A,BUY,60,1,2020\n`, /Line \d: is not CSV/],
  ];
  for (const [csv, message] of cases) {
    const refused = await run(["--db", db, "import", "-"], { stdin: csv });
    expect(refused.code).toBe(1);
    expect(refused.err).toMatch(message);
  }
  const stdin = `${head}${good}A,BU"Y,60,1,2020\nA,BUY,61\nB,BUY,60,1,2020\n`;
  const skipped = await json<Summary>(["--db", db, "import", "-", "--skip-bad"], { stdin });
  expect(skipped.bad.map((bad) => bad.line)).toEqual([3, 4]);
  expect(brief(skipped)).toEqual([4, 1, 1, 2]);
});

test("a bad row ends it with its line, keeps the rows before it, and a rerun goes on", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const file = dir.file("rows.ndjson");
  const rows = Array.from({ length: 1_500 }, (_, n) => signal(n));
  const broken = rows.with(1_234, signal(1_234, { entry_price: -5 }));
  await Bun.write(file, ndjson(broken));
  const stopped = await run(["--db", db, "import", file]);
  expect(stopped.code).toBe(1);
  expect(stopped.err).toMatch(/Line 1,235: entry_price must be a positive number/);
  expect(stopped.err).toContain("1,234 rows written");
  expect(countRows(db)).toBe(1_234);

  const skipped = await json<Summary>(["--db", db, "import", file, "--skip-bad"]);
  expect(skipped).toMatchObject({
    bad: [{ line: 1_235, reason: "entry_price must be a positive number" }],
  });
  expect(brief(skipped)).toEqual([1_500, 265, 1_234, 1]);
  await Bun.write(file, ndjson(rows));
  expect(brief(await json<Summary>(["--db", db, "import", file]))).toEqual([1_500, 1, 1_499, 0]);
});

test("each kind of bad row is refused with its reason", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const cases: [row: unknown, reason: string][] = [
    [signal(1, { symbol: "" }), "symbol must be text of at most 256 characters"],
    [signal(1, { symbol: null }), "symbol must be text of at most 256 characters"],
    [signal(1, { symbol: "\ud800" }), "symbol must be text of at most 256 characters"],
    [signal(1, { action: "buy" }), "action must be BUY, SELL or HOLD"],
    [signal(1, { entry_price: 0 }), "entry_price must be a positive number"],
    [signal(1, { entry_price: "1" }), "entry_price must be a positive number"],
    [signal(1, { price: 3 }), "entry_price and price differ"],
    [signal(1, { confidence: 100.5 }), "confidence must be a number from 0 to 100"],
    [signal(1, { timestamp: "" }), "timestamp must be text of at most 256 characters"],
    [signal(1, { timestamp: 1_600_000_000 }), "timestamp must be text of at most 256 characters"],
    [signal(1, { stop_loss: "9" }), "stop_price must be a number"],
    [signal(1, { strategy: 5 }), "strategy must be text of at most 256 characters"],
    [[1], "is not a JSON object"],
    [null, "is not a JSON object"],
  ];
  const stdin = `${ndjson(cases.map(([row]) => row as object))}{"symbol":\n${ndjson([signal(1)])}`;
  const { bad, ...rest } = await json<Summary>(["--db", db, "import", "-", "--skip-bad"], {
    stdin,
  });
  expect(bad.map(({ reason }) => reason)).toEqual(cases.slice(0, 10).map(([, reason]) => reason));
  expect(rest).toMatchObject({ read: 16, written: 1, skipped: 15 });
});

test("what cannot be read at all is told with the fix, before anything is made", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const cut = Bun.gzipSync(ndjson(Array.from({ length: 400 }, (_, n) => signal(n)))).slice(0, -40);
  await Bun.write(dir.file("cut.gz"), cut);
  const csv = "symbol,action,confidence,entry_price,timestamp\nA,BUY,60,1,2020-01-01\n";
  const packed = Bun.gzipSync(`${csv}A,BUY,60,2,2020-01-02`, { level: 0 });
  await Bun.write(dir.file("cut.csv.gz"), packed.slice(0, -11));
  await Bun.write(dir.file("array.json"), JSON.stringify([signal(1)]));
  const refuse = async (file: string, message: string) => {
    const refused = await run(["--db", db, "import", file]);
    expect(refused).toMatchObject({ code: 1, out: "" });
    expect(refused.err).toContain(message);
  };
  await refuse(dir.file("absent"), "There is no");
  await refuse(dir.path, "cannot be read");
  await refuse(dir.file("array.json"), "jq -c");
  expect(await Bun.file(db).exists()).toBe(false);
  await refuse(dir.file("cut.gz"), "cannot be read to its end");
  const rows = countRows(db);
  expect(rows).toBeGreaterThan(300);
  // The last row is cut after "2020-01-", which would pass for a whole one.
  await refuse(dir.file("cut.csv.gz"), "cannot be read to its end");
  expect(countRows(db)).toBe(rows + 1);
  await refuse(db, "is the signal file itself");
});

test("an export is taken back whole: foreign hashes, corrections, the order of ids", async () => {
  using dir = tempDir();
  const [a, b] = [dir.file("a.db"), dir.file("b.db")];
  const rows = [
    signal(1, { id: 10, sha256: "f".repeat(64), strategy: "x", stop_price: 1, target_price: 900 }),
    signal(2, { id: 11 }),
    signal(3, { id: 15, supersedes: 10 }),
    signal(4, { id: 16, supersedes: 15 }),
    signal(5, { id: 17, supersedes: 3 }),
  ];
  const first = await run(["--db", a, "import", "-"], { stdin: ndjson(rows) });
  expect(first.err).toContain("1 row correct signals that are not in this file");
  // Other ids over there, so that links must be translated.
  await run(["--db", b, "import", "-"], { stdin: ndjson([signal(99), signal(2)]) });

  const exported = await run(["--db", a, "export"]);
  const taken = await json<Summary>(["--db", b, "import", "-"], { stdin: exported.out });
  expect(brief(taken)).toEqual([5, 4, 1, 0]);
  type Link = { id: number; sha256: string; supersedes: number | null };
  const parse = (text: string) =>
    text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Link);
  expect(parse(exported.out).map(({ id, supersedes }) => [id, supersedes])).toEqual([
    [1, null],
    [2, null],
    [3, 1],
    [4, 3],
    [5, null],
  ]);
  const back = parse((await run(["--db", b, "export", "--since-id", "2"])).out);
  expect(back.map(({ id, supersedes }) => [id, supersedes])).toEqual([
    [3, null],
    [4, 3],
    [5, 4],
    [6, null],
  ]);
  expect(back[0]?.sha256).toBe("f".repeat(64));
});

test("killed in the middle and run again: every row once", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const file = dir.file("rows.ndjson");
  const rows = 40_000;
  await Bun.write(file, ndjson(Array.from({ length: rows }, (_, n) => signal(n, { id: n + 1 }))));
  await run(["--db", db, "migrate"]);
  const lines = (await Bun.file(file).text()).split("\n");
  for (const floor of [0, 8_000]) {
    // What it does not have yet it cannot have written, however fast it is.
    const child = startFed(["--db", db, "import", "-"]);
    child.stdin.write(`${lines.slice(0, floor + 12_000).join("\n")}\n`);
    // It dies before it has read all of it.
    Promise.resolve(child.stdin.flush()).catch(() => undefined);
    await until(() => countRows(db) > floor, "the first rows");
    child.kill("SIGKILL");
    await child.exited;
    expect(countRows(db)).toBeLessThan(rows);
  }
  const left = rows - countRows(db);
  const done = await json<Summary>(["--db", db, "import", file]);
  expect(brief(done)).toEqual([rows, left, rows - left, 0]);
  const distinct = "SELECT count(DISTINCT timestamp) AS n, count(*) AS all_rows FROM signals";
  expect(ask(db, distinct)).toEqual([{ n: rows, all_rows: rows }]);
});

test("works beside a server that ingests and an engine that writes; nobody fails", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const token = "a-token-of-this-test";
  const env = { SIGNALS_DB: db, ARGO_WRITE_TOKEN: token, LOG_LEVEL: "info" };
  await using server = await startServer({ env });
  await using engine = await startEngine({ db, rate: 50, seconds: 3 });
  const rows = Array.from({ length: 20_000 }, (_, n) => signal(n));
  await Bun.write(dir.file("rows.ndjson"), ndjson(rows));
  const importing = json<Summary>(["--db", db, "import", dir.file("rows.ndjson")]);
  let posted = 0;
  const running = { on: true };
  const posting = (async () => {
    for (; running.on || posted < 11; posted += 1) {
      const body = JSON.stringify(signal(posted, { symbol: "POST" }));
      const response = await fetch(`${server.url}/api/signals`, {
        method: "POST",
        headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
        body,
      });
      expect(response.status).toBe(201);
    }
  })();
  expect(brief(await importing)).toEqual([20_000, 20_000, 0, 0]);
  running.on = false;
  await posting;
  expect(await engine.done).toBe(0);
  expect(posted).toBeGreaterThan(10);
  expect(countRows(db)).toBe(20_000 + posted + engine.committed().length);
});
