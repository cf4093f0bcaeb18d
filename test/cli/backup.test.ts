import { expect, test } from "bun:test";
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, truncateSync } from "node:fs";
import { holdWriteLock, startEngine, startServer, tempDir, until } from "../harness/process.ts";
import { ask, change, copyLegacy, countRows, json, LEGACY_ROWS, run } from "./run.ts";

type Backup = { file: string; rows: number; head: number; ids_kept: boolean };
type Restored = { rows: number; head: number; aside: string | null };

const token = "a-token-of-this-test";
const post = (url: string, n: number) =>
  fetch(`${url}/api/signals`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({
      symbol: "POST",
      action: "HOLD",
      confidence: 50,
      entry_price: n + 1,
      timestamp: "2026-01-01T00:00:00Z",
    }),
  });

test("a backup under load has everything acknowledged before it, and is restored whole", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  const env = { SIGNALS_DB: db, ARGO_WRITE_TOKEN: token };
  await using server = await startServer({ env });
  await using engine = await startEngine({ db, rate: 200, seconds: 20 });
  await until(() => engine.lastId() > LEGACY_ROWS + 50, "rows of the engine");
  const acknowledged: string[] = [];
  const posting = { on: true };
  const producer = (async () => {
    for (let n = 0; posting.on; n += 1) {
      const answer = (await (await post(server.url, n)).json()) as {
        signals: { sha256: string }[];
      };
      acknowledged.push(answer.signals[0]?.sha256 ?? "");
    }
  })();
  await until(() => acknowledged.length > 50, "posts");

  const owed = [...engine.committed().map((row) => row.sha256), ...acknowledged];
  const file = dir.file("backup.db");
  const made = await json<Backup>(["--db", db, "backup", file]);
  expect(made.ids_kept).toBe(true);
  posting.on = false;
  await producer;

  const has = new Set(
    ask<{ sha256: string }>(file, "SELECT sha256 FROM signals").map((r) => r.sha256),
  );
  expect(owed.filter((sha256) => !has.has(sha256))).toEqual([]);
  expect(countRows(file)).toBe(made.rows);
  expect(ask(file, "PRAGMA integrity_check")).toEqual([{ integrity_check: "ok" }]);
  expect(readdirSync(dir.path).filter((name) => name.endsWith(".part"))).toEqual([]);

  const used = await run(["--db", db, "restore", file]);
  expect(used.code).toBe(1);
  expect(used.err).toContain("is in use");
  engine.kill();
  await server.stop();
  const rowsBefore = countRows(db);

  const restored = await json<Restored>(["--db", db, "restore", file]);
  expect(restored).toMatchObject({ rows: made.rows, head: made.head });
  expect(readFileSync(db).equals(readFileSync(file))).toBe(true);
  expect(countRows(restored.aside ?? "")).toBe(rowsBefore);
  await using again = await startServer({ env });
  const last = await fetch(`${again.url}/api/signals/latest?limit=1&symbol=POST`);
  expect(last.headers.get("signal-head")).toBe(String(made.head));
});

test("an idle server is seen, --force goes ahead, and nothing is ever deleted", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  await json(["--db", db, "backup", dir.file("backup.db")]);
  await using server = await startServer({ env: { SIGNALS_DB: db, ARGO_WRITE_TOKEN: token } });
  expect((await post(server.url, 1)).status).toBe(201);
  const refused = await run(["--db", db, "restore", dir.file("backup.db")]);
  expect([refused.code, refused.out]).toEqual([1, ""]);
  expect(refused.err).toMatch(/in use by a server or an engine\. Nothing is changed\.\n {2}Stop/);
  expect(countRows(db)).toBe(LEGACY_ROWS + 1);

  const forced = await json<Restored>(["--db", db, "restore", dir.file("backup.db"), "--force"]);
  server.kill();
  await server.exited;
  expect(countRows(db)).toBe(LEGACY_ROWS);
  expect(countRows(forced.aside ?? "")).toBe(LEGACY_ROWS + 1);
});

test("an engine in a transaction on a file without a log is seen", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  const file = copyLegacy(dir.file("backup.db"));
  await using lock = await holdWriteLock(db, 20);
  const refused = await run(["--db", db, "restore", file]);
  expect([refused.code, refused.err.includes("is in use")]).toEqual([1, true]);
  await lock.release();
  expect((await run(["--db", db, "restore", file])).code).toBe(0);
});

