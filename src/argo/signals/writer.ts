import { AppError } from "../../errors";
import type { Metrics } from "../../platform/metrics";
import type { Synchronous } from "../../platform/sqlite";
import { Thread } from "../../platform/thread";
import type { Done, GroupOutcome, Outcome, Post } from "./group";
import type { Expired } from "../origin/expire";
import type { NodeOptions, NodeState } from "../origin/node";
import type { Start } from "./writer.worker";

type Options = {
  path: string;
  synchronous: Synchronous;
  now: () => number;
  /** Nothing is written before this has settled, or this long has passed. */
  gate: () => Promise<void>;
  metrics: Metrics;
  /** After so many days signals are deleted; null for never. */
  retentionDays: number | null;
  /** Whether it deletes by itself what is past its time, and keeps the log short. */
  chores: boolean;
  /** Where posts are committed instead of in the file, which is a copy then. */
  origin: NodeOptions | null;
  onEvent: (event: string, data: unknown) => void;
};
type Waiting = {
  post: Post;
  sinceMs: number;
  settle: (outcome: Outcome) => void;
  fail: (error: unknown) => void;
};

/** Posts that may wait for the writer; the next one is told to come back. */
const waitingMax = 2_000;
const waitingBytesMax = 64 * 1024 * 1024;
/** How long a post waits for a file that cannot be written, before it is told so. */
const patienceMs = 1_500;
/** About 3,000 signals: their pages fit into the writer's cache. */
const groupBytesMax = 512 * 1024;
const checkpointMs = 200;
/** Of those who leave chores to another process: should that one be gone, the log stays bounded. */
const checkpointElseMs = 2_000;
const forgetEveryMs = 60_000;
const dayMs = 86_400_000;
const restMs = 20;

export type NodeEvent = { state: NodeState; reason: string | null };

/**
 * The one writer of this process, in a thread of its own. Posts that arrive while a commit runs
 * share the next one: many producers, one fsync.
 */
export class SignalWriter implements AsyncDisposable {
  readonly #thread: Thread;
  readonly #options: Options;
  readonly #waiting: Waiting[] = [];
  readonly #inFlight = new Set<string>();
  /** Group commits so far. */
  commits = 0;
  /** Called after each. */
  onCommit: (() => void) | null = null;
  /** Called when it stands otherwise to the libSQL server, with why where that is a fault. */
  onNode: ((event: NodeEvent) => void) | null = null;
  #waitingBytes = 0;
  #running: Promise<void> | null = null;
  #stopping = false;
  /** Rumours of the libSQL server: while one is on its way, the others are told as one after it. */
  #telling = false;
  #untold: boolean | null = null;
  #refused: string | null = null;
  #forgetTimer: Timer;
  #expiring: Promise<number> | null = null;

