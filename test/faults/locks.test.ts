/** Another process holds SQLite's write lock: writes are told to come back, reads notice nothing. */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { copyFileSync } from "node:fs";
import { spawnChild } from "../harness/children.ts";
import { tempDir, until } from "../harness/process.ts";
import { expectFlow } from "./flow.ts";
import {
  figures,
  holdLock,
  isRetryLater,
  newestId,
  Pollers,
  python,
  readFile,
  serveFile,
  signal,
  Wire,
  WRITE_TOKEN,
} from "./harness.ts";

const HOLD_SECONDS = Number(process.env["TEST_LOCK_SECONDS"] ?? 3);
const LEGACY = new URL("../fixtures/argo-legacy.db", import.meta.url).pathname;
const LEGACY_ROWS = 3_489;
/**
 * A post waits for a lock, then for the group that waited before it: 2 s each. If each group waited
 * for those before it, the last would come after 20 s.
 */
const REFUSED_MS_MAX = 9_000;

for (const kind of ["IMMEDIATE", "EXCLUSIVE"] as const) {
  test(`BEGIN ${kind} elsewhere: posts get 503 in bounded time, polls go on, ingest resumes`, async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    await using server = await serveFile(db);
    using wire = await Wire.open(server.url);
    for (let n = 0; n < 20; n += 1) expect((await wire.post(signal("QUIET", n))).status).toBe(201);
    const pollers = Pollers.start(server.url);
    await Bun.sleep(1_000);
    const quiet = pollers.phase();

    await using lock = await holdLock(db, kind, 30);
    const lockedAt = performance.now();
    const refusals = await Promise.all(
      Array.from({ length: 24 }, async (_, n) => {
        // One after another, so that groups queue behind groups.
        await Bun.sleep(n * 60);
        using own = await Wire.open(server.url);
        return await own.post(signal("HELD", n));
      }),
    );
    expect(refusals.filter((answer) => !isRetryLater(answer))).toEqual([]);
    const slowest = Math.max(...refusals.map((answer) => answer.durationMs));
    expect(slowest).toBeLessThan(REFUSED_MS_MAX);
    // Nothing else may wait for the writer.
    for (const path of ["/livez", "/readyz", "/health", "/metrics", "/api/signals", "/api/stats"]) {
      const answer = await wire.get(path);
      expect([path, answer.status]).toEqual([path, 200]);
      // The lock would be waited for as long as it is held.
      expect(answer.durationMs).toBeLessThan(5_000);
    }
    await Bun.sleep(Math.max(0, HOLD_SECONDS * 1_000 - (performance.now() - lockedAt)));
    const held = pollers.phase();
    await lock.release();

    // By itself: no restart, no signal; a producer that comes back is let in.
    await until(
      async () => (await wire.post(signal("AFTER", 1))).status === 201,
      "ingest after the lock",
    );
    await pollers.stop();
    console.log(
      `${kind}: quiet ${figures(quiet.durationsMs)}; held ${figures(held.durationsMs)}; refused ≤ ${slowest} ms`,
    );
    expect(pollers.faults).toEqual([]);
    expectFlow(held, quiet);
    const { rows } = readFile(db);
    expect(rows.filter((row) => row.symbol === "HELD")).toEqual([]);
    expect(rows.filter((row) => row.symbol === "AFTER").length).toBe(1);
  });
}

test("large posts behind a lock wait no longer than small ones", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using server = await serveFile(db);
  await using lock = await holdLock(db, "IMMEDIATE", 60);
  // A few of these fill a group by themselves: many groups wait behind one lock.
  const body = JSON.stringify(signal("LARGE", 1)) + " ".repeat(1_000_000);
  const headers = { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" };
  const answers = await Promise.all(
    Array.from({ length: 24 }, async () => {
      using wire = await Wire.open(server.url);
      return await wire.ask("POST", "/api/signals", headers, body);
    }),
  );
  expect(answers.filter((answer) => !isRetryLater(answer))).toEqual([]);
  const slowest = Math.max(...answers.map((answer) => answer.durationMs));
  console.log(`24 posts of 1 MB behind a lock: the last refused after ${slowest.toFixed(0)} ms`);
  expect(slowest).toBeLessThan(REFUSED_MS_MAX);
  await lock.release();
});

test("a lock that is held while the server starts delays no read of a file it knows", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  let begun = performance.now();
  let usualMs: number;
  {
    await using first = await serveFile(db);
    usualMs = performance.now() - begun;
    using wire = await Wire.open(first.url);
    expect((await wire.post(signal("KNOWN", 1))).status).toBe(201);
    await first.stop();
  }
  await using lock = await holdLock(db, "IMMEDIATE", 30);
  begun = performance.now();
  await using server = await serveFile(db);
  // Whoever waits for a lock waits for two seconds at least.
  expect(performance.now() - begun).toBeLessThan(2 * usualMs + 1_500);
  using wire = await Wire.open(server.url);
  expect(newestId((await wire.get("/api/signals/latest")).body)).toBe(1);
  expect(isRetryLater(await wire.post(signal("HELD", 1)))).toBe(true);
  await lock.release();
  await until(async () => (await wire.post(signal("AFTER", 1))).status === 201, "ingest");
});

for (const kind of ["IMMEDIATE", "EXCLUSIVE"] as const) {
  test(`the engine holds BEGIN ${kind} on its rollback journal while the server adopts`, async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    copyFileSync(LEGACY, db);
    await using lock = await holdLock(db, kind, 30);
    const starting = serveFile(db);
    await Bun.sleep(2_500);
    await lock.release();
    await using server = await starting;
    using wire = await Wire.open(server.url);
    expect(newestId((await wire.get("/api/signals/latest")).body)).toBe(LEGACY_ROWS);
    expect((await wire.post(signal("AFTER", 1))).status).toBe(201);
    const { rows, integrity } = readFile(db);
    expect([rows.length, integrity]).toEqual([LEGACY_ROWS + 1, ["ok"]]);
  });
}

const DIE_HALFWAY = `
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 5")
db.execute("BEGIN")
db.execute("UPDATE signals SET confidence = 1, strategy = 'half-done-transaction'")
db.execute("INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) "
           "SELECT 'HALF', action, entry_price, confidence, timestamp FROM signals")
os.kill(os.getpid(), signal.SIGKILL)
`;

test("an engine killed inside its transaction leaves a hot journal: it is rolled back", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  copyFileSync(LEGACY, db);
  const child = spawnChild([await python(), "-c", DIE_HALFWAY, db]);
  expect(await child.done).not.toBe(0);
  expect(await Bun.file(`${db}-journal`).exists()).toBe(true);
  await using server = await serveFile(db);
  using wire = await Wire.open(server.url);
  const answer = await wire.get("/api/signals/latest?limit=500");
  expect(newestId(answer.body)).toBe(LEGACY_ROWS);
  expect(answer.body).not.toContain("half-done-transaction");
  expect(readFile(db).integrity).toEqual(["ok"]);
  expect(readFile(db).rows.length).toBe(LEGACY_ROWS);
});

test("a reader elsewhere that never ends its transaction stops neither side", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using server = await serveFile(db);
  using wire = await Wire.open(server.url);
  expect((await wire.post(signal("FIRST", 1))).status).toBe(201);
  using reader = new Database(db, { readonly: true });
  reader.run("BEGIN");
  reader.query("SELECT count(*) FROM signals").get();
  for (let n = 2; n <= 300; n += 1) {
    expect((await wire.post(signal("MORE", n))).status).toBe(201);
  }
  expect(newestId((await wire.get("/api/signals/latest")).body)).toBe(300);
  reader.run("COMMIT");
});
