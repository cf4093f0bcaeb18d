import type { Interval } from "../../../db/alpine/schema";

/** So many months later, in UTC, at the same time of day; the last day of a shorter month. */
export function monthsAfter(anchor: Date, months: number): Date {
  const [year, month] = [anchor.getUTCFullYear(), anchor.getUTCMonth() + months];
  const daysOfMonth = new Date(Date.UTC(year, month + 1, 0)).getUTCDate();
  const at = new Date(anchor);
  at.setUTCFullYear(year, month, Math.min(anchor.getUTCDate(), daysOfMonth));
  return at;
}

const monthOf = (at: Date): number => 12 * at.getUTCFullYear() + at.getUTCMonth();

/** When a period ends that began at `start`: months count from the anchor, 31 Jan → 28 Feb → 31 Mar. */
export function periodEndOf(anchor: Date, start: Date, interval: Interval): Date {
  const months = interval === "year" ? 12 : 1;
  return monthsAfter(anchor, monthOf(start) - monthOf(anchor) + months);
}

/** A price as revenue of one month, in minor units, half up. */
export const monthlyMinor = (priceMinor: number, interval: Interval): number =>
  interval === "year" ? Math.floor((priceMinor + 6) / 12) : priceMinor;

/**
 * The part of an amount that falls on what is left of a period, in minor units, half up. By a clock
 * that was set back more may be left than there was: that is all of it.
 */
export function prorated(amountMinor: number, leftMs: number, wholeMs: number): number {
  const leftOfIt = Math.min(leftMs, wholeMs);
  const [amount, left, whole] = [BigInt(amountMinor), BigInt(leftOfIt), BigInt(wholeMs)];
  return Number((2n * amount * left + whole) / (2n * whole));
}