test("a backup keeps the ids of rows without a key, and its file's permissions", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  change(
    db,
    "CREATE TABLE signals (symbol, action, entry_price, confidence, timestamp)",
    `WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 300)
     INSERT INTO signals SELECT 'S' || value, 'BUY', value, 50, '2020-01-01' FROM n`,
    "DELETE FROM signals WHERE rowid % 3 = 0",
  );
  chmodSync(db, 0o640);
  for (const adopted of [false, true]) {
    if (adopted) await json(["--db", db, "migrate"]);
    const file = dir.file(`backup-${adopted}.db`);
    expect(await json(["--db", db, "backup", file])).toMatchObject({ rows: 200, ids_kept: true });
    const ids = "SELECT rowid, symbol FROM signals ORDER BY rowid";
    expect(ask(file, ids)).toEqual(ask(db, ids));
    expect(statSync(file).mode & 0o777).toBe(0o640);
  }
});

test("a backup refuses what would destroy something or cannot be done", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  const there = dir.file("there.db");
  await Bun.write(there, "precious");
  const cases: [args: string[], message: RegExp][] = [
    [["--db", db, "backup", there], /is there already[^]*--force/],
    [["--db", db, "backup", db, "--force"], /is the signal file itself/],
    [["--db", db, "backup", dir.file("no/backup.db")], /cannot be written/],
    [["--db", dir.file("absent.db"), "backup", dir.file("b.db")], /There is no/],
  ];
  for (const [args, message] of cases) {
    const refused = await run(args);
    expect([refused.code, refused.out]).toEqual([1, ""]);
    expect(refused.err).toMatch(message);
    expect(refused.err).toMatch(/^argo-alpine: .+\n {2}.+\n$/);
  }
  expect(await Bun.file(there).text()).toBe("precious");
  expect(existsSync(dir.file("absent.db"))).toBe(false);
  expect((await run(["--db", db, "backup", there, "--force"])).code).toBe(0);
  expect(countRows(there)).toBe(LEGACY_ROWS);
});

test("a damaged file makes no backup, and a damaged backup is not restored", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  await json(["--db", db, "migrate"]);
  const damaged = dir.file("damaged.db");
  const bytes = readFileSync(db);
  // Rows in pages of the middle, overwritten.
  bytes.fill(0xab, 40 * 4096, 60 * 4096);
  await Bun.write(damaged, bytes);
  await Bun.write(dir.file("text.db"), "no database ".repeat(100));
  change(dir.file("other.db"), "CREATE TABLE other (a)");
  const cut = copyLegacy(dir.file("cut.db"));
  truncateSync(cut, 200_000);

  const refused = await run(["--db", damaged, "backup", dir.file("copy.db")]);
  expect([refused.code, existsSync(dir.file("copy.db"))]).toEqual([1, false]);
  const before = readFileSync(db);
  for (const name of ["damaged.db", "text.db", "other.db", "cut.db", "absent.db"]) {
    const { code, out, err } = await run(["--db", db, "restore", dir.file(name)]);
    expect([code, out]).toEqual([1, ""]);
    expect(err).toMatch(/^argo-alpine: .+\n {2}.+\n$/);
  }
  expect(readFileSync(db).equals(before)).toBe(true);
  // The damaged one is put aside by what was made of it, not repaired and not deleted.
  const sound = copyLegacy(dir.file("sound.db"));
  const restored = await json<Restored>(["--db", damaged, "restore", sound]);
  expect(readFileSync(restored.aside ?? "").equals(bytes)).toBe(true);
  expect(countRows(damaged)).toBe(LEGACY_ROWS);
});

test("a log that lost commits is kept as it is beside the old file", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const live = dir.file("live.db");
  {
    await using server = await startServer({ env: { SIGNALS_DB: live, ARGO_WRITE_TOKEN: token } });
    for (let n = 0; n < 20; n += 1) await post(server.url, n);
    server.kill();
    await server.exited;
  }
  await Bun.write(db, readFileSync(live));
  const log = readFileSync(`${live}-wal`);
  log.fill(0xee, 32 + 24 + 100, 32 + 24 + 200);
  await Bun.write(`${db}-wal`, log);
  expect((await run(["--db", db, "migrate"])).err).toContain("has lost commits");
  expect((await run(["--db", db, "backup", dir.file("b.db")])).err).toContain("has lost commits");

  const sound = copyLegacy(dir.file("sound.db"));
  const { aside } = await json<Restored>(["--db", db, "restore", sound]);
  expect(readFileSync(`${aside}-wal`).equals(log)).toBe(true);
  expect(existsSync(`${db}-wal`)).toBe(false);
  expect(countRows(db)).toBe(LEGACY_ROWS);
});

test("a copy of a live file, with its log beside it, is no backup", async () => {
  using dir = tempDir();
  const copy = copyLegacy(dir.file("copy.db"));
  await Bun.write(`${copy}-wal`, new Uint8Array(100));
  const refused = await run(["--db", dir.file("signals.db"), "restore", copy]);
  expect(refused.code).toBe(1);
  expect(refused.err).toMatch(/write-ahead log beside it[^]*backup NEW/);
  expect(existsSync(dir.file("signals.db"))).toBe(false);
});
