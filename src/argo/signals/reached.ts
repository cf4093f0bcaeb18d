import { AppError } from "../../errors";
import { fullView, type View } from "../../http/entitlement";
import type { Feed } from "./feed";
import type { SignalReader } from "./store";

/** How often it is asked whether the answer is known to be that there is no such id. */
const lookMs = 100;
const forever = new AbortController().signal;
/** A client waits no longer for what another node has told it of. */
const waitMs = 2_000;

/** A file that follows another one: `looks` counts how often nothing was missing. */
type Copy = { readonly current: boolean; readonly looks: number; look: () => void };

/**
 * Whether the file holds what a client knows of from somewhere else. It is about what is here, not
 * about what a plan shows of it. A copy may still get there and is waited for; any other file holds
 * all there is.
 */
export class Reached {
  constructor(
    private readonly reader: SignalReader,
    private readonly feed: Feed,
    private readonly copy: Copy | null,
  ) {}

  /**
   * @throws AppError 503 when this id does not come in time: never an older answer. To whom less is
   * shown than there is it does not tell how much that is: they are answered where nothing is missing.
   */
  async mustHave(minId: number | undefined, view: View, signal: AbortSignal): Promise<void> {
    if (minId === undefined || (await this.#comes(minId, signal))) return;
    if (view !== fullView) {
      if (this.copy?.current ?? true) return;
      throw new AppError(
        "unavailable",
        `It is not known whether signal ${minId} is here. Try again.`,
        { retryAfterSeconds: 1 },
      );
    }
    const detail = `Signal ${minId} is not here: the highest is ${this.#headId()}. Try again.`;
    throw new AppError("unavailable", detail, { retryAfterSeconds: 1 });
  }

  /**
   * Waits for where a stream is to go on; one that nobody has ever given is not waited for.
   * @throws AppError 503 when it is not known whether there is such an id.
   */
  async mustFollow(sinceId: number | null, view: View): Promise<void> {
    if (sinceId === null || this.copy === null || (await this.#comes(sinceId, forever))) return;
    if (!this.copy.current) await this.mustHave(sinceId, view, forever);
  }

  async #comes(id: number, signal: AbortSignal): Promise<boolean> {
    const { copy, feed } = this;
    if (this.#headId() >= id) return true;
    if (!copy) return false;
    const until = performance.now() + waitMs;
    // One may be on its way to here, and one under way: the one after them began after the question.
    const enough = copy.looks + 3;
    copy.look();
    for (;;) {
      const watch = feed.watch(fullView);
      try {
        if (this.#headId() >= id) return true;
        const leftMs = until - performance.now();
        if (leftMs <= 0 || copy.looks >= enough || feed.draining || signal.aborted) return false;
        await watch.changed(Math.min(leftMs, lookMs), signal);
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
