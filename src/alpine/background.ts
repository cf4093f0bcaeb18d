import type { Config } from "../config";
import { AppError } from "../errors";
import { Jobs, type Task } from "../platform/jobs";
import type { Logger } from "../platform/log";
import type { Metrics } from "../platform/metrics";
import type { Alpine } from "./alpine";
import { fanOut, SignalNews } from "./notifications/fan-out";
import { tellExpiring } from "./notifications/key-expiring";
import { sendDue } from "./notifications/mailer";
import { type PremiumSource, SignalWatch } from "./notifications/watch";
import { forgetAll, forgetDeliveries } from "./retention";
import type { SignalSource } from "./webhooks/source";
import { WebhookTasks } from "./webhooks/tasks";

type Options = {
  config: Config;
  log: Logger;
  now: () => number;
  alpine: Alpine;
  /** Where new premium signals are seen; null where this process has no signal file. */
  signals: PremiumSource | null;
  /** Where webhooks have them from. */
  source: SignalSource | null;
  metrics: Metrics;
  /** How often signals and mails are looked for. */
  lookEveryMs?: number;
};

const fanOutName = "premium_signal";

/** What accounts need done that no request waits for. */
export class Background implements AsyncDisposable {
  readonly jobs: Jobs;
  readonly #webhooks: WebhookTasks;
  readonly #timers: Timer[] = [];
  readonly #running = new Set<Promise<void>>();
  readonly #ending = new AbortController();

  /** Accounts have started. Ends before they do. */
  constructor(private readonly options: Options) {
    const { alpine, log, config } = options;
    this.jobs = new Jobs({
      execute: (text, values) => alpine.execute(text, values),
      embedded: config.databaseUrl === null,
      tasks: this.#tasks(),
      log,
    });
    const embedded = config.databaseUrl === null;
    this.#webhooks = new WebhookTasks({ ...options, embedded });
    const help = "Messages that wait to be sent to webhooks, of all processes, at most 10,000.";
    options.metrics.watch("gauge", "webhook_messages_waiting", help, () => this.#webhooks.waiting);
    this.#look();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort();
    for (const timer of this.#timers) clearInterval(timer);
    await this.#webhooks[Symbol.asyncDispose]();
    await Promise.all(this.#running);
    await this.jobs[Symbol.asyncDispose]();
  }

  #tasks(): Task[] {
    const { alpine, now } = this.options;
    const { plans } = alpine;
    const db = () => alpine.db();
    return [
      {
        name: fanOutName,
        run: async (data, signal) => {
          const news = SignalNews.parse(data);
          const nextMs = await fanOut({ db, plans, now, signal }, news);
          if (nextMs === null) return;
          const afterSeconds = Math.ceil((nextMs - now()) / 1000);
          await this.jobs.send(db(), fanOutName, news, Math.max(1, afterSeconds));
        },
      },
      {
        name: "key_expiring",
        cron: "7 6 * * *",
        run: (_, signal) => tellExpiring(db, now(), signal),
      },
      { name: "retention", cron: "11 * * * *", run: (_, signal) => forgetAll(db, now(), signal) },
      {
        name: "history",
        cron: "41 3 * * *",
        run: (_, signal) => forgetDeliveries(db, plans, now(), signal),
      },
    ];
  }

  #look(): void {
    const { alpine, config, now, signals } = this.options;
    const db = () => alpine.db();
    if (signals) {
      const send: ConstructorParameters<typeof SignalWatch>[0]["send"] = (tx, news) =>
        this.jobs.send(tx, fanOutName, news);
      const watch = new SignalWatch({ db, source: signals, send, now });
      this.#every("premium signals not seen", async () => {
        if (this.jobs.up && (await watch.look())) this.jobs.wake(fanOutName);
      });
    }
    this.#every("webhooks not looked after", () => this.#webhooks.look());
    const { outbox } = alpine;
    if (!outbox.sends) return;
    this.#every("mails not sent", async () => {
      while (!this.#ending.signal.aborted) {
        const { more } = await sendDue({ config, db, outbox, now });
        if (!more) return;
      }
    });
  }

  /** One time after the other; what fails is tried again the next time. */
  #every(failure: string, work: () => Promise<void>): void {
    const { log, lookEveryMs = 1_000 } = this.options;
    let running = false;
    const timer = setInterval(() => {
      if (running) return;
      running = true;
      const run = work()
        .catch((error: unknown) => {
          // That the database or the file is away is told elsewhere.
          const level = error instanceof AppError ? "debug" : "warn";
          log[level]({ reason: error instanceof AppError ? error.detail : String(error) }, failure);
        })
        .finally(() => {
          running = false;
          this.#running.delete(run);
        });
      this.#running.add(run);
    }, lookEveryMs);
    timer.unref();
    this.#timers.push(timer);
  }
}
