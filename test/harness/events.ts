/** Reads server-sent events as clients do (the WHATWG's rules, as far as this server uses them). */

export interface Event {
  event: string;
  /** Where to resume. */
  id: number;
  data: Record<string, unknown>;
  /** The same, as it was sent. */
  json: string;
}

export interface StreamedSignal {
  id: number;
  symbol: string;
  confidence: number;
  strategy: string;
  received_at: string | null;
}

export class Events implements AsyncDisposable {
  /** Milliseconds, as last told. */
  retryMs: number | null = null;
  /** The cursor of a client that stops here. */
  lastId: number | null = null;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #decoder = new TextDecoder();
  #text = "";
  #events: Event[] = [];
  #reading: ReturnType<ReadableStreamDefaultReader<Uint8Array>["read"]> | null = null;
  #over = false;

  constructor(readonly response: Response) {
    if (response.status !== 200 || !response.body) throw new Error(`no stream: ${response.status}`);
    this.#reader = response.body.getReader() as ReadableStreamDefaultReader<Uint8Array>;
  }

  /** The next event; null at the end. */
  async next(withinMs = 30_000): Promise<Event | null> {
    while (this.#events.length === 0) {
      if (!(await this.#more(withinMs))) throw new Error("no event in time");
      if (this.#over) return null;
    }
    const event = this.#events.shift() as Event;
    this.lastId = event.id;
    return event;
  }

  /** The next event, which must be of this name. */
  async must(name: string, withinMs?: number): Promise<Event> {
    const event = await this.next(withinMs);
    if (event?.event === name) return event;
    throw new Error(`not ${name}: ${JSON.stringify(event)}`);
  }

  /** The next so many signals, whatever comes between. */
  async signals(count: number, withinMs?: number): Promise<StreamedSignal[]> {
    const found: StreamedSignal[] = [];
    while (found.length < count) {
      const event = await this.next(withinMs);
      if (event === null || event.event === "end") {
        throw new Error(`ended after ${found.length} signals: ${JSON.stringify(event)}`);
      }
      if (event.event === "signal") found.push(event.data as unknown as StreamedSignal);
    }
    return found;
  }

  async ids(count: number, withinMs?: number): Promise<number[]> {
    return (await this.signals(count, withinMs)).map(({ id }) => id);
  }

  /** True when nothing comes within this time. */
  async isQuiet(forMs = 150): Promise<boolean> {
    return this.#events.length === 0 && !(await this.#more(forMs));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#reader.cancel().catch(() => undefined);
  }

  /** Reads on. @returns false when nothing came in time; then the next call waits for the same. */
  async #more(withinMs: number): Promise<boolean> {
    this.#reading ??= this.#reader.read();
    const late = Promise.withResolvers<null>();
    const timer = setTimeout(() => late.resolve(null), withinMs);
    const came = await Promise.race([this.#reading, late.promise]);
    clearTimeout(timer);
    if (came === null) return false;
    this.#reading = null;
    if (came.done) this.#over = true;
    else this.#take(came.value);
    return true;
  }

  #take(bytes: Uint8Array): void {
    this.#text += this.#decoder.decode(bytes, { stream: true });
    const blocks = this.#text.split("\n\n");
    this.#text = blocks.pop() ?? "";
    for (const block of blocks) {
      const fields = new Map(
        block.split("\n").map((line): [string, string] => {
          const at = line.indexOf(": ");
          return [line.slice(0, at), line.slice(at + 2)];
        }),
      );
      const retry = fields.get("retry");
      if (retry !== undefined) this.retryMs = Number(retry);
      this.#events.push({
        event: fields.get("event") ?? "message",
        id: Number(fields.get("id")),
        data: JSON.parse(fields.get("data") ?? "{}") as Record<string, unknown>,
        json: fields.get("data") ?? "",
      });
    }
  }
}
