import { AsyncLocalStorage } from "node:async_hooks";
import { readFileSync } from "node:fs";
import type { Socket } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import type { ConnectionOptions } from "node:tls";
import {
  createTableRelationsHelpers,
  DrizzleQueryError,
  extractTablesRelationalConfig,
  type ExtractTablesWithRelations,
  type Query,
  type RelationalSchemaConfig,
  sql,
  type TablesRelationalConfig,
} from "drizzle-orm";
import {
  NodePgDatabase,
  type NodePgPreparedQuery,
  NodePgSession,
  NodePgTransaction,
} from "drizzle-orm/node-postgres";
import {
  PgDialect,
  type PgTransactionConfig,
  type PreparedQueryConfig,
  type SelectedFieldsOrdered,
} from "drizzle-orm/pg-core";
import pg from "pg";
import { isLoopback } from "../config";
import { AppError, SetupError } from "../errors";
import type { Logger } from "./log";
import type { Metrics } from "./metrics";

export type PostgresOptions = {
  /** Where the server is; the directory of a Unix socket for the embedded one. */
  at: { url: string } | { socketDir: string };
  poolSize: number;
  maxOverflow: number;
  /** A connection is replaced after this long, seconds; 0 for never. */
  recycleSeconds: number;
  log: Logger;
  metrics?: Metrics;
  /** Bounds both a connection's making and the wait for a free one. */
  connectTimeoutMs?: number;
  statementTimeoutMs?: number;
  lockTimeoutMs?: number;
  /** Called after each statement. */
  onQuery?: (text: string, durationMs: number) => void;
};

type Schema = Record<string, unknown>;
type Tables<S extends Schema> = ExtractTablesWithRelations<S>;

/** What the work of a transaction is given: the one way to the database until it ends. */
export type Transaction<S extends Schema = Record<string, never>> = NodePgTransaction<S, Tables<S>>;

/** A statement that Postgres refused, without the values that it was about. */
export class PostgresError extends Error {
  override readonly name = "PostgresError";
  constructor(
    message: string,
    /** SQLSTATE, such as 23505 for a unique constraint. */
    readonly code: string,
    readonly constraint: string | undefined,
    readonly table: string | undefined,
    /** Its text, with $1 for a value. */
    readonly statement: string | undefined,
  ) {
    super(message);
  }
}

const probeEveryMs = 1_000;
const endMs = 5_000;
/** Timers take no more than 2^31 ms. */
const recycleSecondsMax = 2_000_000;

/**
 * Postgres through a bounded pool. What fails because the database is away or overloaded is an
 * AppError 503; while it is known to be away, that comes at once.
 */
export class Postgres<S extends Schema = Record<string, never>> implements AsyncDisposable {
  /** Its `transaction` rolls back and releases whatever happens, which drizzle's own does not. */
  readonly db: NodePgDatabase<S>;
  readonly pool: pg.Pool;
  readonly #pool: GuardedPool;
  readonly #log: Logger;
  #state: "unknown" | "up" | "down" = "unknown";
  #probing = false;
  #ended = false;

