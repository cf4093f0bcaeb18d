import type { Delivery, Meters, UsageRow } from "../../http/meter";
import type { Logger } from "../../platform/log";
import type { Credentials } from "../credentials";
import type { Database } from "../database";
import { addDeliveries, addUsage, isCommitted, writeKeysUsed } from "./store";

/** How often counts are written down: what a crash loses at most. */
export const usageIntervalSeconds = 5;

const rowsAtOnce = 4_000;
/** So few that each key is found by its index, whatever the table holds. */
const keysAtOnce = 200;
/** Rows that wait for a database that is away: by account, day and class of routes. */
const owedMax = 1_000_000;

type Options = {
  db: () => Database;
  credentials: Pick<Credentials, "takeUsed">;
  meters: Pick<Meters, "takeRows" | "takeDeliveries" | "returnDeliveries">;
  log: Logger;
};

/** `transactionId` once it is known which transaction may have written these. */
type Batch = { rows: UsageRow[]; transactionId: string | null };

/**
 * Writes down who came how often, what they were given first when, and which keys were used when.
 * What cannot be written is kept and added to what comes next; what other processes wrote is added
 * to.
 */
export class Usage {
  /** Rows that could not be kept. */
  dropped = 0;
  readonly #owed = new Map<string, UsageRow>();
  #batch: Batch | null = null;
  readonly #lastUsedMs = new Map<string, number>();
  #running: Promise<void> = Promise.resolve();
  #waiting = 0;
  #timer: Timer | null = null;

  constructor(private readonly options: Options) {}

  /** Rows that wait for the database. */
  get pending(): number {
    return this.#owed.size + (this.#batch?.rows.length ?? 0);
  }

  /** Goes on writing counts every few seconds. */
  start(): void {
    this.#timer = setInterval(() => {
      // One that hangs is not waited for by many more.
      if (this.#waiting > 0) return;
      this.flushCounts().catch((error: unknown) => {
        this.options.log.debug({ reason: String(error) }, "usage not written");
      });
    }, usageIntervalSeconds * 1000);
    this.#timer.unref();
  }

  stop(): void {
    if (this.#timer) clearInterval(this.#timer);
  }

  /** Takes what was counted, then writes all of it; one time after the other. @throws AppError 503. */
  flush(): Promise<void> {
    return this.#inTurn(async () => {
      await this.#flushCounts();
      await this.#flushKeys();
    });
  }

  /** The same without the times at which keys were used, which may be written less often. */
  flushCounts(): Promise<void> {
    return this.#inTurn(() => this.#flushCounts());
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    this.#waiting += 1;
    const done = this.#running.then(work);
    this.#running = done
      .catch(() => undefined)
      .finally(() => {
        this.#waiting -= 1;
      });
    return done;
  }

  async #flushCounts(): Promise<void> {
    for (const row of this.options.meters.takeRows()) this.#owe(row);
    for (;;) {
      this.#batch ??= this.#nextBatch();
      if (this.#batch === null) break;
      await this.#write(this.#batch);
      this.#batch = null;
    }
    await this.#flushDeliveries();
  }

  #owe(row: UsageRow): void {
    const key = `${row.day} ${row.routeClass} ${row.userId}`;
    const held = this.#owed.get(key);
    if (held) {
      held.requests += row.requests;
      held.errors += row.errors;
      held.delivered += row.delivered;
    } else if (this.#owed.size < owedMax) this.#owed.set(key, row);
    else this.dropped += 1;
  }

  #nextBatch(): Batch | null {
    const rows: UsageRow[] = [];
    for (const [key, row] of this.#owed) {
      if (rows.length === rowsAtOnce) break;
      rows.push(row);
      this.#owed.delete(key);
    }
    return rows.length === 0 ? null : { rows, transactionId: null };
  }

  /** All of a batch or nothing, and never twice: a commit whose answer was lost is asked after. */
  async #write(batch: Batch): Promise<void> {
    const db = this.options.db();
    if (batch.transactionId !== null && (await isCommitted(db, batch.transactionId))) return;
    await db.transaction(async (tx) => {
      batch.transactionId = await addUsage(tx, batch.rows);
    });
  }

  async #flushDeliveries(): Promise<void> {
    const { db, meters } = this.options;
    let left: Delivery[] = meters.takeDeliveries();
    try {
      while (left.length > 0) {
        let [count, rows] = [0, 0];
        for (const { ids } of left) {
          if (count > 0 && rows + ids.length > rowsAtOnce) break;
          rows += ids.length;
          count += 1;
        }
        await addDeliveries(db(), left.slice(0, count));
        left = left.slice(count);
      }
    } catch (error) {
      meters.returnDeliveries(left);
      throw error;
    }
  }

  async #flushKeys(): Promise<void> {
    const { credentials, db } = this.options;
    for (const [id, lastUsedMs] of credentials.takeUsed()) this.#lastUsedMs.set(id, lastUsedMs);
    const ids = [...this.#lastUsedMs.keys()];
    for (let at = 0; at < ids.length; at += keysAtOnce) {
      const some = ids.slice(at, at + keysAtOnce);
      const times = some.map((id) => new Date(this.#lastUsedMs.get(id) ?? 0));
      await writeKeysUsed(db(), some, times);
      for (const id of some) this.#lastUsedMs.delete(id);
    }
  }
}
