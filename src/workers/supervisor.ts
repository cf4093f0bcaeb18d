import { setTimeout as pause } from "node:timers/promises";
import { SetupError } from "../errors";
import { OwnTickets } from "../http/ticket";
import type { Logger } from "../platform/log";
import type { Snapshot } from "../platform/metrics";
import type { Handlers } from "./channel";
import { SharedCounts } from "./counts";
import { MergedMetrics } from "./merged";
import { Worker } from "./worker";

export type SupervisorOptions = {
  workers: number;
  /**
   * The words that start the worker of a slot, 1 to `workers`, on a port. One that joins others that
   * serve listens once it can answer everything; else it listens as soon as it has signals.
   */
  command: (worker: { slot: number; port: number; joins: boolean }) => string[];
  /** 0: the first worker finds one. */
  port: number;
  /** How long a worker that was told to end may take, milliseconds. */
  endMs: number;
  /** One that listens and gives no sign of life for so long is killed: it keeps its connections. */
  hangMs?: number;
  log: Logger;
};

/** A worker could not start, and has said why. */
export class WorkerFailed extends Error {
  constructor(readonly exitCode: number) {
    super("A worker could not start.");
  }
}

const restartMsMin = 100;
const restartMsMax = 10_000;
/** Whoever ran for so long has no lasting fault. */
const soundMs = 10_000;
/** How often a worker is started that is killed at the start. */
const startsMax = 5;
/** Less than it waits for its accounts before it listens without them. */
const readyMs = 20_000;
const answerMs = 1_000;
const hangMsDefault = 20_000;
/** One that starts has as many times as long: it may wait for the signal file, then for its accounts. */
const startHangs = 3;
const countedKeysMax = 200_000;

/**
 * Keeps workers running that serve one port together, and serves nothing itself: starts those again
 * that die, replaces them one by one, and is what they share where there is no Redis.
 */
