import { and, asc, eq, gt, sql } from "drizzle-orm";
import { usage } from "../../db/alpine/schema";
import type { Credentials } from "./credentials";
import type { Database, Queries } from "./database";

/** In one statement: so few that each row is found by its index, whatever the tables hold. */
const rowsAtOnce = 200;

type Options = { db: () => Database; credentials: Credentials; now: () => number };

/**
 * Writes down who came how often, and which keys were used when. What cannot be written is kept
 * and added to what comes next; what other processes wrote is added to.
 */
export class Usage {
  /** By day, then by user. */
  readonly #requests = new Map<string, Map<string, number>>();
  readonly #lastUsedMs = new Map<string, number>();
  #flushed: Promise<void> = Promise.resolve();

  constructor(private readonly options: Options) {}

  /** Takes what was counted, then writes it; one time after the other. @throws AppError 503. */
  flush(): Promise<void> {
    const done = this.#flushed.then(() => this.#flush());
    this.#flushed = done.catch(() => undefined);
    return done;
  }

  async #flush(): Promise<void> {
    this.#take();
    for (const ids of chunks([...this.#lastUsedMs.keys()])) {
      await this.#writeUsed(ids);
      for (const id of ids) this.#lastUsedMs.delete(id);
    }
    for (const [day, counts] of this.#requests) {
      for (const ids of chunks([...counts.keys()])) {
        await this.#writeRequests(day, ids, counts);
        for (const id of ids) counts.delete(id);
      }
      this.#requests.delete(day);
    }
  }

  /** What was counted since counts for today: it is half a minute old at most. */
  #take(): void {
    const { credentials, now } = this.options;
    const { keys, requests } = credentials.takeUsed();
    for (const [id, lastUsedMs] of keys) this.#lastUsedMs.set(id, lastUsedMs);
    if (requests.size === 0) return;
    const day = new Date(now()).toISOString().slice(0, 10);
    const counts = this.#requests.get(day) ?? new Map<string, number>();
    for (const [id, count] of requests) counts.set(id, (counts.get(id) ?? 0) + count);
    this.#requests.set(day, counts);
  }

  /** Rows are locked in their order: two processes that use the same keys do not block for good. */
  async #writeUsed(ids: string[]): Promise<void> {
    const times = ids.map((id) => new Date(this.#lastUsedMs.get(id) ?? 0).toISOString());
    await this.options.db().execute(sql`
      UPDATE api_keys SET last_used_at = used.at
      FROM (
        SELECT k.id, given.at
        FROM unnest(${sql.param(ids)}::uuid[], ${sql.param(times)}::timestamptz[]) AS given (id, at)
        JOIN api_keys k ON k.id = given.id
        WHERE k.last_used_at IS NULL OR k.last_used_at < given.at
        ORDER BY k.id FOR NO KEY UPDATE OF k
      ) AS used
      WHERE api_keys.id = used.id`);
  }

  /** Users who are gone are passed over. */
  async #writeRequests(day: string, ids: string[], counts: Map<string, number>): Promise<void> {
    const requests = ids.map((id) => counts.get(id) ?? 0);
    await this.options.db().execute(sql`
      INSERT INTO usage (user_id, day, requests)
      SELECT u.id, ${day}::date, given.requests
      FROM unnest(${sql.param(ids)}::uuid[], ${sql.param(requests)}::bigint[])
        AS given (id, requests)
      JOIN users u ON u.id = given.id
      ORDER BY u.id FOR KEY SHARE OF u
      ON CONFLICT (user_id, day, route_class) DO UPDATE SET requests = usage.requests + excluded.requests`);
  }
}

/** Requests of a user by day, ascending, after a day. */
export function usageOf(
  db: Queries,
  userId: string,
  afterDay: string | null,
  limit: number,
): Promise<{ day: string; requests: number }[]> {
  return db
    .select({ day: usage.day, requests: usage.requests })
    .from(usage)
    .where(and(eq(usage.userId, userId), afterDay === null ? undefined : gt(usage.day, afterDay)))
    .orderBy(asc(usage.day))
    .limit(limit);
}

function* chunks(ids: string[]): Generator<string[]> {
  for (let at = 0; at < ids.length; at += rowsAtOnce) yield ids.slice(at, at + rowsAtOnce);
}
