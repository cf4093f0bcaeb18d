import type { Alpine, AlpineOptions } from "./alpine/alpine";
import type { PasswordCost } from "./alpine/auth/passwords";
import type { Background } from "./alpine/background";
import type { mountAlpine } from "./alpine/routes";
import type { RemoteFeed } from "./alpine/signals/feed";
import type { RemoteSignals } from "./alpine/signals/remote";
import type { remoteRoutes } from "./alpine/signals/routes";
import type { SignalSource } from "./alpine/webhooks/source";
import { Argo, type ArgoOptions } from "./argo/argo";
import type { Config } from "./config";
import { Admission } from "./http/admit";
import { Guard } from "./http/guard";
import { SlidingWindow } from "./http/limit";
import type { Meeting, SharedLimit } from "./http/share";
import { createLog, type Logger } from "./platform/log";
import { Metrics } from "./platform/metrics";
import type { Redis } from "./platform/redis";
import type { Synchronous } from "./platform/sqlite";
import { watchAll } from "./watch";
import type { Peers } from "./workers/peers";

/** What the application stands on. Whoever opened it disposes it. */
export type Deps = AsyncDisposable & {
  config: Config;
  log: Logger;
  metrics: Metrics;
  /** The clock, milliseconds since the epoch. */
  now: () => number;
  /** Null for the role `alpine`, which has `remote` instead. */
  argo: Argo | null;
  remote: { signals: RemoteSignals; feed: RemoteFeed; routes: typeof remoteRoutes } | null;
  /** The sequence of signals, for webhooks; null for the role `argo`. */
  webhookSource: SignalSource | null;
  /** Null for the role `argo`, which loads nothing of it, its routes included. */
  alpine: Alpine | null;
  mountAlpine: typeof mountAlpine | null;
  redis: Redis | null;
  admission: Admission;
  /** `replaced` when another worker has taken the place of this one: traffic stays welcome. */
  state: { started: boolean; draining: boolean; replaced: boolean };
  /** Null where this is the only process of its server. */
  peers: Peers | null;
};

/** Of a process that has the signals itself, which `demo` and others know that they are. */
export function argoOf({ argo }: Pick<Deps, "argo">): Argo {
  if (argo) return argo;
  throw new Error("a process of the role alpine has no signals of its own");
}

export type Overrides = {
  now?: () => number;
  log?: Logger;
  /** Called before the signal file is written for the first time; what it throws ends the start. */
  beforeWriting?: () => void;
  /** OFF only to measure what durability costs. */
  synchronous?: Synchronous;
  /** Less only where no password is worth anything. */
  passwordCost?: PasswordCost;
  /** The other workers of the same server. */
  peers?: Peers;
  /** Without a mail server, log what mails would have led to. */
  showLinks?: boolean;
};

const limiterKeysMax = 100_000;

/** Opens everything that the configuration asks for. @throws SetupError that names the fix. */
export async function openDeps(config: Config, overrides: Overrides = {}): Promise<Deps> {
  const now = overrides.now ?? Date.now;
  const peers = overrides.peers ?? null;
  const log = overrides.log ?? createLog(config.logLevel, peers && { worker: peers.slot });
  const metrics = new Metrics(peers);
  const limiter = new SlidingWindow({
    limit: config.rateLimitPerMinute,
    keysMax: limiterKeysMax,
    now,
  });
  const beforeWriting = overrides.beforeWriting ?? (() => undefined);
  // Accounts write at once, the signal file only where something is missing.
  if (config.role !== "argo") beforeWriting();
  const redis = config.redisUrl === null ? null : await openRedis(config.redisUrl, log);
  const closeRedis = () => redis?.[Symbol.asyncDispose]();
  // Then what another process owns, before anything is written.
  const accounts = await openAccounts({
    config,
    log,
    metrics,
    now,
    redis,
    showLinks: overrides.showLinks ?? false,
    passwordCost: overrides.passwordCost,
  }).catch(async (error: unknown) => {
    await closeRedis();
    throw error;
  });
  const synchronous = overrides.synchronous ?? "FULL";
  const signals = await openSignals({
    config,
    log,
    metrics,
    now,
    beforeWriting,
    synchronous,
    chores: peers === null || peers.slot === 1,
  }).catch(async (error: unknown) => {
    await accounts[Symbol.asyncDispose]();
    await closeRedis();
    throw error;
  });
  const { argo, remote } = signals;
  const { alpine } = accounts;
  const shared = await shareLimit(limiter, redis, peers);
  if (redis && argo?.node) {
    const { wakeEachOther } = await import("./argo/origin/wake");
    wakeEachOther(argo.writer, redis);
  }
  watchAll(metrics, { argo, remote, alpine, redis, limiter, shared });
  const webhookSource = alpine && (await sourceOf(signals));
  const common = { config, log, metrics, now, argo, remote, webhookSource };
  const tasks = alpine && config.backgroundTasks ? { ...common, alpine } : null;
  const background = tasks && inBackground(tasks);
  return {
    config,
    log,
    metrics,
    now,
    argo,
    remote,
    webhookSource,
    alpine,
    mountAlpine: accounts.mountAlpine,
    redis,
    admission: new Admission(config, new Guard(config, alpine?.credentials), limiter),
    state: { started: false, draining: false, replaced: false },
    peers,
    [Symbol.asyncDispose]: async () => {
      await background?.[Symbol.asyncDispose]();
      await argo?.[Symbol.asyncDispose]();
      remote?.feed.drain();
      remote?.signals[Symbol.dispose]();
      await shared?.[Symbol.asyncDispose]();
      await accounts[Symbol.asyncDispose]();
      await closeRedis();
    },
  };
}

