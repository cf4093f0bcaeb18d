import type { Metric, Registry } from "prom-client";

type Labels = Record<string, string | number>;
type Value = { labels: Labels; value: number; metricName?: string };

/**
 * Counters and histograms whose series are held by whoever counts. The library's own hash their
 * labels at each observation, a third of a poll's time; these cost an addition, and the library
 * reads them when it is scraped.
 */
abstract class Held<S> {
  readonly #held = new Map<string, { labels: Labels; series: S }>();
  readonly aggregator = "sum";

  constructor(
    registry: Registry,
    readonly name: string,
    readonly help: string,
    readonly type: "counter" | "histogram",
  ) {
    registry.registerMetric(this as unknown as Metric);
  }

  /** The series of these labels, the same one at each call. */
  of(labels: Labels): S {
    const key = JSON.stringify(labels);
    const known = this.#held.get(key);
    if (known) return known.series;
    const made = { labels, series: this.make() };
    this.#held.set(key, made);
    return made.series;
  }

  /** What the registry asks for at a scrape. */
  get() {
    const { name, help, type, aggregator } = this;
    const values = [...this.#held.values()].flatMap((held) =>
      this.values(held.labels, held.series),
    );
    return Promise.resolve({ name, help, type, aggregator, values });
  }

  reset(): void {
    this.#held.clear();
  }

  protected abstract make(): S;
  protected abstract values(labels: Labels, series: S): Value[];
}

export class Tally {
  value = 0;
}

export class HeldCounter extends Held<Tally> {
  constructor(registry: Registry, name: string, help: string) {
    super(registry, name, help, "counter");
  }

  protected make(): Tally {
    return new Tally();
  }

  protected values(labels: Labels, { value }: Tally): Value[] {
    return [{ labels, value }];
  }
}

export class Distribution {
  readonly counts: Float64Array;
  sum = 0;

  constructor(private readonly bounds: readonly number[]) {
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const { bounds, counts } = this;
    let i = 0;
    while (i < bounds.length && value > (bounds[i] as number)) i += 1;
    counts[i] = (counts[i] as number) + 1;
    this.sum += value;
  }
}

export class HeldHistogram extends Held<Distribution> {
  constructor(
    registry: Registry,
    name: string,
    help: string,
    private readonly bounds: readonly number[],
  ) {
    super(registry, name, help, "histogram");
  }

  protected make(): Distribution {
    return new Distribution(this.bounds);
  }

  protected values(labels: Labels, { counts, sum }: Distribution): Value[] {
    let total = 0;
    const buckets = [...this.bounds, "+Inf"].map((le, i) => {
      total += counts[i] ?? 0;
      return { labels: { le, ...labels }, value: total, metricName: `${this.name}_bucket` };
    });
    return [
      ...buckets,
      { labels, value: sum, metricName: `${this.name}_sum` },
      { labels, value: total, metricName: `${this.name}_count` },
    ];
  }
}
