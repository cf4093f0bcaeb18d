import { dirname, join } from "node:path";
import * as schema from "../../db/alpine/schema";
import type { Config } from "../config";
import { AppError, SetupError } from "../errors";
import { Cursors } from "../http/cursor";
import { Meters } from "../http/meter";
import { makeDirectory } from "../platform/directory";
import { ownDirectory } from "../platform/lock";
import type { Logger } from "../platform/log";
import type { Metrics } from "../platform/metrics";
import type { EmbeddedPostgres } from "../platform/embedded";
import type { Postgres, PostgresOptions } from "../platform/postgres";
import type { Cache, Namespace } from "../platform/cache";
import { Outbox } from "../platform/mail";
import { Outbound } from "../platform/outbound";
import type { Redis } from "../platform/redis";
import { absentSeconds } from "./users/lookup";
import { User } from "./users/schema";
import { authWindows, type AuthWindows } from "./auth/limits";
import { AccessTokens, RefreshTokens } from "./auth/tokens";
import { type PasswordCost, Passwords } from "./auth/passwords";
import { Changes } from "./changes";
import { Credentials } from "./credentials";
import { Plans } from "./plans/registry";
import { type Database, migrate } from "./database";
import { Seal } from "./seal";
import { deriveKey, jwtSecrets } from "./secrets";
import { settleEvents } from "./stripe/apply";
import { settleDue } from "./subscriptions/renew";
import { Usage } from "./usage/usage";

export type AlpineOptions = {
  config: Config;
  log: Logger;
  metrics: Metrics;
  now: () => number;
  redis: Redis | null;
  cache: Cache;
  /** Without a mail server, log what it would have been sent: for a demo. */
  showLinks: boolean;
  passwordCost?: PasswordCost | undefined;
};

const retryMs = 1_000;
/** For what somebody has to mend first. */
const retryFaultMs = 10_000;
const staleMs = 5_000;
/** There is no other server, and this one's own changes are known; a long query holds the look up. */
const embeddedStaleMs = 60_000;
const tendEveryMs = 30_000;
const judgeEveryMs = 500;
const starting = "Accounts are starting. Try again.";

/** The control plane: everything that stands on Postgres. Opens behind a server that listens. */
export class Alpine implements AsyncDisposable {
  readonly changes: Changes;
  readonly plans: Plans;
  readonly credentials: Credentials;
  readonly passwords: Passwords;
  readonly refreshTokens: RefreshTokens;
  /** For the secrets of second factors. */
  readonly seal: Seal;
  /** For the secrets of webhooks. */
  readonly webhookSeal: Seal;
  readonly outbox: Outbox;
  /** Posts to where users have signals sent. */
  readonly outbound: Outbound;
  readonly cursors: Cursors;
  /** Users by their id, as answers show them. */
  readonly users: Namespace<User | null>;
  /** What everybody does, counted in process; `usage` writes it down. */
  readonly meters: Meters;
  readonly usage: Usage;
  readonly windows: AuthWindows;
  /** Resolves once everything has started; rejects with a SetupError that no waiting mends. */
  readonly started: Promise<void>;
  readonly #owner: Disposable | null;
  /** Without a look at the database for so long, somebody may have been shut out elsewhere. */
  readonly #staleMs: number;
  #embedded: EmbeddedPostgres | null = null;
  #postgres: Postgres<typeof schema> | null = null;
  #tokens: AccessTokens | null = null;
  #ready = false;
  #ended = false;
  readonly #timers: Timer[] = [];
  #settling: Promise<void> | null = null;

