import { closeSync, mkdirSync, openSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDir, rootDir } from "./paths";

/** The core that servers run on, and the one for everything that drives them. */
export const serverCore = 0;
export const generatorCore = 1;
/** Where both share both. */
export const bothCores = "0,1";

const pageBytes = 4096;
const alive = new Set<Child>();

export type SpawnOptions = {
  core: number | typeof bothCores;
  env?: Record<string, string>;
  cwd?: string;
  /** Name of the log under .cache/logs that takes standard error (and output, unless piped). */
  log: string;
  pipeOutput?: boolean;
  /** The command is strace and the like: it would let its own child live on when it is ended. */
  wrapper?: boolean;
  /** Real-time priority, so that a sleeping generator wakes at once; used only when permitted. */
  realtime?: boolean;
};

/** A child process that this run started; nothing else is ever signalled. */
export class Child {
  readonly pid: number;
  readonly exited: Promise<number>;

  constructor(
    readonly name: string,
    readonly handle: Bun.Subprocess<"ignore", "pipe" | number, number>,
    readonly wrapper: boolean,
  ) {
    this.pid = handle.pid;
    this.exited = handle.exited;
    alive.add(this);
    void handle.exited.then(() => alive.delete(this));
  }

  /** Everything that the child prints, once it has ended. Needs `pipeOutput`. */
  async output(): Promise<string> {
    const { stdout } = this.handle;
    if (!(stdout instanceof ReadableStream)) throw new Error(`${this.name} has no piped output`);
    return new Response(stdout).text();
  }

  /** Asks the child to end, insists after 5 s. */
  async stop(): Promise<void> {
    if (this.handle.exitCode !== null || this.handle.signalCode !== null) return;
    this.#signal("SIGTERM");
    const timer = setTimeout(() => this.kill(), 5_000);
    await this.exited;
    clearTimeout(timer);
  }

  kill(): void {
    this.#signal("SIGKILL");
  }

  #signal(signal: "SIGTERM" | "SIGKILL"): void {
    // A wrapper ends when what it wraps has ended. Its children cannot have been replaced by
    // others of the same number while it waits for them.
    const wrapped = this.wrapper ? childrenOf(this.pid) : [];
    for (const pid of wrapped) process.kill(pid, signal);
    if (wrapped.length === 0) this.handle.kill(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

// An interrupted run leaves no server behind.
process.on("exit", () => {
  for (const child of alive) child.kill();
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(130));

let realtimePermitted: boolean | undefined;

function canRealtime(): boolean {
  realtimePermitted ??= Bun.spawnSync(["chrt", "-f", "1", "true"], { stderr: "ignore" }).success;
  return realtimePermitted;
}

/** Starts a command on one core. taskset and chrt replace themselves, so the pid is the command's. */
export function spawnPinned(command: readonly string[], options: SpawnOptions): Child {
  const logs = join(cacheDir, "logs");
  mkdirSync(logs, { recursive: true });
  const log = openSync(join(logs, `${options.log}.log`), "w");
  const first = options.realtime && canRealtime() ? ["chrt", "-f", "1"] : [];
  const handle = Bun.spawn([...first, "taskset", "-c", String(options.core), ...command], {
    cwd: options.cwd ?? rootDir,
    env: { ...inherited(), ...options.env },
    stdin: "ignore",
    stdout: options.pipeOutput ? "pipe" : log,
    stderr: log,
  });
  closeSync(log);
  return new Child(options.log, handle, options.wrapper ?? false);
}

/** What a child may inherit: nothing that would configure a server behind our back. */
function inherited(): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const name of ["PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"]) {
    const value = Bun.env[name];
    if (value !== undefined) kept[name] = value;
  }
  return kept;
}

/** Processor time used so far by all threads of a process, in microseconds. */
export function cpuUs(pid: number): number {
  // schedstat counts nanoseconds per thread; utime + stime of /proc/PID/stat would count 10 ms ticks.
  let sum = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    try {
      sum += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "utf8").split(" ")[0]);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // the thread has ended
    }
  }
  return sum / 1_000;
}

/** Resident memory of a process, in bytes. */
export function rssBytes(pid: number): number {
  const pages = readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1];
  return Number(pages) * pageBytes;
}

/** Direct children of a process: what strace, for one, has started. */
export function childrenOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  return text === "" ? [] : text.split(" ").map(Number);
}

/** Pins this process itself, with its threads, to a core. */
export function pinSelf(core: number): void {
  Bun.spawnSync(["taskset", "-a", "-p", "-c", String(core), String(process.pid)]);
}

/** A port of the loopback interface that is free now. */
export function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}
