import { AppError } from "../../errors";
import type { View } from "../../http/entitlement";
import { watchLog } from "../../platform/wal";
import { type EndReason, type EventFilter, type Form, Frame } from "./event";
import type { FarReader, ReplaySlice } from "./far";
import type { Follower, Member, Source, Tail, Watch } from "./sequence";
import type { Sight } from "./sight";
import type { SignalReader } from "./store";
import type { Horizon, Views } from "./views";

/**
 * Rows that one look reads for one view, on the server's thread; fewer where they are told to many,
 * so that polls come in between.
 */
const rowsPerLook = 200;
const toldPerLook = 10_000;
/**
 * How often the file is looked at for so long after a commit, and else: where nothing tells of
 * writes, and for commits that became visible only after it did.
 */
const quickMs = 1;
const quickForMs = 2_000;
const idleMs = 10;
/** For so long a file that cannot be read is taken for one that soon can. */
const faultMs = 5_000;
/** A row is waited for that arrived so far ahead of the clock: of a clock that was set back. */
const aheadMs = 300_000;
/** For so long a row is waited for that somebody has seen by a clock that is ahead of this one. */
const soonMs = 2_000;
const watchersMax = 5_000;
/** Rows that one slice of what was missed looks at. */
const rowsPerSlice = 500;

/**
 * What comes to be seen, told once to all who follow the same view. As long as anybody follows,
 * our own commits wake it, and what others write into the log; and it looks by itself at SQLite's
 * data version, which takes a microsecond or two.
 */
export class Feed implements Source {
  looks = 0;
  watchers = 0;
  draining = false;
  /** Waits for where a stream is to go on, which another node may have told of. */
  reach: ((sinceId: number | null, view: View) => Promise<void>) | null = null;
  readonly #channels = new Map<View, Channel>();
  #timer: Timer | null = null;
  #unwatch: (() => void) | null = null;
  #woken = false;
  #epoch = -1;
  #quickUntilMs = 0;
  #faultyUntilMs: number | null = null;

  constructor(
    private readonly path: string,
    private readonly reader: SignalReader,
    private readonly far: FarReader,
    private readonly views: Views,
    private readonly now: () => number,
  ) {}

  /** Clients that follow. */
  get followers(): number {
    const clients = ({ members }: Channel) => [...members].filter(({ own }) => !own).length;
    return this.#all().reduce((sum, channel) => sum + clients(channel), 0);
  }

