import type { ReceivedSignal, Signal } from "./signal";

/** Of the signals that somebody sees those that a stream carries; compared as they are shown. */
export type EventFilter = {
  symbol?: string | undefined;
  strategy?: string | undefined;
  minConfidence: number;
};

/** Why a stream was ended. */
export type EndReason = "draining" | "plan" | "replaced" | "slow" | "unauthorized" | "unavailable";

/** How signals are written: as a server-sent event, or as a message of a WebSocket. */
export type Form = "event" | "message";

export function passes(signal: Signal, { symbol, strategy, minConfidence }: EventFilter): boolean {
  if (symbol !== undefined && signal.symbol !== symbol) return false;
  if (strategy !== undefined && signal.strategy !== strategy) return false;
  return minConfidence <= 0 || (signal.confidence !== null && signal.confidence >= minConfidence);
}

/** One event: `id` is where to resume once it was read. JSON holds no line break of its own. */
const eventOf = (name: string, id: number, json: string): string =>
  `event: ${name}\nid: ${id}\ndata: ${json}\n\n`;

const event = (name: string, id: number, data: unknown): string =>
  eventOf(name, id, JSON.stringify(data));

const encoder = new TextEncoder();
export const bytesOf = (text: string): Uint8Array => encoder.encode(text);

/** A piece of a stream: `cursor` is where to resume once it was read. */
export type Piece = { bytes: Uint8Array; ids: readonly number[]; cursor: number | null };

/** A signal that came to be seen, written once in each form for all who see it. */
export class Frame {
  readonly ids: readonly number[];
  #json: string | null = null;
  #bytes: Uint8Array | null = null;
  #message: string | null = null;

  constructor(readonly signal: ReceivedSignal) {
    this.ids = [signal.id];
  }

  get cursor(): number {
    return this.signal.id;
  }

  get bytes(): Uint8Array {
    return (this.#bytes ??= bytesOf(eventOf("signal", this.cursor, this.json)));
  }

  get message(): string {
    return (this.#message ??= messageOf(this.cursor, this.json));
  }

  private get json(): string {
    return (this.#json ??= JSON.stringify(this.signal));
  }
}

const messageOf = (id: number, json: string): string =>
  `{"type":"signal","id":${id},"signal":${json}}`;

/**
 * What one slice of a replay holds at most, but for its last signal, characters: an engine's rows
 * may be long, and who is sent a slice is not slow.
 */
const sliceLengthMax = 512 * 1024;

/**
 * Signals one after the other; messages are apart by line breaks. `nextId` is where to go on, which
 * comes sooner than the given one where not all of them have room.
 */
export function written(
  signals: readonly ReceivedSignal[],
  form: Form,
  nextId: number | null,
): { text: string; ids: number[]; nextId: number | null } {
  const texts: string[] = [];
  const ids: number[] = [];
  let at = nextId;
  let length = 0;
  for (const signal of signals) {
    if (length >= sliceLengthMax) {
      at = ids.at(-1) ?? null;
      break;
    }
    const json = JSON.stringify(signal);
    const text = form === "event" ? eventOf("signal", signal.id, json) : messageOf(signal.id, json);
    texts.push(text);
    ids.push(signal.id);
    length += text.length;
  }
  return { text: texts.join(form === "event" ? "" : "\n"), ids, nextId: at };
}

/** Where the sequence stands: the highest id that is seen. */
export const headEvent = (cursor: number, headId: number): string =>
  event("head", cursor, { id: headId });

/** The cursor was ahead of the head: it goes on from the head. */
export const aheadEvent = (headId: number): string => event("ahead", headId, { id: headId });

/** Of these ids some may be missing that were deleted for their age; what is left follows. */
export const gapEvent = (cursor: number, fromId: number, toId: number): string =>
  event("gap", cursor, { from: fromId, to: toId });

/** Milliseconds after which to come back: who was replaced would only replace the other. */
const comeBackMs: Partial<Record<EndReason, number>> = {
  replaced: 60_000,
  unauthorized: 60_000,
  unavailable: 5_000,
};

/** The end; without a cursor for who was still to be given one. */
export function endEvent(cursor: number | null, reason: EndReason): string {
  const retry = comeBackMs[reason];
  const hint = retry === undefined ? "" : `retry: ${retry}\n`;
  if (cursor === null) return `${hint}event: end\ndata: ${JSON.stringify({ reason })}\n\n`;
  return hint + event("end", cursor, { reason, id: cursor });
}
