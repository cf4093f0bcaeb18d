import { Argo } from "./argo/argo";
import type { Config } from "./config";
import { Admission } from "./http/admit";
import { Guard } from "./http/guard";
import { SlidingWindow } from "./http/limit";
import { createLog, droppedLines, type Logger } from "./platform/log";
import { Metrics } from "./platform/metrics";
import type { Synchronous } from "./platform/sqlite";

/** What the application stands on. Whoever opened it disposes it. */
export type Deps = AsyncDisposable & {
  config: Config;
  log: Logger;
  metrics: Metrics;
  /** The clock, milliseconds since the epoch. */
  now: () => number;
  argo: Argo;
  admission: Admission;
  state: { started: boolean; draining: boolean };
};

export type Overrides = {
  now?: () => number;
  log?: Logger;
  /** Called before the signal file is written for the first time; what it throws ends the start. */
  beforeWriting?: () => void;
  /** OFF only to measure what durability costs. */
  synchronous?: Synchronous;
};

const limiterKeysMax = 100_000;
const minuteMs = 60_000;

/** Opens everything that the configuration asks for. @throws SetupError that names the fix. */
export async function openDeps(config: Config, overrides: Overrides = {}): Promise<Deps> {
  const now = overrides.now ?? Date.now;
  const log = overrides.log ?? createLog(config.logLevel);
  const metrics = new Metrics();
  const limiter = new SlidingWindow({
    limit: config.rateLimitPerMinute,
    windowMs: minuteMs,
    keysMax: limiterKeysMax,
    now,
  });
  const argo = await Argo.open({
    config,
    log,
    metrics,
    limitOptions: limiter.options,
    now,
    beforeWriting: overrides.beforeWriting ?? (() => undefined),
    synchronous: overrides.synchronous ?? "FULL",
  });
  watchAll(metrics, argo, limiter);
  return {
    config,
    log,
    metrics,
    now,
    argo,
    admission: new Admission(config, new Guard(config), limiter),
    state: { started: false, draining: false },
    [Symbol.asyncDispose]: () => argo[Symbol.asyncDispose](),
  };
}

function watchAll(metrics: Metrics, argo: Argo, limiter: SlidingWindow): void {
  const { answers, reader, writer } = argo;
  metrics.watch(
    "counter",
    "rate_limit_requests_total",
    "Requests that the rate limit was asked about.",
    () => limiter.asked,
  );
  metrics.watch(
    "counter",
    "rate_limit_exceeded_total",
    "Requests that the rate limit refused.",
    () => limiter.refused,
  );
  metrics.watch(
    "counter",
    "argo_answers_reused_total",
    "Polls answered from bytes that were still valid.",
    () => answers.reused,
  );
  metrics.watch(
    "counter",
    "argo_answers_made_total",
    "Polls whose answer was read from the signal file.",
    () => answers.made,
  );
  metrics.watch(
    "counter",
    "argo_log_dropped_total",
    "Lines that the reader of the log took too long to read.",
    () => droppedLines,
  );
  metrics.watch("gauge", "argo_answers_bytes", "Bytes of answers held.", () => answers.bytes);
  metrics.watch("gauge", "argo_head_id", "Highest id in the signal file.", () => reader.head.maxId);
  metrics.watch(
    "counter",
    "argo_commits_total",
    "Group commits of the writer.",
    () => writer.commits,
  );
  metrics.watch(
    "gauge",
    "argo_ingest_waiting_requests",
    "Posts waiting for the writer.",
    () => writer.waiting,
  );
  metrics.watch(
    "gauge",
    "argo_future_dated_signals",
    "Newest signals dated more than 300 s ahead, at most 100 counted: they pin the top.",
    () => argo.futureDated,
  );
}
