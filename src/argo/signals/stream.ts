import type { Exchange } from "../../http/exchange";
import {
  aheadEvent,
  bytesOf,
  endEvent,
  type EndReason,
  type EventFilter,
  type Frame,
  gapEvent,
  headEvent,
  passes,
  type Piece,
} from "./event";
import type { ReplaySlice } from "./far";
import { type Follower, Sequence, type Sink, type Source, type Tail } from "./sequence";
import type { OpenStream, StreamReader } from "./streams";

type Options = {
  source: Source;
  exchange: Exchange;
  reader: StreamReader;
  filter: EventFilter;
  /** Signals after this id; null for those that come from now on. */
  sinceId: number | null;
  /** Called once, with why it is over; null when the client went away. */
  onEnd: (stream: EventStream, reason: EndReason | null) => void;
};

/** What may wait for a client that does not read; then it is cut off, and may resume. */
const waitingBytesMax = 1024 * 1024;
/** How long a client may take to read the end, seconds. */
const lingerSeconds = 10;
const none: readonly number[] = Object.freeze([]);
/** So that those who were cut off together do not come back together. */
const retryMs = (): number => 1_000 + Math.floor(Math.random() * 2_000);

/**
 * One stream of server-sent events. The client pulls: what was missed is read a slice at a time
 * when the last one was taken, and live signals wait in memory up to a bound.
 */
export class EventStream implements Sink, Follower, OpenStream {
  readonly form = "event";
  readonly body: ReadableStream<Uint8Array>;
  readonly reader: StreamReader;
  beatMs = 0;
  readonly #sequence: Sequence;
  #queue: Piece[] = [];
  #queuedBytes = 0;
  /** Up to where all was handed to the socket: where a client resumes that is cut off. */
  #cursor: number | null;
  #ended: EndReason | null = null;
  #over = false;
  #wake: (() => void) | null = null;

  constructor(private readonly options: Options) {
    const { source, reader, filter, sinceId } = options;
    this.reader = reader;
    this.#cursor = sinceId;
    this.#sequence = new Sequence(source, reader.view, filter, sinceId, this);
    this.body = new ReadableStream<Uint8Array>(
      {
        pull: (controller) => this.#pull(controller),
        cancel: () => this.gone(),
      },
      { highWaterMark: 0 },
    );
  }

  /** Finds its place in the sequence. @throws AppError 503. */
  async begin(): Promise<void> {
    const { request } = this.options.exchange;
    request.signal.addEventListener("abort", () => this.gone(), { once: true });
    await this.#sequence.begin();
  }

  begun(cursor: number, headId: number, ahead: boolean): void {
    const { request, server } = this.options.exchange;
    // A quiet stream is no idle connection: of this request alone.
    server?.timeout(request, 0);
    const text = ahead ? aheadEvent(headId) : headEvent(cursor, headId);
    this.#tell(`retry: ${retryMs()}\n${text}`, cursor);
  }

  replayed({ text, ids }: ReplaySlice, cursor: number): void {
    this.#push({ bytes: bytesOf(text), ids, cursor });
  }

  join(tail: Tail): void {
    tail.joined.add(this);
  }

  part(tail: Tail): void {
    tail.joined.delete(this);
  }

  take(frames: readonly Frame[]): void {
    const { filter } = this.options;
    for (const frame of frames) if (passes(frame.signal, filter)) this.#push(frame);
    if (this.#queuedBytes > waitingBytesMax) this.end("slow");
  }

  rewind(headId: number): void {
    this.ahead(headId);
  }

  head(cursor: number, headId: number): void {
    this.#tell(headEvent(cursor, headId), cursor);
  }

  ahead(headId: number): void {
    this.#tell(aheadEvent(headId), headId);
  }

  gap(cursor: number, fromId: number, toId: number): void {
    this.#tell(gapEvent(cursor, fromId, toId), cursor);
  }

  beat(): void {
    this.#sequence.beat();
  }

  /** Sends what waits and the end, which says where to resume. */
  end(reason: EndReason): void {
    this.#sequence.end(reason);
  }

  ended(reason: EndReason, cursor: number | null): void {
    if (reason === "slow" || reason === "unauthorized" || reason === "plan") {
      this.#queue = [];
      this.#queuedBytes = 0;
    } else this.#queue.push({ bytes: new Uint8Array(), ids: none, cursor });
    this.#ended = reason;
    this.#leave(reason);
    const { request, server } = this.options.exchange;
    server?.timeout(request, lingerSeconds);
  }

  /** The client went away. */
  gone(): void {
    this.#sequence.stop();
    this.#queue = [];
    this.#ended = null;
    if (!this.#over) this.#leave(null);
    this.#awake();
  }

  #leave(reason: EndReason | null): void {
    this.#over = true;
    this.options.onEnd(this, reason);
    this.#awake();
  }

  #tell(text: string, cursor: number): void {
    this.#push({ bytes: bytesOf(text), ids: none, cursor });
  }

  #push(piece: Piece): void {
    if (this.#over) return;
    this.#queue.push(piece);
    this.#queuedBytes += piece.bytes.length;
    this.#awake();
  }

  #awake(): void {
    this.#wake?.();
    this.#wake = null;
  }

  /** Called when the socket has taken what it was given. */
  async #pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    for (;;) {
      if (this.#queue.length > 0 || this.#ended !== null) return this.#send(controller);
      if (this.#over) return;
      if (this.#sequence.behind) await this.#sequence.replay();
      else await new Promise<void>((wake) => (this.#wake = wake));
    }
  }

  #send(controller: ReadableStreamDefaultController<Uint8Array>): void {
    const pieces = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#cursor = pieces.at(-1)?.cursor ?? this.#cursor;
    const end = this.#ended;
    if (end !== null) {
      const bytes = bytesOf(endEvent(this.#cursor, end));
      pieces.push({ bytes, ids: none, cursor: this.#cursor });
    }
    const [first] = pieces;
    if (first) {
      const whole = pieces.length === 1;
      const bytes = whole ? first.bytes : Buffer.concat(pieces.map((piece) => piece.bytes));
      controller.enqueue(bytes);
      const { exchange } = this.options;
      exchange.deliver(whole ? first.ids : pieces.flatMap((piece) => piece.ids), exchange);
    }
    if (end !== null) controller.close();
  }
}
