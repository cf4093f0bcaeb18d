import { expect, test } from "bun:test";
import { adopt } from "../../src/argo/signals/adopt.ts";
import { SignalReader } from "../../src/argo/signals/store.ts";
import type { Filter } from "../../src/argo/signals/walk.ts";
import { openDatabase } from "../../src/platform/sqlite.ts";
import { tempDir } from "../harness/process.ts";

const rows = Number(process.env["SCALE_ROWS"] ?? 10_000_000);
const filters: Record<string, Filter> = {
  unfiltered: {},
  premium: { minConfidence: 95 },
  "one symbol": { symbol: "S7" },
};

/** A file of n rows in the shape of the engine's. */
function make(path: string, n: number): void {
  const db = openDatabase(path, "writer", "OFF");
  adopt(db, () => undefined, { create: true, nowMs: Date.now() });
  db.run("DROP TRIGGER argo_signals_insert");
  db.run(
    `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${n})
     INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
     SELECT 'S' || (i % 50), 'BUY', 100 + i % 977, 60 + (i * 7919) % 4000 / 100.0,
            strftime('%Y-%m-%dT%H:%M:%S+00:00', 1000000000 + i * 60, 'unixepoch') FROM n`,
  );
  adopt(db, () => undefined, { create: true, nowMs: Date.now() });
  db.run("PRAGMA wal_checkpoint(TRUNCATE)");
  db.close();
}

/** The least time of one page in many, µs: a cost, not a latency. */
function pageUs(reader: SignalReader, filter: Filter): number {
  const walk = { filter, sight: null, order: "desc", after: null, limit: 10, skip: 0 } as const;
  let least = Infinity;
  for (let round = 0; round < 50; round += 1) {
    const begun = Bun.nanoseconds();
    for (let i = 0; i < 100; i += 1) reader.page({ ...walk, budget: 500, received: false });
    least = Math.min(least, (Bun.nanoseconds() - begun) / 100_000);
  }
  return least;
}

test("a miss costs what it costs, however many rows there are", () => {
  using dir = tempDir();
  make(dir.file("small.db"), 1_000);
  make(dir.file("large.db"), rows);
  using small = new SignalReader(dir.file("small.db"));
  using large = new SignalReader(dir.file("large.db"));
  for (const [name, filter] of Object.entries(filters)) {
    const ratio = pageUs(large, filter) / pageUs(small, filter);
    console.log(`${name}: ${ratio.toFixed(2)} times the cost at 1,000 rows, at ${rows}`);
    expect(ratio).toBeLessThan(2);
  }
}, 900_000);
