import { Database, SQLiteError } from "bun:sqlite";
import { AppError } from "../errors";

export type Access = "reader" | "writer";
export type Synchronous = "FULL" | "OFF";

/**
 * Opens one SQLite file. A reader never writes, so that its `data_version` moves with every
 * commit of anybody else. Files are opened with this library alone and never by other means:
 * closing any descriptor of a live file drops SQLite's locks (sqlite.org/howtocorrupt.html §2.2).
 */
export function openDatabase(
  path: string,
  access: Access,
  synchronous: Synchronous = "FULL",
): Database {
  const db =
    access === "reader"
      ? new Database(path, { readonly: true, strict: true })
      : new Database(path, { readwrite: true, create: true, strict: true });
  applyPragmas(db, access, synchronous);
  return db;
}

function applyPragmas(db: Database, access: Access, synchronous: Synchronous): void {
  // First of all, since the pragmas below may themselves meet a lock. A poll must not wait for
  // long; a write may, it has a thread of its own.
  db.run(`PRAGMA busy_timeout = ${access === "reader" ? 100 : 2_000}`);
  // An acknowledgement means durable: WAL alone does not sync at commit, FULL does.
  if (access === "writer") db.run(`PRAGMA synchronous = ${synchronous}`);
  // The hot rows are a few pages; the operating system caches the rest for all processes. A writer
  // needs room for all pages of a transaction: beyond it SQLite seeks one to spill for each more.
  db.run(`PRAGMA cache_size = ${access === "reader" ? -4_096 : -32_768}`);
  db.run("PRAGMA temp_store = MEMORY");
  db.run("PRAGMA mmap_size = 0");
  if (access === "writer") {
    // Checkpoints are taken by the writer between commits, not inside somebody's commit.
    db.run("PRAGMA wal_autocheckpoint = 0");
    db.run("PRAGMA journal_size_limit = 67108864");
  } else {
    db.run("PRAGMA query_only = ON");
  }
}

/** The primary result code of an SQLite failure, such as SQLITE_BUSY; null for anything else. */
export function sqliteCode(error: unknown): string | null {
  if (!(error instanceof SQLiteError)) return null;
  const match = /^SQLITE_[A-Z]+/.exec(error.code ?? "");
  return match ? match[0] : "SQLITE_ERROR";
}

/** Result codes that mean the file itself is damaged. */
export function isCorruption(error: unknown): boolean {
  const code = sqliteCode(error);
  return code === "SQLITE_CORRUPT" || code === "SQLITE_NOTADB";
}

const faults: Record<string, [detail: string, retryAfterSeconds: number]> = {
  SQLITE_BUSY: ["The signal file is locked by another process. Try again.", 2],
  SQLITE_LOCKED: ["The signal file is locked by another process. Try again.", 2],
  SQLITE_FULL: [
    "The disk that holds the signal file is full. Free space; nothing was written.",
    30,
  ],
  SQLITE_IOERR: ["The disk that holds the signal file fails. Check it; nothing was written.", 30],
  SQLITE_READONLY: ["The signal file is read-only for this server. Give it write permission.", 30],
  SQLITE_CANTOPEN: ["The signal file cannot be opened. Check its path and permissions.", 30],
  SQLITE_CORRUPT: [
    "The signal file is damaged. Stop the server and run `argo-alpine restore BACKUP`.",
    300,
  ],
  SQLITE_NOTADB: [
    "The signal file is not an SQLite file. Stop the server and run `argo-alpine restore BACKUP`.",
    300,
  ],
  SQLITE_SCHEMA: ["The signal table is being changed by another process. Try again.", 1],
  // Our own SQL is fixed and tested: what it no longer fits has been changed under it.
  SQLITE_ERROR: ["The signal table is being changed by another process. Try again.", 1],
};

/** Turns a failure of SQLite into a 503 that names the fix; hands anything else back. */
export function translate(error: unknown): unknown {
  const code = sqliteCode(error);
  const fault = code && faults[code];
  if (!fault) return error;
  return new AppError("unavailable", fault[0], { retryAfterSeconds: fault[1], cause: error });
}
