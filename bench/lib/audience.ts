import { Database } from "bun:sqlite";
import { generatorCore, spawnPinned } from "./process";
import { join } from "node:path";
import { Histogram } from "./histogram";
import { Listener, type Form } from "./listener";
import { benchDir } from "./paths";

/**
 * Many listeners and the writer whose commits they wait for, as a program of its own: `bun
 * audience.ts` prints its port and is told what to do over HTTP. Writer and listeners share a
 * process, and so a clock.
 */
export type OpenOptions = {
  port: number;
  form: Form;
  headers: Record<string, string>;
  clients: number;
  filter?: { strategy: string };
};

export type TellOptions = {
  /** The file to commit into, or the bare server to have it published by. */
  to: { db: string } | { barePort: number };
  signals: number;
  perSecond: number;
  /** What the listeners filter by, and how many bytes a signal is longer than usual. */
  strategy?: string;
  padding?: number;
  /** Whether all listeners must have been told at the end. */
  unheard?: boolean;
};

export type TellReport = {
  /** From just before the commit to a listener's socket, over all listeners. */
  p50Us: number;
  p99Us: number;
  maxUs: number;
  /** To the last of them, the median of all signals. */
  lastUs: number;
  /** Listeners × signals that were never told. */
  missing: number;
  /** Listeners that were closed. */
  lost: number;
};

const openAtOnce = 100;
const waitMs = 15_000;

const audiences: Listener[] = [];
const stalled = new Set<Listener>();
let told: (id: number) => void = () => undefined;
let lost = 0;

async function open({ clients, ...options }: OpenOptions): Promise<void> {
  let left = clients;
  const lane = async (): Promise<void> => {
    for (; left > 0;) {
      left -= 1;
      const listener = await Listener.open(
        options,
        (id) => told(id),
        () => (lost += 1),
      );
      audiences.push(listener);
    }
  };
  await Promise.all(Array.from({ length: openAtOnce }, lane));
}

async function tell(options: TellOptions): Promise<TellReport> {
  const { to, signals, perSecond, unheard = false } = options;
  const latencies = new Histogram();
  const lasts: number[] = [];
  const begun = new Map<number, { atMs: number; left: number }>();
  const hearing = audiences.length - stalled.size;
  let missing = signals * hearing;
  const done = Promise.withResolvers<void>();
  told = (id) => {
    const one = begun.get(id);
    if (!one) return;
    const us = (performance.now() - one.atMs) * 1_000;
    latencies.record(us);
    one.left -= 1;
    missing -= 1;
    if (one.left === 0) lasts.push(us);
    if (missing === 0) done.resolve();
  };
  const note = (id: number, atMs: number): void => void begun.set(id, { atMs, left: hearing });
  const writer = "db" in to ? writerOf(to.db, options) : publisherOf(to.barePort, options);
  lost = 0;
  let due = performance.now();
  for (let i = 0; i < signals; i += 1) {
    writer.write(note);
    // At any moment, or the writer would keep step with the timers of those who listen.
    due += (2 * Math.random() * 1_000) / perSecond;
    await Bun.sleep(Math.max(0, due - performance.now()));
  }
  if (!unheard) await Promise.race([done.promise, Bun.sleep(waitMs)]);
  writer.end();
  return {
    p50Us: latencies.percentileUs(50),
    p99Us: latencies.percentileUs(99),
    maxUs: latencies.maxUs,
    lastUs: lasts.toSorted((a, b) => a - b)[Math.floor(lasts.length / 2)] ?? Number.NaN,
    missing: unheard ? 0 : missing,
    lost,
  };
}

type Note = (id: number, atMs: number) => void;
type Writer = { write: (note: Note) => void; end: () => void };

