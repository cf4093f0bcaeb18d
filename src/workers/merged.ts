import type { Registry } from "prom-client";
import type { Snapshot } from "../platform/metrics";

/**
 * The metrics of all workers as those of one server. Counters outlive the worker that counted, as
 * far as it told: a sum that fell would be taken for a restart of everything.
 */
export class MergedMetrics {
  readonly #last = new Map<number, Snapshot>();
  #departed: Promise<Snapshot> = Promise.resolve([]);

  /** The last that is known of a worker, by its process id. */
  note(pid: number, snapshot: Snapshot): void {
    this.#last.set(pid, snapshot);
  }

  /** It is gone. */
  ended(pid: number): void {
    const last = this.#last.get(pid) ?? [];
    this.#last.delete(pid);
    const counted = last.filter(({ type }) => String(type) !== "gauge");
    if (counted.length === 0) return;
    this.#departed = this.#departed.then(async (before) =>
      (await merge([before, counted])).getMetricsAsJSON(),
    );
  }

  /**
   * The text that Prometheus scrapes: of those who have answered, of those who have not the counters
   * as they were last known, and of those who are gone.
   */
  async text(
    answered: ReadonlyMap<number, Snapshot>,
    workers: number,
    restarts: number,
  ): Promise<string> {
    const silent = workers - answered.size;
    const own = [
      metric("gauge", "argo_workers", "Worker processes.", workers),
      metric("gauge", "argo_workers_silent", "Those that did not answer this scrape.", silent),
      metric(
        "counter",
        "argo_worker_restarts_total",
        "Those that took a dead one's place.",
        restarts,
      ),
    ];
    const unheard = [...this.#last]
      .filter(([pid]) => !answered.has(pid))
      .map(([, snapshot]) => snapshot.filter(({ type }) => String(type) !== "gauge"));
    const registry = await merge([own, ...answered.values(), ...unheard, await this.#departed]);
    return registry.metrics();
  }
}

async function merge(snapshots: object[]): Promise<Registry> {
  const { AggregatorRegistry } = await import("prom-client");
  return AggregatorRegistry.aggregate(snapshots);
}

const metric = (type: string, name: string, help: string, value: number) => ({
  name,
  help,
  type,
  aggregator: "sum",
  values: [{ labels: {}, value }],
});
