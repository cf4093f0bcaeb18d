import type { View } from "../../http/entitlement";
import type { Exchange } from "../../http/exchange";
import { aheadEvent, endEvent, type EndReason, type EventFilter, headEvent, passes } from "./event";
import type { FarReader } from "./far";
import { type Channel, type Feed, type Follower, type Frame, notice, type Piece } from "./feed";

type Options = {
  feed: Feed;
  far: FarReader;
  exchange: Exchange;
  filter: EventFilter;
  view: View;
  /** Signals after this id; null for those that come from now on. */
  sinceId: number | null;
  /** Called once, with why it is over; null when the client went away. */
  onEnd: (stream: Stream, reason: EndReason | null) => void;
};

const rowsPerSlice = 500;
/** What may wait for a client that does not read; then it is cut off, and may resume. */
const waitingBytesMax = 1024 * 1024;
/** How long a client may take to read the end, seconds. */
const lingerSeconds = 10;
/** So that those who were cut off together do not come back together. */
const retryMs = (): number => 1_000 + Math.floor(Math.random() * 2_000);

/**
 * One stream of server-sent events. What was missed is read a slice at a time when the client has
 * taken the last one, and live signals wait in memory up to a bound: a slow client costs no more.
 */
export class Stream implements Follower {
  readonly body: ReadableStream<Uint8Array>;
  #channel: Channel | null = null;
  #queue: Piece[] = [];
  #queuedBytes = 0;
  /** Up to where what was missed was read. */
  #replayedId = 0;
  /** Up to where all was handed to the socket: where a client resumes that is cut off. */
  #cursor = 0;
  #live = false;
  #beat = false;
  #ended: EndReason | null = null;
  #over = false;
  #wake: (() => void) | null = null;

  constructor(private readonly options: Options) {
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
    const { exchange, feed, view, sinceId } = this.options;
    const { request, server } = exchange;
    request.signal.addEventListener("abort", () => this.gone(), { once: true });
    const channel = await feed.follow(view, this);
    if (this.#over) return feed.leave(channel, this);
    this.#channel = channel;
    // A quiet stream is no idle connection: of this request alone.
    server?.timeout(request, 0);
    const { headId } = channel;
    const ahead = sinceId !== null && sinceId > headId;
    const cursor = ahead ? headId : (sinceId ?? headId);
    this.#cursor = cursor;
    this.#replayedId = cursor;
    const text = ahead ? aheadEvent(headId) : headEvent(cursor, headId);
    this.#push(notice(`retry: ${retryMs()}\n${text}`, cursor));
    if (cursor === headId) this.#join(channel);
  }

  take(frames: readonly Frame[]): void {
    const { filter } = this.options;
    for (const frame of frames) if (passes(frame.signal, filter)) this.#push(frame);
    if (this.#queuedBytes > waitingBytesMax) this.end("slow");
  }

  rewind(headId: number): void {
    this.#push(notice(aheadEvent(headId), headId));
  }

  /** Says where the sequence stands, so that a client can tell a quiet stream from a dead one. */
  beat(): void {
    const channel = this.#channel;
    if (!channel || this.#over) return;
    if (this.#live) this.#push(notice(headEvent(channel.headId, channel.headId), channel.headId));
    else this.#beat = true;
  }

  /** Sends what waits and the end, which says where to resume. */
  end(reason: EndReason): void {
    if (this.#over) return;
    if (reason === "slow" || reason === "unauthorized" || reason === "plan") {
      this.#queue = [];
      this.#queuedBytes = 0;
    } else if (this.#live && this.#channel) {
      // Signals that the filter leaves out need not be looked at again.
      const { headId } = this.#channel;
      this.#queue.push({ bytes: new Uint8Array(), ids: [], cursor: headId });
    }
    this.#ended = reason;
    this.#leave(reason);
    const { request, server } = this.options.exchange;
    server?.timeout(request, lingerSeconds);
  }

  /** The client went away. */
  gone(): void {
    this.#queue = [];
    this.#ended = null;
    if (!this.#over) this.#leave(null);
    this.#awake();
  }

  #leave(reason: EndReason | null): void {
    this.#over = true;
    const { feed, onEnd } = this.options;
    if (this.#channel) feed.leave(this.#channel, this);
    onEnd(this, reason);
    this.#awake();
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
      if (this.#live || !this.#channel) await new Promise<void>((wake) => (this.#wake = wake));
      else await this.#replay(this.#channel);
    }
  }

  #send(controller: ReadableStreamDefaultController<Uint8Array>): void {
    const pieces = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#cursor = pieces.at(-1)?.cursor ?? this.#cursor;
    const end = this.#ended;
    if (end !== null) pieces.push(notice(endEvent(this.#cursor, end), this.#cursor));
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

  /** Reads the next slice of what was missed; at the end of it, goes on live. */
  async #replay(channel: Channel): Promise<void> {
    const { far, filter } = this.options;
    const untilId = channel.position;
    if (this.#replayedId >= untilId) return this.#join(channel);
    try {
      const bounds = [this.#replayedId, untilId, rowsPerSlice, channel.sight] as const;
      const { text, ids, nextId } = await far.replay([...bounds], filter);
      if (this.#over) return;
      this.#replayedId = nextId ?? untilId;
      const last = ids.at(-1);
      if (last !== undefined) {
        this.#push({ bytes: new TextEncoder().encode(text), ids, cursor: last });
      }
      const cursor = last ?? this.#cursor;
      if (this.#beat) this.#push(notice(headEvent(cursor, channel.headId), cursor));
      this.#beat = false;
    } catch {
      this.end("unavailable");
    }
  }

  /** From here on the channel tells: all before was replayed, in the same turn as this is asked. */
  #join(channel: Channel): void {
    this.#live = true;
    // Rows were deleted meanwhile.
    if (this.#cursor > channel.headId) this.rewind(channel.headId);
    channel.joined.add(this);
  }
}
