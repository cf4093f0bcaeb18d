import { chmodSync, lstatSync, mkdirSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import pg from "pg";
import { SetupError } from "../errors";
import { makeDirectory } from "./directory";
import type { Logger } from "./log";
import { self } from "./self";

/** What the process of the database tells on its standard output, a line of JSON each. */
export type ChildWord = { ready: true } | { fault: string; fix: string };

export type EmbeddedOptions = {
  /** Everything it owns; made when it is not there. */
  dir: string;
  log: Logger;
  /** A statement that is not answered for so long is taken for a hang: nothing else tells one. */
  hangMs?: number;
  pingEveryMs?: number;
  /** Between two rounds of vacuum and checkpoint, which a Postgres of one process leaves undone. */
  tidyEveryMs?: number;
};

const startMs = 30_000;
const endMs = 5_000;
const restartMsMin = 250;
const restartMsMax = 30_000;
/** Linux allows a socket's path 107 bytes, macOS 103. */
const socketPathBytesMax = 103;
const socketName = ".s.PGSQL.5432";

/** `ended` tells how, with what it said on its standard error. */
type Child = { process: Bun.Subprocess<"pipe", "pipe", "pipe">; ended: Promise<string> };

/**
 * Postgres for evaluation and small set-ups, without an installation: PGlite in a process of its
 * own, which can be killed when it hangs and is started again at the same place. What was
 * acknowledged outlives a crash of either process, but not one of the machine: it has no fsync.
 */
export class EmbeddedPostgres implements AsyncDisposable {
  /** Starts anew since the beginning. */
  restarts = 0;
  readonly #ending = new AbortController();
  #tended: Promise<void> = Promise.resolve();

  private constructor(
    /** Where `pg` finds it: `host` is this directory. */
    readonly socketDir: string,
    private readonly options: Required<EmbeddedOptions>,
    private child: Child,
  ) {}

  /**
   * Resolves when it serves.
   * @throws SetupError when another server owns the directory, or it cannot be opened.
   */
  static async start(given: EmbeddedOptions): Promise<EmbeddedPostgres> {
    const options = { hangMs: 30_000, pingEveryMs: 5_000, tidyEveryMs: 300_000, ...given };
    const dir = resolve(options.dir);
    makeDirectory(dir);
    const socketDir = socketDirOf(dir);
    privateDirectory(dir);
    privateDirectory(socketDir);
    const begun = performance.now();
    const child = await launch({ ...options, dir }, socketDir);
    const embedded = new EmbeddedPostgres(socketDir, { ...options, dir }, child);
    embedded.#tended = embedded.#tend();
    options.log.info(
      { dir, durationMs: Math.round(performance.now() - begun) },
      "embedded Postgres: for evaluation and small set-ups, since it does not survive a power loss (no fsync); set DATABASE_URL for a real one",
    );
    return embedded;
  }

  /** Where a running one of this directory listens, for another process; null when none does. */
  static async locate(dir: string): Promise<string | null> {
    const socketDir = socketDirOf(resolve(dir));
    return (await listens(join(socketDir, socketName))) ? socketDir : null;
  }

  /** Process id of the database. */
  get pid(): number {
    return this.child.process.pid;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort();
    await this.#tended;
    await stop(this.child);
  }

  /** Starts the database again whenever it ends, and has it pinged while it runs. */
  async #tend(): Promise<void> {
    const { log } = this.options;
    const { signal } = this.#ending;
    let restartMs = restartMsMin;
    for (;;) {
      const since = performance.now();
      const pings = new AbortController();
      void this.#ping(this.child, AbortSignal.any([signal, pings.signal]));
      const reason = await Promise.race([this.child.ended, aborted(signal)]);
      pings.abort();
      if (signal.aborted) return;
      // One that ran for a while has no lasting fault.
      if (performance.now() - since > restartMsMax) restartMs = restartMsMin;
      log.error({ reason }, "the embedded Postgres ended and is started again");
      for (let up = false; !up;) {
        await pausing(restartMs, signal);
        if (signal.aborted) return;
        restartMs = Math.min(restartMs * 2, restartMsMax);
        up = await this.#relaunch();
      }
    }
  }

  async #relaunch(): Promise<boolean> {
    const { log } = this.options;
    try {
      this.child = await launch(this.options, this.socketDir);
      this.restarts += 1;
      log.info("the embedded Postgres serves again");
      return true;
    } catch (error) {
      log.error({ reason: String(error) }, "the embedded Postgres does not start");
      return false;
    }
  }

  /**
   * A query blocks its process, so a busy one and a hung one look alike from outside; a ping that
   * waits for too long tells, and covers a stopped process and a forgotten transaction as well.
   */
  async #ping(child: Child, signal: AbortSignal): Promise<void> {
    const { log, hangMs, pingEveryMs, tidyEveryMs } = this.options;
    const client = new pg.Client({
      ...addressOf(this.socketDir),
      connectionTimeoutMillis: hangMs,
      query_timeout: hangMs,
    });
    // Ends with the process, whose end is noticed elsewhere.
    client.on("error", () => undefined);
    try {
      await client.connect();
      let written = await position(client);
      let tidiedAt = performance.now();
      for (;;) {
        await pausing(pingEveryMs, signal);
        if (signal.aborted) return;
        const now = await position(client);
        if (now === written || performance.now() - tidiedAt < tidyEveryMs) continue;
        await tidy(client);
        written = await position(client);
        tidiedAt = performance.now();
      }
    } catch (error) {
      if (signal.aborted || hasEnded(child)) return;
      log.error({ reason: String(error) }, "the embedded Postgres hangs and is killed");
      child.process.kill("SIGKILL");
    } finally {
      void client.end().catch(() => undefined);
    }
  }
}

