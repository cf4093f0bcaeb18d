import type { FixedRateSample } from "./generator";
import type { Result } from "./result";
import { fixed, median, spread } from "./stats";

/** What was measured at a fixed rate, by variant. */
export type Samples = Map<string, FixedRateSample[]>;

/** A table of latencies, a row for each variant. */
export function pushLatencies(result: Result, title: string, samples: Samples): void {
  result.tables.push({
    title,
    columns: [
      "",
      "p50, ms",
      "p99, ms",
      "p99.9, ms",
      "max, ms",
      "CPU-µs/poll",
      "generator late p99, ms",
    ],
    rows: [...samples].map(([name, taken]) => [
      name,
      fixed(median(taken.map((s) => s.p50Us)) / 1_000, 2),
      spread(taken.map((s) => s.p99Us / 1_000)),
      fixed(median(taken.map((s) => s.p999Us)) / 1_000, 2),
      fixed(Math.max(...taken.map((s) => s.maxUs)) / 1_000, 1),
      spread(
        taken.map((s) => s.cpuUsPerRequest),
        1,
      ),
      fixed(median(taken.map((s) => s.lateP99Us)) / 1_000, 2),
    ]),
  });
}

/** By how much p99 differs from that of the quiet server. */
export const movedUs = (quiet: FixedRateSample[], busy: FixedRateSample[]) =>
  p99Us(busy) - p99Us(quiet);

/** How far the quiet server differs from itself: no smaller move is one. */
export const spreadUs = (quiet: FixedRateSample[], again: FixedRateSample[]) =>
  median(quiet.map((sample, i) => Math.abs(sample.p99Us - (again[i]?.p99Us ?? Number.NaN))));

/** Both in words. */
export function p99MovedText(
  quiet: FixedRateSample[],
  again: FixedRateSample[],
  busy: FixedRateSample[],
): string {
  const moved = movedUs(quiet, busy);
  const sign = moved < 0 ? "−" : "+";
  return `${sign}${ms(Math.abs(moved))} (quiet ${ms(p99Us(quiet))}, spread ${ms(spreadUs(quiet, again))})`;
}

const p99Us = (samples: FixedRateSample[]) => median(samples.map((s) => s.p99Us));
const ms = (us: number) => `${fixed(us / 1_000, 2)} ms`;
