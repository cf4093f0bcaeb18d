import { Redis as Client } from "ioredis";
import type { Logger } from "./log";

export type { Client };

const deadlineMsDefault = 25;
/** An average above this part of the deadline opens the circuit: two answers near it do. */
const slowPart = 0.4;
/** How long work waits that no request waits for. */
const backgroundDeadlineMs = 1_000;
const connectMs = 1_000;
const silenceMsMax = 2_000;
const retryMsMax = 2_000;
const probeMsMin = 100;
const probeMsMax = 2_000;
const calmMs = 10_000;
const toldMax = 20;

export type RedisOptions = {
  /** `redis:` or `rediss:`, the password in it. */
  url: string;
  log: Logger;
  /** Before each key and channel. */
  prefix?: string;
  /** The longest that a request waits for one answer. */
  deadlineMs?: number;
};

export type AttemptOptions = {
  /** True where no request waits: more time, and tried although the circuit is open. */
  background?: boolean;
};

/**
 * Redis as something that may be gone at any time. It connects by itself, for as long as it takes;
 * nobody waits for that. One answer that is late, or an average that is slow, opens a circuit:
 * requests then do without Redis at no cost, until a look in the background finds it well again. So
 * a request that asks twice in a row is kept up to 50 ms by a Redis that just fell silent, and not
 * at all once that is known.
 */
export class Redis implements AsyncDisposable {
  /** Attempts that came to nothing, for the metrics. */
  failed = 0;
  /** Attempts not made since Redis was known to be out of reach. */
  skipped = 0;
  readonly prefix: string;
  readonly #deadlineMs: number;
  readonly #client: Client;
  readonly #log: Logger;
  #subscriber: Subscriber | null = null;
  #open = false;
  #averageMs = 0;
  #sampledAt = 0;
  #openedAt = -Infinity;
  #probeMs = probeMsMin;
  #probe: Timer | undefined;
  readonly #told = new Set<string>();
  #ended = false;

