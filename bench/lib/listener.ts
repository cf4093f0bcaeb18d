import { requestBytes } from "./connection";

/** How a listener is told: by our two streams, or by a bare server that publishes to all. */
export type Form = "sse" | "ws" | "bare";

const pathOf: Record<Form, string> = {
  sse: "/api/signals/stream",
  ws: "/api/signals/ws",
  bare: "/",
};
/** What a listener is told once it will be told of what comes. */
const readyWord: Record<Form, string> = {
  sse: "event: head",
  ws: '"subscribed"',
  bare: "\r\n\r\n",
};
const signalId = /"id":(\d+),"symbol"/g;
/** Longer than what is looked for, shorter than a message. */
const carriedMax = 64;
const pong = Buffer.from([0x8a, 0x80, 0, 0, 0, 0]);

/**
 * One connection that is told of signals, on a raw socket: ten thousand clients of a library would
 * measure the library. Only ids are looked for in what comes.
 */
export class Listener {
  lastId = 0;
  #socket!: Bun.Socket<undefined>;
  #carried = "";
  #ready: (() => void) | null = null;
  #open = false;

  private constructor(
    private readonly form: Form,
    private readonly onSignal: (id: number) => void,
  ) {}

  /** Connects, asks, and returns when all that comes will be told. */
  static async open(
    {
      port,
      form,
      headers,
      filter,
    }: { port: number; form: Form; headers: Record<string, string>; filter?: { strategy: string } },
    onSignal: (id: number) => void,
    onLost: () => void,
  ): Promise<Listener> {
    const listener = new Listener(form, onSignal);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    listener.#ready = resolve;
    listener.#socket = await Bun.connect({
      hostname: "127.0.0.1",
      port,
      socket: {
        data: (_socket, data) => listener.#take(data),
        close: () => {
          reject(new Error(`a listener was closed: ${listener.#carried}`));
          if (listener.#open) onLost();
          listener.#open = false;
        },
        error: () => undefined,
      },
    });
    const upgrade = {
      upgrade: "websocket",
      connection: "Upgrade",
      "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
      "sec-websocket-version": "13",
    };
    const query = form === "sse" && filter ? `?strategy=${filter.strategy}` : "";
    const all = { ...headers, ...(form !== "sse" && upgrade) };
    listener.#socket.write(requestBytes("GET", pathOf[form] + query, all));
    if (form === "ws") {
      listener.#socket.write(frame(JSON.stringify({ type: "subscribe", ...filter })));
    }
    await promise;
    listener.#open = true;
    return listener;
  }

  /** Reads nothing any more. */
  stall(): void {
    this.#socket.pause();
  }

  close(): void {
    this.#open = false;
    this.#socket.terminate();
  }

  #take(data: Buffer): void {
    // A ping is a frame of its own, and asks for an answer.
    if (this.form !== "sse" && data[0] === 0x89) this.#socket.write(pong);
    const text = this.#carried + data.toString("latin1");
    if (this.#ready) {
      this.#carried = text;
      if (!text.includes(readyWord[this.form])) return;
      this.#ready();
      this.#ready = null;
      this.#carried = "";
      return;
    }
    let end = 0;
    for (const match of text.matchAll(signalId)) {
      const id = Number(match[1]);
      end = match.index + match[0].length;
      if (id <= this.lastId) continue;
      this.lastId = id;
      this.onSignal(id);
    }
    this.#carried = text.slice(Math.max(end, text.length - carriedMax));
  }
}

/** A short message of a client; its mask is of zeros, which does as well. */
function frame(text: string): Buffer {
  if (text.length > 125) throw new Error("too long for this");
  return Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text)]);
}
