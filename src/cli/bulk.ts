import type { Database } from "bun:sqlite";
import type { Note } from "../argo/signals/adopt";
import type { Layout } from "../argo/signals/layout";
import { SignalLedger } from "../argo/signals/ledger";
import type { Config } from "../config";
import { AppError, SetupError } from "../errors";
import { sqliteCode } from "../platform/sqlite";
import { asSetupError, isPassing, lockedMsMax, makeReady, openWriter } from "./file";

/** Rows of one transaction: some tens of milliseconds for which others wait. */
export const rowsPerCommit = 1_000;
const commitsPerCheckpoint = 16;
const againMs = 25;
/** Indexes are written all over: more of them in memory halves the time of a million rows. */
const cacheKib = 65_536;
const othersRememberedMs = 10_000;

/**
 * Writes many rows into the signal file, transaction by transaction, beside a server and an
 * engine that write too.
 */
export class BulkWriter implements Disposable {
  #ledger: SignalLedger | null = null;
  #schema = -1;
  #commits = 0;
  #freeSince = performance.now();
  #pauseMs = 0;
  #data: number;
  #othersSeenAt = -Infinity;

  private constructor(
    private readonly db: Database,
    private readonly path: string,
    private readonly note: Note,
    /** How the table is made. */
    readonly layout: Layout,
  ) {
    this.#data = pragma(db, "data_version");
  }

  /** Opens and adopts the file. @throws SetupError when it cannot be written, or is a node's. */
  static async open({ signalsDb: path, libsql }: Config, note: Note): Promise<BulkWriter> {
    if (libsql) {
      throw new SetupError(
        `LIBSQL_URL says that the signals are at the libSQL server: rows of its own would keep ${path} from being a copy of them.`,
        "Post them to a node, or leave LIBSQL_URL out to write a file that is no node's.",
      );
    }
    const db = openWriter(path);
    try {
      const layout = await makeReady(db, path, note);
      if (db.query("SELECT 1 FROM argo_tail").get()) {
        throw new SetupError(
          `${path} is a copy of the signals at a libSQL server.`,
          "Post them to a node, or name another file with --db.",
        );
      }
      if (layout.unfillable.length > 0) {
        throw new SetupError(
          `The table signals requires ${layout.unfillable.join(", ")}, which cannot be filled.`,
          "Give these columns a default, or name another file with --db.",
        );
      }
      db.run(`PRAGMA cache_size = -${cacheKib}`);
      return new BulkWriter(db, path, note, layout);
    } catch (error) {
      db.close();
      throw error;
    }
  }

  /**
   * Runs `work` in one transaction; all of it again when somebody else had the lock or changed
   * the table. Durable when this resolves.
   * @throws SetupError when the file cannot be written.
   */
  async commit<T>(work: (ledger: SignalLedger) => T): Promise<T> {
    await this.#giveWay();
    const until = performance.now() + lockedMsMax;
    for (;;) {
      try {
        const ledger = await this.#ready();
        const begun = performance.now();
        const result = this.#transaction(ledger, work);
        this.#freeSince = performance.now();
        this.#pauseMs = this.#freeSince - begun;
        this.#checkpoint();
        return result;
      } catch (error) {
        if (!isPassing(error) || performance.now() >= until) throw asSetupError(error, this.path);
        await Bun.sleep(againMs);
      }
    }
  }

  [Symbol.dispose](): void {
    this.#ledger?.[Symbol.dispose]();
    this.db.close();
  }

  /**
   * Who waits for SQLite's lock asks again every now and then, at most every 100 ms, and gives up
   * in the end: a part of the time the lock must be free. Half of it while others write.
   */
  async #giveWay(): Promise<void> {
    const data = pragma(this.db, "data_version");
    const now = performance.now();
    if (data !== this.#data) this.#othersSeenAt = now;
    this.#data = data;
    const share = now - this.#othersSeenAt < othersRememberedMs ? 1 : 0.25;
    const pauseMs = this.#pauseMs * share - (now - this.#freeSince);
    if (pauseMs > 0) await Bun.sleep(pauseMs);
  }

  async #ready(): Promise<SignalLedger> {
    if (this.#ledger && this.#schema === pragma(this.db, "schema_version")) return this.#ledger;
    this.#ledger?.[Symbol.dispose]();
    this.#ledger = null;
    // Not created: the engine may be between dropping its table and making it anew.
    await makeReady(this.db, this.path, this.note, false);
    this.#schema = pragma(this.db, "schema_version");
    const ledger = SignalLedger.open(this.db);
    if (!ledger) throw new AppError("unavailable", "The signal table is being adopted.");
    return (this.#ledger = ledger);
  }

  #transaction<T>(ledger: SignalLedger, work: (ledger: SignalLedger) => T): T {
    const { db } = this;
    db.run("BEGIN IMMEDIATE");
    try {
      if (pragma(db, "schema_version") !== this.#schema) {
        throw new AppError("unavailable", "The signal table has just been changed.");
      }
      const result = work(ledger);
      db.run("COMMIT");
      return result;
    } catch (error) {
      if (db.inTransaction) db.run("ROLLBACK");
      throw error;
    }
  }

  /** Nobody else may be there to keep the log short. */
  #checkpoint(): void {
    this.#commits += 1;
    if (this.#commits % commitsPerCheckpoint !== 0) return;
    try {
      this.db.run("PRAGMA wal_checkpoint(PASSIVE)");
    } catch (error) {
      // Busy is normal: somebody else checkpoints.
      if (sqliteCode(error) !== "SQLITE_BUSY") throw error;
    }
  }
}

function pragma(db: Database, name: "data_version" | "schema_version"): number {
  const row = db.query<Record<string, number>, []>(`PRAGMA ${name}`).get();
  return row?.[name] ?? -1;
}
