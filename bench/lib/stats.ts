/** Median of the samples; NaN when there are none. */
export function median(samples: readonly number[]): number {
  return percentile(samples, 50);
}

/** The p-th percentile (0 to 100) by linear interpolation; NaN when there are no samples. */
export function percentile(samples: readonly number[], p: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = ((sorted.length - 1) * p) / 100;
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? low;
  return low + (high - low) * (at - Math.floor(at));
}

/** Element-wise a[i] / b[i]: ratios of samples that were taken in the same round. */
export function ratios(a: readonly number[], b: readonly number[]): number[] {
  return a.slice(0, b.length).map((value, i) => value / (b[i] ?? Number.NaN));
}

/** "0.93 (0.91–0.95)": median, then the least and the greatest. */
export function spread(samples: readonly number[], digits = 2): string {
  if (samples.length === 0) return "–";
  const low = Math.min(...samples);
  const high = Math.max(...samples);
  return `${fixed(median(samples), digits)} (${fixed(low, digits)}–${fixed(high, digits)})`;
}

/** A number with thousands separators and this many digits after the point. */
export function fixed(value: number, digits = 0): string {
  if (!Number.isFinite(value)) return "–";
  return value.toLocaleString("en-US", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}
