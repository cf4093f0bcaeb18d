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

  /**
   * @param work may `leave` before its end, for the next one to come in.
   * @throws AppError 503 when too many wait already.
   */
  async run<T>(work: (leave: () => void) => Promise<T>): Promise<T> {
    if (this.#queue.length >= this.waitingMax) {
      const { retryAfterSeconds } = this;
      throw new AppError("unavailable", this.full, { retryAfterSeconds });
    }
    if (this.#inside >= this.insideMax) await new Promise<void>((go) => this.#queue.push(go));
    else this.#inside += 1;
    let left = false;
    const leave = (): void => {
      if (left) return;
      left = true;
      const next = this.#queue.shift();
      if (next) next();
      else this.#inside -= 1;
    };
    try {
      return await work(leave);
    } finally {
      leave();
    }
  }
}
