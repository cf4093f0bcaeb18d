import type { Subprocess } from "bun";
import { Channel, type Handlers } from "./channel";

export type WorkerOptions = {
  /** Its place among the workers, from 1 on. */
  slot: number;
  command: string[];
  /** What it may ask of the supervisor. */
  handlers: Handlers;
  onListening: (worker: Worker, port: number) => void;
  /** Its listener is closed, or it is gone. Called once if it listened. */
  onClosed: (worker: Worker) => void;
};

/** One worker process as its supervisor sees it; `Peers` is the other side. */
export class Worker {
  readonly slot: number;
  readonly startedAt = performance.now();
  readonly process: Subprocess<"ignore", "inherit", "inherit">;
  readonly channel: Channel;
  readonly #listening = Promise.withResolvers<boolean>();
  readonly #ready = Promise.withResolvers<boolean>();
  readonly #closed = Promise.withResolvers<void>();

  constructor({ slot, command, handlers, onListening, onClosed }: WorkerOptions) {
    this.slot = slot;
    this.#closed.promise.then(async () => {
      if (await this.listening) onClosed(this);
    });
    const own: Handlers = {
      listening: ({ port }: { port: number }) => {
        onListening(this, port);
        this.#listening.resolve(true);
      },
      ready: () => this.#ready.resolve(true),
      closed: () => this.#closed.resolve(),
    };
    // Bun gives a name to the pipe in the environment, and hands the rest of that on.
    this.process = Bun.spawn(command, {
      stdio: ["ignore", "inherit", "inherit"],
      ipc: (message) => this.channel.receive(message),
    });
    this.channel = new Channel((message) => this.process.send(message), { ...handlers, ...own });
    void this.process.exited.then(() => {
      this.channel.end();
      this.#listening.resolve(false);
      this.#ready.resolve(false);
      this.#closed.resolve();
    });
  }

  get pid(): number {
    return this.process.pid;
  }

  /** Resolves with false when it ends before it listens. */
  get listening(): Promise<boolean> {
    return this.#listening.promise;
  }

  /** Resolves when everything in it has started once, with false when it ends before. */
  get ready(): Promise<boolean> {
    return this.#ready.promise;
  }

  /** Resolves when its listener is closed. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /**
   * Tells it to drain and end, and kills it when that takes longer than so many milliseconds.
   * @returns whether it ended by itself.
   */
  async end({ replaced, withinMs }: { replaced: boolean; withinMs: number }): Promise<boolean> {
    this.channel.tell("leave", { replaced });
    const late = setTimeout(() => this.process.kill("SIGKILL"), withinMs);
    await this.process.exited;
    clearTimeout(late);
    return this.process.exitCode === 0;
  }
}
