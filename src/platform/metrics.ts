import type { Metric, Registry } from "prom-client";
import { AppError } from "../errors";
import { type Aggregator, HeldCounter, HeldHistogram, Watched, type Held } from "./series";

/** The metrics of one process, as its registry describes them. */
export type Snapshot = Awaited<ReturnType<Registry["getMetricsAsJSON"]>>;

/** Those who are scraped together with this process. */
type Others = {
  /** Has `read` answer for this process. */
  onSnapshot(read: () => Promise<Snapshot>): void;
  /** The text of all; undefined when it cannot be had. */
  metrics(): Promise<string | undefined>;
};

const seconds = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1, 5];

/**
 * Every metric of this process. Names without a prefix are those of the replaced systems. The
 * library is loaded at the first scrape: a server that just started answers polls first.
 */
export class Metrics {
  // First: the fields below add themselves to it.
  readonly #held: Held[] = [];
  readonly requests = this.#add(
    new HeldCounter("api_requests_total", "Requests by method, route and status."),
  );
  readonly requestDuration = this.#add(
    new HeldHistogram(
      "api_request_duration_seconds",
      "Time from a request's arrival to its answer.",
      seconds,
    ),
  );
  readonly queryDuration = this.#add(
    new HeldHistogram("db_query_duration_seconds", "Duration of database work, by kind.", seconds),
  );
  readonly ingested = this.#add(
    new HeldCounter(
      "argo_ingested_signals_total",
      "Signals acknowledged as durable, by outcome (written or duplicate).",
    ),
  );
  readonly streamsEnded = this.#add(
    new HeldCounter("argo_streams_ended_total", "Streams of signals that ended, by reason."),
  );
  readonly webhookAttempts = this.#add(
    new HeldCounter(
      "webhook_attempts_total",
      "Messages posted to webhooks, by what came of it: delivered, again (tried later) or failed (for good).",
    ),
  );
  readonly cacheHits = this.#add(
    new HeldCounter("redis_cache_hits_total", "Look-ups that the cache answered, by namespace."),
  );
  readonly cacheMisses = this.#add(
    new HeldCounter("redis_cache_misses_total", "Look-ups that were loaded, by namespace."),
  );
  #registry: Promise<Registry> | null = null;

  constructor(private readonly others: Others | null = null) {
    others?.onSnapshot(() => this.snapshot());
  }

  /** A value that somebody else keeps, read when it is scraped. */
  watch(
    type: "counter" | "gauge",
    name: string,
    help: string,
    read: () => number,
    aggregator: Aggregator = "sum",
  ): void {
    this.#add(new Watched(type, name, help, read, aggregator));
  }

  /** The text that Prometheus scrapes, with its content type. @throws AppError 503. */
  async expose(): Promise<{ type: string; text: string }> {
    const registry = await this.#known();
    const text = await (this.others ?? registry).metrics();
    // The numbers of one alone would be taken for a restart of everything.
    if (text === undefined) throw new AppError("unavailable", "The supervisor does not answer.");
    return { type: registry.contentType, text };
  }

  /** What is counted here, for whoever adds it up. */
  async snapshot(): Promise<Snapshot> {
    return (await this.#known()).getMetricsAsJSON();
  }

  #known(): Promise<Registry> {
    return (this.#registry ??= this.#makeRegistry());
  }

  #add<H extends Held>(held: H): H {
    this.#held.push(held);
    return held;
  }

  async #makeRegistry(): Promise<Registry> {
    const { collectDefaultMetrics, Registry } = await import("prom-client");
    const registry = new Registry();
    // The registry asks a metric for no more than its name and its values.
    for (const held of this.#held) registry.registerMetric(held as unknown as Metric);
    collectDefaultMetrics({ register: registry });
    return registry;
  }
}