export class Supervisor {
  port: number;
  readonly #slots = new Map<number, Worker>();
  /** All that run, also those that begin or leave. */
  readonly #running = new Set<Worker>();
  /**
   * Those that listen, as the kernel lists them; see `steer`. Of two that die in the same moment the
   * order is not known: then the wrong one may be left out when one is replaced.
   */
  readonly #group: Worker[] = [];
  /** The last one that was given leave to listen does. */
  #turn: Promise<unknown> = Promise.resolve();
  readonly #waitsMs = new Map<number, number>();
  readonly #counts = new SharedCounts(countedKeysMax, () => performance.now());
  readonly #tickets = new OwnTickets(() => performance.now());
  readonly #metrics = new MergedMetrics();
  readonly #stopping = new AbortController();
  readonly #aborted = new Promise<null>((resolve) => {
    this.#stopping.signal.addEventListener("abort", () => resolve(null));
  });
  /** Workers that were started in the place of one that died. */
  #restarts = 0;
  #reloading: Promise<void> = Promise.resolve();

  private constructor(private readonly options: SupervisorOptions) {
    this.port = options.port;
    const { hangMs = hangMsDefault } = options;
    const looks = setInterval(() => {
      for (const worker of this.#group) void this.#mustLive(worker, hangMs);
    }, hangMs / 4);
    this.#stopping.signal.addEventListener("abort", () => clearInterval(looks));
  }

  /**
   * Resolves when all listen, or it is to stop. The first one is alone at first: what it makes of the signal file the
   * others find done, and what is wrong is told once.
   * @throws WorkerFailed; SetupError when they are killed as they start.
   */
  static async start(options: SupervisorOptions, stop: Promise<void>): Promise<Supervisor> {
    const supervisor = new Supervisor(options);
    void stop.then(() => supervisor.#stopping.abort());
    const others = Array.from({ length: options.workers - 1 }, (_, i) => i + 2);
    try {
      await supervisor.#begin(1);
      await Promise.all(others.map((slot) => supervisor.#begin(slot)));
    } catch (error) {
      await supervisor.stop();
      throw error;
    }
    return supervisor;
  }

  /** False where it was to stop before. */
  get listens(): boolean {
    return this.#group.length > 0;
  }

  /** Ends all, and waits until they are gone. @returns whether all did so by themselves. */
  async stop(): Promise<boolean> {
    this.#stopping.abort();
    const ends = [...this.#running].map((worker) => this.#end(worker, false));
    return (await Promise.all(ends)).every(Boolean);
  }

  /**
   * Replaces the workers one by one, each by one that is ready; asked for meanwhile, it is done once
   * more. Where a replacement cannot start, the workers that are there go on.
   */
  reload(): Promise<void> {
    this.#reloading = this.#reloading.then(() => this.#reload());
    return this.#reloading;
  }

  async #begin(slot: number): Promise<void> {
    for (let starts = 1; !this.#stopping.signal.aborted; starts += 1) {
      const worker = this.#launch(slot, false);
      const listens = await Promise.race([worker.listening, this.#aborted]);
      // It is told to end with the others, and killed where it is stuck.
      if (listens === null) return;
      if (listens) return this.#settle(worker);
      const { exitCode, signalCode } = worker.process;
      // Who ends by itself has said why. Who was killed may fare better the next time.
      if (exitCode !== null) throw new WorkerFailed(exitCode);
      if (starts === startsMax) throw killed(starts, signalCode);
      await this.#pause(restartMsMin * 2 ** starts);
    }
  }

  #settle(worker: Worker): void {
    this.#slots.set(worker.slot, worker);
    void worker.process.exited.then(() => this.#replace(worker));
  }

  /** Starts a worker again that died, however often that takes. */
  async #replace(dead: Worker): Promise<void> {
    const { slot, pid, process } = dead;
    const isOurs = () => this.#slots.get(slot) === dead && !this.#stopping.signal.aborted;
    if (!isOurs()) return;
    const { exitCode, signalCode } = process;
    const { log } = this.options;
    log.error({ worker: slot, pid, exit_code: exitCode, signal: signalCode }, "worker ended");
    if (performance.now() - dead.startedAt > soundMs) this.#waitsMs.delete(slot);
    for (;;) {
      const waitMs = this.#waitsMs.get(slot) ?? restartMsMin;
      this.#waitsMs.set(slot, Math.min(2 * waitMs, restartMsMax));
      await this.#pause(waitMs);
      if (!isOurs()) return;
      const worker = this.#launch(slot, this.#group.length > 0);
      const { hangMs = hangMsDefault } = this.options;
      if (!(await Promise.race([worker.listening, this.#pause(startHangs * hangMs)]))) {
        // At the end it is told to end like all others.
        if (this.#stopping.signal.aborted) return;
        worker.process.kill("SIGKILL");
        continue;
      }
      if (!isOurs()) return void this.#end(worker, false);
      this.#restarts += 1;
      log.info({ worker: slot, pid: worker.pid }, "worker started again");
      return this.#settle(worker);
    }
  }

  async #mustLive(worker: Worker, hangMs: number): Promise<void> {
    const isAlive = (ms: number) => worker.channel.ask<boolean>("ping", null, ms);
    // Once more: all of them may have been paused together, this process too.
    if ((await isAlive(hangMs)) || (await isAlive(hangMs / 4))) return;
    if (!this.#group.includes(worker)) return;
    const { slot, pid } = worker;
    this.options.log.error({ worker: slot, pid }, "worker hangs and is killed");
    worker.process.kill("SIGKILL");
  }

  async #reload(): Promise<void> {
    const { log } = this.options;
    const { signal } = this.#stopping;
    if (!signal.aborted) log.info("replacing the workers one by one");
    for (let slot = 1; slot <= this.options.workers && !signal.aborted; slot += 1) {
      const fresh = this.#launch(slot, true);
      const ready = await Promise.race([fresh.ready, this.#pause(readyMs)]);
      if (signal.aborted) return;
      if (!ready) {
        void this.#end(fresh, false);
        log.error({ worker: slot }, "its replacement did not start: the workers go on as they are");
        return;
      }
      const old = this.#slots.get(slot);
      this.#settle(fresh);
      if (old && this.#running.has(old)) await this.#retire(old, fresh);
      log.info({ worker: slot, pid: fresh.pid }, "worker replaced");
    }
  }

  /** Ends a worker whose place another one has taken, so that no connection is lost. */
  async #retire(old: Worker, fresh: Worker): Promise<void> {
    const { port } = this;
    const place = this.#group.indexOf(old);
    if (place >= 0) {
      const away = { place, of: this.#group.length };
      const steered = await fresh.channel.ask<boolean>("steer", { port, away }, answerMs);
      if (!steered) {
        this.options.log.warn("new connections may be reset while a worker is replaced");
      }
    }
    const ended = this.#end(old, true);
    await old.closed;
    // Whichever of them lives: else one would be left out for as long as the port is shared.
    for (const { channel } of [fresh, ...this.#group]) {
      if (await channel.ask<boolean>("steer", { port, away: null }, answerMs)) break;
    }
    await ended;
  }

  async #end(worker: Worker, replaced: boolean): Promise<boolean> {
    const well = await worker.end({ replaced, withinMs: this.options.endMs });
    const { slot, pid } = worker;
    if (!well) this.options.log.error({ worker: slot, pid }, "worker did not end well");
    return well;
  }

  #launch(slot: number, joins: boolean): Worker {
    const worker: Worker = new Worker({
      slot,
      command: this.options.command({ slot, port: this.port, joins }),
      handlers: {
        ...this.#shared,
        turn: () => this.#takeTurn(worker),
        departing: (snapshot: Snapshot) => this.#metrics.note(worker.pid, snapshot),
      },
      onListening: (listener, port) => {
        this.port = port;
        this.#group.push(listener);
      },
      onClosed: (listener) => {
        const last = this.#group.pop();
        const place = this.#group.indexOf(listener);
        if (last && place >= 0) this.#group[place] = last;
      },
    });
    this.#running.add(worker);
    void worker.process.exited.then(() => {
      this.#running.delete(worker);
      this.#metrics.ended(worker.pid);
    });
    return worker;
  }

  /** What all workers may ask. */
  readonly #shared: Handlers = {
    exchange: ({ keys, numbers }: { keys: string[]; numbers: number[] }) =>
      this.#counts.exchange(keys, numbers),
    keepTicket: ({ key, sealed }: { key: string; sealed: string }) =>
      this.#tickets.put(key, sealed),
    takeTicket: (key: string) => this.#tickets.take(key),
    metrics: () => this.#scrape(),
  };

  /** One begins to listen after the other: so their order is known here. */
  #takeTurn(worker: Worker): Promise<unknown> {
    const before = this.#turn;
    this.#turn = before.then(() => worker.listening);
    return before;
  }

  async #scrape(): Promise<string> {
    const answered = new Map<number, Snapshot>();
    const workers = [...this.#running];
    const asked = workers.map(async ({ pid, channel }) => {
      const snapshot = await channel.ask<Snapshot>("snapshot", null, answerMs);
      if (!snapshot) return;
      answered.set(pid, snapshot);
      this.#metrics.note(pid, snapshot);
    });
    await Promise.all(asked);
    return this.#metrics.text(answered, workers.length, this.#restarts);
  }

  /** With jitter; shorter when it is to stop. */
  async #pause(ms: number): Promise<void> {
    const { signal } = this.#stopping;
    await pause(ms * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => undefined);
  }
}

const killed = (times: number, signal: string | number | null): SetupError =>
  new SetupError(
    `A worker was killed ${times} times as it started (${signal}).`,
    "See in the system's log by whom: where memory ran out, ask for fewer workers.",
  );
