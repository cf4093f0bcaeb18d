import {
  type Client,
  createClient,
  type InStatement,
  LibsqlError,
  type ResultSet,
  type Transaction,
} from "@libsql/client/http";
import own from "../../../db/argo/origin.sql" with { type: "text" };
import table from "../../../db/argo/signals.sql" with { type: "text" };
import { AppError, SetupError } from "../../errors";

/** Where the libSQL server is. The token goes into a header alone. */
export type OriginAddress = { url: string; token: string | null };

/** What of the libSQL server tells it from another one, or from what it was before. */
export type Identity = { name: string; secret: string };

const version = 1;
/** The columns of a row as they are copied, in this order: the engine's table must have them. */
export const copied = [
  "id",
  "symbol",
  "action",
  "entry_price",
  "target_price",
  "stop_price",
  "confidence",
  "strategy",
  "timestamp",
  "sha256",
] as const;
/** The same as SQL. */
export const copiedSql = copied.map((name) => `"${name}"`).join(", ");

/**
 * The libSQL server that holds the signals of all nodes. Spoken to over HTTP alone: a second SQLite
 * library in the process could damage the file that is served.
 */
export class Origin implements Disposable {
  readonly #client: Client;
  readonly #ending = new AbortController();
  #identity: Promise<Identity> | null = null;

  /** @param timeoutMs for each request: who is silent for longer counts as away. */
  constructor(
    private readonly address: OriginAddress,
    timeoutMs: number,
  ) {
    this.#client = createClient({
      url: address.url,
      ...(address.token !== null && { authToken: address.token }),
      intMode: "number",
      // What is posted here is told to nobody whom a redirect names.
      fetch: (request: Request) => {
        const signal = AbortSignal.any([AbortSignal.timeout(timeoutMs), this.#ending.signal]);
        return fetch(request, { signal, redirect: "manual" });
      },
    });
  }

  /** Reads of one moment, in one round trip. @throws AppError 503, SetupError. */
  read(statements: InStatement[]): Promise<ResultSet[]> {
    return this.#translated(() => this.#client.batch(statements, "read"));
  }

  /**
   * Writes that are done all or not at all, in one round trip: who is cut off in the middle holds
   * no lock. Where no answer came nobody knows: it counts as failed, and is found by whoever looks.
   * @throws AppError 503, Overtaken, Constraint.
   */
  write(statements: InStatement[]): Promise<ResultSet[]> {
    return this.#translated(() => this.#client.batch(statements, "write"));
  }

  /** A transaction in steps. What `work` throws takes it back. */
  async #transaction<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    return this.#translated(async () => {
      const transaction = await this.#client.transaction("write");
      try {
        const result = await work(transaction);
        await transaction.commit();
        return result;
      } finally {
        // Tells the server at once, which would keep the lock for five seconds otherwise.
        transaction.close();
      }
    });
  }

  /** Makes our tables where they are not there yet. @throws AppError 503, SetupError. */
  identity(): Promise<Identity> {
    this.#identity ??= this.#adopt().catch((error: unknown) => {
      this.#identity = null;
      throw error;
    });
    return this.#identity;
  }

  /** What is under way is given up. */
  [Symbol.dispose](): void {
    this.#ending.abort();
    this.#client.close();
  }

  /** What a server says in its error may be what it was told. */
  async #translated<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw translate(error, this.address.token);
    }
  }

  async #adopt(): Promise<Identity> {
    const known = await this.#known((statements) => this.read(statements));
    if (known) return known;
    return this.#transaction(async (transaction) => {
      // Two nodes may begin at once: the second one finds what the first one has made.
      const read = (statements: InStatement[]) => transaction.batch(statements);
      const made = await this.#known(read);
      if (made) return made;
      const isThere = await mustFit(read);
      await transaction.executeMultiple(`${isThere ? "" : `${table};`}\n${own}`);
      // Of a file that was served by itself before.
      const [served] = await read(["SELECT 1 FROM sqlite_master WHERE name = 'argo_expired'"]);
      if (served?.rows.length === 1) {
        await read(["UPDATE argo_origin SET expired = (SELECT id FROM argo_expired)"]);
      }
      const identity = await this.#known(read);
      if (!identity) throw new Error("the tables that were just made are not there");
      return identity;
    });
  }

  async #known(
    read: (statements: InStatement[]) => Promise<ResultSet[]>,
  ): Promise<Identity | null> {
    const there = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'argo_origin'";
    const [master] = await read([there]);
    if (master?.rows.length === 0) return null;
    const [result] = await read(["SELECT version, name, secret FROM argo_origin"]);
    const row = result?.rows[0];
    if (!row) throw new Error("argo_origin has no row");
    if (Number(row["version"]) > version) {
      throw new SetupError(
        `The libSQL server is of a newer release (version ${String(row["version"])}, known ${version}).`,
        "Run the newer release on this node as well.",
      );
    }
    return { name: String(row["name"]), secret: String(row["secret"]) };
  }
}