const hasEnded = ({ process: child }: Child): boolean =>
  child.exitCode !== null || child.signalCode !== null;

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));

/** Over early when the signal is given. */
const pausing = (ms: number, signal: AbortSignal): Promise<void> =>
  pause(ms, undefined, { signal, ref: false }).catch(() => undefined);

const addressOf = (socketDir: string): pg.ClientConfig => ({
  host: socketDir,
  port: 5432,
  user: "postgres",
  database: "postgres",
  ssl: false,
});

/** Moves with every write. */
async function position(client: pg.Client): Promise<string> {
  const { rows } = await client.query<{ at: string }>("SELECT pg_current_wal_lsn()::text AS at");
  return rows[0]?.at ?? "";
}

/** What background processes do in a whole Postgres. Table by table, so that others get between. */
async function tidy(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ name: string }>(
    "SELECT format('%I.%I', schemaname, relname) AS name FROM pg_stat_user_tables",
  );
  for (const { name } of rows) await client.query(`VACUUM (ANALYZE) ${name}`);
  await client.query("CHECKPOINT");
}

/** Starts the process and waits until it serves. @throws SetupError */
async function launch({ dir, log }: EmbeddedOptions, socketDir: string): Promise<Child> {
  const child = Bun.spawn([...self(), "embedded-postgres", dir, join(socketDir, socketName)], {
    cwd: dir,
    // No secrets of ours; the variable makes the system kill it should this process be killed.
    env: { BUN_FEATURE_FLAG_NO_ORPHANS: "1" },
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
  });
  const said: string[] = [];
  const quiet = eachLine(child.stderr, (line) => {
    said.push(line);
    if (said.length > 20) said.shift();
  });
  const ended = child.exited.then(async (code) => {
    await quiet;
    return `${child.signalCode ?? `exit code ${code}`}${said.length > 0 ? `: ${said.join(" ")}` : ""}`;
  });
  const word = Promise.withResolvers<ChildWord>();
  void eachLine(child.stdout, (line) => word.resolve(JSON.parse(line) as ChildWord));
  const timer = setTimeout(() => child.kill("SIGKILL"), startMs);
  const outcome = await Promise.race([word.promise, ended]);
  clearTimeout(timer);
  if (typeof outcome === "object" && "ready" in outcome) {
    ended.catch((error: unknown) => log.error({ reason: String(error) }, "output not read"));
    return { process: child, ended };
  }
  child.kill("SIGKILL");
  if (typeof outcome === "object") throw new SetupError(outcome.fault, outcome.fix);
  throw new SetupError(
    `The embedded Postgres in ${dir} did not start (${outcome}).`,
    "Free disk space and memory, or set DATABASE_URL to a Postgres of your own.",
  );
}

/** The end of its input is the word to close and end. */
async function stop({ process: child }: Child): Promise<void> {
  await child.stdin.end();
  const timer = setTimeout(() => child.kill("SIGKILL"), endMs);
  await child.exited;
  clearTimeout(timer);
}

async function eachLine(stream: ReadableStream<Uint8Array>, onLine: (line: string) => void) {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const bytes of stream) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) onLine(line);
  }
  if (rest !== "") onLine(rest);
}

/** Beside the data; elsewhere, under a name that follows from it, when its path is too long. */
function socketDirOf(dir: string): string {
  const fits = (path: string) => Buffer.byteLength(join(path, socketName)) <= socketPathBytesMax;
  const beside = join(dir, "socket");
  if (fits(beside)) return beside;
  const hash = new Bun.CryptoHasher("sha256").update(dir).digest("hex").slice(0, 16);
  const elsewhere = join(tmpdir(), `argo-alpine-${hash}`);
  if (fits(elsewhere)) return elsewhere;
  throw new SetupError(
    `${dir} is too long for the embedded Postgres, and so is ${tmpdir()}.`,
    "Choose a shorter directory with --data-dir, or set DATABASE_URL.",
  );
}

/** A directory that this user alone can enter: whoever connects is the database's superuser. */
function privateDirectory(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  const stat = lstatSync(path);
  // Somebody else may have made it in the shared directory for temporary files.
  if (!stat.isDirectory() || stat.uid !== process.getuid?.()) {
    throw new SetupError(
      `${path} belongs to somebody else.`,
      "Remove it, or choose another --data-dir.",
    );
  }
  if ((stat.mode & 0o077) !== 0) chmodSync(path, 0o700);
}

function listens(path: string): Promise<boolean> {
  return new Promise((answer) => {
    const socket = connect(path);
    const done = (is: boolean) => {
      socket.destroy();
      answer(is);
    };
    socket.once("connect", () => done(true)).once("error", () => done(false));
  });
}
