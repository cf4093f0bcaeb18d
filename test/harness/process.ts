/** The processes that tests talk to: the server, the engine that writes beside it, a lock holder. */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawnChild, tail, within, type Child } from "./children.ts";
import { findTool } from "./tools.ts";

const MAIN = join(import.meta.dir, "../../src/main.ts");
const ENGINE = join(import.meta.dir, "../engine/argo_engine.py");
const LISTENING_MS_MAX = 30_000;

export interface ServerOptions {
  /** Words after `serve`. */
  args?: string[];
  /** Nothing else is inherited but PATH, HOME and TMPDIR. PORT is 0 unless given. */
  env?: Record<string, string | undefined>;
  /** A fresh directory, removed with the server, unless given. */
  cwd?: string;
  /** A compiled program, instead of `bun src/main.ts`. */
  binary?: string;
  /** Signals alone unless said otherwise. */
  role?: string;
}

export interface Server extends AsyncDisposable {
  url: string;
  pid: number;
  /** What it printed: standard output and standard error. */
  logs(): string[];
  exited: Promise<number>;
  /** Sends the signal and waits for the exit code. */
  stop(signal?: NodeJS.Signals): Promise<number>;
  kill(): void;
}

/** Starts a server in a process of its own and waits until it listens. */
export async function startServer(options: ServerOptions = {}): Promise<Server> {
  const dir = options.cwd === undefined ? tempDir() : null;
  const program = options.binary === undefined ? [process.execPath, MAIN] : [options.binary];
  const role = options.role ?? "argo";
  const command = [...program, "serve", "--role", role, ...(options.args ?? [])];
  const listening = Promise.withResolvers<string>();
  const child = spawnChild(command, {
    cwd: options.cwd ?? dir?.path,
    env: { PORT: "0", ...options.env },
    onLine: (line) => {
      const url = listeningUrl(line);
      if (url !== null) listening.resolve(url);
    },
  });
  const url = await within(
    Promise.race([listening.promise, child.done.then(() => null)]),
    LISTENING_MS_MAX,
  );
  if (typeof url !== "string") {
    const what = url === null ? "ended" : `did not listen within ${LISTENING_MS_MAX} ms`;
    const code = child.running() ? "" : ` with exit code ${await child.done}`;
    await child[Symbol.asyncDispose]();
    dir?.[Symbol.dispose]();
    throw new Error(`the server ${what}${code}\n${tail(child.lines())}`);
  }
  return {
    url,
    pid: child.pid,
    logs: () => child.lines(),
    exited: child.done,
    stop: (signal) => child.stop(signal),
    kill: () => child.kill("SIGKILL"),
    async [Symbol.asyncDispose]() {
      await child[Symbol.asyncDispose]();
      dir?.[Symbol.dispose]();
    },
  };
}

function listeningUrl(line: string): string | null {
  if (!line.includes('"msg":"listening"')) return null;
  const entry = JSON.parse(line) as { url?: unknown };
  return typeof entry.url === "string" ? entry.url : null;
}

export interface EngineOptions {
  db: string;
  /** Commits a second. */
  rate: number;
  seconds: number;
  symbol?: string;
}

/** A row that the engine said is committed. */
export interface Committed {
  id: number;
  sha256: string;
}

export interface Engine extends AsyncDisposable {
  pid: number;
  /** Everything committed so far, in order: a ledger that owes the server nothing. */
  committed(): Committed[];
  /** The last of them, 0 before the first. */
  lastId(): number;
  /** The exit code, once the whole ledger has been read. */
  done: Promise<number>;
  /** Kills it where it stands. */
  kill(): void;
  /** What it printed, for a message. */
  logs(): string[];
}

