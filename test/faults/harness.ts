/** What the tests of faults share: raw connections, posts with a ledger, locks, figures. */
import { Database } from "bun:sqlite";
import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Socket } from "bun";
import TABLE from "../../db/argo/signals.sql" with { type: "text" };
import { adopt } from "../../src/argo/signals/adopt.ts";
import { spawnChild, within } from "../harness/children.ts";
import { type Server, type ServerOptions, startServer } from "../harness/process.ts";
import { findTool } from "../harness/tools.ts";

export const WRITE_TOKEN = "write-token-of-the-tests";
export const LATEST = "/api/signals/latest";
const ANSWER_MS_MAX = 30_000;

/** A server on this signal file, whose read limit is out of the way. */
export function serveFile(db: string, options: ServerOptions = {}): Promise<Server> {
  const env = { ...serverEnv(db), ...options.env };
  return startServer({ ...options, env });
}

export function serverEnv(db: string): Record<string, string> {
  return {
    SIGNALS_DB: db,
    DATA_DIR: dirname(db),
    ARGO_WRITE_TOKEN: WRITE_TOKEN,
    RATE_LIMIT_PER_MINUTE: "1000000000",
    SHUTDOWN_DELAY_SECONDS: "0",
  };
}

/** The server's entry point, for a test that starts it in its own way. */
export const MAIN = new URL("../../src/main.ts", import.meta.url).pathname;

export interface Answer {
  status: number;
  /** Names in lower case. */
  headers: Map<string, string>;
  body: string;
  durationMs: number;
}

interface Waiting {
  settle: (answer: Answer) => void;
  fail: (error: Error) => void;
  begunAt: number;
  timer: Timer;
}

/**
 * One keep-alive connection, one request at a time. It never connects anew nor asks twice in
 * silence: what is lost here was lost by the server.
 */
export class Wire implements Disposable {
  /** True once either side has closed. */
  closed = false;
  /** True once the server said that it will close. */
  leaving = false;
  /** Bytes that came; counted for reads that are not answers. */
  received = 0;
  #rest = "";
  #waiting: Waiting | null = null;

  private constructor(
    private readonly socket: Socket<undefined>,
    private readonly host: string,
  ) {}

  static async open(url: string): Promise<Wire> {
    const { hostname, port, host } = new URL(url);
    let wire: Wire | null = null;
    const socket = await Bun.connect({
      hostname,
      port: Number(port),
      socket: {
        data: (_socket, data) => wire?.take(data),
        close: () => wire?.lose("the connection was closed"),
        end: () => wire?.lose("the connection was ended"),
        error: (_socket, error) => wire?.lose(error.message),
      },
    });
    wire = new Wire(socket, host);
    return wire;
  }

  get(path: string, headers: Record<string, string> = {}): Promise<Answer> {
    return this.ask("GET", path, headers, "");
  }

  /** Posts signals with the write token. */
  post(body: unknown, headers: Record<string, string> = {}): Promise<Answer> {
    const all = {
      Authorization: `Bearer ${WRITE_TOKEN}`,
      "Content-Type": "application/json",
      ...headers,
    };
    return this.ask("POST", "/api/signals", all, JSON.stringify(body));
  }

  ask(
    method: string,
    path: string,
    headers: Record<string, string>,
    body: string,
  ): Promise<Answer> {
    const length = body === "" ? "" : `Content-Length: ${Buffer.byteLength(body)}\r\n`;
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    return this.exchange(
      `${method} ${path} HTTP/1.1\r\nHost: ${this.host}\r\n${lines.join("")}${length}\r\n${body}`,
    );
  }

