import { AppError } from "../../errors";
import { fullView } from "../../http/entitlement";
import type { Feed } from "./feed";
import type { SignalReader } from "./store";

const forever = new AbortController().signal;
/** A client waits no longer for what another node has told it of. */
const waitMs = 2_000;

/**
 * Whether the file holds what a client knows of from somewhere else. It is about what is here, not
 * about what a plan shows of it. A copy may still get there and is waited for; any other file holds
 * all there is.
 */
export class Reached {
  constructor(
    private readonly reader: SignalReader,
    private readonly feed: Feed,
    private readonly copy: { current: boolean } | null,
  ) {}

  /** @throws AppError 503 when this id does not come in time: never an older answer. */
  async mustHave(minId: number | undefined, signal: AbortSignal): Promise<void> {
    if (minId === undefined || (await this.#comes(minId, signal))) return;
    const detail = `Signal ${minId} is not here: the highest is ${this.#headId()}. Try again.`;
    throw new AppError("unavailable", detail, { retryAfterSeconds: 1 });
  }

  /**
   * Waits for where a stream is to go on; one that nobody has ever given is not waited for.
   * @throws AppError 503 when it is not known whether there is such an id.
   */
  async mustFollow(sinceId: number | null): Promise<void> {
    if (sinceId === null || this.copy === null || (await this.#comes(sinceId, forever))) return;
    if (!this.copy.current) await this.mustHave(sinceId, forever);
  }

  async #comes(id: number, signal: AbortSignal): Promise<boolean> {
    const { feed } = this;
    if (this.#headId() >= id) return true;
    if (!this.copy) return false;
    const until = performance.now() + waitMs;
    for (;;) {
      const watch = feed.watch(fullView);
      try {
        if (this.#headId() >= id) return true;
        const leftMs = until - performance.now();
        if (leftMs <= 0 || feed.draining || signal.aborted) return false;
        await watch.changed(leftMs, signal);
      } finally {
        watch.stop();
      }
    }
  }

  /** Deleted rows included. @throws AppError 503. */
  #headId(): number {
    const { maxId, lastId } = this.reader.look();
    return Math.max(maxId, lastId);
  }
}
