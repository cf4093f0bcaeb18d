export type Answer = {
  status: number;
  /** Status line and headers, without the blank line. */
  head: string;
  body: Buffer;
  /** Size on the wire, head included. */
  bytes: number;
};

type Socket = Bun.Socket<undefined>;

const headEnd = Buffer.from("\r\n\r\n");

/**
 * One keep-alive HTTP/1.1 connection without pipelining, for generators that time every request:
 * fetch() would add its own queues. Answers need a Content-Length (or none, as a 304).
 */
export class Connection {
  busy = false;
  #socket!: Socket;
  #received: Buffer = Buffer.alloc(0);
  #unsent: Buffer | null = null;
  #onAnswer: ((answer: Answer) => void) | null = null;

  #onLost: (reason: string) => void;

  private constructor(onLost: (reason: string) => void) {
    this.#onLost = onLost;
  }

  /** Connects; `onLost` hears of a connection that ends while a request waits. */
  static async open(
    port: number,
    onLost: (reason: string) => void = () => undefined,
    hostname = "127.0.0.1",
  ): Promise<Connection> {
    const connection = new Connection(onLost);
    connection.#socket = await Bun.connect({
      hostname,
      port,
      socket: {
        data: (_socket, data) => connection.#take(data),
        drain: () => connection.#flush(),
        close: () => connection.#lose("closed by the server"),
        error: (_socket, error) => connection.#lose(error.message),
      },
    });
    connection.#socket.setNoDelay(true);
    return connection;
  }

  /** Sends one request; `onAnswer` runs when the whole answer is there. */
  send(request: Buffer, onAnswer: (answer: Answer) => void): void {
    if (this.busy) throw new Error("one request at a time");
    this.busy = true;
    this.#onAnswer = onAnswer;
    this.#unsent = request;
    this.#flush();
  }

  /** The same as a promise; it fails when the connection is lost. */
  ask(request: Buffer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#onLost = (reason) => reject(new Error(reason));
      this.send(request, resolve);
    });
  }

  close(): void {
    this.#onAnswer = null;
    this.busy = false;
    this.#socket.end();
  }

  #flush(): void {
    if (!this.#unsent) return;
    const written = this.#socket.write(this.#unsent);
    this.#unsent =
      written < this.#unsent.length ? this.#unsent.subarray(Math.max(0, written)) : null;
  }

  #lose(reason: string): void {
    const waited = this.busy;
    this.busy = false;
    this.#onAnswer = null;
    if (waited) this.#onLost(reason);
  }

  #take(data: Buffer): void {
    this.#received = this.#received.length === 0 ? data : Buffer.concat([this.#received, data]);
    const end = this.#received.indexOf(headEnd);
    if (end < 0) return;
    const head = this.#received.toString("latin1", 0, end);
    const status = Number(head.slice(9, 12));
    const length = status === 304 ? 0 : Number(headerOf(head, "content-length") ?? Number.NaN);
    if (Number.isNaN(length)) {
      this.#lose(`an answer without Content-Length: ${head}`);
      return;
    }
    const bytes = end + 4 + length;
    if (this.#received.length < bytes) return;
    const body = this.#received.subarray(end + 4, bytes);
    this.#received =
      this.#received.length > bytes ? this.#received.subarray(bytes) : Buffer.alloc(0);
    const onAnswer = this.#onAnswer;
    this.#onAnswer = null;
    this.busy = false;
    onAnswer?.({ status, head, body, bytes });
  }
}

/** Value of a header in a raw head, or null. */
export function headerOf(head: string, name: string): string | null {
  const at = head.toLowerCase().indexOf(`\r\n${name}:`);
  if (at < 0) return null;
  const from = at + name.length + 3;
  const to = head.indexOf("\r\n", from);
  return head.slice(from, to < 0 ? undefined : to).trim();
}

/** The bytes of a request; a body brings its Content-Length with it. */
export function requestBytes(
  method: string,
  path: string,
  headers: Record<string, string>,
  body?: string,
): Buffer {
  const all = { host: "127.0.0.1", ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  const payload = body === undefined ? Buffer.alloc(0) : Buffer.from(body);
  if (body !== undefined) lines.push(`content-length: ${payload.length}\r\n`);
  const head = Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join("")}\r\n`);
  return body === undefined ? head : Buffer.concat([head, payload]);
}
