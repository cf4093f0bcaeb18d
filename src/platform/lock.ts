import { Database } from "bun:sqlite";
import { join } from "node:path";
import { SetupError } from "../errors";
import { sqliteCode } from "./sqlite";

/**
 * Makes this process the one owner of a directory, for what cannot be shared: an exclusive
 * transaction on a small SQLite file, which dies with the process, unlike a file with its id.
 * @throws SetupError when another process owns the directory.
 */
export function ownDirectory(dir: string): Disposable {
  const db = new Database(join(dir, "owner.lock"), { create: true, strict: true });
  try {
    db.run("BEGIN EXCLUSIVE");
  } catch (cause) {
    db.close();
    if (sqliteCode(cause) !== "SQLITE_BUSY") throw cause;
    throw new SetupError(
      `${dir} is in use by another argo-alpine.`,
      "Stop that one, or give this one a directory of its own with --data-dir.",
      { cause },
    );
  }
  return { [Symbol.dispose]: () => release(db) };
}

function release(db: Database): void {
  db.run("ROLLBACK");
  db.close();
}
