import { AppError } from "../errors";
import type { TicketStore } from "../http/ticket";
import type { Snapshot } from "../platform/metrics";
import { Channel } from "./channel";
import { steer } from "./steer";

const answerMs = 2_000;
const turnMs = 5_000;

/** What a worker has of the others, through their supervisor. */
export class Peers {
  readonly #channel: Channel;
  readonly #leave = Promise.withResolvers<{ replaced: boolean }>();
  #snapshot: () => Promise<Snapshot> = () => Promise.resolve([]);

  /** Its place among them, from 1 on. What only one process need do is done by the first. */
  readonly slot: number;
  /** True where others serve already, which can answer everything. */
  readonly joins: boolean;

  constructor({ slot, joins }: Pick<Peers, "slot" | "joins">, pipe: NodeJS.Process) {
    this.slot = slot;
    this.joins = joins;
    this.#channel = new Channel((message) => pipe.send?.(message), {
      leave: (asked: { replaced: boolean }) => this.#leave.resolve(asked),
      ping: () => true,
      snapshot: () => this.#snapshot(),
      steer: ({ port, away }: { port: number; away: Parameters<typeof steer>[1] }) =>
        steer(port, away),
    });
    pipe.on("message", (message) => this.#channel.receive(message as never));
    const orphaned = () => {
      this.#channel.end();
      this.#leave.resolve({ replaced: false });
    };
    pipe.on("disconnect", orphaned);
    if (!pipe.connected) orphaned();
  }

  /** Resolves when it is to end: told so, or left without a supervisor. */
  get leave(): Promise<{ replaced: boolean }> {
    return this.#leave.promise;
  }

  /** Resolves when this one may begin to listen. */
  async turn(): Promise<void> {
    await this.#channel.ask("turn", null, turnMs);
  }

  listening(port: number): void {
    this.#channel.tell("listening", { port });
  }

  /** Everything in it has started once. */
  ready(): void {
    this.#channel.tell("ready");
  }

  /** Its listener is closed. */
  closed(): void {
    this.#channel.tell("closed");
  }

  /** Tells what was counted in all, since nobody can ask any more. */
  async departing(): Promise<void> {
    await this.#channel.ask("departing", await this.#snapshot(), answerMs);
  }

  /**
   * Adds up the counts of a limit over all workers; see `Meeting`. What was asked of a supervisor that
   * stands still is counted when it goes on: asked again meanwhile, it would be counted as often.
   */
  exchange(keys: string[], numbers: number[]): Promise<number[] | undefined> {
    if (this.#channel.isOwed) return Promise.resolve(undefined);
    return this.#channel.ask("exchange", { keys, numbers }, answerMs);
  }

  /** Tickets that any of the workers may be shown. */
  readonly tickets: TicketStore = {
    put: async (key, sealed) =>
      (await this.#channel.ask<boolean>("keepTicket", { key, sealed }, answerMs)) ?? false,
    take: async (key) => {
      const sealed = await this.#channel.ask<string | null>("takeTicket", key, answerMs);
      if (sealed !== undefined) return sealed;
      throw new AppError("unavailable", "The ticket cannot be looked up at the moment. Try again.");
    },
  };

  /** The metrics of all workers as text; undefined when they cannot be had. */
  metrics(): Promise<string | undefined> {
    return this.#channel.ask("metrics", null, answerMs);
  }

  /** Has this answer for what is counted here. */
  onSnapshot(snapshot: () => Promise<Snapshot>): void {
    this.#snapshot = snapshot;
  }
}