  /** Sends these bytes and waits for one answer. */
  exchange(text: string): Promise<Answer> {
    if (this.closed) return Promise.reject(new Error("the connection is closed"));
    if (this.#waiting !== null) throw new Error("one request at a time");
    return new Promise<Answer>((settle, fail) => {
      const timer = setTimeout(() => this.lose("no answer in time"), ANSWER_MS_MAX);
      this.#waiting = { settle, fail, begunAt: performance.now(), timer };
      this.send(text);
    });
  }

  /** Sends bytes and waits for nothing. */
  send(text: string): void {
    const bytes = Buffer.from(text);
    const sent = this.socket.write(bytes);
    if (sent < bytes.length) setTimeout(() => this.#sendRest(bytes.subarray(sent)), 1);
  }

  /** Takes nothing any more, so that the server's sending comes to a stand. */
  pause(): void {
    this.socket.pause();
  }

  [Symbol.dispose](): void {
    this.closed = true;
    this.socket.terminate();
  }

  #sendRest(bytes: Uint8Array): void {
    if (this.closed) return;
    const sent = this.socket.write(bytes);
    if (sent < bytes.length) setTimeout(() => this.#sendRest(bytes.subarray(Math.max(0, sent))), 1);
  }

  private take(data: Buffer): void {
    this.received += data.length;
    if (this.#waiting === null) return;
    this.#rest += data.toString("latin1");
    const parsed = parseAnswer(this.#rest);
    if (parsed === null) return;
    const { settle, begunAt, timer } = this.#waiting;
    clearTimeout(timer);
    this.#waiting = null;
    this.#rest = "";
    if (parsed.headers.get("connection") === "close") this.leaving = true;
    settle({ ...parsed, durationMs: performance.now() - begunAt });
  }

  private lose(reason: string): void {
    this.closed = true;
    const waiting = this.#waiting;
    this.#waiting = null;
    if (waiting === null) return;
    clearTimeout(waiting.timer);
    this.socket.terminate();
    waiting.fail(new Error(reason));
  }
}

/** A whole answer, or null while some of it is missing. */
function parseAnswer(text: string): Omit<Answer, "durationMs"> | null {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return null;
  const [first = "", ...lines] = text.slice(0, end).split("\r\n");
  const status = Number(first.split(" ", 2)[1]);
  const headers = new Map<string, string>();
  for (const line of lines) {
    const at = line.indexOf(":");
    headers.set(line.slice(0, at).toLowerCase(), line.slice(at + 1).trim());
  }
  const rest = text.slice(end + 4);
  const length = headers.get("content-length");
  if (length !== undefined && status !== 304) {
    return rest.length < Number(length) ? null : { status, headers, body: rest };
  }
  if (headers.get("transfer-encoding") !== "chunked") return { status, headers, body: "" };
  if (!rest.endsWith("0\r\n\r\n")) return null;
  return parseChunks(rest, status, headers);
}

function parseChunks(
  text: string,
  status: number,
  headers: Map<string, string>,
): Omit<Answer, "durationMs"> | null {
  const parts: string[] = [];
  let at = 0;
  for (;;) {
    const line = text.indexOf("\r\n", at);
    if (line < 0) return null;
    const size = Number.parseInt(text.slice(at, line), 16);
    if (size === 0) return { status, headers, body: parts.join("") };
    const from = line + 2;
    if (from + size > text.length) return null;
    parts.push(text.slice(from, from + size));
    at = from + size + 2;
  }
}

export interface SignalBody {
  symbol: string;
  action: "BUY" | "SELL";
  confidence: number;
  entry_price: number;
  stop_price: number;
  target_price: number;
  timestamp?: string;
}

/** The n-th signal: its symbol says which one it is. */
export function signal(symbol: string, n: number, timed = true): SignalBody {
  const body: SignalBody = {
    symbol,
    action: "BUY",
    confidence: 60 + (n % 40),
    entry_price: 100 + (n % 1_000),
    stop_price: 50,
    target_price: 5_000,
  };
  if (timed) body.timestamp = new Date(Date.UTC(2020, 0, 1) + n * 1_000).toISOString();
  return body;
}

export interface AcceptedSignal {
  id: number;
  sha256: string;
  duplicate: boolean;
}

/** The rows that a 201 speaks of. */
export function acceptedOf(answer: Answer): AcceptedSignal[] {
  return (JSON.parse(answer.body) as { signals: AcceptedSignal[] }).signals;
}

/** The newest id in the body of a poll; 0 when it shows none. */
export function newestId(body: string): number {
  let newest = 0;
  for (const match of body.matchAll(/"id":(\d+)/g)) newest = Math.max(newest, Number(match[1]));
  return newest;
}

/** A problem document with this status that says when to come back. */
export function isRetryLater(answer: Answer): boolean {
  return (
    answer.status === 503 &&
    answer.headers.get("content-type") === "application/problem+json" &&
    Number(answer.headers.get("retry-after")) >= 1
  );
}

/** Polls on so many connections until told to stop; every answer's time, and what was not 200. */
export class Pollers {
  readonly durationsMs: number[] = [];
  readonly faults: string[] = [];
  #stopped = false;
  #cutAt = performance.now();
  #running: Promise<unknown> = Promise.resolve();

  static start(url: string, options: { connections?: number; path?: string } = {}): Pollers {
    const { connections = 4, path = LATEST } = options;
    const pollers = new Pollers();
    const loops = Array.from({ length: connections }, () => pollers.#loop(url, path));
    pollers.#running = Promise.all(loops);
    return pollers;
  }

  /** Times until now, which are then forgotten: to tell one phase from the next. */
  cut(): number[] {
    this.#cutAt = performance.now();
    return this.durationsMs.splice(0);
  }

  /** The same of polls that may have to wait for nothing: see flow.ts. */
  phase(): Phase {
    const seconds = (performance.now() - this.#cutAt) / 1_000;
    const durationsMs = this.cut();
    return { durationsMs, perSecond: durationsMs.length / seconds };
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #loop(url: string, path: string): Promise<void> {
    using wire = await Wire.open(url);
    while (!this.#stopped) {
      try {
        const answer = await wire.get(path);
        this.durationsMs.push(answer.durationMs);
        if (answer.status !== 200) this.faults.push(`${answer.status} ${answer.body}`);
      } catch (error) {
        this.faults.push(String(error));
        return;
      }
      // About 500 polls a second each: a steady look at the server, not a flood.
      await Bun.sleep(1);
    }
  }
}

export interface Phase {
  durationsMs: number[];
  perSecond: number;
}

/** The value below which this part of them lies. */
export function quantile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0;
}

/** The quantiles of a phase, for the output. */
export function figures(values: readonly number[]): string {
  const at = (part: number) => quantile(values, part).toFixed(2);
  return `n=${values.length} p50=${at(0.5)} p99=${at(0.99)} max=${at(1)} ms`;
}

const HOLD = `
import select, sqlite3, sys
path, kind, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
db = sqlite3.connect(path, timeout=10, isolation_level=None)
db.execute("BEGIN " + kind)
print("held", flush=True)
select.select([sys.stdin], [], [], seconds)
db.execute("ROLLBACK")
`;

export interface Held extends AsyncDisposable {
  release(): Promise<void>;
}

/** Another process holds a transaction of this kind open, for so long at most. */
export async function holdLock(
  db: string,
  kind: "IMMEDIATE" | "EXCLUSIVE",
  seconds: number,
): Promise<Held> {
  const held = Promise.withResolvers<true>();
  const child = spawnChild([await python(), "-c", HOLD, db, kind, `${seconds}`], {
    onLine: (line) => {
      if (line === "held") held.resolve(true);
    },
  });
  const ok = await within(Promise.race([held.promise, child.done.then(() => false)]), 30_000);
  if (ok !== true) {
    await child[Symbol.asyncDispose]();
    throw new Error(`the lock could not be had\n${child.lines().join("\n")}`);
  }
  return {
    async release() {
      child.endInput();
      await child.done;
    },
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

export async function python(): Promise<string> {
  const tool = await findTool("python3");
  if (tool.path === null) throw new Error(tool.reason);
  return tool.path;
}

export interface StoredRow {
  id: number;
  symbol: string;
  sha256: string | null;
}

/** What the file holds, read by a connection of this process; checks the file on the way. */
export function readFile(db: string): { rows: StoredRow[]; integrity: string[] } {
  using file = new Database(db, { readonly: true });
  file.run("PRAGMA busy_timeout = 5000");
  const rows = file.query<StoredRow, []>("SELECT id, symbol, sha256 FROM signals ORDER BY id");
  const check = file.query<{ integrity_check: string }, []>("PRAGMA integrity_check(5)");
  return { rows: rows.all(), integrity: check.all().map((row) => row.integrity_check) };
}

/** Resident memory of a process, in MiB. */
export function residentMiB(pid: number): number {
  const pages = Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]);
  return (pages * 4_096) / 1024 / 1024;
}

/** Numbers from a seed that is printed, so that a run can be had again. */
export function seededRandom(name: string): () => number {
  const given = process.env["TEST_SEED"];
  let state = (given === undefined ? Date.now() : Number(given)) >>> 0;
  console.log(`${name}: TEST_SEED=${state}`);
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** An adopted file with this many rows, none of them premium, made without a server. */
export function makeFile(db: string, rows: number): void {
  using file = new Database(db, { create: true, strict: true });
  file.run("PRAGMA journal_mode = WAL");
  file.run("PRAGMA synchronous = OFF");
  file.run(TABLE);
  file
    .query(
      `WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)
       INSERT INTO signals (symbol, action, entry_price, target_price, stop_price, confidence, timestamp, sha256)
       SELECT 'S' || (n % 50), CASE n % 2 WHEN 0 THEN 'BUY' ELSE 'SELL' END, 100 + n % 1000, 200, 50,
              60 + n % 30, strftime('%Y-%m-%dT%H:%M:%S+00:00', 1000000000 + n * 60, 'unixepoch'),
              lower(hex(randomblob(32)))
       FROM n`,
    )
    .run(rows);
  adopt(file, () => undefined, { create: true, nowMs: Date.now() });
  file.run("PRAGMA wal_checkpoint(TRUNCATE)");
}
