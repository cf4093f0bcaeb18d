import type { Database, Statement } from "bun:sqlite";
import { AppError, SetupError } from "../../errors";
import { openDatabase, translate } from "../../platform/sqlite";
import type { Place } from "../origin/rows";
import { indexesFor, inspect, type Layout } from "./layout";
import type { Bindings } from "./walk";

/** Counters of all changes ever seen by our triggers, with the highest id. */
export type Head = {
  inserts: number;
  updates: number;
  deletes: number;
  /** Of the inserts those that were not above all before. */
  outOfOrder: number;
  /** The highest id that was inserted under our eyes, or was there at adoption. */
  lastId: number;
  maxId: number;
  /** False while no row corrects another: then answers need not look for it. */
  corrections: boolean;
};

const unknownHead: Head = {
  inserts: -1,
  updates: -1,
  deletes: -1,
  outOfOrder: -1,
  lastId: 0,
  maxId: 0,
  corrections: false,
};

const statementsMax = 256;

/**
 * One persistent read-only connection to the signal file: how its table is made, whether anybody
 * has changed it, and statements that are prepared once. Everything here is synchronous.
 */
export class SignalFile implements Disposable {
  protected readonly db: Database;
  readonly #statements = new Map<string, Statement>();
  readonly #dataVersion: Statement;
  readonly #schemaVersion: Statement;
  #layout: Layout | null = null;
  #fault: SetupError | null = null;
  #condemned: SetupError | null = null;
  #seenData = -1;
  #seenSchema = -1;
  #head: Head = unknownHead;
  #epoch = 0;
  #edition = 0;

  /** @throws AppError 503 or SetupError when the file cannot be served. */
  constructor(path: string) {
    this.db = guarded(() => openDatabase(path, "reader"));
    this.#dataVersion = guarded(() => this.db.prepare("PRAGMA data_version"));
    this.#schemaVersion = guarded(() => this.db.prepare("PRAGMA schema_version"));
    this.refresh();
  }

  /** What is wrong with the table; null when nothing is, or there is none. */
  get fault(): SetupError | null {
    return this.#fault;
  }