/** Starts the engine writing live, a transaction a signal, from a process of its own. */
export async function startEngine(options: EngineOptions): Promise<Engine> {
  const { db, rate, seconds, symbol = "SPX" } = options;
  const ledger: Committed[] = [];
  const args = ["--db", db, "--rate", `${rate}`, "--seconds", `${seconds}`, "--symbol", symbol];
  const child = spawnChild([await python(), ENGINE, "live", ...args], {
    onLine: (line) => {
      const [id, sha256] = line.split(" ");
      ledger.push({ id: Number(id), sha256: sha256 ?? "" });
    },
  });
  return {
    pid: child.pid,
    committed: () => [...ledger],
    lastId: () => ledger.at(-1)?.id ?? 0,
    done: child.done,
    kill: () => child.kill("SIGKILL"),
    logs: () => child.lines(),
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

export interface WriteLock extends AsyncDisposable {
  /** Lets go, and waits until it has. */
  release(): Promise<void>;
}

const HOLD = `
import select, sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
select.select([sys.stdin], [], [], float(sys.argv[2]))
db.execute("ROLLBACK")
`;

/** Holds SQLite's write lock from another process, for so long at most. */
export async function holdWriteLock(db: string, seconds: number): Promise<WriteLock> {
  const held = Promise.withResolvers<true>();
  const child: Child = spawnChild([await python(), "-c", HOLD, db, `${seconds}`], {
    onLine: (line) => {
      if (line === "held") held.resolve(true);
    },
  });
  const ok = await within(Promise.race([held.promise, child.done.then(() => false)]), 30_000);
  if (ok !== true) {
    await child[Symbol.asyncDispose]();
    throw new Error(`the write lock could not be had\n${tail(child.lines())}`);
  }
  return {
    async release() {
      child.endInput();
      await child.done;
    },
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

async function python(): Promise<string> {
  const tool = await findTool("python3");
  if (tool.path === null) throw new Error(tool.reason);
  return tool.path;
}

export interface TempDir extends Disposable {
  path: string;
  /** The path of something in it. */
  file(name: string): string;
}

/** A fresh directory that goes with its scope, and with this process at the latest. */
export function tempDir(): TempDir {
  root ??= guardedRoot();
  const path = mkdtempSync(join(root, "dir-"));
  return {
    path,
    file: (name) => join(path, name),
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  };
}

let root: string | undefined;
// Held, since its input would end when it is collected.
let guard: Bun.Subprocess<"pipe", "ignore", "ignore"> | undefined;

// It waits until its input ends, which happens with this process however that ends. Servers that
// die with this process too may write for a moment more, so it comes back.
const GUARD = `trap "" HUP INT TERM; cat; for wait in 0 0.2 1 5; do sleep $wait; rm -rf "$1"; done`;

function guardedRoot(): string {
  const path = mkdtempSync(join(tmpdir(), "argo-test-"));
  // Postgres refuses to be root: it lives below as somebody else.
  chmodSync(path, 0o711);
  guard = Bun.spawn(["/bin/sh", "-c", GUARD, "sh", path], {
    cwd: "/",
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  guard.unref();
  process.once("exit", () => rmSync(path, { recursive: true, force: true }));
  return path;
}

const PORT_MIN = 10_000;
const PORTS = 22_000;
/** Processes of one run, each with ports of its own: 0 for those that are no worker of the runner's. */
const SHARERS = 8;
const sharer = Number(process.env["BUN_TEST_WORKER_ID"] ?? 0) % SHARERS;
let nextPort = Math.floor((Math.random() * PORTS) / SHARERS);

/**
 * A port that nothing listens on, from below those that the system gives away by itself, and that
 * this run gives to nobody else: a server that was stopped finds it free again.
 */
export function freePort(): number {
  for (;;) {
    nextPort = (nextPort + 1) % Math.floor(PORTS / SHARERS);
    const port = PORT_MIN + nextPort * SHARERS + sharer;
    try {
      Bun.listen({ hostname: "127.0.0.1", port, socket: { data() {} } }).stop(true);
      return port;
    } catch {
      // Somebody listens there: the next one.
    }
  }
}

/** For what takes no time by itself: long, since the machine may be slow and busy. */
const WAIT_MS_MAX = 30_000;

/**
 * Waits until the check holds; throws with what was awaited when it takes too long. As a function
 * that is called then, `what` tells what was seen last.
 */
export async function until(
  check: () => boolean | Promise<boolean>,
  what: string | (() => string),
  waitMsMax = WAIT_MS_MAX,
): Promise<void> {
  const deadline = performance.now() + waitMsMax;
  while (!(await check())) {
    if (performance.now() > deadline) {
      const awaited = typeof what === "string" ? what : what();
      throw new Error(`${awaited}: not within ${waitMsMax} ms`);
    }
    await Bun.sleep(5);
  }
}

/**
 * The least that several tries took, milliseconds: what the work itself waits for makes all of them
 * late, a pause of the machine only some.
 */
export async function leastMs(work: () => unknown, tries = 5): Promise<number> {
  let least = Infinity;
  for (let i = 0; i < tries; i += 1) {
    const begun = performance.now();
    await work();
    least = Math.min(least, performance.now() - begun);
  }
  return least;
}
