/** A client of the WebSocket, as a bot would have one. */

export interface Message {
  type: string;
  id?: number;
  [field: string]: unknown;
}

export interface Closed {
  code: number;
  reason: string;
}

export class Messages implements AsyncDisposable {
  readonly socket: WebSocket;
  readonly closed: Promise<Closed>;
  readonly #opened: Promise<void>;
  /** The highest id that was read: where a client resumes that stops here. */
  lastId: number | null = null;
  #messages: Message[] = [];
  #wake: (() => void) | null = null;

  constructor(url: string, headers: Record<string, string> = {}) {
    const at = url.replace(/^http/, "ws");
    this.socket = new WebSocket(at, { headers } as unknown as string[]);
    const opened = Promise.withResolvers<void>();
    const closed = Promise.withResolvers<Closed>();
    this.#opened = opened.promise;
    this.#opened.catch(() => undefined);
    this.closed = closed.promise;
    this.socket.addEventListener("open", () => opened.resolve());
    this.socket.addEventListener("message", ({ data }) => {
      this.#messages.push(JSON.parse(String(data)) as Message);
      this.#wake?.();
    });
    this.socket.addEventListener("close", ({ code, reason }) => {
      opened.reject(new Error(`closed: ${code} ${reason}`));
      closed.resolve({ code, reason });
      this.#wake?.();
    });
  }

  static async open(url: string, headers?: Record<string, string>): Promise<Messages> {
    const made = new Messages(url, headers);
    await made.#opened;
    return made;
  }

  /** @returns once the subscription was acknowledged. */
  async subscribe(asked: Record<string, unknown> = {}): Promise<Message> {
    this.send({ type: "subscribe", ...asked });
    return this.must("subscribed");
  }

  send(message: unknown): void {
    this.socket.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  async next(withinMs = 30_000): Promise<Message | null> {
    if (this.#messages.length === 0 && this.socket.readyState === WebSocket.OPEN) {
      const late = setTimeout(() => this.#wake?.(), withinMs);
      await new Promise<void>((wake) => (this.#wake = wake));
      clearTimeout(late);
    }
    const message = this.#messages.shift();
    if (message?.id !== undefined) this.lastId = message.id;
    if (message) return message;
    if (this.socket.readyState === WebSocket.OPEN) throw new Error("no message in time");
    return null;
  }

  async must(type: string, withinMs?: number): Promise<Message> {
    const message = await this.next(withinMs);
    if (message?.type === type) return message;
    throw new Error(`not ${type}: ${JSON.stringify(message)}`);
  }

  /** The next so many signals, whatever comes between. */
  async signals(count: number, withinMs?: number): Promise<Message[]> {
    const found: Message[] = [];
    while (found.length < count) {
      const message = await this.next(withinMs);
      if (message === null || message.type === "end" || message.type === "error") {
        throw new Error(`ended after ${found.length} signals: ${JSON.stringify(message)}`);
      }
      if (message.type === "signal") found.push(message);
    }
    return found;
  }

  async ids(count: number, withinMs?: number): Promise<number[]> {
    return (await this.signals(count, withinMs)).map(({ id }) => id ?? NaN);
  }

  /** True when nothing comes within this time. */
  async isQuiet(forMs = 150): Promise<boolean> {
    if (this.#messages.length > 0) return false;
    await Bun.sleep(forMs);
    return this.#messages.length === 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.close();
    await Promise.race([this.closed, Bun.sleep(1_000)]);
  }
}
