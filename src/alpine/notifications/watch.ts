import { and, eq } from "drizzle-orm";
import { jobPlaces } from "../../../db/alpine/schema";
import type { ReceivedSignal } from "../../argo/signals/signal";
import type { Database, Transaction } from "../database";
import type { SignalNews } from "./fan-out";

/** Premium signals in the order of their ids. */
export type PremiumSource = {
  /** The highest id. @throws AppError 503. */
  headId(): number | Promise<number>;
  /** All that follow an id, the first few of them wholly. @throws AppError 503. */
  after(id: number, shownMax: number): Promise<PremiumSignals>;
  /** For how long ids may be lower than others know them, and nothing is gone, ms; Infinity while a copy misses something. */
  lateMs(): number | Promise<number>;
};
export type PremiumSignals = {
  count: number;
  /** The first ones. */
  shown: ReceivedSignal[];
  /** Where it was read to. */
  untilId: number;
};

type Options = {
  db: () => Database;
  source: PremiumSource;
  /** Hands a fan-out over, as part of the transaction. */
  send: (tx: Transaction, news: SignalNews) => Promise<void>;
  now: () => number;
};

/** In a minute so many are told one by one; more are told together, once a minute. */
export const singlesMax = 20;
const minuteMs = 60_000;
const placeName = "premium_signals";

/**
 * Sees new premium signals and hands each over once, whichever process sees it: the place is moved
 * in the transaction that hands over. The first look of all begins at the newest signal.
 */
export class SignalWatch {
  /** Up to there nothing is left to hand over, by whomever. */
  #seenId = -1;
  #singles = { sinceMs: -Infinity, count: 0 };
  #togetherMs = -Infinity;
  #waitUntilMs = -Infinity;
  #belowSince: number | null = null;

  constructor(private readonly options: Options) {}

  /** @returns whether something was handed over. @throws AppError 503. */
  async look(): Promise<boolean> {
    const { db, source, send, now } = this.options;
    const nowMs = now();
    const headId = await source.headId();
    if (headId === this.#seenId) {
      // Whoever was lower for a moment is not any more: only what lasts counts.
      this.#belowSince = null;
      return false;
    }
    if (nowMs < this.#waitUntilMs) return false;
    const place = await placeOf(db(), headId);
    if (headId < place) {
      // A copy is only late, and what others have handed over is not taken back for that.
      const lateMs = await source.lateMs();
      this.#belowSince = lateMs === Infinity ? null : (this.#belowSince ?? performance.now());
      if (this.#belowSince === null || performance.now() - this.#belowSince < lateMs) return false;
      // The engine has made its table anew: ids count from the beginning.
      await db().transaction((tx) => move(tx, place, headId));
      return false;
    }
    this.#belowSince = null;
    const found = await source.after(place, singlesMax);
    // Another argo has answered, which is behind.
    if (found.untilId < place) return false;
    const news = this.#newsOf(place, found, nowMs);
    if (news === null) return false;
    const moved = await db().transaction(async (tx) => {
      if (!(await move(tx, place, found.untilId))) return false;
      for (const each of news) await send(tx, each);
      return true;
    });
    if (!moved) return false;
    this.#seenId = found.untilId;
    if (found.count > singlesMax) this.#togetherMs = nowMs;
    else this.#singles.count += found.count;
    return news.length > 0;
  }

  /** Null while they have to wait: for others to be told with, or for their minute. */
  #newsOf(place: number, found: PremiumSignals, nowMs: number): SignalNews[] | null {
    if (nowMs - this.#singles.sinceMs >= minuteMs) this.#singles = { sinceMs: nowMs, count: 0 };
    const together = found.count > singlesMax;
    const fits = together
      ? nowMs - this.#togetherMs >= minuteMs
      : found.count <= singlesMax - this.#singles.count;
    if (!fits) {
      this.#waitUntilMs = (together ? this.#togetherMs : this.#singles.sinceMs) + minuteMs;
      return null;
    }
    if (together) return [togetherOf(place, found, nowMs)];
    return found.shown.map((signal) => newsOf(signal, nowMs));
  }
}

/** How far signals were handed over; the newest one where none ever was. */
async function placeOf(db: Database, headId: number): Promise<number> {
  const [row] = await db.select().from(jobPlaces).where(eq(jobPlaces.name, placeName));
  if (row) return row.place;
  await db.insert(jobPlaces).values({ name: placeName, place: headId }).onConflictDoNothing();
  return placeOf(db, headId);
}

/** False when somebody else has moved it. */
async function move(tx: Transaction, from: number, to: number): Promise<boolean> {
  const { rowCount } = await tx
    .update(jobPlaces)
    .set({ place: to })
    .where(and(eq(jobPlaces.name, placeName), eq(jobPlaces.place, from)));
  return rowCount === 1;
}

function newsOf(signal: ReceivedSignal, nowMs: number): SignalNews {
  const { id, symbol, action, confidence, price, timestamp, strategy } = signal;
  const at = price === null ? "" : ` at ${price}`;
  return {
    // The engine may make its table anew, and count from the beginning.
    reference: `${id} ${timestamp}`,
    title: `${action} ${symbol}${at}`,
    body: `${action} ${symbol}${at}, confidence ${confidence ?? "unknown"}, by ${strategy} at ${timestamp ?? "an unknown time"}.`,
    details: { signal_id: id, symbol, action, confidence, price, timestamp, strategy },
    fromMs: Math.min(arrivalOf(signal), nowMs),
  };
}

function togetherOf(
  afterId: number,
  { count, shown, untilId }: PremiumSignals,
  nowMs: number,
): SignalNews {
  const ids = shown.map(({ id }) => id);
  const names = [...new Set(shown.map(({ symbol }) => symbol))].slice(0, 5).join(", ");
  return {
    reference: `${afterId} to ${untilId}`,
    title: `${count} new premium signals`,
    body: `${count} premium signals arrived at about the same time, among them of ${names}.`,
    details: { count, after_id: afterId, first_id: ids[0] ?? null },
    // They are told together, so nobody is told of any before its time.
    fromMs: nowMs,
  };
}

/** Rows that were there at adoption count from their timestamp; one that says nothing is old. */
function arrivalOf({ received_at: receivedAt, timestamp }: ReceivedSignal): number {
  const ms = Date.parse(receivedAt ?? timestamp ?? "");
  return Number.isNaN(ms) ? 0 : ms;
}
