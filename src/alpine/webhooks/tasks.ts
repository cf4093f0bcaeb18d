import type { Logger } from "../../platform/log";
import type { Metrics } from "../../platform/metrics";
import { AppError } from "../../errors";
import type { Alpine } from "../alpine";
import { WebhookOutbox } from "./outbox";
import { WebhookSender } from "./sender";
import type { SignalSource } from "./source";
import { waitingCount } from "./store";
import { pauseAllExcess, pauseExcess } from "./stop";

type Options = {
  alpine: Alpine;
  source: SignalSource | null;
  embedded: boolean;
  now: () => number;
  log: Logger;
  metrics: Metrics;
  random?: () => number;
};

/** Receivers at once; the embedded database answers one at a time. */
const turnsMax = 100;
const turnsMaxEmbedded = 8;
/** Everybody is looked through this often, whatever was heard. */
const excessEveryMs = 60_000;
const countEveryMs = 10_000;

/** What webhooks need done that no request waits for. */
export class WebhookTasks implements AsyncDisposable {
  readonly sender: WebhookSender;
  readonly outbox: WebhookOutbox | null;
  /** Messages of all that wait to be sent, at most 10,000 counted. */
  waiting = 0;
  #countedAt = -Infinity;
  /** Users whose plan may allow fewer webhooks now; null for everybody. */
  #changed: Set<string> | null = null;
  #excessAt = -Infinity;
  #ended = false;

  constructor(private readonly options: Options) {
    const { alpine, source, embedded, now, log } = options;
    const { plans, changes } = alpine;
    this.sender = new WebhookSender({
      ...options,
      turnsMax: embedded ? turnsMaxEmbedded : turnsMax,
    });
    const db = () => alpine.db();
    const onFault = (error: unknown): void => {
      const known = error instanceof AppError;
      const reason = known ? error.detail : String(error);
      log[known ? "debug" : "warn"]({ reason }, "signals not handed to webhooks");
    };
    const onEnqueued = (): void => void this.sender.look().catch(onFault);
    this.outbox = source && new WebhookOutbox({ db, plans, source, now, onEnqueued, onFault });
    changes.listen((change) => {
      if (change.kind === "plan") this.#changed = null;
      else if (change.kind === "user") this.#changed?.add(change.id);
      else return;
      this.outbox?.doubt();
    });
  }

  /** To be called every second or so. @throws AppError 503. */
  async look(): Promise<void> {
    if (this.#ended) return;
    if (performance.now() - this.#countedAt > countEveryMs) {
      this.#countedAt = performance.now();
      this.waiting = await waitingCount(this.options.alpine.db());
    }
    await this.#pauseExcess();
    try {
      await this.outbox?.look();
    } finally {
      // What waits is sent also while signals are away.
      await this.sender.look();
    }
  }

  /** Nothing new is begun; what is under way has a moment to end. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    await this.outbox?.close();
    await this.sender[Symbol.asyncDispose]();
  }

  async #pauseExcess(): Promise<void> {
    const { alpine, now } = this.options;
    const due = performance.now() - this.#excessAt > excessEveryMs;
    const changed = due ? null : this.#changed;
    if (changed?.size === 0) return;
    this.#changed = new Set();
    try {
      if (changed === null) await pauseAllExcess(alpine.db(), now());
      else await pauseExcess(alpine.db(), [...changed], now());
      if (changed === null) this.#excessAt = performance.now();
    } catch (error) {
      this.#changed = null;
      throw error;
    }
  }
}
