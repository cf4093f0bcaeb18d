import { existsSync, renameSync, rmSync } from "node:fs";
import table from "../../db/argo/signals.sql" with { type: "text" };
import history from "../../db/demo/spx-signals.ndjson.gz" with { type: "file" };
import { hashOf } from "../argo/signals/hash";
import type { SignalIn } from "../argo/signals/schema";
import { openDatabase } from "../platform/sqlite";

/**
 * Makes a signal file of the sample history where there is none, as an engine would have left it:
 * what is there before the server comes is old, and withheld from nobody. All of it or nothing.
 */
export async function layHistory(path: string): Promise<void> {
  if (existsSync(path)) return;
  const text = new TextDecoder().decode(Bun.gunzipSync(await Bun.file(history).bytes()));
  const rows = text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as SignalIn & { timestamp: string });
  const made = `${path}.new`;
  rmSync(made, { force: true });
  const db = openDatabase(made, "writer");
  try {
    db.run(table);
    const insert = db.query(
      `INSERT INTO signals
         (symbol, action, entry_price, target_price, stop_price, confidence, strategy, timestamp, sha256)
       VALUES ($symbol, $action, $entry, $target, $stop, $confidence, $strategy, $timestamp, $sha256)`,
    );
    db.transaction(() => {
      for (const row of rows) {
        insert.run({
          symbol: row.symbol,
          action: row.action,
          entry: row.entry_price,
          target: row.target_price ?? null,
          stop: row.stop_price ?? null,
          confidence: row.confidence,
          strategy: row.strategy ?? null,
          timestamp: row.timestamp,
          sha256: hashOf(row),
        });
      }
    })();
  } finally {
    db.close();
  }
  renameSync(made, path);
}