  private constructor(readonly options: AlpineOptions) {
    const { config, log, now, redis, showLinks } = options;
    this.#owner = config.databaseUrl === null ? ownEmbedded(config) : null;
    const secrets = jwtSecrets(config);
    this.refreshTokens = new RefreshTokens(secrets[0] ?? "");
    this.seal = new Seal(secrets, "second factor");
    this.webhookSeal = new Seal(secrets, "webhook");
    this.outbound = new Outbound({ allowPrivate: config.webhooksAllowPrivate });
    const { smtpUrl, mailFrom: from } = config;
    this.outbox = new Outbox({ smtpUrl, from, showLinks, log });
    const cursorKey = deriveKey(secrets[0] ?? "", "cursor");
    this.cursors = new Cursors(() => cursorKey);
    const db = () => this.#database();
    this.changes = new Changes({ db, bus: redis, now, log });
    const tokens = () => this.#tokens;
    const { changes } = this;
    // Before the keys: they are held with what their plans give.
    const { rateLimitPerMinute: requestsPerMinute } = config;
    const plans = (this.plans = new Plans({ db, changes, requestsPerMinute }));
    const meters = (this.meters = new Meters({ now }));
    this.#staleMs = config.databaseUrl === null ? embeddedStaleMs : staleMs;
    this.credentials = new Credentials({
      db,
      tokens,
      changes,
      plans,
      meters,
      staleMs: this.#staleMs,
      now,
      log,
    });
    this.usage = new Usage({ db, credentials: this.credentials, meters, log });
    this.windows = authWindows({ redis, now });
    this.users = options.cache.namespace<User | null>({
      name: "user",
      ttlSeconds: config.cacheTtlSeconds,
      negativeTtlSeconds: absentSeconds,
      schema: User.nullable(),
    });
    this.changes.onReload(() => options.cache.clear());
    this.changes.listen(async (change) => {
      if (change.kind === "user") await this.users.invalidate(change.id);
    });
    this.passwords = new Passwords((event, data) => {
      if (!this.#ended) log.error({ data }, `password thread ${event}`);
    }, options.passwordCost);
    this.started = this.#start(secrets);
    // Awaited by whoever runs the server; a test may not care.
    this.started.catch(() => undefined);
  }

  /**
   * Claims what it needs and begins to start.
   * @throws SetupError at once when another process owns the embedded database.
   */
  static open(options: AlpineOptions): Alpine {
    return new Alpine(options);
  }

  /** The database. @throws AppError 503 until everything has started. */
  db(): Database {
    if (!this.#ready) throw new AppError("unavailable", starting, { retryAfterSeconds: 1 });
    return this.#database();
  }

  /**
   * Runs statements as they are, for a library that has its own; what fails is as the driver says
   * it. @throws AppError 503 until everything has started, and while the database is away.
   */
  execute(text: string, values?: unknown[]): Promise<{ rows: unknown[] }> {
    if (this.#postgres && this.#ready) return this.#postgres.pool.query(text, values);
    throw new AppError("unavailable", starting, { retryAfterSeconds: 1 });
  }

  /** @throws AppError 503 until everything has started. */
  get tokens(): AccessTokens {
    if (this.#tokens && this.#ready) return this.#tokens;
    throw new AppError("unavailable", starting, { retryAfterSeconds: 1 });
  }

  get ready(): boolean {
    return this.#ready;
  }

  /** Whether accounts can be used now. */
  get up(): boolean {
    return this.#ready && this.#postgres?.up === true && this.changes.ageMs < this.#staleMs;
  }

  /**
   * True while what others have changed is known here.
   * @throws AppError 503 else: a session may have been ended.
   */
  mustBeFresh(): void {
    if (!this.#ready) throw new AppError("unavailable", starting, { retryAfterSeconds: 1 });
    if (this.changes.ageMs <= this.#staleMs) return;
    throw new AppError("unavailable", "Accounts are not available at the moment. Try again.", {
      retryAfterSeconds: 2,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    for (const timer of this.#timers) clearInterval(timer);
    this.usage.stop();
    this.changes.stop();
    // What is being started is there before it is ended.
    await this.started.catch(() => undefined);
    await this.outbox[Symbol.asyncDispose]();
    await this.#settling?.catch(() => undefined);
    if (this.#ready) await this.tend().catch(() => undefined);
    await this.passwords[Symbol.asyncDispose]();
    await this.#postgres?.[Symbol.asyncDispose]();
    await this.#embedded?.[Symbol.asyncDispose]();
    this.#owner?.[Symbol.dispose]();
  }

  #database(): Database {
    if (this.#postgres) return this.#postgres.db;
    throw new AppError("unavailable", starting, { retryAfterSeconds: 1 });
  }

  async #start(secrets: readonly string[]): Promise<void> {
    const { now, log } = this.options;
    const begunAt = performance.now();
    this.#tokens = await AccessTokens.open(secrets, now);
    const { databaseUrl } = this.options.config;
    // An address that will not do is told at once; all else may mend while signals are served.
    if (databaseUrl !== null) this.#postgres = await this.#openPostgres({ url: databaseUrl });
    await this.#patiently(async () => {
      if (databaseUrl === null) await this.#openEmbedded();
      const applied = await migrate(this.#database());
      if (applied.length > 0) log.info({ migrations: applied }, "accounts migrated");
      await this.changes.start();
    });
    if (this.#ended) return;
    await this.passwords.warm();
    this.#every(judgeEveryMs, () => {
      const { rightsMaxAgeSeconds } = this.options.config;
      this.credentials.outdated = this.changes.ageMs > rightsMaxAgeSeconds * 1000;
    });
    this.#every(tendEveryMs, () => {
      this.tend().catch((error: unknown) => {
        log.debug({ reason: String(error) }, "accounts not tended");
      });
      this.settle().catch((error: unknown) => {
        log.debug({ reason: String(error) }, "subscriptions not settled");
      });
    });
    this.usage.start();
    this.#ready = true;
    const took = Math.round(performance.now() - begunAt);
    log.info({ duration_ms: took, keys: this.credentials.keyCount }, "accounts ready");
  }

  #every(ms: number, work: () => void): void {
    const timer = setInterval(work, ms);
    timer.unref();
    this.#timers.push(timer);
  }

  /** Libraries are loaded here: a server that just started answers polls first. */
  async #openPostgres(at: PostgresOptions["at"]): Promise<Postgres<typeof schema>> {
    const { config, log, metrics } = this.options;
    const { Postgres } = await import("../platform/postgres");
    const options = {
      at,
      poolSize: config.dbPoolSize,
      maxOverflow: config.dbMaxOverflow,
      recycleSeconds: config.dbPoolRecycleSeconds,
      log,
      metrics,
    };
    return Postgres.open(options, schema);
  }

  async #openEmbedded(): Promise<void> {
    const { config, log } = this.options;
    const { EmbeddedPostgres } = await import("../platform/embedded");
    this.#embedded ??= await EmbeddedPostgres.start({ dir: embeddedDir(config), log });
    this.#postgres ??= await this.#openPostgres({ socketDir: this.#embedded.socketDir });
  }

  /**
   * A database that cannot be used yet is waited for, for as long as it takes: whatever is wrong
   * with accounts, signals are served.
   */
  async #patiently(work: () => Promise<void>): Promise<void> {
    const { log } = this.options;
    while (!this.#ended) {
      try {
        return await work();
      } catch (error) {
        const fault = error instanceof SetupError ? error : null;
        const reason = error instanceof AppError ? error.detail : (fault?.message ?? String(error));
        if (fault) log.error({ reason, fix: fault.fix }, "accounts cannot start: trying again");
        else log.warn({ reason }, "accounts cannot start yet: trying again");
        await this.#pause(fault ? retryFaultMs : retryMs);
      }
    }
  }

  /** Ends with this object. */
  async #pause(ms: number): Promise<void> {
    const until = performance.now() + ms;
    while (!this.#ended && performance.now() < until) await Bun.sleep(Math.min(ms, 200));
  }

  /** What is done now and then: nothing waits for it. */
  async tend(): Promise<void> {
    await this.usage.flush();
    await this.changes.forget();
    this.credentials.forget();
  }

  /** What time and waiting events do to subscriptions: one round, which all who ask share. */
  settle(): Promise<void> {
    const { config, log, now } = this.options;
    const stopped = () => this.#ended;
    const ground = { db: () => this.db(), changes: this.changes, now, log, config, stopped };
    this.#settling ??= settleDue(ground)
      .then(() => settleEvents(ground))
      .finally(() => {
        this.#settling = null;
      });
    return this.#settling;
  }
}

/** Where the embedded Postgres lives. */
export const embeddedDir = ({ dataDir }: Pick<Config, "dataDir">): string =>
  join(dataDir, "postgres", "cluster");

/** At once, while the database itself is opened behind the listener by a process of its own. */
function ownEmbedded(config: Config): Disposable {
  const dir = dirname(embeddedDir(config));
  makeDirectory(dir);
  return ownDirectory(dir);
}
