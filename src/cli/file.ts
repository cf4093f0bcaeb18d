import type { Database } from "bun:sqlite";
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  statSync,
} from "node:fs";
import { dirname } from "node:path";
import { adopt, type Note } from "../argo/signals/adopt";
import type { Layout } from "../argo/signals/layout";
import { SignalReader } from "../argo/signals/store";
import { AppError, SetupError } from "../errors";
import { mustHaveSoundLog } from "../platform/wal";
import { openDatabase, sqliteCode } from "../platform/sqlite";

/** How long a command waits for a lock held by somebody else, while nothing moves. */
export const lockedMsMax = 60_000;
const againMs = 50;
const usedLooks = 10;
const usedAgainMs = 25;
const magic = "SQLite format 3\0";

/** True for what passes when another process is done: the same call may succeed later. */
export function isPassing(error: unknown): boolean {
  if (error instanceof AppError && !error.cause) return error.code === "unavailable";
  const code = sqliteCode(error instanceof AppError ? error.cause : error);
  return code === "SQLITE_BUSY" || code === "SQLITE_LOCKED" || code === "SQLITE_SCHEMA";
}

/** A failure of the signal file as a fault of the set-up; anything else is handed back. */
export function asSetupError(error: unknown, path: string): unknown {
  const code = sqliteCode(error instanceof AppError ? error.cause : error);
  const [message, fix] = faults[code ?? ""] ?? [];
  if (message && fix) return new SetupError(`${path} ${message}`, fix, { cause: error });
  if (error instanceof AppError)
    return new SetupError(error.detail, "Try again.", { cause: error });
  return error;
}

const locked: [string, string] = [
  "is locked by another process.",
  "Run the same command again when that one is done.",
];
const damaged: [string, string] = [
  "is damaged or no SQLite file. It is left as it is.",
  "Run `argo-alpine restore BACKUP`, or name another file with --db.",
];
const faults: Record<string, [message: string, fix: string]> = {
  SQLITE_BUSY: locked,
  SQLITE_LOCKED: locked,
  SQLITE_CORRUPT: damaged,
  SQLITE_NOTADB: damaged,
  SQLITE_FULL: ["has no room: its disk is full.", "Free space, then run the same command again."],
  SQLITE_IOERR: ["cannot be used: its disk fails.", "Check the disk, then run the command again."],
  SQLITE_READONLY: ["cannot be written.", "Give this user write permission on it."],
  SQLITE_CANTOPEN: [
    "cannot be opened.",
    "Check that it is there, and the permissions of the file and of its directory.",
  ],
};

/** Opens any SQLite file to read it, with a table of signals or without. @throws SetupError */
export function tryReader(path: string): SignalReader {
  try {
    return new SignalReader(path);
  } catch (error) {
    const code = sqliteCode(error instanceof AppError ? error.cause : error);
    if (code !== "SQLITE_READONLY") throw asSetupError(error, path);
    throw new SetupError(
      `${path} was left in the middle of a write, which reading alone cannot undo.`,
      `Let its engine open it once, or run: argo-alpine --db ${path} migrate`,
      { cause: error },
    );
  }
}

/** What SQLite's check found, in one line. */
export function shortDamage(findings: string[]): string {
  const lines = findings.join("\n").split("\n");
  const [first = "", ...rest] = lines.filter((line) => line !== "" && !line.startsWith("***"));
  return rest.length === 0 ? first : `${first} (and ${rest.length} more)`;
}

/** Opens a signal file to read it. @throws SetupError when it cannot be read or is none. */
export function openReader(path: string): SignalReader {
  mustExist(path);
  const reader = tryReader(path);
  if (reader.layout) return reader;
  reader[Symbol.dispose]();
  throw new SetupError(`${path} has no table of signals.`, "Name a file of the signal engine.");
}

/** Opens the signal file to write; makes it, and its directory, where there is none. */
export function openWriter(path: string): Database {
  mustHaveSoundLog(path);
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o750 });
    return openDatabase(path, "writer");
  } catch (cause) {
    const error = asSetupError(cause, path);
    if (error instanceof SetupError || sqliteCode(cause) !== null) throw error;
    throw new SetupError(`${dirname(path)} cannot be made.`, "Choose another with --data-dir.", {
      cause,
    });
  }
}

/**
 * Adopts the file, waiting for locks that others hold as long as something still moves.
 * @param create make the table of signals where there is none.
 */
export async function makeReady(
  db: Database,
  path: string,
  note: Note,
  create = true,
): Promise<Layout> {
  let until = performance.now() + lockedMsMax;
  for (;;) {
    try {
      const layout = adopt(
        db,
        (message, data) => {
          until = performance.now() + lockedMsMax;
          note(message, data);
        },
        { create, nowMs: Date.now() },
      );
      if (layout) return layout;
    } catch (error) {
      if (!isPassing(error) || performance.now() >= until) throw asSetupError(error, path);
    }
    if (performance.now() >= until) {
      throw new SetupError(`${path} has no table of signals.`, "Run `argo-alpine migrate`.");
    }
    await Bun.sleep(againMs);
  }
}

export function mustExist(path: string): void {
  if (existsSync(path)) return;
  throw new SetupError(`There is no ${path}.`, "Name a file that is there.");
}

/**
 * True when another process uses the file. Every connection to a file with a write-ahead log is
 * seen; of a file without one only those that read or write meanwhile, since an idle one holds no
 * lock.
 */
export async function isInUse(path: string): Promise<boolean> {
  for (let look = 0; look < usedLooks; look += 1) {
    if (look > 0) await Bun.sleep(usedAgainMs);
    const db = openDatabase(path, "writer");
    try {
      db.run("PRAGMA busy_timeout = 0");
      db.run("PRAGMA locking_mode = EXCLUSIVE");
      db.run("BEGIN EXCLUSIVE");
      db.run("ROLLBACK");
    } catch (error) {
      if (isPassing(error)) return true;
      // What is damaged has no locks to ask for.
      if (sqliteCode(error) !== null) return false;
      throw error;
    } finally {
      db.close();
    }
  }
  return false;
}

/** Gives a new file the permissions, and for root the owner, of another. */
export function dressLike(path: string, model: string): void {
  const { mode, uid, gid } = statSync(model);
  chmodSync(path, mode & 0o777);
  if (process.getuid?.() === 0) chownSync(path, uid, gid);
}

/** True when both paths lead to one file. */
export function isSameFile(a: string, b: string): boolean {
  if (!existsSync(a) || !existsSync(b)) return false;
  const [one, other] = [statSync(a), statSync(b)];
  return one.dev === other.dev && one.ino === other.ino;
}

/** True when the file begins as SQLite files do. Only before this process opens it. */
export function isSqlite(path: string): boolean {
  const fd = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(magic.length);
    readSync(fd, bytes, 0, bytes.length, 0);
    return bytes.toString("latin1") === magic;
  } finally {
    closeSync(fd);
  }
}

/** Makes what was written to a file, or renamed in a directory, survive a power cut. */
export function sync(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