  private constructor(options: PostgresOptions, schema: S) {
    this.#log = options.log;
    const watch: Watch = {
      gate: () => (this.#state === "down" ? unavailable(away) : null),
      // An idle connection proves nothing: what was down is up again once a statement is answered.
      reached: () => void (this.#state === "unknown" && this.#mark("up")),
      unreached: (error) => this.#mark("down", error),
      suspect: () => void this.#probe(),
      observe: (text, durationMs) => {
        duration?.observe(durationMs / 1_000);
        options.onQuery?.(text, durationMs);
      },
    };
    const duration = options.metrics?.queryDuration.of({ kind: "postgres" });
    this.#pool = this.pool = new GuardedPool(poolConfig(options), watch);
    // The pool listens to idle connections alone; to lose one in use would end this process.
    this.#pool.on("connect", (client) => client.on("error", watch.suspect));
    this.#pool.on("error", (error) => {
      this.#log.warn({ reason: error.message }, "an idle connection to Postgres was lost");
      watch.suspect();
    });
    const relational = relationalConfig(schema);
    const dialect = new PgDialect();
    const session = new Session<S>(this.#pool, dialect, relational, watch);
    this.db = new NodePgDatabase<S>(dialect, session, relational);
    options.metrics?.watch("gauge", "db_up", "1 while Postgres can be reached.", () =>
      Number(this.up),
    );
    options.metrics?.watch(
      "gauge",
      "db_pool_connections",
      "Connections to Postgres, idle ones included.",
      () => this.pool.totalCount,
    );
    options.metrics?.watch(
      "gauge",
      "db_pool_waiting_requests",
      "Requests waiting for a connection to Postgres.",
      () => this.pool.waitingCount,
    );
  }

  /**
   * Connects to nothing yet: the first use or check does.
   * @throws SetupError when the address cannot be used, or not safely.
   */
  static open<S extends Schema = Record<string, never>>(
    options: PostgresOptions,
    schema: S = {} as S,
  ): Postgres<S> {
    return new Postgres(options, schema);
  }

  /** As of the last use or check. */
  get up(): boolean {
    return this.#state === "up";
  }

  /**
   * Runs `work` in a transaction, on a connection of its own; any failure takes it back. Inside,
   * everything goes through the handle: a query beside it fails, since in a pool of few it would
   * wait for its own end.
   * @throws AppError 503; PostgresError; what `work` throws.
   */
  transaction<T>(
    work: (tx: Transaction<S>) => Promise<T>,
    config?: PgTransactionConfig,
  ): Promise<T> {
    return this.db.transaction(work, config);
  }

  /** Whether a statement is answered within `timeoutMs`. Never throws. */
  async check(timeoutMs: number): Promise<boolean> {
    let timer: Timer | undefined;
    const late = new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(false), timeoutMs);
    });
    try {
      // Asking goes on behind a check that is late, and hands its connection back.
      return await Promise.race([this.#ask(timeoutMs), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    // Connections in use end with their work; nobody waits for it longer than that.
    await Promise.race([this.#pool.end(), pause(endMs, undefined, { ref: false })]);
  }

  async #ask(timeoutMs: number): Promise<boolean> {
    if (this.#ended) return false;
    try {
      const client = await this.#pool.reach();
      try {
        await client.query({ text: "SELECT 1", query_timeout: timeoutMs } as pg.QueryConfig);
        client.release();
      } catch (error) {
        client.release(true);
        this.#mark("down", error);
        return false;
      }
      this.#mark("up");
      return true;
    } catch {
      // Marked by the pool already, but for one that is merely full.
      return false;
    }
  }

  async #probe(): Promise<void> {
    if (this.#probing) return;
    this.#probing = true;
    try {
      while (!this.#ended && !(await this.check(probeEveryMs)) && this.#state === "down") {
        await pause(probeEveryMs, undefined, { ref: false });
      }
    } finally {
      this.#probing = false;
    }
  }

  #mark(state: "up" | "down", error?: unknown): void {
    if (this.#ended || this.#state === state) return;
    const before = this.#state;
    this.#state = state;
    if (state === "down") {
      this.#log.error({ reason: reasonOf(error) }, "Postgres cannot be used: accounts answer 503");
      void this.#probe();
    } else if (before === "down") {
      this.#log.info("Postgres can be used again");
    }
  }
}

type Watch = {
  /** What to answer without trying. */
  gate: () => AppError | null;
  reached: () => void;
  unreached: (error: unknown) => void;
  suspect: () => void;
  observe: (text: string, durationMs: number) => void;
};

const insideTransaction = new AsyncLocalStorage<{ open: boolean; of: pg.Pool }>();
/** Failures to connect, which mean one thing whatever they are. */
const unreached = new WeakSet<Error>();
const poolFull = "timeout exceeded when trying to connect";

type Connected = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  release: (broken?: unknown) => void,
) => void;

/** The driver leaves the socket of a login that failed open, until the server has enough of it. */
class Connection extends pg.Client {
  override connect(): Promise<pg.Client>;
  override connect(callback: (error: Error) => void): void;
  override connect(callback?: (error: Error) => void): Promise<pg.Client> | void {
    if (!callback) return super.connect();
    super.connect((error: Error) => {
      const { connection } = this as unknown as { connection: { stream: Socket } };
      if (error) connection.stream.destroy();
      callback(error);
    });
  }
}

class GuardedPool extends pg.Pool {
  readonly #watch: Watch;

  constructor(config: pg.PoolConfig, watch: Watch) {
    super(config);
    this.#watch = watch;
  }

  override connect(): Promise<pg.PoolClient>;
  override connect(callback: Connected): void;
  override connect(callback?: Connected): Promise<pg.PoolClient> | void {
    const inside = insideTransaction.getStore();
    const refusal =
      inside?.open && inside.of === this
        ? new Error("A query beside the handle of the transaction that it is part of")
        : this.#watch.gate();
    if (!callback) return refusal ? Promise.reject(refusal) : this.reach();
    if (refusal) return callback(refusal, undefined, () => undefined);
    super.connect((error, client, release) => {
      this.#note(error);
      callback(error, client, release);
    });
  }

  /** Connects even while the database is known to be away. */
  async reach(): Promise<pg.PoolClient> {
    try {
      const client = await super.connect();
      this.#note(undefined);
      return client;
    } catch (error) {
      this.#note(error);
      throw error;
    }
  }

  #note(error: unknown): void {
    if (!(error instanceof Error)) return this.#watch.reached();
    if (error.message === poolFull) return;
    unreached.add(error);
    this.#watch.unreached(error);
  }
}

/** Times each statement, translates its failures, and makes transactions that leak nothing. */
class Session<S extends Schema> extends NodePgSession<S, Tables<S>> {
  readonly #of: {
    client: pg.Pool | pg.PoolClient;
    dialect: PgDialect;
    relational: RelationalSchemaConfig<Tables<S>>;
    watch: Watch;
  };

  constructor(
    client: pg.Pool | pg.PoolClient,
    dialect: PgDialect,
    relational: RelationalSchemaConfig<Tables<S>>,
    watch: Watch,
  ) {
    super(client, dialect, relational);
    this.#of = { client, dialect, relational, watch };
  }

  override prepareQuery<T extends PreparedQueryConfig = PreparedQueryConfig>(
    query: Query,
    fields: SelectedFieldsOrdered | undefined,
    _name: string | undefined,
    isResponseInArrayMode: boolean,
    customResultMapper?: (rows: unknown[][]) => T["execute"],
  ): NodePgPreparedQuery<T> {
    const prepared = super.prepareQuery<T>(
      query,
      fields,
      // Statements with names outlive a connection of the embedded one and of a pooler in between.
      undefined,
      isResponseInArrayMode,
      customResultMapper,
    ) as NodePgPreparedQuery<T>;
    const { execute } = prepared;
    prepared.execute = (values) =>
      this.#watched(query.sql, () => execute.call(prepared, values) as Promise<T["execute"]>);
    return prepared;
  }

  override async transaction<T>(
    work: (tx: NodePgTransaction<S, Tables<S>>) => Promise<T>,
    config?: PgTransactionConfig,
  ): Promise<T> {
    const { client: pool, dialect, relational, watch } = this.#of;
    if (!(pool instanceof GuardedPool)) throw new Error("A transaction begun inside another");
    const client = await pool.connect().catch((error: unknown) => {
      throw translatePostgres(error);
    });
    const inside = { open: true, of: pool };
    let broken = true;
    try {
      const session = new Session<S>(client, dialect, relational, watch);
      const tx = new NodePgTransaction<S, Tables<S>>(dialect, session, relational);
      try {
        await tx.execute(sql`begin`);
        if (config) await tx.setTransaction(config);
        const result = await insideTransaction.run(inside, async () => await work(tx));
        const { command } = await tx.execute(sql`commit`);
        // Postgres answers so when a statement failed and the work went on as if it had not.
        if (command === "ROLLBACK") throw new Error("A transaction was taken back by Postgres");
        broken = false;
        return result;
      } catch (error) {
        // Behind a statement that hangs a rollback would hang too: the connection goes instead.
        if (!isLost(error)) broken = await failed(tx.execute(sql`rollback`));
        throw error;
      }
    } finally {
      inside.open = false;
      client.release(broken);
    }
  }

  async #watched<T>(text: string, run: () => Promise<T>): Promise<T> {
    const begun = performance.now();
    try {
      return await run();
    } catch (error) {
      const translated = translatePostgres(error);
      if (isLost(translated)) this.#of.watch.suspect();
      throw translated;
    } finally {
      this.#of.watch.observe(text, performance.now() - begun);
    }
  }
}