  constructor(options: Options) {
    const { path, synchronous, chores, origin, now } = options;
    this.#options = options;
    this.#thread = new Thread({
      module: "argo/signals/writer.worker",
      start: {
        path,
        synchronous,
        checkpointMs: chores ? checkpointMs : checkpointElseMs,
        origin,
        nowMs: now(),
      } satisfies Start,
      pendingMax: 64,
      onEvent: (event, data) => {
        if (event === "node") this.onNode?.(data as NodeEvent);
        else options.onEvent(event, data);
      },
    });
    this.#forgetTimer = setInterval(() => {
      // Of a copy whoever copies it: that one knows by itself.
      if (!chores && origin === null) return;
      // Failing costs nothing: they are forgotten a minute later.
      this.forget().catch((error: unknown) => {
        options.onEvent("note", {
          message: "idempotency keys or old signals kept",
          data: { error: String(error) },
        });
      });
    }, forgetEveryMs);
    this.#forgetTimer.unref();
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** Makes the file ready; false while it has no table of signals. @throws AppError 503. */
  adopt(create: boolean): Promise<boolean> {
    return this.#thread.call("adopt", { create, nowMs: this.#options.now() });
  }

  /** What is past its time, a little at a time, so that posts come in between. Done each minute. */
  async forget(): Promise<void> {
    let forgotten: number;
    do {
      forgotten = await this.#thread.call<number>("forget", { nowMs: this.#options.now() });
    } while (forgotten > 0 && !this.#stopping);
    if (this.#options.origin) {
      await this.#thread.call("forgetOrigin", { nowMs: this.#options.now() });
    }
    if (this.#options.retentionDays !== null && !this.#expiring) {
      this.#expiring = this.#expire(this.#options.retentionDays).finally(() => {
        this.#expiring = null;
      });
      await this.#expiring;
    }
  }

  /**
   * Deletes signals that arrived so many days ago: a few at a time and with rests, for posts and for
   * an engine that waits for the lock. @returns how many.
   */
  async #expire(days: number): Promise<number> {
    const before = new Date(this.#options.now() - days * dayMs).toISOString();
    const deleted = await this.#expireRows("expire", before);
    // The rows that this file is a copy of; whichever node comes first deletes them.
    if (this.#options.origin) await this.#expireRows("expireOrigin", before);
    if (deleted > 0) {
      this.#options.onEvent("note", { message: "old signals deleted", data: { deleted, before } });
    }
    return deleted;
  }

  async #expireRows(method: "expire" | "expireOrigin", before: string): Promise<number> {
    let [after, deleted] = [Number.MIN_SAFE_INTEGER, 0];
    for (;;) {
      const step = await this.#thread.call<Expired>(method, { before, after });
      deleted += step.deleted;
      // Whatever arrives later is younger: the first stretch without an old one is the last.
      if (step.deleted === 0 || step.lastId === null || this.#stopping) return deleted;
      after = step.lastId;
      await Bun.sleep(restMs);
    }
  }

  /** There may be something new at the libSQL server; `here` when it is waited for in this process. */
  tail(here: boolean): void {
    if (this.#stopping) return;
    if (this.#telling) {
      this.#untold = here || this.#untold === true;
      return;
    }
    this.#telling = true;
    const told = this.#thread.call("tail", { here }).catch(() => undefined);
    void told.then(() => {
      this.#telling = false;
      const untold = this.#untold;
      this.#untold = null;
      if (untold !== null) this.tail(untold);
    });
  }

  /** Stops all writing, and answers posts with this. */
  async refuse(reason: string): Promise<void> {
    this.#refused = reason;
    await this.#thread.call("refuse", { reason });
  }

  /**
   * Writes one post. Resolves once it is durable.
   * @throws AppError 4xx for this post's own faults, 503 when it cannot be written now.
   */
  async submit(post: Post): Promise<Done> {
    // Alerts that are the same wait for each other in the queue: who sends them takes no 409.
    const key = post.hook ? null : post.key;
    // Held here too: a thread that died and was started again would not know.
    if (this.#refused !== null) {
      throw new AppError("unavailable", this.#refused, { retryAfterSeconds: 300 });
    }
    if (this.#stopping) throw new AppError("unavailable", "The server is stopping.");
    const bytes = post.body.length;
    if (this.#waiting.length >= waitingMax || this.#waitingBytes + bytes > waitingBytesMax) {
      throw new AppError("unavailable", "Too many posts are waiting to be written. Try again.");
    }
    if (key !== null && this.#inFlight.has(key)) {
      throw new AppError("conflict", "A post with this Idempotency-Key is being written.", {
        retryAfterSeconds: 1,
      });
    }
    if (key !== null) this.#inFlight.add(key);
    this.#waitingBytes += bytes;
    try {
      const outcome = await new Promise<Outcome>((settle, fail) => {
        this.#waiting.push({ post, sinceMs: performance.now(), settle, fail });
        this.#running ??= this.#drain();
      });
      if ("error" in outcome) {
        const { code, detail, errors, retryAfterSeconds } = outcome.error;
        throw new AppError(code, detail, {
          ...(errors && { errors }),
          ...(retryAfterSeconds !== undefined && { retryAfterSeconds }),
        });
      }
      return outcome;
    } finally {
      this.#waitingBytes -= bytes;
      if (key !== null) this.#inFlight.delete(key);
    }
  }

  /** Commits what waits, then lets the file go. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#forgetTimer);
    await this.#running;
    await this.#expiring?.catch(() => undefined);
    await this.#thread.end();
  }

  /** One group after another until nothing waits. */
  async #drain(): Promise<void> {
    // The posts of one turn of the event loop share the first commit.
    await new Promise((resolve) => setImmediate(resolve));
    await this.#options.gate();
    while (this.#waiting.length > 0) {
      const failure = await this.#commit(this.#nextGroup());
      if (failure !== null) this.#giveUp(failure);
    }
    this.#running = null;
  }

  /** What failed for one group will fail for those that have waited as long as it tried. */
  #giveUp(error: unknown): void {
    const before = this.#stopping ? Infinity : performance.now() - patienceMs;
    for (const waiting of this.#waiting.splice(0)) {
      if (waiting.sinceMs <= before) waiting.fail(error);
      else this.#waiting.push(waiting);
    }
  }

  #nextGroup(): Waiting[] {
    let bytes = 0;
    let size = 0;
    for (const { post } of this.#waiting) {
      bytes += post.body.length;
      if (size > 0 && bytes > groupBytesMax) break;
      size += 1;
    }
    return this.#waiting.splice(0, size);
  }

  /** @returns why the group could not be written; null when it was. */
  async #commit(group: Waiting[]): Promise<unknown> {
    const { metrics, now } = this.#options;
    try {
      const posts = group.map((waiting) => waiting.post);
      const { outcomes, durationMs } = await this.#thread.call<GroupOutcome>("commit", {
        posts,
        nowMs: now(),
      });
      this.commits += 1;
      metrics.queryDuration.of({ kind: "signals_commit" }).observe(durationMs / 1000);
      for (const [i, waiting] of group.entries()) {
        const outcome = outcomes[i];
        if (outcome) waiting.settle(outcome);
        else waiting.fail(new AppError("internal", "Internal error"));
      }
      this.onCommit?.();
      return null;
    } catch (error) {
      for (const waiting of group) waiting.fail(error);
      return error;
    }
  }
}
