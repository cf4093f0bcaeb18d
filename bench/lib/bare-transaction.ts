import { Database } from "bun:sqlite";
import { signalAt } from "./ingest-client";

/**
 * The floor under batch ingest, as a program: `bun bare-transaction.ts JSON`. A durable
 * db.transaction of bun:sqlite with the same rows and the same hashing, and nothing else: no HTTP,
 * no JSON to read, no validation, no look for duplicates.
 */
export type BareOptions = { db: string; rowsPerBatch: number; seconds: number; run: number };
/** `seconds` counts the transactions alone, not the making of their rows. */
export type BareReport = { rows: number; seconds: number };

type Row = Record<string, string | number>;

function run(options: BareOptions): BareReport {
  const db = new Database(options.db);
  db.run("PRAGMA busy_timeout = 2000");
  db.run("PRAGMA synchronous = FULL");
  db.run("PRAGMA cache_size = -4096");
  db.run("PRAGMA temp_store = MEMORY");
  const insert = db.prepare(
    `INSERT INTO signals (symbol, action, entry_price, target_price, stop_price, confidence,
       strategy, timestamp, sha256) VALUES (?,?,?,?,?,?,?,?,?)`,
  );
  const store = db.transaction((rows: Row[]) => {
    for (const row of rows) {
      const { symbol, action, entry_price, target_price, stop_price, confidence } = row;
      const { strategy, timestamp } = row;
      // Keys in byte order: the canonical form that is hashed.
      const canonical = JSON.stringify({
        action,
        confidence,
        entry_price,
        stop_price,
        strategy,
        symbol,
        target_price,
        timestamp,
      });
      const sha256 = new Bun.CryptoHasher("sha256").update(canonical).digest("hex");
      const values = [symbol, action, entry_price, target_price, stop_price, confidence];
      insert.run(...[...values, strategy, timestamp, sha256].map((value) => value ?? null));
    }
  });
  let made = 0;
  let busyMs = 0;
  const end = performance.now() + options.seconds * 1_000;
  while (performance.now() < end) {
    const rows = Array.from({ length: options.rowsPerBatch }, () => signalAt(options.run, made++));
    const started = performance.now();
    store.immediate(rows);
    busyMs += performance.now() - started;
  }
  db.close();
  return { rows: made, seconds: busyMs / 1_000 };
}

if (import.meta.main) {
  const options = JSON.parse(process.argv[2] ?? "{}") as BareOptions;
  process.stdout.write(`${JSON.stringify(run(options))}\n`);
}
