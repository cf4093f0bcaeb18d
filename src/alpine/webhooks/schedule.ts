const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;

/** After each attempt that failed; the first is made at once. Ten attempts, some three days. */
const pausesMs = [
  5 * second,
  5 * minute,
  30 * minute,
  2 * hour,
  5 * hour,
  10 * hour,
  14 * hour,
  20 * hour,
  24 * hour,
];
export const attemptsMax = pausesMs.length + 1;
/** Either way, so that what failed together does not come again together. */
const jitter = 0.1;
/** A receiver that asks for longer is asked after this all the same. */
const askedMsMax = 24 * hour;

/**
 * When to try again after so many attempts, milliseconds since the epoch; null when that was the last.
 * @param askedMs what the receiver asked for, which is only ever longer.
 * @param random 0 to 1.
 */
export function nextAttemptMs(
  attempts: number,
  askedMs: number | null,
  nowMs: number,
  random: number,
): number | null {
  const pauseMs = pausesMs[attempts - 1];
  if (pauseMs === undefined) return null;
  const jittered = pauseMs * (1 - jitter + 2 * jitter * random);
  return nowMs + Math.round(Math.max(jittered, askedMs ?? 0));
}

/** How long a `Retry-After` asks for, seconds or a date, bounded; null for what says nothing. */
export function askedMsOf(retryAfter: string | null, nowMs: number): number | null {
  if (retryAfter === null) return null;
  const ms = /^\d{1,9}$/.test(retryAfter)
    ? Number(retryAfter) * second
    : Date.parse(retryAfter) - nowMs;
  return Number.isNaN(ms) ? null : Math.min(Math.max(ms, 0), askedMsMax);
}