  /** Answers every read with this fault from now on, until it is called with null. */
  condemn(fault: SetupError | null): void {
    if (this.#condemned === fault) return;
    this.#condemned = fault;
    // Nothing of what was read before is an answer any more; after null all is looked at anew.
    this.#seenData = -1;
    this.#seenSchema = -1;
    this.#epoch += 1;
    this.#edition += 1;
  }

  /** How the table is made; null while there is none, or none that can be served. */
  get layout(): Layout | null {
    return this.#layout;
  }

  /** True when every index that reads need is there. */
  get complete(): boolean {
    const layout = this.#layout;
    return layout !== null && indexesFor(layout).every(({ name }) => layout.indexes[name]);
  }

  /** Moves whenever the visible rows may have changed. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Moves whenever something else than rows above all others may have come. */
  get edition(): number {
    return this.#edition;
  }

  /** As of the last refresh. */
  get head(): Head {
    return this.#head;
  }

  /**
   * Looks whether anybody has committed since the last look. The version is read before any row,
   * so that rows read after it are at least as new. `data_version` also moves for writes to other
   * tables; our change counters tell those apart.
   */
  refresh(): void {
    if (this.#condemned) throw unfit(this.#condemned);
    const data = firstNumber(this.#dataVersion);
    if (data === this.#seenData) return;
    guarded(() => {
      const schema = firstNumber(this.#schemaVersion);
      if (schema !== this.#seenSchema) {
        this.#forgetStatements();
        this.#inspect();
        this.#seenSchema = schema;
        this.#epoch += 1;
        this.#edition += 1;
      }
      const head = this.#readHead();
      const was = this.#head;
      const alike =
        this.#layout?.tracked &&
        head !== unknownHead &&
        head.updates === was.updates &&
        head.deletes === was.deletes;
      // A connection may have triggers switched off: then ids move that nothing counted.
      const same = alike && head.inserts === was.inserts && head.maxId === was.maxId;
      const grown =
        alike &&
        head.inserts > was.inserts &&
        head.outOfOrder === was.outOfOrder &&
        head.maxId === head.lastId;
      if (!same) this.#epoch += 1;
      if (!same && !grown) this.#edition += 1;
      this.#head = head;
    });
    // Last, so that a failure above is met again by the next look instead of being taken as seen.
    this.#seenData = data;
  }

  /** Looks at the file and says where it stands. @throws AppError 503 when it cannot be served. */
  look(): Head {
    this.mustLayout();
    return this.#head;
  }

  /** As of now: the file is looked at first. @throws AppError 503 when it cannot be served. */
  mustLayout(): Layout {
    this.refresh();
    if (this.#layout) return this.#layout;
    if (this.#fault) throw unfit(this.#fault);
    const reason = "The signal file has no table of signals at the moment. Try again.";
    throw new AppError("unavailable", reason, { retryAfterSeconds: 1 });
  }

  /** Of which libSQL server's rows this file is a copy; null where it is nobody's. */
  copyOf(): Place | null {
    if (!this.#layout?.books) return null;
    const sql = "SELECT origin, id, row_sha256 AS rowSha256, whole FROM argo_tail";
    const row = guarded(() => this.first<Omit<Place, "whole"> & { whole: number }>(sql, {}));
    return row && { ...row, whole: row.whole === 1 };
  }

  /** Reads one row, whichever is at hand. @throws AppError 503 when that cannot be done. */
  touch(): void {
    this.mustLayout();
    guarded(() => this.first('SELECT 1 FROM "signals" LIMIT 1', {}));
  }

  /** All rows, by a walk over the smallest index: for a thread of its own. */
  countRows(): number {
    return guarded(
      () => this.first<{ n: number }>('SELECT count(*) AS n FROM "signals"', {})?.n ?? 0,
    );
  }

  /** Damage that SQLite's own check finds; empty when there is none. Slow: not on a server's thread. */
  damage(): string[] {
    return guarded(() =>
      this.db
        .query<{ quick_check: string }, []>("PRAGMA quick_check(10)")
        .all()
        .map((row) => row.quick_check)
        .filter((line) => line !== "ok"),
    );
  }

  /** The secret of this file; null before adoption. */
  secret(): Uint8Array | null {
    if (!this.#layout?.books) return null;
    return guarded(
      () =>
        this.first<{ secret: Uint8Array }>("SELECT secret FROM argo_secret", {})?.secret ?? null,
    );
  }

  /** The rows of a statement, which is prepared once. */
  all<T>(sql: string, bindings: Bindings): T[] {
    return this.#statement(sql).all(bindings) as T[];
  }

  /** Its first row; null when there is none. */
  first<T>(sql: string, bindings: Bindings): T | null {
    return this.#statement(sql).get(bindings) as T | null;
  }

  [Symbol.dispose](): void {
    this.#forgetStatements();
    this.#dataVersion.finalize();
    this.#schemaVersion.finalize();
    this.db.close();
  }

  #inspect(): void {
    this.#layout = null;
    this.#fault = null;
    try {
      this.#layout = inspect(this.db);
    } catch (error) {
      if (!(error instanceof SetupError)) throw error;
      this.#fault = error;
    }
  }

  #readHead(): Head {
    const layout = this.#layout;
    if (!layout) return unknownHead;
    const books = layout.books
      ? "inserts, updates, deletes, out_of_order, last_id, (SELECT count(*) FROM (SELECT 1 FROM argo_supersedes LIMIT 1))"
      : "-1, -1, -1, -1, 0, 0";
    const sql =
      `SELECT (SELECT max(${layout.id}) FROM "signals"), ${books}` +
      (layout.books ? " FROM argo_head" : "");
    const row = (this.#statement(sql).values() as (number | null)[][])[0];
    if (!row) return unknownHead;
    const [
      maxId = 0,
      inserts = -1,
      updates = -1,
      deletes = -1,
      outOfOrder = -1,
      lastId = 0,
      corrections,
    ] = row.map((value) => value ?? 0);
    return {
      inserts,
      updates,
      deletes,
      outOfOrder,
      lastId,
      maxId,
      corrections: corrections === 1,
    };
  }

  #statement(sql: string): Statement {
    const held = this.#statements.get(sql);
    if (held) return held;
    if (this.#statements.size >= statementsMax) this.#forgetStatements();
    const made = this.db.prepare(sql);
    this.#statements.set(sql, made);
    return made;
  }

  #forgetStatements(): void {
    for (const statement of this.#statements.values()) statement.finalize();
    this.#statements.clear();
  }
}

const unfit = ({ message, fix }: SetupError): AppError =>
  new AppError("unavailable", `${message} ${fix}`, { retryAfterSeconds: 5 });

function firstNumber(statement: Statement): number {
  return guarded(() => (statement.values() as number[][])[0]?.[0] ?? -1);
}

/** Runs one use of SQLite and puts its failure in our words. */
export function guarded<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw translate(error);
  }
}
