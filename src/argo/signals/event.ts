import type { ReceivedSignal, Signal } from "./signal";

/** Of the signals that somebody sees those that a stream carries; compared as they are shown. */
export type EventFilter = {
  symbol?: string | undefined;
  strategy?: string | undefined;
  minConfidence: number;
};

/** Why a stream was ended. */
export type EndReason = "draining" | "plan" | "replaced" | "slow" | "unauthorized" | "unavailable";

export function passes(signal: Signal, { symbol, strategy, minConfidence }: EventFilter): boolean {
  if (symbol !== undefined && signal.symbol !== symbol) return false;
  if (strategy !== undefined && signal.strategy !== strategy) return false;
  return minConfidence <= 0 || (signal.confidence !== null && signal.confidence >= minConfidence);
}

/** One event: `id` is where to resume once it was read. JSON holds no line break of its own. */
const event = (name: string, id: number, data: unknown): string =>
  `event: ${name}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`;

export const signalEvent = (signal: ReceivedSignal): string => event("signal", signal.id, signal);

/** Where the sequence stands: the highest id that is seen. */
export const headEvent = (cursor: number, headId: number): string =>
  event("head", cursor, { id: headId });

/** The cursor was ahead of the head: it goes on from the head. */
export const aheadEvent = (headId: number): string => event("ahead", headId, { id: headId });

/** Milliseconds after which to come back: who was replaced would only replace the other. */
const comeBackMs: Partial<Record<EndReason, number>> = {
  replaced: 60_000,
  unauthorized: 60_000,
  unavailable: 5_000,
};

export function endEvent(cursor: number, reason: EndReason): string {
  const retry = comeBackMs[reason];
  const hint = retry === undefined ? "" : `retry: ${retry}\n`;
  return hint + event("end", cursor, { reason, id: cursor });
}
