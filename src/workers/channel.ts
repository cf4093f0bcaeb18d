/** What goes between a supervisor and a worker: a word, or the answer to one. */
type Message = { kind: string; data: unknown; id?: number } | { answered: number; data: unknown };

/** What is done with a word of each kind; its result is the answer to who asked. */
export type Handlers = Record<string, (data: never) => unknown>;

/** One end of the pipe between a supervisor and one worker. */
export class Channel {
  readonly #asked = new Map<number, (data: unknown) => void>();
  /** Whose answers did not come in time, and may come yet. */
  readonly #overdue = new Set<number>();
  #lastId = 0;
  #ended = false;

  constructor(
    private readonly send: (message: Message) => void,
    private readonly handlers: Handlers,
  ) {}

  /** To be called with whatever comes out of the pipe. */
  receive(message: Message): void {
    if ("answered" in message) {
      this.#overdue.delete(message.answered);
      this.#asked.get(message.answered)?.(message.data);
      return;
    }
    void this.#answer(message);
  }

  /** Says something that needs no answer. Once the other end is gone it is lost. */
  tell(kind: string, data: unknown = null): void {
    this.#post({ kind, data });
  }

  /** True while an answer is still owed: the other end has much to read before it is silent no more. */
  get isOwed(): boolean {
    return this.#overdue.size > 0;
  }

  /** Undefined when no answer came within so many milliseconds, or never can. */
  ask<T>(kind: string, data: unknown, withinMs: number): Promise<T | undefined> {
    if (this.#ended) return Promise.resolve(undefined);
    const id = ++this.#lastId;
    const { promise, resolve } = Promise.withResolvers<T | undefined>();
    this.#asked.set(id, resolve as (data: unknown) => void);
    const timer = setTimeout(() => {
      this.#overdue.add(id);
      resolve(undefined);
    }, withinMs);
    this.#post({ kind, data, id });
    return promise.finally(() => {
      clearTimeout(timer);
      this.#asked.delete(id);
    });
  }

  /** The other end is gone. */
  end(): void {
    this.#ended = true;
    for (const settle of this.#asked.values()) settle(undefined);
  }

  async #answer({ kind, data, id }: Exclude<Message, { answered: number }>): Promise<void> {
    let answer: unknown;
    try {
      answer = await this.handlers[kind]?.(data as never);
    } catch {
      // Whoever asks does without, as when there is no answer at all.
    }
    if (id !== undefined) this.#post({ answered: id, data: answer });
  }

  #post(message: Message): void {
    if (this.#ended) return;
    try {
      this.send(message);
    } catch {
      // Its end has not been heard of yet.
    }
  }
}
