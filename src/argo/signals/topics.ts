import type { Server } from "bun";
import { type View, viewText } from "../../http/entitlement";
import type { Meter } from "../../http/meter";
import { type EventFilter, type Frame, passes } from "./event";
import { aheadMessage } from "./message";
import type { Follower, Tail } from "./sequence";

/** What may wait for a client that does not read; then it is cut off, and may resume. */
export const waitingBytesMax = 768 * 1024;
/** After so many bytes to each it is looked who does not read. */
const bytesPerLook = 128 * 1024;
/** What each of a group is sent in one turn: a commit of thousands of rows must not keep polls waiting. */
const bytesPerTurn = 16 * 1024;

/** One of those who are told. */
type Listener = {
  readonly meter: Meter | null;
  /** Bytes that wait for it to read. */
  readonly waitingBytes: number;
  subscribe(topic: string): void;
  unsubscribe(topic: string): void;
  slow(): void;
};

/** `before` is where to resume for whom it is the first that was not sent. */
type Message = { readonly text: string; readonly bytes: number; readonly before: number };

/** Those who are told in one turn of the event loop: more would keep polls waiting for longer. */
const listenersPerTurn = 100;

/** Those sockets for which the same view and the same filter are followed. */
export class Topics {
  readonly #topics = new Map<string, Topic>();
  /** Those that have something left to send, in turn. */
  readonly #spreading = new Set<Topic>();
  /** Listeners that were told in this turn. */
  #told = 0;

  /** From now on the listener is told what passes. */
  join(tail: Tail, view: View, filter: EventFilter, server: Server<unknown>, who: Listener): Topic {
    const name = `${viewText(view)} ${JSON.stringify(filter)}`;
    let topic = this.#topics.get(name);
    if (!topic) {
      topic = new Topic(name, filter, server, this.#begin);
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

  readonly #begin = (topic: Topic): void => {
    this.#spreading.add(topic);
    if (this.#told < listenersPerTurn) this.#spread();
  };

  #spread(): void {
    if (this.#told === 0) setImmediate(this.#turn);
    for (const topic of this.#spreading) {
      this.#spreading.delete(topic);
      this.#told += Math.max(1, topic.spread());
      if (topic.left) this.#spreading.add(topic);
      if (this.#told >= listenersPerTurn) return;
    }
  }

  readonly #turn = (): void => {
    this.#told = 0;
    if (this.#spreading.size > 0) this.#spread();
  };
}

/** As many of a topic's listeners as are told at once: a topic of Bun's own. */
class Group {
  readonly listeners = new Set<Listener>();
  /** How many messages it was sent since the topic began. */
  sent: number;
  /** Since it was last looked who of them does not read. */
  bytes = 0;

  constructor(
    readonly name: string,
    sent: number,
  ) {
    this.sent = sent;
  }
}

/**
 * Those who are told the same. What passes is written once by Bun's own publish and subscribe, to
 * one group of sockets after the other, so that polls come in between: ten
 * thousand take 50 ms. Bun would drop what a slow one does not take, and say nothing. So it is
 * looked who does not read as often as bytes are sent, and they are cut off long before that.
 */
export class Topic implements Follower {
  readonly #groups = new Set<Group>();
  readonly #groupOf = new Map<Listener, Group>();
  /** How many of these each meter counts for. */
  readonly #meters = new Map<Meter, number>();
  /** What not all groups were sent yet, and how many were sent to all before. */
  #messages: Message[] = [];
  #before = 0;
  #made = 0;

  constructor(
    readonly name: string,
    private readonly filter: EventFilter,
    private readonly server: Server<unknown>,
    private readonly begin: (topic: Topic) => void,
  ) {}

  /** Whether there is anything that not all were sent. */
  get left(): boolean {
    return this.#messages.length > 0;
  }

  /** Messages since the topic began. */
  get #told(): number {
    return this.#before + this.#messages.length;
  }

  get size(): number {
    return this.#groupOf.size;
  }

  add(who: Listener): void {
    const group = this.#withRoom();
    who.subscribe(group.name);
    group.listeners.add(who);
    this.#groupOf.set(who, group);
    const { meter } = who;
    if (meter) this.#meters.set(meter, (this.#meters.get(meter) ?? 0) + 1);
  }

  delete(who: Listener): void {
    const group = this.#groupOf.get(who);
    if (!group) return;
    this.#groupOf.delete(who);
    group.listeners.delete(who);
    if (group.listeners.size === 0) this.#groups.delete(group);
    who.unsubscribe(group.name);
    const { meter } = who;
    if (!meter) return;
    const left = (this.#meters.get(meter) ?? 0) - 1;
    if (left > 0) this.#meters.set(meter, left);
    else this.#meters.delete(meter);
  }

  /** Where this one resumes that was not sent all that was told yet; null where it was. */
  unsentAfter(who: Listener): number | null {
    const group = this.#groupOf.get(who);
    return (group && this.#messages[group.sent - this.#before]?.before) ?? null;
  }

  take(frames: readonly Frame[]): void {
    for (const frame of frames) {
      if (!passes(frame.signal, this.filter)) continue;
      this.#tell(frame.message, frame.cursor - 1);
      for (const [meter, times] of this.#meters) meter.deliver(frame.ids, times);
    }
    if (this.left) this.begin(this);
  }

  rewind(headId: number): void {
    this.#tell(aheadMessage(headId), headId);
    this.begin(this);
  }

  #tell(text: string, before: number): void {
    this.#messages.push({ text, bytes: Buffer.byteLength(text), before });
  }

  /** Sends some of what there is to the group that has waited longest. @returns how many that are. */
  spread(): number {
    let told = 0;
    for (const group of this.#groups) {
      if (group.sent === this.#told) continue;
      told = group.listeners.size;
      this.#groups.delete(group);
      this.#groups.add(group);
      this.#send(group);
      break;
    }
    const sent = Math.min(this.#told, ...[...this.#groups].map((group) => group.sent));
    this.#messages.splice(0, sent - this.#before);
    this.#before = sent;
    return told;
  }

  #send(group: Group): void {
    for (let left = bytesPerTurn; left > 0 && group.sent < this.#told;) {
      const { text, bytes } = this.#messages[group.sent - this.#before] as Message;
      group.sent += 1;
      group.bytes += bytes;
      left -= bytes;
      this.server.publish(group.name, text);
    }
    if (group.bytes < bytesPerLook) return;
    group.bytes = 0;
    for (const who of group.listeners) if (who.waitingBytes > waitingBytesMax) who.slow();
  }

  /** One that was sent all that was told: of who joins that was replayed. */
  #withRoom(): Group {
    for (const group of this.#groups) {
      const room = group.listeners.size < listenersPerTurn;
      if (room && group.sent === this.#told) return group;
    }
    this.#made += 1;
    const made = new Group(`${this.name} ${this.#made}`, this.#told);
    this.#groups.add(made);
    return made;
  }
}
