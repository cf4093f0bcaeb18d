import type { Server } from "bun";
import { type View, viewText } from "../../http/entitlement";
import type { Meter } from "../../http/meter";
import { type EventFilter, type Frame, passes } from "./event";
import { aheadMessage } from "./message";
import type { Follower, Tail } from "./sequence";

/** What may wait for a client that does not read; then it is cut off, and may resume. */
const waitingBytesMax = 768 * 1024;
/** After so many bytes to each it is looked who does not read. */
const bytesPerLook = 128 * 1024;

/** One of those who are told. */
type Listener = {
  readonly meter: Meter | null;
  /** Bytes that wait for it to read. */
  readonly waitingBytes: number;
  subscribe(topic: string): void;
  unsubscribe(topic: string): void;
  slow(): void;
};

/** Those sockets for which the same view and the same filter are followed. */
export class Topics {
  readonly #topics = new Map<string, Topic>();

  /** From now on the listener is told what passes. */
  join(tail: Tail, view: View, filter: EventFilter, server: Server<unknown>, who: Listener): Topic {
    const name = `${viewText(view)} ${JSON.stringify(filter)}`;
    let topic = this.#topics.get(name);
    if (!topic) {
      topic = new Topic(name, filter, server);
      this.#topics.set(name, topic);
      tail.joined.add(topic);
    }
    topic.add(who);
    return topic;
  }

  part(tail: Tail, topic: Topic, who: Listener): void {
    topic.delete(who);
    if (topic.size > 0) return;
    this.#topics.delete(topic.name);
    tail.joined.delete(topic);
  }
}

/**
 * One topic of Bun's own publish and subscribe: what passes is written once for all its sockets.
 * Bun would drop what a slow one does not take, and say nothing. So it is looked who does not read
 * as often as bytes are sent, and they are cut off long before that.
 */
export class Topic implements Follower {
  readonly #listeners = new Set<Listener>();
  /** How many of these each meter counts for. */
  readonly #meters = new Map<Meter, number>();
  #bytes = 0;

  constructor(
    readonly name: string,
    private readonly filter: EventFilter,
    private readonly server: Server<unknown>,
  ) {}

  get size(): number {
    return this.#listeners.size;
  }

  add(who: Listener): void {
    who.subscribe(this.name);
    this.#listeners.add(who);
    const { meter } = who;
    if (meter) this.#meters.set(meter, (this.#meters.get(meter) ?? 0) + 1);
  }

  delete(who: Listener): void {
    if (!this.#listeners.delete(who)) return;
    who.unsubscribe(this.name);
    const { meter } = who;
    if (!meter) return;
    const left = (this.#meters.get(meter) ?? 0) - 1;
    if (left > 0) this.#meters.set(meter, left);
    else this.#meters.delete(meter);
  }

  take(frames: readonly Frame[]): void {
    for (const frame of frames) {
      if (!passes(frame.signal, this.filter)) continue;
      this.#publish(frame.message);
      for (const [meter, times] of this.#meters) meter.deliver(frame.ids, times);
    }
    // Not in between: who is cut off is told a cursor up to which all was sent.
    if (this.#bytes < bytesPerLook) return;
    this.#bytes = 0;
    for (const who of this.#listeners) if (who.waitingBytes > waitingBytesMax) who.slow();
  }

  rewind(headId: number): void {
    this.#publish(aheadMessage(headId));
  }

  #publish(message: string): void {
    this.server.publish(this.name, message);
    this.#bytes += Buffer.byteLength(message);
  }
}
