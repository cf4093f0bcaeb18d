/** An engine in a process of its own: `bun engine.ts FILE` writes what it is told into the file. */
import { Database } from "bun:sqlite";
import type { EngineNews, EngineOrder } from "./producers.ts";

const tell = (news: EngineNews): void => void process.send?.(news);

function main(path: string): void {
  const db = new Database(path, { readwrite: true });
  // As Python's default has it.
  db.run("PRAGMA busy_timeout = 5000");
  const insert = db.prepare(
    `INSERT INTO signals (symbol, action, entry_price, target_price, stop_price, confidence, strategy, timestamp)
     VALUES ($symbol, $action, $entry_price, $target_price, $stop_price, $confidence, $strategy, $timestamp)`,
  );
  process.on("message", (order: EngineOrder) => {
    if ("rows" in order) {
      const ids = db.transaction(() =>
        order.rows.map((row) => {
          const named = Object.entries(row).map(([name, value]) => [`$${name}`, value]);
          const bound = Object.fromEntries(named) as Record<string, string | number | null>;
          return Number(insert.run(bound).lastInsertRowid);
        }),
      );
      for (;;) {
        try {
          return tell({ ids: ids.immediate() });
        } catch (error) {
          if (!String(error).includes("locked")) throw error;
        }
      }
    }
    db.run("BEGIN IMMEDIATE");
    Bun.sleepSync(order.holdMs);
    db.run("ROLLBACK");
    tell("held");
  });
  // With its parent.
  process.on("disconnect", () => process.exit(0));
  tell("ready");
}

if (import.meta.main) main(process.argv[2] ?? "");
