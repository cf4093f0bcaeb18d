/** Several workers of one server, as tests break and load them. */
import { type Answer, LATEST, signal, Wire, WRITE_TOKEN } from "../faults/harness.ts";
import { Events } from "./events.ts";
import { Messages } from "./messages.ts";
import { startServer, type Server, type ServerOptions } from "./process.ts";
import { childrenOf } from "./servers.ts";

export interface Workers extends Server {
  /** Process ids of those that run. */
  workers(): number[];
  /** Has them replaced one by one, and resolves when all are. */
  reload(): Promise<void>;
}

/** The numbers of a metric in a scrape, added up over those of its labels that hold a text. */
export function total(scrape: string, name: string, label = ""): number {
  return scrape
    .split("\n")
    .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    .filter((line) => line.includes(label))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

/** Starts a server of so many workers, whose read limit is out of the way, and waits for all. */
export async function startWorkers(
  dir: string,
  count: number,
  options: ServerOptions = {},
): Promise<Workers> {
  const server = await startServer({
    ...options,
    cwd: dir,
    args: ["--workers", `${count}`],
    env: {
      DATA_DIR: dir,
      ARGO_WRITE_TOKEN: WRITE_TOKEN,
      RATE_LIMIT_PER_MINUTE: "1000000000",
      SHUTDOWN_DELAY_SECONDS: "0",
      ...options.env,
    },
  });
  const told = (text: string): number =>
    server.logs().filter((line) => line.includes(`"msg":"${text}"`)).length;
  return {
    ...server,
    workers: () => childrenOf(server.pid),
    async reload() {
      const wanted = told("worker replaced") + count;
      process.kill(server.pid, "SIGUSR2");
      while (told("worker replaced") < wanted) {
        if (told("its replacement did not start: the workers go on as they are") > 0) {
          throw new Error(server.logs().slice(-5).join("\n"));
        }
        await Bun.sleep(20);
      }
    },
  };
}

/** Polls, posts and streams that go on until they are stopped; each fault of theirs is noted. */
export class Load {
  polls = 0;
  connections = 0;
  /** Ids that were acknowledged. */
  readonly posted: number[] = [];
  readonly faults: string[] = [];
  /** What each stream was told, across all its connections. */
  readonly streamed: number[][] = [];
  resumed = 0;
  #stopped = false;
  readonly #running: Promise<void>[] = [];
  readonly #over = new AbortController();
  readonly #streaming: Promise<void>[] = [];

  constructor(
    private readonly url: string,
    /** True where connections may be cut: what is acknowledged must stand all the same. */
    private readonly mayCut = false,
  ) {}

  /** So many that keep their connection until the server says that it closes it. */
  keep(count: number): this {
    return this.#start(count, async () => {
      using wire = await Wire.open(this.url);
      while (!this.#stopped && !wire.leaving && !wire.closed) await this.#poll(wire);
    });
  }

  /** So many that connect anew for each poll. */
  connect(count: number): this {
    return this.#start(count, async () => {
      using wire = await Wire.open(this.url);
      this.connections += 1;
      await this.#poll(wire);
    });
  }

  /** So many that post, and look on another connection whether it is shown. */
  post(count: number): this {
    return this.#start(count, async () => {
      using wire = await Wire.open(this.url);
      while (!this.#stopped && !wire.leaving && !wire.closed) {
        const n = (this.#posts += 1);
        const answer = await wire.post(signal(`W${n}`, n));
        if (answer.status === 503 && this.mayCut) continue;
        if (answer.status !== 201) throw new Error(`post: ${answer.status} ${answer.body}`);
        const { signals } = JSON.parse(answer.body) as { signals: { id: number }[] };
        const id = signals[0]?.id ?? 0;
        this.posted.push(id);
        using other = await Wire.open(this.url);
        const seen = Number((await this.#poll(other)).headers.get("signal-head"));
        if (seen < id) this.faults.push(`stale: ${seen} after ${id}`);
        await Bun.sleep(2);
      }
    });
  }
  #posts = 0;

  /** So many streams from the first signal on, each of which resumes where it was cut. */
  stream(count: number): this {
    return this.#follow(count, async (ids) => {
      const path = `/api/signals/stream?since_id=${ids.at(-1) ?? 0}`;
      const headers = { Connection: "close" };
      const response = await fetch(this.url + path, { headers, signal: this.#over.signal });
      if (response.status === 503 && this.mayCut) return;
      await using events = new Events(response);
      this.resumed += 1;
      for (;;) {
        const event = await events.next();
        if (event === null || event.event === "end") return;
        if (event.event === "signal") ids.push(event.id);
      }
    });
  }

  /** The same over WebSockets. */
  socket(count: number): this {
    return this.#follow(count, async (ids) => {
      await using messages = await Messages.open(`${this.url}/api/signals/ws`);
      const close = () => messages.socket.close();
      this.#over.signal.addEventListener("abort", close);
      await messages.subscribe({ resume_from: ids.at(-1) ?? 0 });
      this.resumed += 1;
      for (;;) {
        const message = await messages.next();
        if (message === null || message.type === "end") return;
        if (message.type === "signal") ids.push(message.id ?? NaN);
      }
    });
  }

  #follow(count: number, connect: (ids: number[]) => Promise<void>): this {
    for (let i = 0; i < count; i += 1) {
      const ids: number[] = [];
      this.streamed.push(ids);
      this.#streaming.push(this.#loop(() => connect(ids), this.#over.signal));
    }
    return this;
  }

  /** Ends it, the streams last. @returns whether each was told of all that was acknowledged. */
  async stop(): Promise<boolean> {
    this.#stopped = true;
    await Promise.all(this.#running);
    const caughtUp = await this.#caughtUp(30_000);
    this.#over.abort();
    await Promise.all(this.#streaming);
    return caughtUp;
  }

  async #caughtUp(withinMs: number): Promise<boolean> {
    const newest = Math.max(0, ...this.posted);
    const until = performance.now() + withinMs;
    while (this.streamed.some((ids) => (ids.at(-1) ?? 0) < newest)) {
      if (performance.now() > until) return false;
      await Bun.sleep(10);
    }
    return true;
  }

  #start(count: number, work: () => Promise<void>): this {
    for (let i = 0; i < count; i += 1) this.#running.push(this.#loop(work));
    return this;
  }

  async #loop(work: () => Promise<void>, until?: AbortSignal): Promise<void> {
    const isOver = () => (until ? until.aborted : this.#stopped);
    while (!isOver()) {
      try {
        await work();
      } catch (error) {
        if (!this.mayCut && !isOver()) this.faults.push(String(error));
        await Bun.sleep(5);
      }
    }
  }

  async #poll(wire: Wire): Promise<Answer> {
    const answer = await wire.get(LATEST);
    this.polls += 1;
    if (answer.status !== 200) this.faults.push(`poll: ${answer.status}`);
    return answer;
  }
}
