/** Child processes that end with their scope, or with the test run at the latest. */

const LINES_MAX = 50_000;

export interface SpawnOptions {
  cwd?: string;
  env?: Record<string, string | undefined>;
  /** Called with each line of standard output, without its end. */
  onLine?: (line: string) => void;
  /** What the kernel sends it when this process is gone: SIGKILL unless it has to clean up. */
  deathSignal?: "KILL" | "INT";
  /** Whom it runs as, user and group in one, where this process is root. */
  uid?: number;
}

export interface Child extends AsyncDisposable {
  pid: number;
  /** Lines of standard output and standard error as they came, the newest 50,000. */
  lines(): string[];
  /** The exit code, 128 + n after signal n, once both outputs have been read to their end. */
  done: Promise<number>;
  running(): boolean;
  kill(signal?: NodeJS.Signals): void;
  /** Ends its standard input. */
  endInput(): void;
  /** Sends the signal and waits; throws, and kills, when it takes too long. */
  stop(signal?: NodeJS.Signals, waitMsMax?: number): Promise<number>;
}

// The kernel ends a child with the run that started it, however that run ends. Where there is no
// setpriv, `bun test --no-orphans` does what it can.
const setpriv = Bun.which("setpriv");

function tied({ deathSignal = "KILL", uid }: SpawnOptions): string[] {
  if (setpriv === null && uid === undefined) return [];
  if (setpriv === null) throw new Error("there is no setpriv here to leave root with");
  const somebody = uid === undefined ? [] : [`--reuid=${uid}`, `--regid=${uid}`, "--clear-groups"];
  return [setpriv, ...somebody, "--pdeathsig", deathSignal, "--"];
}

/** What a child inherits: enough to find programs and a home, and nothing that configures us. */
export function bareEnv(): Record<string, string> {
  const inherited = ["PATH", "HOME", "TMPDIR"].flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  return Object.fromEntries(inherited);
}

/** Starts a program with the bare environment and what is given. */
export function spawnChild(command: string[], options: SpawnOptions = {}): Child {
  const env = { ...bareEnv(), ...options.env };
  const child = Bun.spawn([...tied(options), ...command], {
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env,
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
  });

  const lines: string[] = [];
  const keep = (line: string): void => {
    lines.push(line);
    if (lines.length > LINES_MAX) lines.splice(0, LINES_MAX / 10);
  };
  const outputs = [
    eachLine(child.stdout, (line) => {
      keep(line);
      options.onLine?.(line);
    }),
    eachLine(child.stderr, keep),
  ];
  const done = Promise.all(outputs).then(() => child.exited);

  return {
    pid: child.pid,
    lines: () => [...lines],
    done,
    running: () => child.exitCode === null && child.signalCode === null,
    kill: (signal = "SIGKILL") => child.kill(signal),
    endInput() {
      // One that has ended by itself reads no more.
      Promise.resolve(child.stdin.end()).catch(() => undefined);
    },
    async stop(signal = "SIGTERM", waitMsMax = 60_000) {
      child.kill(signal);
      const code = await within(done, waitMsMax);
      if (code !== undefined) return code;
      child.kill("SIGKILL");
      throw new Error(`${command[0]} outlived ${signal} by ${waitMsMax} ms\n${tail(lines)}`);
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await done;
    },
  };
}

async function eachLine(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  onLine: (line: string) => void,
): Promise<void> {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) onLine(line);
  }
  if (rest !== "") onLine(rest);
}

/** The promise's value, or undefined when it takes longer. */
export async function within<T>(promise: Promise<T>, waitMsMax: number): Promise<T | undefined> {
  let timer: Timer | undefined;
  const timeout = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), waitMsMax);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/** The last lines of an output, for an error's message. */
export function tail(lines: readonly string[], count = 40): string {
  return lines.length === 0 ? "(it printed nothing)" : lines.slice(-count).join("\n");
}
