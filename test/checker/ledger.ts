/** What was sent to the servers, what they promised of it, and what was seen: kept outside of them. */

/** Whom a client reads as, and what their plan shows them. */
export interface Reader {
  name: string;
  headers: Record<string, string>;
  premium: boolean;
  delayMs: number;
  /** Has a view of its own at `/api/signals/subscribed`. */
  account: boolean;
}

export interface Filter {
  symbol?: string;
  min_confidence?: number;
}

/** A signal as producers write it. No two have the same `entry_price`. */
export interface Content {
  symbol: string;
  action: "BUY" | "SELL" | "HOLD";
  confidence: number;
  entry_price: number;
  stop_price: number | null;
  target_price: number | null;
  strategy: string;
  /** Where it is left out, an Idempotency-Key has to tell it from others. */
  timestamp?: string;
}

/** A signal that was sent, perhaps more than once, and what was promised of it. */
export interface Sent {
  content: Content;
  /** Just before it was sent first, milliseconds since the epoch. */
  sentMs: number;
  /** What an acknowledgement named; null while there was none. */
  id: number | null;
  ackedMs: number;
  /** Its place among all acknowledgements and beginnings of reads. */
  ackedAt: number;
}

/** A signal as some reader was shown it: `sent` is null when it is nothing that ever was. */
export interface Shown {
  id: number;
  sent: Sent | null;
  atMs: number;
}

/** What one client read by ascending id, over all of its connections. */
export interface Sequence {
  name: string;
  reader: Reader;
  filter: Filter;
  /** It asked for all after this. */
  fromId: number;
  /** False where what failed comes later. */
  ordered?: boolean;
  shown: Shown[];
}

/** One answer that shows the newest (`limit`), or all of them. */
export interface Look {
  client: string;
  reader: Reader;
  filter: Filter;
  limit: number | null;
  order: "asc" | "desc";
  /** Its place among acknowledgements, and when it was sent. */
  begunAt: number;
  begunMs: number;
  endedMs: number;
  /** `Signal-Head`, where there is one. */
  head: number | null;
  rows: readonly Omit<Shown, "atMs">[];
  /** Only signals up to this id must be shown: of a server that copies another. */
  upToId: number;
}

/** A signal as lists and streams give it, as far as it is looked at. */
export interface WireSignal {
  id: number;
  symbol: string;
  action: string;
  confidence: number | null;
  entry_price: number | null;
  stop_loss: number | null;
  take_profit: number | null;
  strategy: string;
  timestamp: string | null;
}

export const SYMBOLS = ["SPX", "NDX", "EURUSD", "XAU"] as const;
const STRATEGIES = ["weighted_consensus", "breakout", "mean reversion"] as const;
export const PREMIUM = 95;

export class Ledger {
  readonly sent: Sent[] = [];
  readonly sequences: Sequence[] = [];
  readonly looks: Look[] = [];
  /** What no client should have been answered. */
  readonly odd: string[] = [];
  /** The highest id that was acknowledged. */
  topId = 0;
  readonly #byPrice = new Map<number, Sent>();
  #moments = 0;

  /** A place in the order of what happened in this process. */
  moment(): number {
    this.#moments += 1;
    return this.#moments;
  }

  /** Something new to send. Its time lies up to a minute back, unless the server is to give one. */
  make(random: () => number, timed: boolean): Sent {
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
    const entry_price = this.sent.length + 1;
    const action = pick(["BUY", "SELL", "HOLD"] as const);
    const side = action === "SELL" ? -0.5 : 0.5;
    const aims = action !== "HOLD" && random() < 0.8;
    const content: Content = {
      symbol: pick(SYMBOLS),
      action,
      confidence: Math.round(random() * 10_000) / 100,
      entry_price,
      stop_price: aims ? entry_price - side : null,
      target_price: aims ? entry_price + side : null,
      strategy: pick(STRATEGIES),
    };
    if (timed) {
      const at = new Date(Date.now() - Math.floor(random() * 60_000)).toISOString();
      content.timestamp = random() < 0.5 ? at : at.replace("Z", "000+00:00");
    }
    const made = { content, sentMs: Date.now(), id: null, ackedMs: 0, ackedAt: 0 };
    this.sent.push(made);
    this.#byPrice.set(entry_price, made);
    return made;
  }

  /** A promise was given, also once more. */
  acknowledge(sent: Sent, id: number): void {
    if (sent.id !== null && sent.id !== id) {
      this.odd.push(`signal ${sent.content.entry_price} was promised as ${sent.id} and as ${id}`);
    }
    if (sent.id !== null) return;
    sent.id = id;
    sent.ackedMs = Date.now();
    sent.ackedAt = this.moment();
    this.topId = Math.max(this.topId, id);
  }

  /** What was sent that this is, every field of it. */
  known(row: WireSignal): Sent | null {
    const sent = this.#byPrice.get(row.entry_price ?? 0);
    if (!sent) return null;
    const { content } = sent;
    const same =
      content.symbol === row.symbol &&
      content.action === row.action &&
      content.confidence === row.confidence &&
      content.stop_price === row.stop_loss &&
      content.target_price === row.take_profit &&
      content.strategy === row.strategy &&
      (content.timestamp ?? row.timestamp) === row.timestamp;
    return same ? sent : null;
  }

  follow(given: Omit<Sequence, "shown">): Sequence {
    const sequence = { ...given, shown: [] };
    this.sequences.push(sequence);
    return sequence;
  }

  see(sequence: Sequence, row: WireSignal): void {
    sequence.shown.push({ id: row.id, sent: this.known(row), atMs: Date.now() });
  }
}

/** Whether this is among what the reader asked for and may see at all. */
export function isFor({ premium }: Reader, filter: Filter, { content }: Sent): boolean {
  if (!premium && content.confidence >= PREMIUM) return false;
  if (filter.symbol !== undefined && filter.symbol !== content.symbol) return false;
  return content.confidence >= (filter.min_confidence ?? 0);
}
