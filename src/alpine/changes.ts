import { and, asc, desc, gte, lt, sql } from "drizzle-orm";
import { z } from "zod";
import { type Change, changes, tiers } from "../../db/alpine/schema";
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

/** A later release may write what this one does not know. */
const Known = z.discriminatedUnion("kind", [
  z.object({
    kind: z.literal("session"),
    id: z.string(),
    fromGeneration: z.int().nullable(),
    expiresAtMs: z.number(),
  }),
  z.object({ kind: z.literal("key"), id: z.uuid(), userId: z.uuid() }),
  z.object({ kind: z.literal("user"), id: z.uuid() }),
  z.object({ kind: z.literal("plan"), tier: z.enum(tiers) }),
]) satisfies z.ZodType<Change>;

/** What the bus carries; `by` names the sender, who hears it as well. */
const Message = z.object({ by: z.string(), told: z.array(Known) });

/** A row, with what it says as text: by that it is known again. */
type Row = { seq: number; text: string; change: unknown };
const rowShape = {
  seq: changes.seq,
  text: sql<string>`${changes.at}::text || ${changes.change}::text`,
  change: changes.change,
};

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
/** Those who want to know what is new now, within this time, are told by one look. */
const catchUpMs = 25;
const pageRows = 1_000;
const rowsAtOnce = 1_000;

/**
 * What has changed in accounts, told to every process: written in the transaction of the change
 * itself, read by everybody within `lookEveryMs`. The bus makes it faster and is trusted with
 * nothing: a message that is lost is read from the table.
 */
export class Changes {
  readonly #options: Options;
  readonly #id = crypto.randomUUID();
  readonly #listeners: Listener[] = [];
  readonly #reloads: (() => Promise<void>)[] = [];
  /**
   * The row that was read last; null while there was none. Where it is not found again (a fail-over,
   * a backup put back), everything is read anew.
   */
  #read: Row | null = null;
  /** Numbers of changes made here that were not read back yet. */
  readonly #own = new Set<number>();
  /** True after a change was heard of and could not be followed: then all is read anew. */
  #unsure = false;
  /** When the table was last read to its end, by the clock that goes on evenly. */
  #freshAt = -Infinity;
  #looking: Promise<void> | null = null;
  #again = false;
  #catchingUp: Promise<void> | null = null;
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
    const result = await db()
      .transaction(async (tx) => {
        const value = await work(tx, (change) => told.push(change));
        if (told.length > 0) {
          await lockChanges(tx);
          const at = new Date(now());
          for (let from = 0; from < told.length; from += rowsAtOnce) {
            const rows = told.slice(from, from + rowsAtOnce);
            const values = rows.map((change) => ({ at, change }));
            const made = await tx.insert(changes).values(values).returning({ seq: changes.seq });
            // Before anybody can read it: whoever looks meanwhile must find it among our own.
            for (const { seq } of made) this.#own.add(seq);
          }
        }
        return value;
      })
      .catch((error: unknown) => {
        // Perhaps it was done all the same, and passed by as our own: then all is read anew.
        this.#unsure ||= told.length > 0;
        throw error;
      });
    if (told.length > 0) void bus?.publish(channel, JSON.stringify({ by: this.#id, told }));
    await this.#apply(told).catch((error: unknown) => {
      this.#unsure = true;
      // It is done and will be read from the table; what it concerns is void here until then.
      log.warn({ reason: String(error) }, "a change of accounts is not known here yet");
    });
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

  /**
   * Resolves when all is known here that was committed before this call, or when it could not be
   * read. For strangers too: however many ask, the database is asked 40 times a second.
   */
  catchUp(): Promise<void> {
    this.#catchingUp ??= Bun.sleep(catchUpMs).then(async () => {
      this.#catchingUp = null;
      // One that runs has begun before.
      await this.#looking;
      await (this.#looking ?? this.look());
    });
    return this.#catchingUp;
  }

  /** Deletes what nobody needs any more. The last row stays: others know their place by it. */
  async forget(): Promise<void> {
    const { db, now } = this.#options;
    const last = sql`(SELECT max(${changes.seq}) FROM ${changes})`;
    await db()
      .delete(changes)
      .where(and(lt(changes.at, new Date(now() - keepMs)), lt(changes.seq, last)));
  }

  async #readAll(): Promise<void> {
    for (;;) {
      const startedAt = performance.now();
      const rows = await this.#page();
      if (this.#unsure || this.#isAnother(rows)) return this.#reload();
      const fresh = this.#read ? rows.slice(1) : rows;
      // What this process has told is known here: read again while the database falters, it would
      // make good keys doubtful.
      const others = fresh.filter(({ seq }) => !this.#own.delete(seq));
      const known = others.map(({ change }) => Known.safeParse(change));
      if (known.some(({ success }) => !success)) {
        this.#options.log.warn("a change of accounts of an unknown kind: all is read anew");
        return this.#reload();
      }
      await this.#apply(known.flatMap(({ data }) => (data ? [data] : [])));
      this.#read = fresh.at(-1) ?? this.#read;
      if (rows.length === pageRows) continue;
      this.#freshAt = startedAt;
      return;
    }
  }

  /** The last row that was read, and what follows it. */
  #page(): Promise<Row[]> {
    return this.#options
      .db()
      .select(rowShape)
      .from(changes)
      .where(gte(changes.seq, this.#read?.seq ?? 0))
      .orderBy(asc(changes.seq))
      .limit(pageRows);
  }

  /**
   * True when the row that was read last is not where it was: another database answers, a copy that
   * was behind or a backup put back; or this process slept until it was deleted.
   */
  #isAnother([first]: Row[]): boolean {
    return this.#read !== null && (first?.seq !== this.#read.seq || first.text !== this.#read.text);
  }

  async #reload(): Promise<void> {
    const startedAt = performance.now();
    // First the row, then the state: changes in between are applied twice, which harms nothing.
    const [latest] = await this.#options
      .db()
      .select(rowShape)
      .from(changes)
      .orderBy(desc(changes.seq))
      .limit(1);
    this.#unsure = false;
    this.#own.clear();
    try {
      for (const reload of this.#reloads) await reload();
    } catch (error) {
      this.#unsure = true;
      throw error;
    }
    this.#read = latest ?? null;
    this.#freshAt = startedAt;
  }

  /** What the message says is heard at once, and the table is looked at all the same. */
  #hear(message: string): void {
    try {
      const { by, told } = Message.parse(JSON.parse(message));
      // Known here already: a look that fails now would make doubtful what is good.
      if (by === this.#id) return;
      // Whoever speaks there can take rights away and give none: a revocation is never undone, and
      // of keys and users the message says no more than that they are to be read again.
      this.#apply(told).catch(() => {
        this.#unsure = true;
      });
    } catch {
      this.#options.log.warn("a message about accounts cannot be read");
    }
    void this.look();
  }

  async #apply(told: Change[]): Promise<void> {
    await Promise.all(told.flatMap((change) => this.#listeners.map((hear) => hear(change))));
  }
}
