/**
 * Damaged files: the start is refused and names `restore`, or what can be read is served and
 * nothing is written. The file is never replaced, and no answer is ever made up.
 */
import { Database } from "bun:sqlite";
import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, existsSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { spawnChild } from "../harness/children.ts";
import { type Server, startEngine, type TempDir, tempDir, until } from "../harness/process.ts";
import { LATEST, newestId, python, seededRandom, serveFile, signal, Wire } from "./harness.ts";

const LEGACY = new URL("../fixtures/argo-legacy.db", import.meta.url).pathname;
const ROWS = 4_000;
const LOGGED = 300;
const PAGE = 4_096;
const REFUSED = /restore/;

let dir: TempDir;
/** An adopted file with 4,000 rows and no log beside it. */
let sound: string;
/** The same with 300 commits more, all of them still in the log, as a crash leaves it. */
let crashed: string;
/** What may be answered: every row that was ever written, by its id. */
const truth = new Map<number, string>();

const rowOf = (symbol: string, n: number) => `${symbol}|${100 + n}`;

beforeAll(async () => {
  dir = tempDir();
  sound = dir.file("sound.db");
  {
    await using server = await serveFile(sound);
    await server.stop();
  }
  using file = new Database(sound, { readwrite: true });
  file.run("PRAGMA wal_autocheckpoint = 0");
  const insert = file.prepare(
    "INSERT INTO signals (symbol, action, entry_price, confidence, strategy, timestamp, sha256) VALUES (?, 'BUY', ?, 90, 'truth', ?, '')",
  );
  const write = (n: number) => {
    const stamp = new Date(Date.UTC(2020, 0, 1) + n * 1_000).toISOString();
    insert.run(`S${n % 50}`, 100 + n, stamp);
    truth.set(n, rowOf(`S${n % 50}`, n));
  };
  file.transaction(() => {
    for (let n = 1; n <= ROWS; n += 1) write(n);
  })();
  file.run("PRAGMA wal_checkpoint(TRUNCATE)");
  const clean = dir.file("clean.db");
  copyFileSync(sound, clean);
  for (let n = ROWS + 1; n <= ROWS + LOGGED; n += 1) write(n);
  crashed = dir.file("crashed.db");
  copyFileSync(sound, crashed);
  copyFileSync(`${sound}-wal`, `${crashed}-wal`);
  sound = clean;
  insert.finalize();
});
afterAll(() => dir[Symbol.dispose]());

/** A copy to be damaged, with its log where it has one. */
function copyOf(path: string, name: string): string {
  const copy = dir.file(`${name}.db`);
  copyFileSync(path, copy);
  if (existsSync(`${path}-wal`)) copyFileSync(`${path}-wal`, `${copy}-wal`);
  return copy;
}

function damage(path: string, at: number, bytes: Uint8Array | string): void {
  const content = readFileSync(path);
  content.set(typeof bytes === "string" ? Buffer.from(bytes) : bytes, at);
  writeFileSync(path, content);
}

/** Starts the server, or hands back what it said when it would not start. */
async function tryServe(db: string): Promise<Server | string> {
  try {
    return await serveFile(db);
  } catch (error) {
    return String(error);
  }
}

interface Listed {
  id: number;
  symbol: string;
  entry_price: number;
}

/** Fails for a row that nobody wrote. */
function mustBeTrue(rows: Listed[]): void {
  const invented = rows.filter((row) => truth.get(row.id) !== `${row.symbol}|${row.entry_price}`);
  expect(invented).toEqual([]);
}

/**
 * Asks everything that reads. Each answer is true, 404, or a 503 that names what to do; an export
 * that cannot go on does not end as if it were whole.
 */
