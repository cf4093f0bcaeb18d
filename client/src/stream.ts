import type { components, paths } from "./api.ts";
import { ArgoError, isTemporary, StreamEndedError } from "./errors.ts";
import { type EventSourceMessage, readEvents } from "./read.ts";
import { sleep, type Transport } from "./transport.ts";

export type ReceivedSignal = components["schemas"]["ReceivedSignal"];

const path = "/api/signals/stream";
export type StreamFilters = Omit<
  NonNullable<paths[typeof path]["get"]["parameters"]["query"]>,
  "since_id"
>;

/** What a stream tells besides signals. `id` is always where to resume. */
export type StreamNotice =
  /** Where the sequence stands: `headId` is the highest id that is visible. */
  | { type: "head"; id: number; headId: number }
  /** The cursor was above the head (another file, another plan, deleted rows); it is `id` now. */
  | { type: "ahead"; id: number }
  /** Of the ids `from` to `to` some may be missing, deleted for their age; what is left follows. */
  | { type: "gap"; id: number; from: number; to: number }
  /** The connection was lost; another is made in `pauseMs`. */
  | { type: "dropped"; id: number | null; reason: string; pauseMs: number };

export type StreamEvent = { type: "signal"; id: number; signal: ReceivedSignal } | StreamNotice;

export type StreamOptions = {
  /** Signals after this id; without it those that come from now on. */
  sinceId?: number | null | undefined;
  /** Ends the iteration quietly. */
  signal?: AbortSignal | undefined;
  /** When a newer stream of the account took its place: come back later instead of throwing. */
  returnWhenReplaced?: boolean | undefined;
  /** Told what is no signal while signals are iterated; by default gaps are warned of on the console. */
  onNotice?: ((notice: StreamNotice) => void) | undefined;
};

/** How long a connection must have lasted to be none that fails at once, milliseconds. */
const steadyMs = 10_000;

/**
 * Signals as they come, ascending by id, each once, over as many connections as it takes. Nothing
 * is read ahead of whoever iterates but what is on its way: a slow bot slows the server down.
 */
export class SignalStream implements AsyncIterable<ReceivedSignal> {
  #cursor: number | null;
  /** How long the server last asked to stay away, milliseconds. */
  #retryMs: number | undefined;
  #isRead = false;

  constructor(
    private readonly transport: Transport,
    private readonly filters: StreamFilters,
    private readonly options: StreamOptions,
  ) {
    this.#cursor = options.sinceId ?? null;
  }

  /**
   * Where another stream may resume: everything up to this id was given out. Save it when a signal
   * has been acted on. Null until the first connection has begun.
   */
  get cursor(): number | null {
    return this.#cursor;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ReceivedSignal, void, void> {
    const { onNotice = warn } = this.options;
    for await (const event of this.events()) {
      if (event.type === "signal") yield event.signal;
      else onNotice(event);
    }
  }

  /**
   * The same with everything that is no signal. Read to an end it goes on when it is read again; two
   * who read at once would share its cursor, and each miss what the other was given.
   * @throws StreamEndedError when replaced or shut out. @throws ArgoError for what no waiting mends.
   */
  async *events(): AsyncGenerator<StreamEvent, void, void> {
    if (this.#isRead) throw new Error("This stream is being read already: make another one.");
    this.#isRead = true;
    try {
      yield* this.#connections();
    } finally {
      this.#isRead = false;
    }
  }

  async *#connections(): AsyncGenerator<StreamEvent, void, void> {
    const { signal } = this.options;
    for (let failures = 0; ;) {
      if (signal?.aborted) return;
      const begunMs = performance.now();
      const cursor = this.#cursor;
      let drop: Drop;
      try {
        drop = { reason: yield* this.#connection() };
      } catch (error) {
        if (signal?.aborted) return;
        if (!isTemporary(error)) throw error;
        drop = { reason: "lost", error };
      }
      const steady = performance.now() - begunMs > steadyMs || cursor !== this.#cursor;
      if (steady) failures = 0;
      const pauseMs = this.#pauseMs(drop, failures);
      failures += 1;
      yield { type: "dropped", id: this.#cursor, reason: told(drop), pauseMs };
      await sleep(pauseMs, signal);
    }
  }

  #pauseMs({ reason, error }: Drop, failures: number): number {
    const retryMs = this.#retryMs;
    // Whoever was cut off for being slow, or by a restart or another plan, is awaited.
    if (failures === 0 && ["slow", "draining", "plan"].includes(reason)) return 0;
    const asked = error instanceof ArgoError ? error.retryAfterSeconds : null;
    const away = reason === "unavailable" || reason === "replaced";
    if (!away) return this.transport.pauseMs(failures, asked, retryMs);
    return this.transport.pauseMs(failures, (retryMs ?? 0) / 1_000);
  }

  /** One connection. @returns why it is over. */
  async *#connection(): AsyncGenerator<StreamEvent, string, void> {
    const { transport, options } = this;
    const closing = new AbortController();
    const close = (): void => closing.abort(options.signal?.reason);
    options.signal?.addEventListener("abort", close);
    try {
      const query = { ...this.filters, since_id: this.#cursor ?? undefined };
      const headers = { Accept: "text/event-stream" };
      const request = transport.request(path, query, { headers, signal: closing.signal });
      const { body, headers: told } = await transport.open(request);
      if (!/^text\/event-stream\b/i.test(told.get("Content-Type") ?? "")) throw foreign();
      const onRetry = (ms: number): void => void (this.#retryMs = ms);
      for await (const message of readEvents(body, transport.muteMs, onRetry)) {
        const data = JSON.parse(message.data) as Record<string, unknown>;
        if (message.event === "end") return this.#ended(String(data["reason"]));
        const event = this.#take(message, data);
        if (event) yield event;
      }
      return "closed";
    } finally {
      options.signal?.removeEventListener("abort", close);
      closing.abort();
    }
  }

  /** @throws StreamEndedError for the ends after which nobody should come back by itself. */
  #ended(reason: string): string {
    const back =
      reason === "replaced"
        ? this.options.returnWhenReplaced
        : reason !== "unauthorized" || this.transport.renews;
    if (back) return reason;
    throw new StreamEndedError(reason as "replaced" | "unauthorized", this.#cursor);
  }

  /** Moves the cursor. Null for what was given out before, and for what a later server may tell. */
  #take(message: EventSourceMessage, data: Record<string, unknown>): StreamEvent | null {
    const { event: type = "" } = message;
    if (!["signal", "head", "ahead", "gap"].includes(type)) return null;
    const id = Number(message.id);
    if (!Number.isSafeInteger(id)) throw foreign();
    const cursor = this.#cursor ?? -1;
    // Nothing else goes back: rows were deleted, or it is another file.
    this.#cursor = type === "ahead" ? id : Math.max(cursor, id);
    if (type === "head") return { type, id, headId: Number(data["id"]) };
    if (type === "ahead") return { type, id };
    if (type === "gap") return { type, id, from: Number(data["from"]), to: Number(data["to"]) };
    return id > cursor ? { type: "signal", id, signal: data as ReceivedSignal } : null;
  }
}

const foreign = (): Error => new Error(`${path} was answered by something else.`);

type Drop = { reason: string; error?: unknown };

const told = ({ reason, error }: Drop): string => (error === undefined ? reason : String(error));

/** What a bot must not overlook is said where nobody listens. */
export function warn(notice: StreamNotice): void {
  if (notice.type === "gap" || notice.type === "ahead") console.warn("argo-alpine:", notice);
}
