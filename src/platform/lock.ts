import { Database } from "bun:sqlite";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { SetupError } from "../errors";
import { sqliteCode } from "./sqlite";

const fileName = "owner.lock";

/** What this process owns until it lets go of it. */
export type Owned = Disposable;

/**
 * Makes this process the one owner of a directory, for what cannot be shared.
 * @throws SetupError when another process owns the directory.
 */
export function ownDirectory(dir: string): Owned {
  const owned = ownFile(join(dir, fileName));
  if (owned) return owned;
  throw new SetupError(
    `${dir} is in use by another argo-alpine.`,
    "Stop that one, or give this one a directory of its own with --data-dir.",
  );
}

/**
 * Makes this process the one owner of something, by an exclusive transaction on a small SQLite file
 * of this name, which dies with the process, unlike a file with its id. Null when another owns it.
 */
export function ownFile(path: string): Owned | null {
  const db = new Database(path, { create: true, strict: true });
  try {
    db.run("BEGIN EXCLUSIVE");
  } catch (cause) {
    db.close();
    if (sqliteCode(cause) !== "SQLITE_BUSY") throw cause;
    return null;
  }
  return { [Symbol.dispose]: () => release(db) };
}

/**
 * The process that owns a directory, as Linux tells it: 0 for one that this process cannot see,
 * such as in another container; null when nobody does, or no system tells.
 */
export function ownerOf(dir: string): number | null {
  const file = statSync(join(dir, fileName), { throwIfNoEntry: false });
  if (!file) return null;
  let locks: string;
  try {
    locks = readFileSync("/proc/locks", "utf8");
  } catch {
    return null;
  }
  // 1: POSIX ADVISORY WRITE 4242 fe:01:131074 1073741825 1073742335
  for (const line of locks.split("\n")) {
    const [, , , kind, pid, place = ""] = line.split(/\s+/);
    if (kind === "WRITE" && place.endsWith(`:${file.ino}`)) return Math.max(0, Number(pid));
  }
  return null;
}

function release(db: Database): void {
  db.run("ROLLBACK");
  db.close();
}
