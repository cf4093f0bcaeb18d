import { type EventFilter, type Form, Frame, passes, written } from "../../argo/signals/event";
import type { ReplaySlice } from "../../argo/signals/far";
import { streamPath } from "../../argo/signals/poll";
import type { Follower, Member, Source, Tail, Watch } from "../../argo/signals/sequence";
import type { ReceivedSignal } from "../../argo/signals/signal";
import { AppError } from "../../errors";
import type { View } from "../../http/entitlement";
import { away, type RemoteSignals, viewAsk } from "./remote";
import { linesOf } from "./lines";

/** For so long an argo that is away is taken for one that soon is back. */
const faultMs = 5_000;
/** Argo tells its head every 15 s: without a word for so long the connection is dead. */
const silenceMs = 20_000;
/** How long somebody new waits for the stream to come to where argo stands. */
const lagMs = 1_000;
/** Also what the sequence does not tell, such as a row that was changed, is found so soon. */
const lookEveryMs = 2_000;
const retryMs = 100;
const rowsPerSlice = 500;
const watchersMax = 5_000;

/**
 * What comes to be seen of an argo elsewhere: one stream for each view that somebody follows here,
 * resumed by id when it breaks off, from which all of them are told.
 */
export class RemoteFeed implements Source {
  watchers = 0;
  draining = false;
  readonly #channels = new Map<View, RemoteChannel>();

  constructor(private readonly signals: RemoteSignals) {}

  get followers(): number {
    return [...this.#channels.values()].reduce((sum, { members }) => sum + members.size, 0);
  }

  async follow(view: View, member: Member, sinceId: number | null): Promise<RemoteChannel> {
    this.#mustGoOn();
    const channel = this.#channel(view);
    channel.members.add(member);
    try {
      const headId = await this.signals.headId(view);
      const ahead = sinceId !== null && sinceId > headId;
      const standsAt = ahead ? await this.#reach(view, sinceId) : headId;
      await channel.current(standsAt);
      // A list may show what streams still hold back. Else ours does not come, and who joined it
      // would be told nothing, or of a head below what they have read.
      if (channel.position < standsAt && channel.position < (await this.#reach(view, standsAt))) {
        throw new AppError("unavailable", away, { retryAfterSeconds: 5 });
      }
      this.#mustGoOn();
      return channel;
    } catch (error) {
      this.leave(channel, member);
      throw error;
    }
  }

  leave(channel: RemoteChannel, member: Member): void {
    channel.members.delete(member);
    this.#tidy(channel);
  }

  watch(view: View): Watch {
    if (this.watchers >= watchersMax) {
      const reason = "Too many polls are waiting. Ask without wait, or try again.";
      throw new AppError("unavailable", reason, { retryAfterSeconds: 5 });
    }
    const channel = this.#channel(view);
    const { promise, resolve: tell } = Promise.withResolvers<void>();
    channel.watches.add(tell);
    this.watchers += 1;
    return {
      changed: async (withinMs, signal) => {
        if (this.draining || signal.aborted) return;
        const timer = setTimeout(tell, Math.min(withinMs, lookEveryMs));
        signal.addEventListener("abort", () => tell(), { once: true });
        await promise;
        clearTimeout(timer);
      },
      stop: () => {
        this.watchers -= 1;
        channel.watches.delete(tell);
        this.#tidy(channel);
      },
    };
  }

  /** Ends all streams, with their cursors, and answers all polls that wait. */
  drain(): void {
    this.draining = true;
    for (const channel of this.#channels.values()) {
      channel.tell();
      for (const member of channel.members) member.end("draining");
      channel.close();
    }
  }

  /** Where argo stands for who resumes there: one that copies another may have to wait for it. */
  async #reach(view: View, sinceId: number): Promise<number> {
    const { body } = await this.signals.lasting(viewAsk(`${streamPath}?since_id=${sinceId}`, view));
    for await (const block of linesOf(body, "\n\n")) {
      return Number(/^data: \{"id":(\d+)\}$/m.exec(block)?.[1] ?? 0);
    }
    throw new AppError("unavailable", away, { retryAfterSeconds: 5 });
  }

  #channel(view: View): RemoteChannel {
    const held = this.#channels.get(view);
    if (held) return held;
    const made = new RemoteChannel(view, this.signals);
    this.#channels.set(view, made);
    return made;
  }

  #tidy(channel: RemoteChannel): void {
    if (channel.members.size > 0 || channel.watches.size > 0) return;
    channel.close();
    if (this.#channels.get(channel.view) === channel) this.#channels.delete(channel.view);
  }

  #mustGoOn(): void {
    if (this.draining) throw new AppError("unavailable", "The server is stopping.");
  }
}

