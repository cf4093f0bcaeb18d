/** The race between pollers and an engine that commits live, short or long. */
import { Database } from "bun:sqlite";
import { type Engine, startEngine, tempDir, until } from "../harness/process.ts";
import { LATEST, newestId, serveFile, Wire } from "./harness.ts";

export interface RaceOptions {
  /** Commits a second of the engine. */
  rate: number;
  polls: number;
  secondsMin: number;
  /** So many at least, whatever time the engine needs for them. */
  commits: number;
  connections?: number;
}

export interface RaceResult {
  polls: number;
  unmodified: number;
  commits: number;
  /** Polls that did not show what had been committed before they began. */
  stale: string[];
  durationMs: number;
}

const ENGINE_SECONDS_MAX = 600;

/**
 * Polls while the engine commits, is killed with -9 half-way, and comes back; another connection
 * takes checkpoints that empty the log. Before each poll the highest id of the engine's printed
 * ledger is noted: the answer must show it.
 */
export async function raceEngine(options: RaceOptions): Promise<RaceResult> {
  const { rate, polls, secondsMin, commits, connections = 12 } = options;
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using server = await serveFile(db);
  const start = () => startEngine({ db, rate, seconds: ENGINE_SECONDS_MAX, symbol: "RACE" });
  let engine = await start();
  let known = 0;
  const lastCommitted = () => (known = Math.max(known, engine.lastId()));
  await until(() => lastCommitted() > 0, "the first commit");

  const result: RaceResult = { polls: 0, unmodified: 0, commits: 0, stale: [], durationMs: 0 };
  const begun = performance.now();
  const over = () =>
    result.stale.length >= 5 ||
    (result.polls >= polls &&
      lastCommitted() >= commits &&
      performance.now() - begun >= secondsMin * 1_000);
  const loops = Array.from({ length: connections }, (_, i) =>
    poll(server.url, i % 3 !== 0, lastCommitted, over, result),
  );
  const truncating = truncateLog(db, over);
  try {
    engine = await killAndRestart(engine, start, () => result.polls >= polls / 2 || over());
    await Promise.all([...loops, truncating]);
    result.commits = lastCommitted();
    result.durationMs = performance.now() - begun;
    return result;
  } finally {
    await engine[Symbol.asyncDispose]();
  }
}

async function killAndRestart(
  engine: Engine,
  start: () => Promise<Engine>,
  due: () => boolean,
): Promise<Engine> {
  await until(due, "half of the polls", ENGINE_SECONDS_MAX * 1_000);
  engine.kill();
  await engine.done;
  return start();
}

/** On one connection, or on a new one for each poll: those are accepted among others' requests. */
async function poll(
  url: string,
  keep: boolean,
  lastCommitted: () => number,
  over: () => boolean,
  result: RaceResult,
): Promise<void> {
  const path = `${LATEST}?symbol=RACE&limit=10`;
  let wire = await Wire.open(url);
  let etag = "";
  let shown = 0;
  while (!over()) {
    if (!keep) {
      wire[Symbol.dispose]();
      wire = await Wire.open(url);
    }
    const noted = lastCommitted();
    // Every other poll is conditional: a 304 stands for the bytes that this client holds.
    const conditional = result.polls % 2 === 0 && etag !== "";
    const answer = await wire.get(path, conditional ? { "If-None-Match": etag } : {});
    result.polls += 1;
    if (answer.status === 304) result.unmodified += 1;
    else if (answer.status === 200) {
      etag = answer.headers.get("etag") ?? "";
      shown = newestId(answer.body);
    }
    const head = Number(answer.headers.get("signal-head"));
    const fresh = answer.status === 200 || answer.status === 304;
    if (!fresh || head < noted || shown < noted) {
      const kind = keep ? "kept" : "new";
      result.stale.push(
        `${answer.status}: committed ${noted}, head ${head}, newest ${shown}, connection ${kind}`,
      );
    }
  }
  wire[Symbol.dispose]();
}

/** Checkpoints that start the log anew are where a reader could miss something. */
async function truncateLog(db: string, over: () => boolean): Promise<void> {
  using file = new Database(db, { readwrite: true });
  file.run("PRAGMA busy_timeout = 20");
  while (!over()) {
    try {
      file.run("PRAGMA wal_checkpoint(TRUNCATE)");
    } catch {
      // Somebody else holds the lock: the next round tries again.
    }
    await Bun.sleep(150);
  }
}

/**
 * The sharpest form: each poll is sent in the instant in which this process's own commit has
 * returned, while other polls are under way on other connections.
 */
export async function raceOwnCommits(polls: number, connections = 8): Promise<RaceResult> {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using server = await serveFile(db);
  using file = new Database(db, { readwrite: true });
  file.run("PRAGMA busy_timeout = 5000");
  file.run("PRAGMA synchronous = OFF");
  const insert = file.prepare(
    "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES ('RACE', 'BUY', 1, 99, ?)",
  );
  const commit = (): number => {
    const stamp = new Date(Date.UTC(2020, 0, 1) + result.commits * 1_000).toISOString();
    result.commits += 1;
    return Number(insert.run(stamp).lastInsertRowid);
  };
  const result: RaceResult = { polls: 0, unmodified: 0, commits: 0, stale: [], durationMs: 0 };
  const begun = performance.now();
  const over = () => result.polls >= polls || result.stale.length >= 5;
  await Promise.all(
    Array.from({ length: connections }, (_, i) =>
      poll(server.url, i % 2 !== 0, commit, over, result),
    ),
  );
  result.durationMs = performance.now() - begun;
  insert.finalize();
  return result;
}
