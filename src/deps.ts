import { Argo } from "./argo/argo";
import type { Config } from "./config";
import { Admission } from "./http/admit";
import { Guard } from "./http/guard";
import { SlidingWindow } from "./http/limit";
import { createLog, type Logger } from "./platform/log";
import { createMetrics, type Metrics } from "./platform/metrics";
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
  /** OFF only to measure what durability costs. */
  synchronous?: Synchronous;
};

const limiterKeysMax = 100_000;
const minuteMs = 60_000;

/** Opens everything that the configuration asks for. @throws SetupError that names the fix. */
export async function openDeps(config: Config, overrides: Overrides = {}): Promise<Deps> {
  const now = overrides.now ?? Date.now;
  const log = overrides.log ?? createLog(config.logLevel);
  const metrics = createMetrics();
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
    ...(overrides.synchronous && { synchronous: overrides.synchronous }),
  });
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