/** One view that somebody follows or watches here, and the stream by which argo tells of it. */
class RemoteChannel implements Tail {
  readonly members = new Set<Member>();
  readonly joined = new Set<Follower>();
  readonly watches = new Set<() => void>();
  headId = 0;
  position = 0;
  #opened = false;
  #moved = Promise.withResolvers<void>();
  #stop = new AbortController();
  #fault: Timer | null = null;

  constructor(
    readonly view: View,
    private readonly signals: RemoteSignals,
  ) {
    void this.#run();
  }

  /** Resolves when it stands where argo stood, or soon after. @throws AppError 503. */
  async current(headId: number): Promise<void> {
    const begun = performance.now();
    while (!this.#opened || this.position < headId) {
      const leftMs = begun + (this.#opened ? lagMs : faultMs) - performance.now();
      if (leftMs <= 0) break;
      const late = Promise.withResolvers<void>();
      const timer = setTimeout(late.resolve, leftMs);
      await Promise.race([this.#moved.promise, late.promise]);
      clearTimeout(timer);
    }
    if (!this.#opened) throw new AppError("unavailable", away, { retryAfterSeconds: 5 });
  }

  async replay(
    sinceId: number,
    untilId: number,
    filter: EventFilter,
    form: Form,
  ): Promise<ReplaySlice> {
    const path = `/api/signals/export?since_id=${sinceId}&min_id=${untilId}`;
    const { body, head, gap } = await this.signals.stream(viewAsk(path, this.view));
    // Of several argos at one address this one may be behind the one whose stream ours is: what it
    // does not have yet would be taken for told.
    if (!(Number(head) >= untilId)) {
      await body.cancel();
      throw new AppError("unavailable", away, { retryAfterSeconds: 5 });
    }
    const gapTo = Number(/ to=(\d+)$/.exec(gap ?? "")?.[1] ?? 0);
    const found: ReceivedSignal[] = [];
    let [rows, lastId, nextId]: [number, number, number | null] = [0, sinceId, null];
    for await (const line of linesOf(body, "\n")) {
      const signal = JSON.parse(line) as ReceivedSignal;
      const full = rows === rowsPerSlice && signal.id <= untilId;
      if (full) nextId = lastId;
      if (full || signal.id > untilId) break;
      rows += 1;
      lastId = signal.id;
      if (passes(signal, filter)) found.push(signal);
    }
    return { ...written(found, form, nextId), gapTo };
  }

  /** Tells those who watch. */
  tell(): void {
    for (const tell of this.watches) tell();
    this.watches.clear();
  }

  close(): void {
    this.#stop.abort();
    if (this.#fault) clearTimeout(this.#fault);
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        await this.#follow(signal);
      } catch {
        // Told by every poll and by the health check. Here it is tried again.
      }
      if (signal.aborted) return;
      this.#fault ??= setTimeout(() => {
        this.#fault = null;
        for (const member of this.members) member.end("unavailable");
      }, faultMs);
      await Bun.sleep(retryMs * (0.5 + Math.random()));
    }
  }

  /** One stream, until it ends. */
  async #follow(signal: AbortSignal): Promise<void> {
    const since = this.#opened ? `?since_id=${this.position}` : "";
    const { body } = await this.signals.lasting(viewAsk(streamPath + since, this.view));
    const silent = new AbortController();
    const silence = setTimeout(() => silent.abort(), silenceMs);
    try {
      const over = AbortSignal.any([signal, silent.signal]);
      for await (const block of linesOf(body, "\n\n", over)) {
        silence.refresh();
        if (this.#fault) clearTimeout(this.#fault);
        this.#fault = null;
        if (!this.#take(block)) return;
      }
    } finally {
      clearTimeout(silence);
    }
  }

  /** Understands one event. @returns false when nothing comes after it. */
  #take(block: string): boolean {
    const fields = new Map(
      block.split("\n").map((line): [string, string] => {
        const at = line.indexOf(": ");
        return [line.slice(0, at), line.slice(at + 2)];
      }),
    );
    const name = fields.get("event");
    const id = Number(fields.get("id"));
    if (name === "end" || Number.isNaN(id)) return false;
    if (name === "gap") {
      // While argo was away: each client is told of what it has missed itself, when it resumes.
      for (const member of this.members) member.end("unavailable");
    } else if (name === "signal") {
      const frame = new Frame(JSON.parse(fields.get("data") ?? "") as ReceivedSignal);
      this.#moveTo(id);
      for (const follower of this.joined) follower.take([frame]);
    } else if (name === "ahead" && this.#opened) {
      this.#moveTo(id);
      for (const follower of this.joined) follower.rewind(id);
    } else if (!this.#opened || id > this.position) this.#moveTo(id);
    this.#opened = true;
    this.tell();
    this.#moved.resolve();
    this.#moved = Promise.withResolvers();
    return true;
  }

  #moveTo(id: number): void {
    this.position = id;
    this.headId = id;
  }
}
