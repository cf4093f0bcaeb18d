/** The real servers that tests talk to, Postgres and Redis, each on a free port of 127.0.0.1. */
import { cpSync, existsSync, readdirSync, readFileSync } from "node:fs";
import { chown } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Redis } from "ioredis";
import { Client } from "pg";
import { spawnChild, tail, within, type Child } from "./children.ts";
import { freePort, tempDir, until } from "./process.ts";
import { findPostgres, findTool, type FindToolOptions } from "./tools.ts";

const READY_MS_MAX = 60_000;
const STOP_MS_MAX = 30_000;

/** Where test/run.ts says which Postgres serves the whole run. */
export const POSTGRES_ENV = "ARGO_TEST_POSTGRES";

/** What a process inherits that is to use this server as its `postgres()`. */
export function sharing(server: PostgresAddress): Record<string, string> {
  const { url, superuserUrl, logPath, hasStatements } = server;
  return { [POSTGRES_ENV]: JSON.stringify({ url, superuserUrl, logPath, hasStatements }) };
}

/** What another process needs to use a server that is there. */
export interface PostgresAddress {
  /** The database `postgres` as the role `argo`, which is no superuser but may make databases. */
  url: string;
  superuserUrl: string;
  /** The server's log. */
  logPath: string;
  /** Whether pg_stat_statements is loaded: `CREATE EXTENSION` by the superuser, then read it. */
  hasStatements: boolean;
}

/** A migrated database that is made once per run, and copied for each test file. */
export interface Template {
  /** Says what `prepare` makes: the same key, the same content. */
  key: string;
  /** Fills an empty database and lets go of it: no connection may be left open. */
  prepare: (url: string) => Promise<void>;
}

export interface TestDatabase extends AsyncDisposable {
  name: string;
  /** As `argo`, who owns it. */
  url: string;
  superuserUrl: string;
}

export interface TestPostgres extends PostgresAddress {
  /** A fresh database, empty or a copy of the template; dropped with its scope, with force. */
  createDatabase(template?: Template): Promise<TestDatabase>;
}

/** A server that a test may stop, kill and bring back, on the same port. */
export interface Faulty extends AsyncDisposable {
  port: number;
  /** Ends it as an operator would, and waits. */
  stop(): Promise<void>;
  /** SIGKILL to all of its processes, and waits. */
  kill(): Promise<void>;
  /** Starts it again after `stop` or `kill`, and waits until it answers. */
  start(): Promise<void>;
  /** SIGSTOP to all of its processes: the sockets stay open, nothing answers. */
  pause(): void;
  resume(): void;
  log(): string;
}

export type OwnPostgres = TestPostgres & Faulty;

export interface PostgresOptions {
  /** Instead of where an installed one is looked for. */
  find?: FindToolOptions;
  /** Settings that differ, such as `{ max_connections: "5" }`. */
  settings?: Record<string, string>;
}

let shared: Promise<TestPostgres> | undefined;

/** The Postgres of this run: that of test/run.ts, or one that ends with this process. */
export function postgres(): Promise<TestPostgres> {
  const given = process.env[POSTGRES_ENV];
  shared ??=
    given === undefined
      ? ownPostgres()
      : Promise.resolve(withDatabases(JSON.parse(given) as PostgresAddress));
  return shared;
}

// Nothing has to outlive the machine, but all that was committed outlives a kill of the server.
const POSTGRES_SETTINGS = {
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  dynamic_shared_memory_type: "mmap",
  fsync: "off",
  full_page_writes: "off",
  wal_level: "minimal",
  max_wal_senders: "0",
  shared_buffers: "32MB",
  max_connections: "200",
  jit: "off",
  checkpoint_timeout: "30min",
  timezone: "UTC",
  log_timezone: "UTC",
};

// Postgres refuses to be root. Debian's "nobody" is in every image.
const NOBODY = 65_534;