  constructor({ url, log, prefix = "argo:", deadlineMs = deadlineMsDefault }: RedisOptions) {
    this.prefix = prefix;
    this.#deadlineMs = deadlineMs;
    this.#log = log;
    this.#client = new Client(url, {
      ...connection,
      keyPrefix: prefix,
      connectionName: "argo-alpine",
      enableAutoPipelining: true,
    });
    this.#client.on("error", (error: Error) => this.#tell(error));
    this.#client.on("ready", () => this.#close());
    this.#client.connect().catch(() => undefined);
  }

  /** Whether a request's attempt would be made now. */
  get up(): boolean {
    return !this.#open && this.connected;
  }

  /** Whether an attempt in the background would be made now. */
  get connected(): boolean {
    return this.#client.status === "ready";
  }

  /**
   * Asks Redis, for as long as a request may be kept: undefined when there was no answer in time,
   * or a refusal. What was sent may have been done all the same.
   */
  async attempt<T>(
    work: (client: Client) => Promise<T>,
    { background = false }: AttemptOptions = {},
  ): Promise<T | undefined> {
    if (background ? !this.connected : !this.up) {
      this.skipped += 1;
      return undefined;
    }
    const begun = performance.now();
    try {
      const answer = await inTime(
        work(this.#client),
        background ? backgroundDeadlineMs : this.#deadlineMs,
      );
      if (!background) this.#took(begun);
      return answer;
    } catch (error) {
      this.failed += 1;
      this.#tell(error);
      if (error instanceof Late && !background) this.#trip();
      return undefined;
    }
  }

  /**
   * Tells every subscriber, of this process too. False when that is not known to have succeeded:
   * it is sent over any connection there is, but waited for no longer than a request may wait.
   */
  async publish(channel: string, message: string): Promise<boolean> {
    const sent = this.attempt((client) => client.publish(this.prefix + channel, message), {
      background: true,
    });
    if (!this.up) return false;
    const reached = await inTime(sent, this.#deadlineMs).catch(() => undefined);
    return reached !== undefined;
  }

  /**
   * Calls `onMessage` with what is published, and `onSubscribed` each time that the subscription
   * begins, at first and after every break: what was said before it has been missed.
   */
  subscribe(
    channel: string,
    onMessage: (message: string) => void,
    onSubscribed: () => void = () => undefined,
  ): void {
    this.#subscriber ??= new Subscriber(
      this.#client.duplicate({
        ...connection,
        keyPrefix: "",
        connectionName: "argo-alpine:subscriber",
        enableAutoPipelining: false,
      }),
    );
    this.#subscriber.add(this.prefix + channel, { onMessage, onSubscribed });
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#probe);
    this.#subscriber?.end();
    this.#client.disconnect();
    return Promise.resolve();
  }

  #took(begun: number): void {
    // Of many that were asked at once one counts: they tell of the same moment.
    if (begun < this.#sampledAt) return;
    this.#sampledAt = performance.now();
    this.#averageMs += (this.#sampledAt - begun - this.#averageMs) / 4;
    if (this.#averageMs <= slowPart * this.#deadlineMs) return;
    this.#tell(new Error(`answers take ${Math.round(this.#averageMs)} ms`));
    this.#trip();
  }

  #trip(): void {
    if (this.#open || this.#ended) return;
    const now = performance.now();
    // A Redis that comes and goes is looked at ever more rarely, until it has been well for a while.
    const calm = now - this.#openedAt > calmMs;
    this.#probeMs = calm ? probeMsMin : Math.min(2 * this.#probeMs, probeMsMax);
    this.#openedAt = now;
    this.#open = true;
    this.#lookLater();
  }

  #lookLater(): void {
    clearTimeout(this.#probe);
    this.#probe = setTimeout(() => void this.#look(), this.#probeMs);
    this.#probe.unref();
  }

  async #look(): Promise<void> {
    const well =
      this.connected &&
      (await inTime(this.#client.ping(), slowPart * this.#deadlineMs).then(
        () => true,
        () => false,
      ));
    if (this.#ended || !this.#open) return;
    if (well) return this.#close();
    this.#probeMs = Math.min(2 * this.#probeMs, probeMsMax);
    this.#lookLater();
  }

  #close(): void {
    clearTimeout(this.#probe);
    this.#open = false;
    this.#averageMs = 0;
    if (this.#told.size > 0) this.#log.info("redis answers again");
    this.#told.clear();
  }

  /** Each fault once in an outage. The error itself is not logged: it holds the command, passwords too. */
  #tell(error: unknown): void {
    const message = error instanceof Error ? error.message : "unknown";
    if (this.#told.has(message) || this.#ended) return;
    if (this.#told.size < toldMax) this.#told.add(message);
    this.#log.warn({ fault: message }, "redis cannot be had: doing without");
  }
}

// A command is never held back or sent twice: whoever asked has gone on without it.
const connection = {
  lazyConnect: true,
  connectTimeout: connectMs,
  commandTimeout: backgroundDeadlineMs,
  socketTimeout: silenceMsMax,
  keepAlive: 10_000,
  maxRetriesPerRequest: 0,
  enableOfflineQueue: false,
  autoResubscribe: false,
  autoResendUnfulfilledCommands: false,
  maxLoadingRetryTime: retryMsMax,
  retryStrategy: (times: number) =>
    Math.min(50 * 2 ** Math.min(times, 10), retryMsMax) * (0.75 + Math.random() / 4),
};

class Late extends Error {
  override readonly message = "no answer in time";
}

/** @throws Late */
function inTime<T>(promise: Promise<T>, ms: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      // When this thread was what was late, the answer lies in the socket: read that first.
      setImmediate(() => setImmediate(() => reject(new Late())));
    }, ms);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

type Listener = { onMessage: (message: string) => void; onSubscribed: () => void };

/** The connection that listens. A silent one is noticed by pings, and made anew. */
class Subscriber {
  readonly #listeners = new Map<string, Listener[]>();
  readonly #ping: Timer;

  constructor(private readonly client: Client) {
    client.on("error", () => undefined);
    client.on("message", (channel: string, message: string) => {
      for (const { onMessage } of this.#listeners.get(channel) ?? []) onMessage(message);
    });
    client.on("ready", () => void this.#subscribe([...this.#listeners.keys()]));
    client.connect().catch(() => undefined);
    this.#ping = setInterval(() => {
      if (client.status === "ready") client.ping().catch(() => undefined);
    }, silenceMsMax / 2);
    this.#ping.unref();
  }

  add(channel: string, listener: Listener): void {
    const listeners = this.#listeners.get(channel);
    if (listeners) listeners.push(listener);
    else this.#listeners.set(channel, [listener]);
    if (this.client.status === "ready") void this.#subscribe([channel]);
  }

  end(): void {
    clearInterval(this.#ping);
    this.client.disconnect();
  }

  async #subscribe(channels: string[]): Promise<void> {
    if (channels.length === 0) return;
    try {
      await this.client.subscribe(...channels);
    } catch {
      // A connection that cannot subscribe is of no use: the next one tries again.
      if (this.client.status === "ready") this.client.disconnect(true);
      return;
    }
    for (const channel of channels) {
      for (const { onSubscribed } of this.#listeners.get(channel) ?? []) onSubscribed();
    }
  }
}