const failed = (work: Promise<unknown>): Promise<boolean> =>
  work.then(
    () => false,
    () => true,
  );

function relationalConfig<S extends Schema>(schema: S): RelationalSchemaConfig<Tables<S>> {
  const { tables, tableNamesMap } = extractTablesRelationalConfig(
    schema,
    createTableRelationsHelpers,
  );
  return {
    fullSchema: schema,
    schema: tables as TablesRelationalConfig as Tables<S>,
    tableNamesMap,
  };
}

const away = "Accounts are not available at the moment: their database cannot be reached.";
const busy = "Accounts are not available at the moment: their database is too busy.";
const full = "The disk of the accounts' database is full. Free space; nothing was written.";
const slow = "Accounts took too long to answer: their database is too busy.";

const unavailable = (detail: string, retryAfterSeconds = 1, cause?: unknown): AppError =>
  new AppError("unavailable", detail, { retryAfterSeconds, cause });

/** SQLSTATE, by its beginning, of failures that pass: postgresql.org/docs/18/errcodes-appendix.html */
const passing: [prefix: string, detail: string, retryAfterSeconds: number][] = [
  ["08", away, 1],
  ["28", away, 5],
  ["3D000", away, 5],
  ["53100", full, 30],
  ["53", busy, 2],
  ["57014", slow, 2],
  ["57P", away, 1],
  ["58", away, 5],
  ["55P03", busy, 1],
  ["40001", busy, 1],
  ["40P01", busy, 1],
  ["25P03", slow, 1],
  ["25006", away, 2],
];

