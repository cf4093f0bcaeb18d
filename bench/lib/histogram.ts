/**
 * Counts of latencies in buckets that grow by 2 % each, from 1 µs to about 100 s: bounded memory
 * however long the run, and percentiles that are at most 2 % off.
 */
export class Histogram {
  static readonly growth = 1.02;
  static readonly buckets = 932;
  readonly counts = new Uint32Array(Histogram.buckets);
  total = 0;
  maxUs = 0;

  record(us: number): void {
    const bucket = us <= 1 ? 0 : Math.ceil(Math.log(us) / Math.log(Histogram.growth));
    const at = Math.min(Histogram.buckets - 1, bucket);
    this.counts[at] = (this.counts[at] ?? 0) + 1;
    this.total += 1;
    if (us > this.maxUs) this.maxUs = us;
  }

  /** Upper bound of the bucket that holds the p-th percentile (0 to 100), in microseconds. */
  percentileUs(p: number): number {
    const wanted = Math.ceil((this.total * p) / 100);
    let seen = 0;
    for (let i = 0; i < Histogram.buckets; i += 1) {
      seen += this.counts[i] ?? 0;
      if (seen >= wanted && seen > 0) return Math.min(Histogram.growth ** i, this.maxUs);
    }
    return Number.NaN;
  }
}