  /** Somebody may have committed. */
  readonly wake = (): void => {
    if (this.#woken || this.#channels.size === 0) return;
    this.#woken = true;
    setImmediate(this.#wakened);
  };

  /**
   * What this view sees, followed for the member until it `leave`s; as of this call or newer, and
   * not before the id that another node has told of. Told are those who `join`. @throws AppError 503.
   */
  async follow(view: View, member: Member, sinceId: number | null): Promise<Channel> {
    this.#mustGoOn();
    await this.reach?.(sinceId, view);
    const channel = this.#channel(view);
    channel.members.add(member);
    const until = performance.now() + soonMs;
    try {
      await channel.open();
      for (;;) {
        this.#mustGoOn();
        const waitMs = Math.min(channel.dueInMs(sinceId), until - performance.now());
        this.reader.look();
        channel.look();
        // Also what was committed while it was opened, however much: a cursor may name it.
        if (channel.more) await new Promise((resolve) => setImmediate(resolve));
        else if (waitMs > 0) await Bun.sleep(Math.min(waitMs, idleMs));
        else return channel;
      }
    } catch (error) {
      this.leave(channel, member);
      throw error;
    }
  }

  leave(channel: Channel, member: Member): void {
    channel.members.delete(member);
    this.#tidy(channel);
  }

  /** Where the sequence of a view stands, for who goes on from an id by themselves. @throws AppError 503. */
  async stand(
    view: View,
    sinceId: number,
  ): Promise<Pick<Channel, "headId" | "position" | "sight">> {
    const passing: Member = { end: () => undefined };
    const channel = await this.follow(view, passing, sinceId);
    this.leave(channel, passing);
    return channel;
  }

  /** Begins to watch what a view sees, from what the file holds now. @throws AppError 503. */
  watch(view: View): Watch {
    if (this.watchers >= watchersMax) {
      const reason = "Too many polls are waiting. Ask without wait, or try again.";
      throw new AppError("unavailable", reason, { retryAfterSeconds: 5 });
    }
    this.reader.look();
    const channel = this.#channel(view);
    // Told of what changed until now, so that it is no news to this one.
    channel.look();
    const { promise, resolve: tell } = Promise.withResolvers<void>();
    channel.watches.add(tell);
    this.watchers += 1;
    let stopped = false;
    return {
      changed: async (withinMs, signal) => {
        if (this.draining || signal.aborted) return;
        const timer = setTimeout(tell, withinMs);
        const gone = () => tell();
        signal.addEventListener("abort", gone, { once: true });
        try {
          await promise;
        } finally {
          clearTimeout(timer);
          signal.removeEventListener("abort", gone);
        }
      },
      stop: () => {
        if (stopped) return;
        stopped = true;
        this.watchers -= 1;
        channel.watches.delete(tell);
        this.#tidy(channel);
      },
    };
  }

  /** Ends all streams, with their cursors, and answers all polls that wait. */
  drain(): void {
    this.draining = true;
    this.#rest();
    for (const channel of this.#all()) channel.tell();
    this.#endAll("draining");
  }

  readonly #tick = (): void => {
    this.#timer = null;
    this.#look();
    this.#schedule();
  };

  readonly #wakened = (): void => {
    this.#woken = false;
    this.#look();
  };

  #look(): void {
    if (this.draining || this.#channels.size === 0) return;
    this.looks += 1;
    const nowMs = performance.now();
    try {
      this.reader.look();
      let more = false;
      for (const channel of this.#all()) {
        channel.look();
        more ||= channel.more;
      }
      this.#faultyUntilMs = null;
      const { epoch } = this.reader;
      if (epoch !== this.#epoch && this.#epoch >= 0) this.#quickUntilMs = nowMs + quickForMs;
      this.#epoch = epoch;
      // In pieces, so that polls come in between.
      if (more) this.wake();
    } catch {
      // Told by every poll and by the health check. Streams must not stay mute.
      this.#faultyUntilMs ??= nowMs + faultMs;
      if (nowMs >= this.#faultyUntilMs) this.#endAll("unavailable");
    }
  }

  #schedule(): void {
    if (this.#timer !== null || this.draining || this.#channels.size === 0) return;
    const everyMs = performance.now() < this.#quickUntilMs ? quickMs : idleMs;
    this.#timer = setTimeout(this.#tick, everyMs);
  }

  #channel(view: View): Channel {
    const held = this.#channels.get(view);
    if (held) return held;
    const { reader, far, now } = this;
    const made = new Channel(view, this.views.horizon(view), reader, far, now);
    this.#channels.set(view, made);
    if (!this.draining) this.#unwatch ??= watchLog(this.path, this.wake);
    this.#schedule();
    return made;
  }

  #tidy(channel: Channel): void {
    if (channel.members.size > 0 || channel.watches.size > 0) return;
    if (this.#channels.get(channel.view) === channel) this.#channels.delete(channel.view);
    if (this.#channels.size === 0) this.#rest();
  }

  /** Nobody follows. */
  #rest(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#unwatch?.();
    this.#unwatch = null;
  }

  #endAll(reason: EndReason): void {
    for (const { members } of this.#all()) for (const member of members) member.end(reason);
  }

  #all(): Channel[] {
    return [...this.#channels.values()];
  }

  #mustGoOn(): void {
    if (this.draining) throw new AppError("unavailable", "The server is stopping.");
  }
}

/** One view that somebody follows or watches. */
export class Channel implements Tail {
  /** Also those who are not told yet. */
  readonly members = new Set<Member>();
  readonly joined = new Set<Follower>();
  readonly watches = new Set<() => void>();
  /** The highest id that is seen, of those that were told. */
  headId = 0;
  /** All up to this id were told, or are not for this view. */
  position = 0;
  /** By which what is seen up to `position` is read: it does not go back with the clock. */
  sight: Sight = null;
  /** True while more is there than was told. */
  more = false;
  #version = -1;
  #opening: Promise<void> | null = null;
  #opened = false;

