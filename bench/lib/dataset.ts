import { Database } from "bun:sqlite";
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { cacheDir } from "./paths";
import { startProduct } from "./product";

const symbols = Array.from({ length: 20 }, (_, i) => `SYM${String(i).padStart(2, "0")}`);
const strategies = ["weighted_consensus", "momentum", "mean_reversion"];
/** Ten minutes between rows: a million of them end in January 2019. */
const stepMs = 600_000;
const firstMs = Date.UTC(2000, 0, 1);
const rowsMax = 1_000_000;

/** Raised when the rows change, so that files of an older run are not used. */
const revision = 1;

/** The sizes that benchmarks ask for. */
export type Rows = 1_000 | 1_000_000;

function fileOf(rows: Rows): string {
  return join(cacheDir, "data", `signals-${rows}-r${revision}.db`);
}

/**
 * Makes the signal files where they are not there yet: the old engine's table, filled, then adopted
 * by our own server. Files of an earlier run are adopted again, since what we keep beside the table
 * may have changed. The newest rows are the same whatever the size.
 */
export async function makeSignalFiles(): Promise<void> {
  mkdirSync(join(cacheDir, "data"), { recursive: true });
  for (const rows of [1_000, 1_000_000] as const) {
    const path = fileOf(rows);
    if (!existsSync(path)) {
      const draft = `${path}.draft`;
      discard(draft);
      fill(draft, rows);
      renameSync(draft, path);
    }
    const server = await startProduct({ kind: "serve", db: path, instance: "adopt" });
    await server.child.stop();
    settle(path);
  }
}

/** A copy of that file that a benchmark may write into. */
export function workingCopy(rows: Rows, name: string): string {
  const path = join(cacheDir, "data", `work-${name}.db`);
  discard(path);
  copyFileSync(fileOf(rows), path);
  return path;
}

/** Removes a signal file, with what lies beside it. */
export function discard(path: string): void {
  for (const suffix of ["", "-wal", "-shm"]) rmSync(path + suffix, { force: true });
}

/** Moves everything into the main file, so that a plain copy is whole. */
function settle(path: string): void {
  const db = new Database(path);
  db.run("PRAGMA wal_checkpoint(TRUNCATE)");
  db.close();
}

function fill(path: string, rows: number): void {
  if (rows > rowsMax) throw new Error(`at most ${rowsMax} rows`);
  const db = new Database(path, { create: true });
  db.run("PRAGMA synchronous = OFF");
  db.run(`CREATE TABLE signals (id INTEGER PRIMARY KEY AUTOINCREMENT, symbol TEXT NOT NULL,
    action TEXT NOT NULL, entry_price REAL NOT NULL, target_price REAL, stop_price REAL,
    confidence REAL NOT NULL, strategy TEXT DEFAULT 'weighted_consensus', timestamp TEXT NOT NULL,
    sha256 TEXT)`);
  const insert = db.prepare("INSERT INTO signals VALUES (NULL,?,?,?,?,?,?,?,?,?)");
  db.transaction(() => {
    for (let i = rowsMax - rows; i < rowsMax; i += 1) insert.run(...row(i));
  })();
  db.close();
}

/** Row number i: the same on every machine. */
function row(i: number): (string | number)[] {
  const dice = (salt: number) => (Math.imul(i + 1, 2_654_435_761) ^ Math.imul(salt, 40_503)) >>> 0;
  const up = dice(1) % 2 === 0 ? 1 : -1;
  const entry = round(50 + (dice(2) % 400_000) / 100 + 0.0037, 4);
  const confidence = round(60 + (dice(3) % 3_990) / 100, 2);
  const timestamp = `${new Date(firstMs + i * stepMs).toISOString().slice(0, 19)}+00:00`;
  const symbol = symbols[dice(4) % symbols.length] ?? "SYM00";
  const strategy = strategies[dice(5) % strategies.length] ?? "momentum";
  const target = round(entry * (1 + 0.05 * up), 4);
  const stop = round(entry * (1 - 0.03 * up), 4);
  const action = up > 0 ? "BUY" : "SELL";
  const hash = new Bun.CryptoHasher("sha256")
    .update([symbol, action, entry, target, stop, confidence, strategy, timestamp].join("|"))
    .digest("hex");
  return [symbol, action, entry, target, stop, confidence, strategy, timestamp, hash];
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
