type Labels = Record<string, string | number>;
type Value = { labels: Labels; value: number; metricName?: string };

/** How the values of several processes become one. */
export type Aggregator = "sum" | "min" | "max";

/** A metric as the registry of prom-client asks for it at a scrape. */
export type Held = {
  readonly name: string;
  get(): Promise<{ name: string; help: string; type: string; aggregator: string; values: Value[] }>;
};

/**
 * Counters and histograms whose series are held by whoever counts. The library's own hash their
 * labels at each observation, a third of a poll's time; these cost an addition, and the library
 * reads them when it is scraped.
 */
abstract class HeldSeries<S> implements Held {
  readonly #held = new Map<string, { labels: Labels; series: S }>();

  constructor(
    private readonly type: "counter" | "histogram",
    readonly name: string,
    readonly help: string,
  ) {}

  /** The series of these labels, the same one at each call. */
  of(labels: Labels): S {
    const key = JSON.stringify(labels);
    const known = this.#held.get(key);
    if (known) return known.series;
    const made = { labels, series: this.make() };
    this.#held.set(key, made);
    return made.series;
  }

  get() {
    const { name, help, type } = this;
    const values = [...this.#held.values()].flatMap((h) => this.values(h.labels, h.series));
    return Promise.resolve({ name, help, type, aggregator: "sum", values });
  }

  protected abstract make(): S;
  protected abstract values(labels: Labels, series: S): Value[];
}

export class Count {
  value = 0;
}

export class HeldCounter extends HeldSeries<Count> {
  constructor(name: string, help: string) {
    super("counter", name, help);
  }

  protected make(): Count {
    return new Count();
  }

  protected values(labels: Labels, { value }: Count): Value[] {
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

export class HeldHistogram extends HeldSeries<Distribution> {
  constructor(
    name: string,
    help: string,
    private readonly bounds: readonly number[],
  ) {
    super("histogram", name, help);
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

/** A value that somebody else keeps. */
export class Watched implements Held {
  constructor(
    private readonly type: "counter" | "gauge",
    readonly name: string,
    readonly help: string,
    private readonly read: () => number,
    private readonly aggregator: Aggregator,
  ) {}

  get() {
    const { name, help, type, aggregator } = this;
    const values = [{ labels: {}, value: this.read() }];
    return Promise.resolve({ name, help, type, aggregator, values });
  }
}
