import { SetupError } from "../../errors";
import type { Logger } from "../../platform/log";
import type { NodeEvent } from "../signals/writer";
import type { NodeState } from "./node";

/** Whoever misses nothing may be behind others for a moment; ids that stay lower are of another table. */
export const lateMsMax = 60_000;

/** A server that says nothing for so long at the start is not waited for any longer. */
const silentMs = 3_000;

/** How this node stands to the libSQL server whose rows it copies, as its writer's thread tells. */
export class NodeStatus {
  /** Changes after which streams and waiting polls may have something to look at. */
  onRows: (() => void) | null = null;
  /** How often nothing was missing. */
  looks = 0;
  #settled = false;
  #state: NodeState | null = null;
  #currentAt = performance.now();
  #told = "";

  /** @param whole whether the file was whole before, so that it may be served as it is. */
  constructor(
    private readonly log: Logger,
    private whole: boolean,
    /** Has the server looked at now. */
    readonly look: () => void,
  ) {}

  readonly apply = ({ state, reason }: NodeEvent): void => {
    const rows = this.#state?.rows ?? 0;
    this.#state = state;
    const { whole } = this;
    this.whole ||= state.whole;
    if (state.current) {
      this.looks += 1;
      this.#currentAt = performance.now();
    }
    if (state.current || reason !== null) this.#settled = true;
    this.#log(reason);
    if (state.rows !== rows || this.whole !== whole) this.onRows?.();
  };

  /** True since nothing was missing, or nothing could be had: then what is here is the best there is. */
  get settled(): boolean {
    return (
      this.#settled || (this.#state === null && performance.now() - this.#currentAt > silentMs)
    );
  }

  get up(): boolean {
    return this.#state?.up ?? false;
  }

  /** True while nothing is known to be missing. */
  get current(): boolean {
    return this.#state?.current ?? false;
  }

  /** For how long ids here may be lower than others know them, and nothing is gone. */
  get lateMs(): number {
    return this.current ? lateMsMax : Infinity;
  }

  get rows(): number {
    return this.#state?.rows ?? 0;
  }

  /** Ids that the server was last known to have beyond those that are here; 0 where another process copies. */
  get lagIds(): number {
    const { id, headId, copies } = this.#state ?? { id: 0, headId: 0, copies: false };
    return copies ? Math.max(0, headId - id) : 0;
  }

  /** For how long it is not known that nothing is missing; 0 where another process copies. */
  get lagSeconds(): number {
    return this.#state?.copies === false ? 0 : (performance.now() - this.#currentAt) / 1_000;
  }

  get stopped(): string | null {
    return this.#state?.stopped ?? null;
  }

  /** What is answered instead of a file that is still being filled; null once it was whole. */
  get filling(): SetupError | null {
    if (this.whole) return null;
    const { id, headId } = this.#state ?? { id: 0, headId: 0 };
    const far = headId > 0 ? ` up to ${id} of ${headId}` : "";
    return new SetupError(
      `The signals are being copied from the libSQL server${far}.`,
      "Try again.",
    );
  }

  /** Each reason once, and its end. */
  #log(reason: string | null): void {
    if (reason === this.#told) return;
    const stopped = this.stopped !== null;
    if (stopped && reason !== null) this.log.error({ reason }, "neither copying nor writing");
    else if (reason !== null) this.log.warn({ reason }, "the libSQL server is not followed");
    else if (this.#told !== "") this.log.info({ head: this.#state?.id }, "following again");
    this.#told = reason ?? "";
  }
}
