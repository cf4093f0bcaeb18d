import type { Server, ServerWebSocket } from "bun";
import { AppError } from "../../errors";
import { fieldErrors, namesOf } from "../../http/validate";
import { filterOf } from "./asked";
import type { EndReason } from "./event";
import type { ReplaySlice } from "./far";
import {
  aheadMessage,
  closeCodes,
  type CloseReason,
  endMessage,
  errorMessage,
  gapMessage,
  headMessage,
  pongMessage,
  subscribedMessage,
  unsubscribedMessage,
} from "./message";
import { SocketMessage } from "./schema";
import { Sequence, type Sink, type Source, type Tail } from "./sequence";
import type { OpenStream, StreamReader } from "./streams";
import { type Topic, type Topics, waitingBytesMax } from "./topics";

/** What all sockets share. */
export type Shared = {
  readonly source: Source;
  readonly topics: Topics;
  readonly now: () => number;
  /** Has it looked at a few times a second: it waits for something that may not come. */
  readonly attend: (socket: Socket) => void;
  readonly leave: (socket: Socket) => void;
  /** Called once, when it is over; null when the client went away. */
  readonly onEnd: (socket: Socket, reason: CloseReason | null) => void;
};

/** Messages, pings and pongs of a client in so many milliseconds. */
const messagesMax = 20;
const messagesMs = 10_000;
/** How long a socket may be open without a subscription. */
const idleMs = 5_000;
/** How long a client may take to read the end. */
const lingerMs = 10_000;
/** With less than this waiting a client is taken to read. Bun itself holds 16 KiB back in a turn. */
const littleBytes = 64 * 1024;

/**
 * One WebSocket, with one subscription at a time. What was missed is sent a slice at a time as the
 * client reads; then it listens to a topic. Of each as little is kept as can be.
 */
export class Socket implements Sink, OpenStream {
  readonly form = "message";
  beatMs = 0;
  #ws: ServerWebSocket<Socket> | null = null;
  #sequence: Sequence | null = null;
  #topic: Topic | null = null;
  #pumping = false;
  /** Since when it has no subscription, or waits to be closed. */
  #sinceMs: number;
  #closing: { code: number; text: string } | null = null;
  #over = false;
  #messages = 0;
  #messagesSinceMs = 0;

  constructor(
    readonly reader: StreamReader,
    private readonly server: Server<unknown>,
    private readonly all: Shared,
  ) {
    this.#sinceMs = all.now();
    all.attend(this);
  }

  get meter() {
    return this.reader.meter;
  }

  get waitingBytes(): number {
    return this.#ws?.getBufferedAmount() ?? 0;
  }

