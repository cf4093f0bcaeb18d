import { AppError } from "../errors";

/** Lets a few at a time do something, the others in the order in which they came. */
export class Gate {
  readonly #queue: (() => void)[] = [];
  #inside = 0;

  constructor(
    private readonly insideMax: number,
    private readonly waitingMax: number,
    private readonly full = "Too many long reads are waiting. Try again.",
    private readonly retryAfterSeconds = 5,
  ) {}

  get idle(): boolean {
    return this.#inside === 0;
  }

  /** @throws AppError 503 when too many wait already. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#queue.length >= this.waitingMax) {
      const { retryAfterSeconds } = this;
      throw new AppError("unavailable", this.full, { retryAfterSeconds });
    }
    if (this.#inside >= this.insideMax) await new Promise<void>((go) => this.#queue.push(go));
    else this.#inside += 1;
    try {
      return await work();
    } finally {
      const next = this.#queue.shift();
      if (next) next();
      else this.#inside -= 1;
    }
  }
}