async function mustBeHonest(url: string): Promise<{ failed: number }> {
  let failed = 0;
  using wire = await Wire.open(url);
  const paths = [LATEST, `${LATEST}?limit=500`, `${LATEST}?symbol=S7`, `${LATEST}?premium_only=1`];
  for (let id = 1; id <= ROWS; id += 211) paths.push(`/api/signals/${id}`);
  let cursor = "";
  for (let page = 0; page < 12; page += 1) {
    const answer = await wire.get(`/api/signals?limit=500${cursor}`);
    if (answer.status === 503) {
      expect(answer.body).toContain('"code":"unavailable"');
      failed += 1;
      break;
    }
    expect(answer.status).toBe(200);
    const list = JSON.parse(answer.body) as { signals: Listed[]; next_cursor: string | null };
    mustBeTrue(list.signals);
    if (list.next_cursor === null) break;
    cursor = `&cursor=${list.next_cursor}`;
  }
  for (const path of paths) {
    const answer = await wire.get(path);
    if (answer.status === 503) {
      expect(answer.headers.get("content-type")).toBe("application/problem+json");
      failed += 1;
      continue;
    }
    expect([path, answer.status]).toEqual([path, 200]);
    const value = JSON.parse(answer.body) as Listed | Listed[];
    mustBeTrue(Array.isArray(value) ? value : [value]);
  }
  const exported = await fetch(`${url}/api/signals/export`).then(
    async (response) => {
      expect([200, 503]).toContain(response.status);
      return response.status === 200 ? await response.text().catch(() => null) : null;
    },
    () => null,
  );
  if (exported === null) failed += 1;
  else {
    const lines = exported.trim().split("\n");
    mustBeTrue(lines.map((line) => JSON.parse(line) as Listed));
    expect(lines.length).toBe(truth.size - LOGGED);
  }
  const stats = await wire.get("/api/stats");
  if (stats.status === 200) {
    expect((JSON.parse(stats.body) as { total: number }).total).toBe(truth.size - LOGGED);
  } else {
    expect(stats.status).toBe(503);
    failed += 1;
  }
  expect((await wire.get("/livez")).status).toBe(200);
  return { failed };
}

/** Posts are refused once the damage is known, and the way out is named. */
async function mustRefuseWrites(url: string): Promise<void> {
  using wire = await Wire.open(url);
  const unfit = async () => (await wire.get("/readyz")).status === 503;
  await until(unfit, "the damage to be known");
  expect((await wire.get("/health")).status).toBe(503);
  const answer = await wire.post(signal("NEVER", 1));
  expect([answer.status, REFUSED.test(answer.body)]).toEqual([503, true]);
}

const unreadable: [name: string, make: (path: string) => void][] = [
  ["a text file", (path) => writeFileSync(path, "timestamp,symbol\n".repeat(2_000))],
  ["a header of zeros", (path) => damage(path, 0, new Uint8Array(100))],
  ["a wrong magic word", (path) => damage(path, 0, "SQLite format 9")],
  ["an impossible page size", (path) => damage(path, 16, new Uint8Array([3, 3]))],
  ["a first page of noise", (path) => damage(path, 100, new Uint8Array(PAGE - 100).fill(0xa5))],
  ["a file cut to 700 bytes", (path) => truncateSync(path, 700)],
];

for (const [name, make] of unreadable) {
  test(`${name} is refused, named, and left as it is`, async () => {
    const db = copyOf(sound, name.replaceAll(" ", "-"));
    make(db);
    const before = readFileSync(db);
    const said = await tryServe(db);
    if (typeof said !== "string") await said.stop();
    expect(said).toBeString();
    expect(said).toContain("exit code 1");
    expect(said).toMatch(REFUSED);
    expect(readFileSync(db).equals(before)).toBe(true);
  });
}

test("a directory in the file's place is refused", async () => {
  const said = await tryServe(dir.path);
  expect(said).toContain("exit code 1");
});

const damaged: [name: string, from: () => string, make: (path: string) => void][] = [
  ["half of the file is missing", () => sound, (path) => truncateSync(path, 40 * PAGE)],
  [
    "pages in the middle are noise",
    () => sound,
    (path) => damage(path, 30 * PAGE, new Uint8Array(8 * PAGE).fill(0x5a)),
  ],
  [
    "pages in the middle are zeros",
    () => sound,
    (path) => damage(path, 50 * PAGE, new Uint8Array(4 * PAGE)),
  ],
  [
    "the engine's file, never adopted, with noise in the middle",
    () => LEGACY,
    (path) => damage(path, 60 * PAGE, new Uint8Array(6 * PAGE).fill(0x5a)),
  ],
];

for (const [name, from, make] of damaged) {
  test(`${name}: refused, or read honestly and never written`, async () => {
    const db = copyOf(from(), name.replaceAll(/\W+/g, "-"));
    make(db);
    const before = readFileSync(db);
    const said = await tryServe(db);
    if (typeof said === "string") {
      expect(said).toContain("exit code 1");
      expect(said).toMatch(REFUSED);
    } else {
      await using server = said;
      if (from() === sound) await mustBeHonest(server.url);
      await mustRefuseWrites(server.url);
      if (from() === sound) await mustBeHonest(server.url);
      expect(await server.stop()).toBe(0);
    }
    expect(readFileSync(db).equals(before)).toBe(true);
  });
}