/** What the driver and its pool say, without a code, of a connection that is gone or not to be had. */
const lostMessages =
  /^(Connection terminated|Query read timeout|timeout expired|Client (has encountered|was closed)|Cannot use a pool|The server does not support SSL|There was an error establishing an SSL)/;

/**
 * Makes a failure of the database, or of the way to it, an AppError 503 with Retry-After, whose
 * cause holds no values; a refused statement becomes a PostgresError; hands anything else back.
 */
export function translatePostgres(error: unknown): unknown {
  // Drizzle puts a statement's values into its message: never further than here.
  const fault = error instanceof DrizzleQueryError ? error.cause : error;
  if (fault instanceof pg.DatabaseError) {
    const code = fault.code ?? "XX000";
    const { constraint, table } = fault;
    const statement = error instanceof DrizzleQueryError ? error.query : undefined;
    const clean = new PostgresError(withoutValues(fault), code, constraint, table, statement);
    const passes = passing.find(([prefix]) => code.startsWith(prefix));
    return passes ? unavailable(passes[1], passes[2], clean) : clean;
  }
  if (!(fault instanceof Error) || fault instanceof AppError) return fault;
  if (fault.message === poolFull) return unavailable(busy, 1, new Error(fault.message));
  if (unreached.has(fault) || lostMessages.test(fault.message) || isNetworkFault(fault)) {
    return unavailable(away, 1, new Error(reasonOf(fault)));
  }
  return fault;
}

/** True for what leaves the connection in a state that nobody knows. */
function isLost(error: unknown): boolean {
  return (
    error instanceof AppError &&
    error.code === "unavailable" &&
    (error.detail === away || !(error.cause instanceof PostgresError))
  );
}

/** Data exceptions quote the value at fault. */
const withoutValues = ({ code = "", message }: pg.DatabaseError): string =>
  code.startsWith("22") ? message.replaceAll(/"[^"]*"|'[^']*'/g, '"…"') : message;

const tlsCodes = /CERT|^ERR_TLS|^ERR_SSL|SELF_SIGNED|^UNABLE_TO_|HOSTNAME_MISMATCH/;

function isNetworkFault(error: Error): boolean {
  const code = codeOf(error);
  return (
    "syscall" in error || tlsCodes.test(code) || /^(E[A-Z]{4,}|EPIPE|ERR_SOCKET\w*)$/.test(code)
  );
}

const codeOf = (error: Error): string => ("code" in error ? String(error.code) : "");