/** Commits as an engine does, but for the fsync, which has its own time on each machine. */
function writerOf(path: string, { strategy = "light", padding = 0 }: TellOptions): Writer {
  const db = new Database(path, { readwrite: true });
  db.run("PRAGMA busy_timeout = 5000");
  db.run("PRAGMA synchronous = NORMAL");
  const insert = db.prepare(
    `INSERT INTO signals (symbol, action, entry_price, confidence, strategy, timestamp)
     VALUES (?, 'BUY', 1, 50, ?, ?)`,
  );
  const symbol = `SPX${"-".repeat(padding)}`;
  return {
    write: (note) => {
      const timestamp = new Date().toISOString();
      db.run("BEGIN IMMEDIATE");
      const id = Number(insert.run(symbol, strategy, timestamp).lastInsertRowid);
      // Before the commit, so that nobody can have heard of it sooner.
      note(id, performance.now());
      db.run("COMMIT");
    },
    end: () => {
      insert.finalize();
      db.close();
    },
  };
}

let publishedId = 0;

/** Has a bare server publish what ours would send, as long and as the listeners look for it. */
function publisherOf(port: number, { padding = 0 }: TellOptions): Writer {
  const sample = {
    symbol: `SPX${"-".repeat(padding)}`,
    action: "BUY",
    confidence: 50,
    price: 1,
    entry_price: 1,
    stop_loss: null,
    take_profit: null,
    target_price: null,
    timestamp: "2026-11-20T12:00:00.000Z",
    strategy: "light",
    sha256: "",
    supersedes: null,
    received_at: "2026-11-20T12:00:00.000Z",
  };
  // One after the other, as they are committed: their ids are to ascend.
  let last: Promise<unknown> = Promise.resolve();
  return {
    write: (note) => {
      last = last.then(() => {
        publishedId += 1;
        note(publishedId, performance.now());
        const id = publishedId;
        const body = JSON.stringify({ type: "signal", id, signal: { id, ...sample } });
        return fetch(`http://127.0.0.1:${port}/`, { method: "POST", body });
      });
    },
    end: () => undefined,
  };
}

/** Reads nothing of so many of those that are open. */
function stall(count: number): void {
  for (const listener of audiences.slice(0, count)) {
    listener.stall();
    stalled.add(listener);
  }
}

function close(): void {
  for (const listener of audiences.splice(0)) listener.close();
  stalled.clear();
}

const orders: Record<string, (options: never) => unknown> = { open, tell, stall, close };

/** The same program, as whoever drives it sees it. */
export class Audience implements AsyncDisposable {
  private constructor(
    private readonly url: string,
    private readonly child: ReturnType<typeof spawnPinned>,
  ) {}

  static async start(): Promise<Audience> {
    const child = spawnPinned([process.execPath, join(benchDir, "lib/audience.ts")], {
      core: generatorCore,
      log: "audience",
      pipeOutput: true,
    });
    const { stdout } = child.handle;
    if (!(stdout instanceof ReadableStream)) throw new Error("the output is not piped");
    const reader = stdout.getReader();
    const { value } = await reader.read();
    return new Audience(`http://127.0.0.1:${new TextDecoder().decode(value).trim()}`, child);
  }

  open = (options: OpenOptions): Promise<null> => this.#order("open", options);
  tell = (options: TellOptions): Promise<TellReport> => this.#order("tell", options);
  stall = (count: number): Promise<null> => this.#order("stall", count);
  close = (): Promise<null> => this.#order("close", null);

  async #order<T>(name: string, options: unknown): Promise<T> {
    const answer = await fetch(`${this.url}/${name}`, {
      method: "POST",
      body: JSON.stringify(options),
      timeout: false,
    } as RequestInit);
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${name}: ${text}`);
    return JSON.parse(text) as T;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.child.stop();
  }
}

if (import.meta.main) {
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    idleTimeout: 0,
    async fetch(request) {
      try {
        const order = orders[new URL(request.url).pathname.slice(1)];
        const done = await order?.((await request.json()) as never);
        return Response.json(done ?? null);
      } catch (error) {
        return new Response(error instanceof Error ? error.message : String(error), {
          status: 500,
        });
      }
    },
  });
  process.stdout.write(`${server.port}\n`);
}
