import { availableParallelism } from "node:os";
import { AppError } from "../../errors";
import { Thread } from "../../platform/thread";

const waitingMax = 8;

/** Of argon2id: KiB of memory, and passes over it. */
export type PasswordCost = { memoryCost: number; timeCost: number };
/** What OWASP asks for: 19 MiB, two passes. */
const owasp: PasswordCost = { memoryCost: 19_456, timeCost: 2 };

/**
 * Hashes and verifies passwords on threads of their own, a fixed number at once. More than a few
 * waiting get 503: a queue that grows would answer nobody in time (A1).
 */
export class Passwords implements AsyncDisposable {
  readonly #threads: { thread: Thread; waiting: number }[];
  #decoy: Promise<string> | null = null;

  /** @param cost of hashes that are made; what one that is verified cost stands in it. */
  constructor(onEvent: (event: string, data: unknown) => void, cost = owasp) {
    const threads = Math.max(1, Math.floor(availableParallelism() / 2));
    this.#threads = Array.from({ length: threads }, () => ({
      waiting: 0,
      thread: new Thread({
        module: "alpine/auth/password.worker",
        start: cost,
        pendingMax: waitingMax * 2,
        onEvent,
      }),
    }));
  }

  /** @returns a PHC string. @throws AppError 503 when too many wait. */
  hash(password: string): Promise<string> {
    return this.#call<string>("hash", password);
  }

  /**
   * True when the password is that of the hash. Without one it takes just as long, so that time
   * does not tell who has an account (A2). @throws AppError 503 when too many wait.
   */
  async verify(password: string, hash: string | null): Promise<boolean> {
    const found = hash ?? (await (this.#decoy ??= this.hash(crypto.randomUUID())));
    const same = await this.#call<boolean>("verify", { password, hash: found });
    return same && hash !== null;
  }

  /** So that the first who is unknown does not wait twice as long. */
  async warm(): Promise<void> {
    await (this.#decoy ??= this.hash(crypto.randomUUID()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#threads.map(({ thread }) => thread.end()));
  }

  async #call<T>(method: string, args: unknown): Promise<T> {
    const least = this.#threads.reduce((a, b) => (b.waiting < a.waiting ? b : a));
    if (least.waiting >= waitingMax) {
      throw new AppError("unavailable", "Too many logins at once. Try again.", {
        retryAfterSeconds: 1,
      });
    }
    least.waiting += 1;
    try {
      return await least.thread.call<T>(method, args);
    } finally {
      least.waiting -= 1;
    }
  }
}