/** Why, and for what the operator can mend, how. Holds no part of the URL. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return "unknown";
  const code = codeOf(error);
  if (tlsCodes.test(code)) {
    return `The certificate of Postgres was refused (${code}). Name the CA that signed it with sslrootcert= in DATABASE_URL; the host must be one that it is for.`;
  }
  if (error.message.startsWith("The server does not support SSL")) {
    return "Postgres does not offer TLS, without which a remote one is not used. Set ssl = on there.";
  }
  if (code.startsWith("28") || code === "3D000") {
    return `${error.message}. Check the user, password and database of DATABASE_URL.`;
  }
  const inner = error.cause instanceof Error ? `: ${error.cause.message}` : "";
  return `${error.message || code}${inner}`;
}

const parameters = new Set([
  "host",
  "sslmode",
  "sslrootcert",
  "sslcert",
  "sslkey",
  "application_name",
  "channel_binding",
  "options",
]);

function poolConfig(options: PostgresOptions): pg.PoolConfig {
  const { at, connectTimeoutMs = 2_000, statementTimeoutMs = 10_000 } = options;
  const embedded = "socketDir" in at;
  return {
    ...(embedded
      ? { host: at.socketDir, port: 5432, user: "postgres", database: "postgres", ssl: false }
      : addressOf(at.url)),
    Client: Connection,
    // The embedded one has a single session: a second connection would only wait for the first.
    max: embedded ? 1 : options.poolSize + options.maxOverflow,
    idleTimeoutMillis: embedded ? 0 : 30_000,
    maxLifetimeSeconds: Math.min(options.recycleSeconds, recycleSecondsMax),
    connectionTimeoutMillis: connectTimeoutMs,
    statement_timeout: statementTimeoutMs,
    idle_in_transaction_session_timeout: statementTimeoutMs,
    lock_timeout: options.lockTimeoutMs ?? Math.ceil(statementTimeoutMs / 2),
    // For a server that no longer answers at all.
    query_timeout: statementTimeoutMs + 1_000,
    keepAlive: true,
  };
}

/**
 * A connection's settings from a URL. TLS is always verified when it is used, and always used for
 * a host that is not this machine, whatever `sslmode` says.
 * @throws SetupError whose message holds no part of the URL but the names of its parameters.
 */
function addressOf(text: string): pg.ClientConfig {
  // A host may be left out when `host` names the directory of a Unix socket.
  const whole = text.replace(/^(\w+:\/\/[^/?#]*@)\//, "$1localhost/");
  if (!URL.canParse(whole)) {
    throw new SetupError("DATABASE_URL is not a URL.", "Write postgres://user:password@host/name.");
  }
  const url = new URL(whole);
  if (url.protocol !== "postgres:" && url.protocol !== "postgresql:") {
    throw new SetupError(
      `DATABASE_URL begins with ${url.protocol}`,
      "Only Postgres will do: postgres://user:password@host/name.",
    );
  }
  const given = Object.fromEntries(url.searchParams);
  const unknown = Object.keys(given).filter((name) => !parameters.has(name));
  if (unknown.length > 0) {
    throw new SetupError(
      `DATABASE_URL has parameters that are not known: ${unknown.join(", ")}`,
      `Leave them out; known are ${[...parameters].join(", ")}.`,
    );
  }
  const host = given["host"] ?? (decoded(url.hostname).replaceAll(/^\[|\]$/g, "") || "localhost");
  return {
    host,
    port: url.port ? Number(url.port) : 5432,
    user: decoded(url.username) || undefined,
    password: decoded(url.password) || undefined,
    database: decoded(url.pathname.slice(1)) || undefined,
    ssl: tlsOf(host, given),
    application_name: given["application_name"] ?? "argo-alpine",
    options: given["options"],
    enableChannelBinding: (given["channel_binding"] ?? "disable") !== "disable",
  };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new SetupError(
      "DATABASE_URL is not a URL: a % in it stands for nothing.",
      "Write each % of the user, password or name as %25.",
    );
  }
}

function tlsOf(host: string, given: Record<string, string>): false | ConnectionOptions {
  const mode = given["sslmode"] ?? "prefer";
  const known = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
  if (!known.includes(mode)) {
    throw new SetupError(
      `DATABASE_URL has an sslmode that will not do: ${mode}`,
      "Leave it out, or write sslmode=verify-full.",
    );
  }
  const local = host.startsWith("/") || isLoopback(host);
  if (mode === "disable" && !local) {
    throw new SetupError(
      "DATABASE_URL asks for a connection to another machine without TLS (sslmode=disable).",
      "Leave sslmode out and name the server's CA with sslrootcert=; on one machine use a Unix socket: postgres://user@/name?host=/run/postgresql.",
    );
  }
  if (local && known.indexOf(mode) < known.indexOf("require")) return false;
  const { sslrootcert, sslcert, sslkey } = given;
  return {
    rejectUnauthorized: true,
    ...(sslrootcert && sslrootcert !== "system" && { ca: readPem("sslrootcert", sslrootcert) }),
    ...(sslcert && { cert: readPem("sslcert", sslcert) }),
    ...(sslkey && { key: readPem("sslkey", sslkey) }),
  };
}

function readPem(name: string, path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new SetupError(
      `${name} in DATABASE_URL cannot be read: ${path}`,
      "Name a PEM file that this user can read.",
      { cause },
    );
  }
}