type Tasks = Pick<
  Deps,
  "config" | "log" | "metrics" | "now" | "argo" | "remote" | "webhookSource"
> & {
  alpine: Alpine;
};

/** For those who have accounts as well. */
async function sourceOf({
  argo,
  remote,
}: Pick<Deps, "argo" | "remote">): Promise<SignalSource | null> {
  if (!argo) return remote && remote.signals.source;
  const { localSource } = await import("./alpine/webhooks/source");
  return localSource(argo);
}

/** Libraries load while accounts start, and not before the listener has had a moment. */
const loadAfterMs = 100;

/** Starts behind accounts, which start behind the listener. */
function inBackground({ argo, remote, webhookSource: source, ...common }: Tasks): AsyncDisposable {
  const signals = argo
    ? {
        headId: () => argo.reader.look().maxId,
        after: (id: number, shownMax: number) => argo.far.premiumAfter(id, shownMax),
        lateMs: () => argo.node?.lateMs ?? 0,
      }
    : (remote?.signals.premium ?? null);
  let ended = false;
  const begin = async (): Promise<Background | null> => {
    await Bun.sleep(loadAfterMs);
    const { Background } = await import("./alpine/background");
    await common.alpine.started;
    if (ended) return null;
    return new Background({ ...common, signals, source });
  };
  const begun = begin().catch((error: unknown) => {
    // What ends the start is told by whoever waits for accounts.
    if (common.alpine.ready) common.log.error({ reason: String(error) }, "no background tasks");
    return null;
  });
  return {
    [Symbol.asyncDispose]: async () => {
      ended = true;
      // Accounts that wait for their database are ended by themselves.
      if (common.alpine.ready) await (await begun)?.[Symbol.asyncDispose]();
    },
  };
}

/** One limit for all processes that this Redis is configured for, or for the workers of a server. */
async function shareLimit(
  limiter: SlidingWindow,
  redis: Redis | null,
  peers: Peers | null,
): Promise<SharedLimit | null> {
  if (!redis && !peers) return null;
  const { inRedis, SharedLimit } = await import("./http/share");
  const meeting = redis ? inRedis(redis) : peers && inSupervisor(peers);
  return meeting && new SharedLimit(limiter, meeting);
}

const inSupervisor = (peers: Peers): Meeting => ({
  connected: true,
  exchange: (keys, numbers) => peers.exchange(keys, numbers),
});

/** The signal file, or for the role `alpine` an argo elsewhere that has it. */
async function openSignals(options: ArgoOptions): Promise<Pick<Deps, "argo" | "remote">> {
  const { argoUrl: url, cache, serviceTokens } = options.config;
  if (url === null) return { argo: await Argo.open(options), remote: null };
  const [{ RemoteSignals }, { RemoteFeed }, { remoteRoutes }] = await Promise.all([
    import("./alpine/signals/remote"),
    import("./alpine/signals/feed"),
    import("./alpine/signals/routes"),
  ]);
  const signals = new RemoteSignals({ url, token: serviceTokens[0] ?? "", cache });
  return { argo: null, remote: { signals, feed: new RemoteFeed(signals), routes: remoteRoutes } };
}

type Accounts = AsyncDisposable & Pick<Deps, "alpine" | "mountAlpine">;

/** The role `argo` loads and starts nothing of it. */
async function openAccounts(options: Omit<AlpineOptions, "cache">): Promise<Accounts> {
  const { config, metrics, now, redis } = options;
  if (config.role === "argo") {
    const nothing = { alpine: null, mountAlpine: null };
    return { ...nothing, [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  const [{ Alpine }, { mountAlpine }, { Cache }] = await Promise.all([
    import("./alpine/alpine"),
    import("./alpine/routes"),
    import("./platform/cache"),
  ]);
  const cache = new Cache({ enabled: config.cache, redis, metrics, now });
  try {
    const alpine = Alpine.open({ ...options, cache });
    return {
      alpine,
      mountAlpine,
      [Symbol.asyncDispose]: async () => {
        await alpine[Symbol.asyncDispose]();
        await cache[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await cache[Symbol.asyncDispose]();
    throw error;
  }
}

async function openRedis(url: string, log: Logger): Promise<Redis> {
  const { Redis } = await import("./platform/redis");
  return new Redis({ url, log });
}