/** A Postgres of the caller's own, to break. Takes about a second to make. */
export async function ownPostgres(options: PostgresOptions = {}): Promise<OwnPostgres> {
  const dir = tempDir();
  const uid = process.getuid?.() === 0 ? NOBODY : undefined;
  const as = { cwd: dir.path, ...(uid === undefined ? {} : { uid }) };
  if (uid !== undefined) await chown(dir.path, uid, uid);
  const bin = await reachable(await postgresBin(options.find), uid);

  const password = crypto.randomUUID();
  const port = freePort();
  const data = dir.file("data");
  const logPath = dir.file("postgres.log");
  const hasStatements = hasLibrary(bin, "pg_stat_statements.so");
  const settings = {
    ...POSTGRES_SETTINGS,
    ...(hasStatements ? { shared_preload_libraries: "pg_stat_statements" } : {}),
    ...options.settings,
    port: `${port}`,
  };
  const address = (user: string): string =>
    `postgres://${user}:${password}@127.0.0.1:${port}/postgres`;
  const given = {
    url: address("argo"),
    superuserUrl: address("postgres"),
    logPath,
    hasStatements,
  };

  const setup = async (): Promise<void> => {
    await Bun.write(dir.file("password"), password);
    if (uid !== undefined) await chown(dir.file("password"), uid, uid);
    const init = [join(bin, "initdb"), "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C"];
    init.push("-A", "scram-sha-256", `--pwfile=${dir.file("password")}`, "--no-sync");
    await using making = spawnChild(init, as);
    if ((await making.done) !== 0) throw new Error(`initdb failed\n${tail(making.lines())}`);
  };
  const command = [join(bin, "postgres"), "-D", data];
  for (const [name, value] of Object.entries(settings)) command.push("-c", `${name}=${value}`);

  const server = faulty({
    port,
    logPath,
    // Interrupted, it ends all sessions and its shared memory; killed, it would leave that behind.
    spawn: () => spawnChild(logged(command, logPath), { ...as, deathSignal: "INT" }),
    stopSignal: "SIGINT",
    // What pg_ctl waits for. A killed server leaves the file behind.
    isReady: (pid) => {
      const file = join(data, "postmaster.pid");
      const lines = existsSync(file) ? readFileSync(file, "utf8").split("\n") : [];
      return lines[0] === `${pid}` && lines[7]?.trim() === "ready";
    },
    dispose: () => dir[Symbol.dispose](),
  });
  try {
    await setup();
    await server.start();
    await query(given.superuserUrl, `CREATE ROLE argo LOGIN CREATEDB PASSWORD '${password}'`);
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
  return { ...withDatabases(given), ...server };
}

async function postgresBin(find?: FindToolOptions): Promise<string> {
  const tool = await findPostgres(find);
  if (tool.path === null) throw new Error(tool.reason);
  return tool.path;
}

const copies = new Map<string, string>();

/** The programs, or a copy where root's directories are closed to whom the server runs as. */
async function reachable(bin: string, uid?: number): Promise<string> {
  if (uid === undefined) return bin;
  const copied = copies.get(bin);
  if (copied !== undefined) return copied;
  await using probe = spawnChild([join(bin, "postgres"), "--version"], { uid, cwd: "/" });
  if ((await probe.done) === 0) return bin;
  // It stays for the servers to come, until this process ends.
  const dir = tempDir();
  await chown(dir.path, uid, uid);
  cpSync(dirname(bin), dir.file("postgres"), { recursive: true, verbatimSymlinks: true });
  const copy = dir.file("postgres/bin");
  copies.set(bin, copy);
  return copy;
}

function hasLibrary(bin: string, name: string): boolean {
  return ["lib", "lib/postgresql"].some((lib) => existsSync(join(dirname(bin), lib, name)));
}

function withDatabases(given: PostgresAddress): TestPostgres {
  const { superuserUrl } = given;
  const at = (url: string, name: string): string => {
    const changed = new URL(url);
    changed.pathname = `/${name}`;
    return changed.href;
  };
  const databaseOf = (name: string): TestDatabase => ({
    name,
    url: at(given.url, name),
    superuserUrl: at(superuserUrl, name),
    [Symbol.asyncDispose]: () =>
      query(superuserUrl, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`),
  });
  const create = async (template?: string): Promise<TestDatabase> => {
    const name = `test_${crypto.randomUUID().replaceAll("-", "")}`;
    const from = template === undefined ? "" : ` TEMPLATE ${template}`;
    await query(superuserUrl, `CREATE DATABASE ${name} OWNER argo${from}`);
    return databaseOf(name);
  };
  const templateOf = async ({ key, prepare }: Template): Promise<string> => {
    const name = `template_${Bun.hash(key).toString(16)}`;
    const client = new Client(superuserUrl);
    await client.connect();
    try {
      // Whoever comes second waits for the first, in whichever process that is.
      await client.query("SELECT pg_advisory_lock(hashtext($1))", [name]);
      const there = await client.query("SELECT 1 FROM pg_database WHERE datname = $1", [name]);
      if (there.rowCount !== 0) return name;
      const making = await create();
      try {
        await prepare(making.url);
        await client.query(`ALTER DATABASE ${making.name} RENAME TO ${name}`);
      } catch (error) {
        await making[Symbol.asyncDispose]();
        throw error;
      }
      return name;
    } finally {
      await client.end();
    }
  };
  return {
    ...given,
    createDatabase: async (template) =>
      create(template === undefined ? undefined : await templateOf(template)),
  };
}

async function query(url: string, text: string): Promise<void> {
  const client = new Client(url);
  await client.connect();
  try {
    await client.query(text);
  } finally {
    await client.end();
  }
}

export interface RedisOptions {
  find?: FindToolOptions;
  /** Settings that differ, such as `{ maxmemory: "2mb", requirepass: "…", appendonly: "yes" }`. */
  settings?: Record<string, string>;
}

export interface TestRedis extends Faulty {
  /** With the password that `requirepass` sets. */
  url: string;
  logPath: string;
  /** FLUSHALL. */
  flush(): Promise<void>;
}

/** A Redis of the caller's own, empty and without persistence: it is there in some 50 ms. */
export async function redis(options: RedisOptions = {}): Promise<TestRedis> {
  const tool = await findTool("redis-server", options.find);
  if (tool.path === null) throw new Error(tool.reason);
  const program = tool.path;
  const dir = tempDir();
  const port = freePort();
  const logPath = dir.file("redis.log");
  // It looks whether to stop a hundred times a second, not ten.
  const fixed = { bind: "127.0.0.1", dir: dir.path, save: "", hz: "100" };
  const settings = { ...fixed, ...options.settings };
  const command = [program, "--port", `${port}`];
  for (const [name, value] of Object.entries(settings)) command.push(`--${name}`, value);
  const password = options.settings?.["requirepass"];
  const url = `redis://${password === undefined ? "" : `:${encodeURIComponent(password)}@`}127.0.0.1:${port}`;

  const server = faulty({
    port,
    logPath,
    spawn: () => spawnChild(logged(command, logPath), { cwd: dir.path }),
    stopSignal: "SIGTERM",
    isReady: () =>
      redisReply(url, (client) => client.ping()).then(
        () => true,
        () => false,
      ),
    dispose: () => dir[Symbol.dispose](),
  });
  try {
    await server.start();
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
  return {
    ...server,
    url,
    logPath,
    flush: () => redisReply(url, async (client) => void (await client.flushall())),
  };
}

async function redisReply<T>(url: string, ask: (client: Redis) => Promise<T>): Promise<T> {
  const client = new Redis(url, { lazyConnect: true, retryStrategy: () => null });
  // Each fault is the command's too, where it is awaited.
  client.on("error", () => undefined);
  try {
    await client.connect();
    return await ask(client);
  } finally {
    client.disconnect();
  }
}

export interface FaultyOptions {
  port: number;
  logPath: string;
  spawn: () => Child;
  stopSignal: NodeJS.Signals;
  isReady: (pid: number) => boolean | Promise<boolean>;
  dispose: () => void;
}

/** Runs a server that a test may break. */
export function faulty(options: FaultyOptions): Faulty {
  const { port, logPath, stopSignal, isReady } = options;
  const log = (): string => (existsSync(logPath) ? readFileSync(logPath, "utf8") : "");
  let child: Child | undefined;

  const server: Faulty = {
    port,
    log,
    async start() {
      if (child?.running()) throw new Error("it runs already");
      const started = options.spawn();
      child = started;
      const ready = until(
        async () => !started.running() || (await isReady(started.pid)),
        "a server that answers",
        READY_MS_MAX,
      );
      const failed = await ready.then(
        () => !started.running(),
        () => true,
      );
      if (!failed) return;
      await started[Symbol.asyncDispose]();
      throw new Error(
        `the server did not start\n${tail([...started.lines(), ...log().split("\n")])}`,
      );
    },
    async stop() {
      if (!child?.running()) return;
      signalAll(child.pid, "SIGCONT");
      await child.stop(stopSignal, STOP_MS_MAX);
    },
    async kill() {
      if (!child?.running()) return;
      const { pid } = child;
      const all = signalAll(pid, "SIGSTOP");
      for (const each of [...all, pid]) signal(each, "SIGKILL");
      await child.done;
      await until(() => all.every((each) => !isThere(each)), "the end of its processes");
    },
    pause: () => {
      if (child?.running()) signalAll(child.pid, "SIGSTOP");
    },
    resume: () => {
      if (child?.running()) signalAll(child.pid, "SIGCONT");
    },
    async [Symbol.asyncDispose]() {
      try {
        await within(server.stop(), STOP_MS_MAX + 1_000);
      } finally {
        options.dispose();
      }
    },
  };
  return server;
}

/** Signals a process, then those it started, which it can add to no more once it is stopped. */
function signalAll(pid: number, name: NodeJS.Signals): number[] {
  signal(pid, name);
  const children = childrenOf(pid);
  for (const child of children) signal(child, name);
  return children;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has just ended, which is what most signals are for.
  }
}

/** The processes that one has started and that are there. */
export function childrenOf(pid: number): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((each) => Number.isInteger(each) && parentOf(each) === pid);
}

function parentOf(pid: number): number | null {
  const fields = statOf(pid);
  return fields === null ? null : Number(fields[1]);
}

function isThere(pid: number): boolean {
  const fields = statOf(pid);
  return fields !== null && fields[0] !== "Z";
}

/** State and parent of a process, after its name, which may hold anything. */
function statOf(pid: number): string[] | null {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /s, "")
      .split(" ");
  } catch {
    return null;
  }
}

/** The command with its output in a file: a pipe that nobody reads would stop it. */
export function logged(command: string[], logPath: string): string[] {
  return ["/bin/sh", "-c", 'log=$1; shift; exec "$@" >>"$log" 2>&1', "sh", logPath, ...command];
}