/** Whether the engine's table is there. @throws SetupError when it cannot be copied by its ids. */
async function mustFit(read: (statements: InStatement[]) => Promise<ResultSet[]>) {
  const [columns, master] = await read([
    "SELECT lower(name) AS name FROM pragma_table_info('signals')",
    "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'signals'",
  ]);
  if (columns?.rows.length === 0) return false;
  const names = new Set(columns?.rows.map((row) => row["name"]));
  const missing: string[] = copied.filter((name) => !names.has(name));
  // An id that is used twice could never be told from one that was copied.
  if (!/\bautoincrement\b/i.test(String(master?.rows[0]?.["sql"]))) missing.push("AUTOINCREMENT");
  if (missing.length === 0) return true;
  throw new SetupError(
    `The table signals at the libSQL server lacks ${missing.join(", ")}.`,
    "Point LIBSQL_URL at a database of the signal engine, or at an empty one.",
  );
}

/** The database is not the one that this node has copied, or not any more. */
export class Backwards extends SetupError {
  constructor(what: string) {
    super(
      `The libSQL server ${what}. This node keeps what it has, and neither copies nor writes.`,
      mend,
    );
  }
}

const mend =
  "Put the newer database back. If this one is to stand: stop each node, move its signal file away, and start it; it is filled anew.";

/** Too much for one answer: fewer rows may do. */
export class TooLarge extends Error {}

/** Another node has written since this one looked: it is to look again. */
export class Overtaken extends Error {}

/** The rule of an adopted table that a row broke. */
export class Constraint extends Error {}

function translate(error: unknown, token: string | null): unknown {
  if (error instanceof AppError || error instanceof SetupError) return error;
  const code = error instanceof LibsqlError ? error.code : "";
  const said = error instanceof Error ? error.message : String(error);
  const message = token === null ? said : said.replaceAll(token, "…");
  const unavailable = (detail: string, retryAfterSeconds: number) =>
    new AppError("unavailable", detail, { retryAfterSeconds, cause: `${code} ${message}` });
  if (error instanceof RangeError) {
    const detail = "The libSQL server holds a whole number above 2^53. Delete that row.";
    return unavailable(detail, 30);
  }
  if (/TOO_?BIG|TOO_LARGE/.test(`${code} ${message}`)) return new TooLarge(message);
  if (message.includes("argo_turn")) return new Overtaken(message);
  if (code.startsWith("SQLITE_CONSTRAINT")) return new Constraint(message);
  if (/status 40[13]|AUTH/.test(`${code} ${message}`)) {
    return unavailable(
      "The libSQL server refuses LIBSQL_AUTH_TOKEN. Give this node a good one.",
      30,
    );
  }
  if (/no such table: argo_/.test(message)) return new Backwards("holds another database");
  if (/BUSY|LOCKED|TRANSACTION_TIMEOUT|TRANSACTION_CLOSED|STREAM_EXPIRED/.test(code)) {
    return unavailable("The libSQL server is locked by another writer. Try again.", 1);
  }
  if (/FULL|IOERR|READONLY|BLOCKED|CORRUPT|NOTADB/.test(code)) {
    return unavailable(`The libSQL server cannot write (${code}). Check its disk.`, 30);
  }
  if (code.startsWith("SQL")) {
    return unavailable("The tables at the libSQL server were changed. Put them back.", 30);
  }
  return unavailable("The libSQL server cannot be reached. Try again.", 2);
}
