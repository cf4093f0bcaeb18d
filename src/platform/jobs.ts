import { setTimeout as pause } from "node:timers/promises";
import { sql } from "drizzle-orm";
import { fromDrizzle, type Job, PgBoss } from "pg-boss";
import { AppError } from "../errors";
import type { Logger } from "./log";
import type { Transaction } from "./postgres";

/** Something that is done in the background, by one process at a time for each job of it. */
export type Task = {
  name: string;
  /** When it is done by itself: five fields of cron, UTC. Missed while nobody ran, it is made up for. */
  cron?: string;
  /**
   * Does it, wholly or as far as it gets: it may be killed anywhere and is then done again from the
   * start. What it throws has it tried again later; `signal` says that it should end.
   */
  run: (data: unknown, signal: AbortSignal) => Promise<void>;
};

export type JobsOptions = {
  /** Runs statements beside any transaction. */
  execute: (text: string, values?: unknown[]) => Promise<{ rows: unknown[] }>;
  embedded: boolean;
  tasks: readonly Task[];
  log: Logger;
  /** How long to wait before the start, so that others come first. */
  delayMs?: number;
  /** How often other processes' jobs are looked for. */
  lookEverySeconds?: number;
};

const schema = "pgboss";
/** A process that was killed is noticed after this, and its job done by another. */
const heartbeatSeconds = 10;
const superviseSeconds = 5;
const expireSeconds = 6 * 3600;
const daySeconds = 86_400;
const retryMsMax = 60_000;
const endMs = 4_000;
const tellEveryMs = 60_000;

/**
 * Jobs on pg-boss, in the accounts' own database and through its own pool. Starts behind everything
 * else and by itself, however long the database is away; no fault of it ends the server.
 */
export class Jobs implements AsyncDisposable {
  readonly #options: JobsOptions;
  readonly #ending = new AbortController();
  readonly #workers = new Map<string, string>();
  readonly #started: Promise<void>;
  #boss: PgBoss | null = null;
  #toldAt = -Infinity;

  constructor(options: JobsOptions) {
    this.#options = options;
    this.#started = this.#start();
  }

  /** True once jobs are taken and given. */
  get up(): boolean {
    return this.#boss !== null;
  }

  /**
   * Hands a job over as part of a transaction: it is there when the transaction is, and not before.
   * @throws AppError 503 while jobs have not started.
   */
  async send(
    tx: Pick<Transaction, "execute">,
    name: string,
    data: object,
    afterSeconds = 0,
  ): Promise<void> {
    if (!this.#boss) throw new AppError("unavailable", "Background jobs are starting.");
    await this.#boss.send(name, data, { db: fromDrizzle(tx, sql), startAfter: afterSeconds });
  }

  /** Has this process look for jobs of this name at once, such as one that it has just sent. */
  wake(name: string): void {
    const worker = this.#workers.get(name);
    if (worker !== undefined) this.#boss?.notifyWorker(worker);
  }

  /** What is being done is told to end, and left to others where it does not. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort();
    await this.#started;
    const boss = this.#boss;
    this.#boss = null;
    if (boss) await Promise.race([this.#stop(boss), pause(endMs, undefined, { ref: false })]);
  }

  async #start(): Promise<void> {
    const { log, tasks, delayMs = 1_000 } = this.#options;
    const { signal } = this.#ending;
    for (let waitMs = delayMs; ; waitMs = Math.min(Math.max(waitMs, 500) * 2, retryMsMax)) {
      await pause(waitMs, undefined, { signal, ref: false }).catch(() => undefined);
      if (signal.aborted) return;
      try {
        this.#boss = await this.#open();
        log.debug({ tasks: tasks.map(({ name }) => name) }, "background jobs run");
        return;
      } catch (error) {
        log.warn({ reason: reasonOf(error) }, "background jobs cannot start yet: trying again");
      }
    }
  }

  async #open(): Promise<PgBoss> {
    const { execute, embedded, tasks, lookEverySeconds = 2 } = this.#options;
    const boss = new PgBoss({
      db: { executeSql: execute },
      backend: embedded ? "pglite" : "postgres",
      schema,
      superviseIntervalSeconds: superviseSeconds,
      monitorIntervalSeconds: superviseSeconds,
      cronMonitorIntervalSeconds: 30,
      cronWorkerIntervalSeconds: 30,
      // Nothing here depends on another job, and few are kept.
      flowIntervalSeconds: 3_600,
      bamIntervalSeconds: 600,
      reindex: false,
      monitorVacuum: false,
    });
    boss.on("error", (error) => this.#tell(error));
    boss.on("warning", ({ message }) => this.#options.log.debug({ message }, "background jobs"));
    try {
      // Of several at once all may find none: those who fail then have the one that was made.
      await execute(`CREATE SCHEMA IF NOT EXISTS ${schema}`).catch(() => undefined);
      await boss.start();
      for (const { name, cron } of tasks) {
        await boss.createQueue(name, {
          // Of what comes by the clock, one at a time is enough.
          policy: cron === undefined ? "standard" : "exclusive",
          heartbeatSeconds,
          expireInSeconds: expireSeconds,
          retryLimit: 1_000,
          retryDelay: 1,
          retryBackoff: true,
          retryDelayMax: 60,
          deleteAfterSeconds: daySeconds,
          retentionSeconds: 30 * daySeconds,
        });
        if (cron !== undefined) await boss.schedule(name, cron, null, { missed: "once" });
        // Asked once, queues are known: else the first job that is sent asks beside its transaction.
        await boss.getJobById(name, noJob);
      }
      for (const task of tasks) {
        const pollingIntervalSeconds = task.cron === undefined ? lookEverySeconds : 30;
        const work = async ([job]: Job[]) => this.#run(task, job);
        this.#workers.set(task.name, await boss.work(task.name, { pollingIntervalSeconds }, work));
      }
      // What a process left that was killed long ago is taken up at once.
      await boss.supervise();
      return boss;
    } catch (error) {
      await this.#stop(boss);
      throw error;
    }
  }

  async #run({ name, run }: Task, job: Job | undefined): Promise<void> {
    if (!job) return;
    const begunAt = performance.now();
    const { signal } = this.#ending;
    const took = () => ({ task: name, duration_ms: Math.round(performance.now() - begunAt) });
    try {
      await run(job.data, AbortSignal.any([job.signal, signal]));
      this.#options.log.debug(took(), "background job done");
    } catch (error) {
      const level = signal.aborted ? "debug" : "warn";
      const { retryCount } = job;
      this.#options.log[level](
        { ...took(), tries: retryCount + 1, reason: reasonOf(error) },
        "background job failed: it is tried again",
      );
      throw error;
    }
  }

  async #stop(boss: PgBoss): Promise<void> {
    try {
      await Promise.all([...this.#workers.keys()].map((name) => boss.offWork(name)));
      await boss.stop({ graceful: false, close: false });
    } catch (error) {
      this.#tell(error);
    }
  }

  /** The same fault comes with each look; that the database is away is told elsewhere. */
  #tell(error: unknown): void {
    const now = performance.now();
    const soon = now - this.#toldAt < tellEveryMs;
    const level = soon || error instanceof AppError ? "debug" : "warn";
    if (level === "warn") this.#toldAt = now;
    this.#options.log[level]({ reason: reasonOf(error) }, "background jobs falter");
  }
}

const noJob = "00000000-0000-0000-0000-000000000000";

const reasonOf = (error: unknown): string =>
  error instanceof AppError
    ? error.detail
    : error instanceof Error
      ? (error.message.split("\n")[0] ?? "")
      : String(error);
