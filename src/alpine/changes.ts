import { asc, gt, lt, max, min } from "drizzle-orm";
import { type Change, changes } from "../../db/alpine/schema";
import type { Logger } from "../platform/log";
import { clocksApartMs } from "./clocks";
import { type Database, lockChanges, type Transaction } from "./database";

/** What carries a message to the other processes at once; they also look by themselves. */
export type Bus = {
  publish(channel: string, message: string): Promise<boolean>;
  subscribe(channel: string, onMessage: (message: string) => void, onSubscribed: () => void): void;
};

export type Tell = (change: Change) => void;
type Listener = (change: Change) => void | Promise<void>;

type Options = {
  db: () => Database;
  bus: Bus | null;
  now: () => number;
  log: Logger;
};

const channel = "changes";
/** How often the table is looked at, whatever the bus says: what bounds how late a change may be. */
export const lookEveryMs = 500;
/** Older changes are of no use to anybody: whoever missed them reads everything anew. */
export const keepMs = 2 * clocksApartMs;
const pageRows = 1_000;

/**
 * What has changed in accounts, told to every process: written in the transaction of the change
 * itself, read by everybody within `lookEveryMs`. The bus makes it faster and is trusted with
 * nothing: a message that is lost is read from the table.
 */
export class Changes {
  readonly #options: Options;
  readonly #listeners: Listener[] = [];
  readonly #reloads: (() => Promise<void>)[] = [];
  #seq = 0;
  /** When the table was last read to its end, by the clock that goes on evenly. */
  #freshAt = -Infinity;
  /** The same by the clock of the rows: a machine that slept shows it. */
  #readAtMs = 0;
  #looking: Promise<void> | null = null;
  #again = false;
  #timer: Timer | null = null;

  constructor(options: Options) {
    this.#options = options;
  }

  /** For how long nothing is known of what others have changed, milliseconds. */
  get ageMs(): number {
    return performance.now() - this.#freshAt;
  }

  /** Hears every change, made here or elsewhere, perhaps more than once. */
  listen(listener: Listener): void {
    this.#listeners.push(listener);
  }

  /** Called at the start, and whenever changes were missed, to read everything anew. */
  onReload(reload: () => Promise<void>): void {
    this.#reloads.push(reload);
  }

  /** Reads everything once, then goes on looking. */
  async start(): Promise<void> {
    await this.#reload();
    this.#options.bus?.subscribe(
      channel,
      (message) => this.#hear(message),
      () => void this.look(),
    );
    this.#timer = setInterval(() => void this.look(), lookEveryMs);
    this.#timer.unref();
  }

  stop(): void {
    if (this.#timer) clearInterval(this.#timer);
  }

  /**
   * Runs a transaction; what it tells is part of it, and heard by this process before the promise
   * resolves. @throws what `work` throws, or the database.
   */
  async write<T>(work: (tx: Transaction, tell: Tell) => Promise<T>): Promise<T> {
    const told: Change[] = [];
    const { db, bus, now, log } = this.#options;
    const result = await db().transaction(async (tx) => {
      told.length = 0;
      const value = await work(tx, (change) => told.push(change));
      if (told.length > 0) {
        await lockChanges(tx);
        const at = new Date(now());
        await tx.insert(changes).values(told.map((change) => ({ at, change })));
      }
      return value;
    });
    await this.#apply(told).catch((error: unknown) => {
      // It is done and will be read from the table; what it concerns is void here until then.
      log.warn({ reason: String(error) }, "a change of accounts is not known here yet");
    });
    if (told.length > 0) void bus?.publish(channel, JSON.stringify(told));
    return result;
  }

  /** Reads what is new. Failures are told by `ageMs`. */
  look(): Promise<void> {
    if (this.#looking) {
      this.#again = true;
      return this.#looking;
    }
    this.#looking = this.#readAll()
      .catch((error: unknown) => {
        this.#options.log.debug({ reason: String(error) }, "changes of accounts not read");
      })
      .finally(() => {
        this.#looking = null;
        if (!this.#again) return;
        this.#again = false;
        void this.look();
      });
    return this.#looking;
  }

  /** Deletes what nobody needs any more. */
  async forget(): Promise<void> {
    const { db, now } = this.#options;
    await db()
      .delete(changes)
      .where(lt(changes.at, new Date(now() - keepMs)));
  }

  async #readAll(): Promise<void> {
    const { db, now } = this.#options;
    for (;;) {
      const [startedAt, startedAtMs] = [performance.now(), now()];
      const missed = Math.abs(startedAtMs - this.#readAtMs) > keepMs / 2;
      if (missed && (await this.#wasCut())) return this.#reload();
      const rows = await db()
        .select({ seq: changes.seq, change: changes.change })
        .from(changes)
        .where(gt(changes.seq, this.#seq))
        .orderBy(asc(changes.seq))
        .limit(pageRows);
      await this.#apply(rows.map((row) => row.change));
      this.#seq = rows.at(-1)?.seq ?? this.#seq;
      if (rows.length === pageRows) continue;
      this.#freshAt = startedAt;
      this.#readAtMs = startedAtMs;
      return;
    }
  }

  async #wasCut(): Promise<boolean> {
    const [row] = await this.#options
      .db()
      .select({ oldest: min(changes.seq) })
      .from(changes);
    return row?.oldest === null || (row?.oldest ?? 0) > this.#seq + 1;
  }

  async #reload(): Promise<void> {
    const { db, now } = this.#options;
    const [startedAt, startedAtMs] = [performance.now(), now()];
    // First the number, then the state: changes in between are applied twice, which harms nothing.
    const [row] = await db()
      .select({ latest: max(changes.seq) })
      .from(changes);
    for (const reload of this.#reloads) await reload();
    this.#seq = row?.latest ?? this.#seq;
    this.#freshAt = startedAt;
    this.#readAtMs = startedAtMs;
  }

  /** What the message says is heard at once, and the table is looked at all the same. */
  #hear(message: string): void {
    void this.look();
    try {
      // Only what takes a right away may come from there: Redis gives none.
      const told = (JSON.parse(message) as Change[]).filter(({ kind }) => kind === "session");
      void this.#apply(told);
    } catch (error) {
      this.#options.log.warn({ reason: String(error) }, "a message about accounts cannot be read");
    }
  }

  async #apply(told: Change[]): Promise<void> {
    await Promise.all(told.flatMap((change) => this.#listeners.map((hear) => hear(change))));
  }
}