test("a post in the first instant after the start does not get into a damaged file", async () => {
  const db = copyOf(sound, "at-once");
  damage(db, 30 * PAGE, new Uint8Array(8 * PAGE).fill(0x5a));
  const said = await tryServe(db);
  if (typeof said === "string") return;
  await using server = said;
  using wire = await Wire.open(server.url);
  expect((await wire.post(signal("EARLY", 1))).status).toBe(503);
});

/** The rows of a started server, which must be those of the truth up to some commit. */
async function prefixOf(url: string): Promise<number> {
  using wire = await Wire.open(url);
  const answer = await wire.get(`${LATEST}?limit=500`);
  expect(answer.status).toBe(200);
  mustBeTrue(JSON.parse(answer.body) as Listed[]);
  return newestId(answer.body);
}

test("a whole log after a crash is read to its end", async () => {
  await using server = await serveFile(copyOf(crashed, "whole-log"));
  expect(await prefixOf(server.url)).toBe(ROWS + LOGGED);
});

test("a torn end of the log is a normal crash: the commits before it are served", async () => {
  const db = copyOf(crashed, "torn-log");
  const size = readFileSync(`${db}-wal`).length;
  truncateSync(`${db}-wal`, size - PAGE - 100);
  await using server = await serveFile(db);
  expect(await prefixOf(server.url)).toBe(ROWS + LOGGED - 1);
  using wire = await Wire.open(server.url);
  expect((await wire.post(signal("AFTER", 1))).status).toBe(201);
});

const logDamages: [name: string, make: (wal: string) => void][] = [
  [
    "noise in the middle of the log",
    (wal) => damage(wal, 32 + 200 * (PAGE + 24) + 500, new Uint8Array(600).fill(0x5a)),
  ],
  ["a frame's header of zeros", (wal) => damage(wal, 32 + 200 * (PAGE + 24), new Uint8Array(24))],
  ["a log whose magic word is wrong", (wal) => damage(wal, 0, new Uint8Array([1, 2, 3, 4]))],
  ["a log whose header is noise", (wal) => damage(wal, 0, new Uint8Array(32).fill(0x5a))],
];

for (const [name, make] of logDamages) {
  test(`${name}: refused, since commits are lost`, async () => {
    const db = copyOf(crashed, name.replaceAll(/\W+/g, "-"));
    make(`${db}-wal`);
    const [file, log] = [readFileSync(db), readFileSync(`${db}-wal`)];
    const said = await tryServe(db);
    if (typeof said !== "string") {
      const newest = await prefixOf(said.url);
      await said.stop();
      throw new Error(`it served up to ${newest} of ${ROWS + LOGGED} and said nothing`);
    }
    expect(said).toContain("exit code 1");
    expect(said).toMatch(REFUSED);
    expect(readFileSync(db).equals(file)).toBe(true);
    expect(readFileSync(`${db}-wal`).equals(log)).toBe(true);
  });
}

const SPILL = `
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, note TEXT)")
db.execute("BEGIN")
db.executemany("INSERT INTO notes (note) VALUES (?)", [("a" * 1000,)] * 2000)
db.execute("COMMIT")
db.execute("PRAGMA cache_size = 20")
db.execute("BEGIN")
for letter in "bc":
    db.execute("UPDATE notes SET note = ?", (letter * 1000,))
os.kill(os.getpid(), signal.SIGKILL)
`;

test("an engine killed inside a large transaction leaves a log that is no damage", async () => {
  const db = copyOf(sound, "spilled");
  expect(await spawnChild([await python(), "-c", SPILL, db]).done).not.toBe(0);
  expect(existsSync(`${db}-wal`)).toBe(true);
  await using server = await serveFile(db);
  expect(await prefixOf(server.url)).toBe(ROWS);
});

test("an engine that commits all the time is never taken for damage at the start", async () => {
  const random = seededRandom("start beside an engine");
  const db = copyOf(sound, "busy");
  await using engine = await startEngine({ db, rate: 3_000, seconds: 60, symbol: "BUSY" });
  await until(() => engine.lastId() > 0, "the first commit");
  for (let round = 0; round < 6; round += 1) {
    await Bun.sleep(random() * 100);
    await using server = await serveFile(db);
    const noted = engine.lastId();
    using wire = await Wire.open(server.url);
    expect(newestId((await wire.get(`${LATEST}?symbol=BUSY`)).body)).toBeGreaterThanOrEqual(noted);
  }
});
