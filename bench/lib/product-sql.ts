import { Database } from "bun:sqlite";
import { SignalReader } from "../../src/argo/signals/store";

/**
 * The very text that our own store runs for `latest?limit=10` on this file, so that every peer runs
 * the same: taken by listening to what the store prepares. Its one parameter is the limit.
 */
export function productSql(db: string): string {
  const prepared: string[] = [];
  const prepare = Database.prototype.prepare;
  Database.prototype.prepare = function (this: Database, sql: string, ...rest: never[]) {
    prepared.push(sql);
    return prepare.call(this, sql, ...rest);
  } as typeof prepare;
  try {
    using reader = new SignalReader(db);
    reader.page({
      filter: { minConfidence: 0 },
      sight: null,
      order: "desc",
      after: null,
      limit: 10,
      skip: 0,
      budget: 500,
      received: false,
    });
  } finally {
    Database.prototype.prepare = prepare;
  }
  const sql = prepared.find((text) => /\bLIMIT \+?\$limit\b/.test(text));
  if (sql === undefined) throw new Error("the store did not prepare the query that was expected");
  // Positional, which every binding of every language understands.
  return sql.replace("$limit", "?");
}