  opened(ws: ServerWebSocket<Socket>): void {
    this.#ws = ws;
    if (this.#closing) this.#close();
  }

  /** A client's message. Bounded in size by the listener, and in number here. */
  message(data: string | Buffer): void {
    this.heard();
    if (this.#over) return;
    try {
      const asked = understand(data);
      if (asked.type === "ping") this.#send(pongMessage);
      else if (asked.type === "subscribe") this.#subscribe(asked);
      else this.#unsubscribe();
    } catch (error) {
      this.#fail(error);
    }
  }

  /** A client's frame of any kind. Bun itself answers pings, also those of who reads nothing. */
  heard(): void {
    const nowMs = this.all.now();
    if (Math.abs(nowMs - this.#messagesSinceMs) >= messagesMs) {
      this.#messagesSinceMs = nowMs;
      this.#messages = 0;
    }
    this.#messages += 1;
    const isFlood = this.#messages > messagesMax;
    if (this.#over) {
      // The end waits to be read, but not with more and more before it.
      if (isFlood && this.waitingBytes >= littleBytes) this.#ws?.terminate();
    } else if (isFlood) this.#endAs("flood");
    else if (this.waitingBytes > waitingBytesMax) this.#endAs("slow");
  }

  /** The client has taken what waited. */
  drained(): void {
    if (this.#closing) this.#close();
    else void this.#pump();
  }

  /** Called a few times a second while it waits. */
  look(nowMs: number): void {
    const forMs = Math.abs(nowMs - this.#sinceMs);
    if (!this.#over && forMs >= idleMs) this.#endAs("idle");
    if (this.#closing && forMs >= lingerMs) this.#ws?.terminate();
  }

  beat(): void {
    this.#sequence?.beat();
  }

  end(reason: EndReason): void {
    this.#endAs(reason);
  }

  slow(): void {
    this.#endAs("slow");
  }

  /** The connection is no more. */
  gone(): void {
    this.#sequence?.stop();
    this.all.leave(this);
    this.#leave(null);
  }

  begun(cursor: number, headId: number, ahead: boolean): void {
    this.#send(subscribedMessage(cursor, headId));
    if (ahead) this.ahead(headId);
  }

  replayed({ text, ids }: ReplaySlice): void {
    this.#ws?.cork(() => {
      for (const message of text.split("\n")) this.#send(message);
    });
    this.meter?.deliver(ids);
  }

  join(tail: Tail): void {
    const { reader, server, all } = this;
    const filter = this.#sequence?.filter;
    if (filter) this.#topic = all.topics.join(tail, reader.view, filter, server, this);
  }

  part(tail: Tail): void {
    if (this.#topic) this.all.topics.part(tail, this.#topic, this);
    this.#topic = null;
  }

  subscribe(topic: string): void {
    this.#ws?.subscribe(topic);
  }

  unsubscribe(topic: string): void {
    this.#ws?.unsubscribe(topic);
  }

  unsentAfter(): number | null {
    return this.#topic?.unsentAfter(this) ?? null;
  }

  head(cursor: number, headId: number): void {
    // What is on its way says as much, and comes before what is higher.
    if (this.unsentAfter() !== null) return;
    this.#send(headMessage(cursor, headId));
  }

  ahead(headId: number): void {
    this.#send(aheadMessage(headId));
  }

  gap(cursor: number, fromId: number, toId: number): void {
    this.#send(gapMessage(cursor, fromId, toId));
  }

  ended(reason: EndReason, cursor: number | null): void {
    this.#endAs(reason, cursor);
  }

  #subscribe(asked: Subscribe): void {
    this.#sequence?.stop();
    const { source, leave } = this.all;
    const sinceId = asked.resume_from ?? null;
    leave(this);
    const sequence = new Sequence(source, this.reader.view, filterOf(asked), sinceId, this);
    this.#sequence = sequence;
    const failed = (error: unknown): void => {
      if (this.#sequence !== sequence || this.#over) return;
      this.#rest();
      this.#fail(error);
    };
    sequence.begin().then(() => this.#pump(), failed);
  }

  #unsubscribe(): void {
    this.#sequence?.stop();
    this.#rest();
    this.#send(unsubscribedMessage);
  }

  /** Without a subscription; who has none for long is not let stay. */
  #rest(): void {
    if (this.#sequence) this.#wait();
    this.#sequence = null;
  }

  #wait(): void {
    this.#sinceMs = this.all.now();
    this.all.attend(this);
  }

  /** Sends what was missed for as long as the client takes it. */
  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    while (this.#sequence?.behind && this.waitingBytes < littleBytes) await this.#sequence.replay();
    this.#pumping = false;
  }

  #fail(error: unknown): void {
    // What is thrown here would end the process.
    const internal = () => new AppError("internal", "Internal error", { cause: error });
    this.#send(errorMessage(error instanceof AppError ? error : internal()));
  }

  #send(text: string): void {
    this.#ws?.send(text);
  }

  /** Says why and where to resume; the close waits until that was read. */
  #endAs(reason: CloseReason, cursor = this.#sequence?.cursor ?? null): void {
    if (this.#over) return;
    this.#sequence?.stop();
    this.#send(endMessage(reason, cursor));
    const text = cursor === null ? reason : `${reason} resume_from=${cursor}`;
    this.#closing = { code: closeCodes[reason], text };
    this.#leave(reason);
    this.#wait();
    this.#close();
  }

  #close(): void {
    if (!this.#closing || this.waitingBytes >= littleBytes) return;
    this.#ws?.close(this.#closing.code, this.#closing.text);
  }

  #leave(reason: CloseReason | null): void {
    if (this.#over) return;
    this.#over = true;
    this.all.onEnd(this, reason);
  }
}

type Subscribe = Extract<ReturnType<typeof understand>, { type: "subscribe" }>;

/** @throws AppError 400 for what cannot be read, 422 that names the field. */
function understand(data: string | Buffer) {
  let json: unknown;
  try {
    json = JSON.parse(typeof data === "string" ? data : "");
  } catch (error) {
    throw new AppError("bad_request", "A message is one JSON object as text.", { cause: error });
  }
  const parsed = SocketMessage.safeParse(json);
  if (parsed.success) return parsed.data;
  const errors = fieldErrors(parsed.error);
  throw new AppError("unprocessable", `The message is not valid: ${namesOf(errors)}.`, { errors });
}