  constructor(
    readonly view: View,
    private readonly horizon: Horizon,
    private readonly reader: SignalReader,
    private readonly far: FarReader,
    private readonly now: () => number,
  ) {}

  replay(sinceId: number, untilId: number, filter: EventFilter, form: Form): Promise<ReplaySlice> {
    return this.far.replay([sinceId, untilId, rowsPerSlice, this.sight], filter, form);
  }

  /** Finds where the sequence stands. @throws AppError 503. */
  open(): Promise<void> {
    this.#opening ??= this.#open().catch((error: unknown) => {
      this.#opening = null;
      throw error;
    });
    return this.#opening;
  }

  /**
   * How long a row is still withheld that somebody has seen; 0 where that is not over soon. It was
   * seen by another node's clock, or by this one before it was set back: to go on from below it
   * would be to see it twice.
   */
  dueInMs(sinceId: number | null): number {
    const { delaySeconds } = this.view;
    if (delaySeconds === 0 || sinceId === null || sinceId <= this.headId) return 0;
    const receivedAt = this.reader.byId(sinceId, null)?.received_at;
    if (!receivedAt) return 0;
    const dueMs = Date.parse(receivedAt) + delaySeconds * 1_000 - this.now();
    return dueMs <= soonMs ? Math.max(0, dueMs) : 0;
  }

  /** To be called after the file was looked at. */
  look(): void {
    const { horizon } = this;
    horizon.look();
    const { version } = horizon;
    const moved = version !== this.#version;
    if (!moved && !this.more) return;
    if (moved) this.tell();
    if (this.#opened) this.#pull();
    // Last: what failed above is tried again.
    this.#version = version;
  }

  /** Tells those who watch. */
  tell(): void {
    for (const tell of this.watches) tell();
    this.watches.clear();
  }

  async #open(): Promise<void> {
    const { horizon, now } = this;
    this.reader.look();
    horizon.look();
    const { sight } = horizon;
    this.sight = sight;
    const { headId } = await horizon.bounds();
    const lowest =
      sight === null || sight.until === null
        ? null
        : await this.far.lowestWithheld(sight.until, aheadOf(now()));
    // Of a clock that was set back something may be seen above what is withheld: it waits for it.
    this.position = lowest === null ? headId : Math.min(headId, lowest - 1);
    this.headId = this.position;
    this.#opened = true;
    this.#version = -1;
  }

  #pull(): void {
    const { horizon, reader, joined, now } = this;
    const { maxId } = reader.head;
    if (maxId < this.position) this.#rewind(maxId);
    const { sight } = horizon;
    const most = Math.ceil(Math.min(rowsPerLook, toldPerLook / Math.max(1, joined.size)));
    const followed = reader.follow(this.position, most, sight, aheadOf(now()));
    const { rows, lastId, more } = followed;
    this.position = lastId;
    if ((sight?.until ?? "") >= (this.sight?.until ?? "")) this.sight = sight;
    this.more = more;
    this.headId = rows.at(-1)?.id ?? this.headId;
    if (rows.length === 0 || joined.size === 0) return;
    const frames = rows.map((signal) => new Frame(signal));
    // Who is too slow leaves while they are told.
    for (const follower of joined) follower.take(frames);
  }

  /** Newest rows were deleted, or the table was made anew. What is there is not told again. */
  #rewind(maxId: number): void {
    this.position = maxId;
    if (this.headId <= maxId) return;
    this.headId = maxId;
    for (const follower of this.joined) follower.rewind(maxId);
  }
}

/** The latest arrival that is waited for. */
export const aheadOf = (nowMs: number): string => new Date(nowMs + aheadMs).toISOString();
