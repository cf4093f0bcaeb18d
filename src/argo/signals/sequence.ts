import type { View } from "../../http/entitlement";
import type { EndReason, EventFilter, Form, Frame } from "./event";
import type { ReplaySlice } from "./far";

/** Somebody who is told of all that comes to be seen. */
export type Follower = {
  /** Ascending by id. */
  take(frames: readonly Frame[]): void;
  /** Rows were deleted: nothing is above this id any more. */
  rewind(headId: number): void;
};

/** Somebody for whose sake a view is followed. */
export type Member = {
  end(reason: EndReason): void;
  /** Of this server itself, and no client. */
  readonly own?: true;
};

/** What one view sees, as long as somebody follows it. */
export type Tail = {
  /** The highest id that is seen, of those that were told. */
  readonly headId: number;
  /** All up to this id were told, or are not for this view. */
  readonly position: number;
  /** Those who are told. */
  readonly joined: Set<Follower>;
  /** Some of what passes with `sinceId < id <= untilId`, from the lowest on. @throws AppError 503. */
  replay(sinceId: number, untilId: number, filter: EventFilter, form: Form): Promise<ReplaySlice>;
};

/** Waits for a view to change. */
export type Watch = {
  /** Resolves at a change since the call of `watch`, at the end of the time or of the request. */
  changed(withinMs: number, signal: AbortSignal): Promise<void>;
  stop(): void;
};

/** Where the sequences of all views come from. */
export type Source = {
  /** True once nobody is let in any more. */
  readonly draining: boolean;
  /**
   * What this view sees, for the member until it leaves; as of this call or newer, and not before
   * the id that another node has told of. @throws AppError 503.
   */
  follow(view: View, member: Member, sinceId: number | null): Promise<Tail>;
  leave(tail: Tail, member: Member): void;
  /** Begins to watch what a view sees. @throws AppError 503. */
  watch(view: View): Watch;
};

/** How a client is spoken to. */
export type Sink = {
  readonly form: Form;
  /** The place was found; `ahead` when the cursor asked for was above it. */
  begun(cursor: number, headId: number, ahead: boolean): void;
  replayed(slice: ReplaySlice, cursor: number): void;
  /** All before was replayed: the tail tells from here on, in the same turn. */
  join(tail: Tail): void;
  part(tail: Tail): void;
  /** Where to resume, while not all that the tail has told was sent and it cannot be any more. */
  unsentAfter?(): number | null;
  head(cursor: number, headId: number): void;
  ahead(headId: number): void;
  /** Of these ids, both included, some may be missing that were deleted for their age. */
  gap(cursor: number, fromId: number, toId: number): void;
  /** Ended by this side; the cursor is null when there was none yet. */
  ended(reason: EndReason, cursor: number | null): void;
};

/**
 * One client's place in the sequence of a view, whatever it is sent over. What was missed is read
 * a slice at a time as the client takes it, by `replay`; when nothing is left it joins those who
 * are told, in the same turn, so that there is neither gap nor duplicate.
 */
export class Sequence implements Member {
  #tail: Tail | null = null;
  /** Up to where what was missed was read. */
  #replayedId = 0;
  /** Up to where it was told that something may be missing. */
  #gapTo = 0;
  /** Up to where all was told. */
  #cursor: number | null;
  #live = false;
  #beat = false;
  #over = false;

  constructor(
    private readonly source: Source,
    private readonly view: View,
    readonly filter: EventFilter,
    /** Signals after this id; null for those that come from now on. */
    private readonly sinceId: number | null,
    private readonly sink: Sink,
  ) {
    this.#cursor = sinceId;
  }

  /** True while there is something to be replayed. */
  get behind(): boolean {
    return this.#tail !== null && !this.#live && !this.#over;
  }

  /** Where to resume; null before it has begun, without an id to begin from. */
  get cursor(): number | null {
    if (!this.#live || !this.#tail) return this.#cursor;
    return this.sink.unsentAfter?.() ?? this.#tail.headId;
  }

  /** Finds its place in the sequence. @throws AppError 503. */
  async begin(): Promise<void> {
    const { source, sinceId, sink } = this;
    const tail = await source.follow(this.view, this, sinceId);
    if (this.#over) return source.leave(tail, this);
    this.#tail = tail;
    const { headId } = tail;
    const ahead = sinceId !== null && sinceId > headId;
    const cursor = ahead ? headId : (sinceId ?? headId);
    this.#cursor = cursor;
    this.#replayedId = cursor;
    sink.begun(cursor, headId, ahead);
    if (cursor === headId) this.#join(tail);
  }

  /** Tells the next slice of what was missed; at the end of it, goes on live. */
  async replay(): Promise<void> {
    const tail = this.#tail;
    if (!tail || !this.behind) return;
    const untilId = tail.position;
    if (this.#replayedId >= untilId) return this.#join(tail);
    let slice: ReplaySlice;
    try {
      slice = await tail.replay(this.#replayedId, untilId, this.filter, this.sink.form);
    } catch {
      return this.end("unavailable");
    }
    if (this.#over) return;
    const fromId = this.#replayedId;
    const cursor = this.#cursor ?? fromId;
    if (slice.gapTo > Math.max(fromId, this.#gapTo)) {
      this.#gapTo = slice.gapTo;
      this.sink.gap(cursor, fromId + 1, slice.gapTo);
    }
    this.#replayedId = slice.nextId ?? untilId;
    const last = slice.ids.at(-1);
    if (last !== undefined) {
      this.#cursor = last;
      this.sink.replayed(slice, last);
    }
    if (this.#beat) this.sink.head(last ?? cursor, tail.headId);
    this.#beat = false;
  }

  /** Says where the sequence stands, so that a client can tell a quiet stream from a dead one. */
  beat(): void {
    const tail = this.#tail;
    if (!tail || this.#over) return;
    if (this.#live) this.sink.head(tail.headId, tail.headId);
    else this.#beat = true;
  }

  /** Ends it, and tells where to resume. Signals that the filter left out need not be looked at again. */
  end(reason: EndReason): void {
    if (this.#over) return;
    const { cursor } = this;
    this.stop();
    this.sink.ended(reason, cursor);
  }

  /** Ends it without a word. */
  stop(): void {
    if (this.#over) return;
    this.#over = true;
    const tail = this.#tail;
    if (!tail) return;
    if (this.#live) this.sink.part(tail);
    this.source.leave(tail, this);
  }

  #join(tail: Tail): void {
    this.#live = true;
    // Rows were deleted meanwhile.
    if ((this.#cursor ?? 0) > tail.headId) this.sink.ahead(tail.headId);
    this.sink.join(tail);
  }
}
