import { existsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import * as schema from "../../db/alpine/schema";
import { embeddedDir } from "../alpine/alpine";
import type { Database } from "../alpine/database";
import type { Config } from "../config";
import { AppError, SetupError } from "../errors";
import { makeDirectory } from "../platform/directory";
import { EmbeddedPostgres } from "../platform/embedded";
import { ownDirectory } from "../platform/lock";
import { createLog } from "../platform/log";
import { Postgres, PostgresError } from "../platform/postgres";
import { sqliteCode } from "../platform/sqlite";

const startingMsMax = 20_000;
const againMs = 100;
const attemptsMax = 3;

export type AccountsDatabase = AsyncDisposable & {
  db: Database;
  /** Null for a Postgres of the operator's own, else where the embedded one lives. */
  embeddedIn: string | null;
};

/**
 * Does a command's work on the database of the accounts: also while servers use it, whichever it
 * is. The embedded one is started where no server has, and work that was cut off since whoever had
 * started it stopped it is done again.
 * @throws SetupError when it cannot be used; what `work` throws.
 */
export async function withAccounts<T>(
  config: Config,
  work: (accounts: AccountsDatabase) => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await using accounts = await openAccounts(config);
      return await work(accounts);
    } catch (error) {
      const again = config.databaseUrl === null && isAway(error) && attempt < attemptsMax;
      if (!again) throw databaseFault(error);
    }
  }
}

const isAway = (error: unknown): error is AppError =>
  error instanceof AppError && error.code === "unavailable";

async function openAccounts(config: Config): Promise<AccountsDatabase> {
  const embedded = config.databaseUrl === null ? await reachEmbedded(config) : null;
  const postgres = Postgres.open(
    {
      at: embedded ?? { url: config.databaseUrl ?? "" },
      poolSize: 1,
      maxOverflow: 0,
      recycleSeconds: 0,
      log: createLog("silent"),
    },
    schema,
  );
  return {
    db: postgres.db,
    embeddedIn: embedded && embeddedDir(config),
    [Symbol.asyncDispose]: async () => {
      await postgres[Symbol.asyncDispose]();
      await embedded?.[Symbol.asyncDispose]();
    },
  };
}

type Reached = AsyncDisposable & { socketDir: string };

async function reachEmbedded(config: Config): Promise<Reached> {
  const until = performance.now() + startingMsMax;
  const dir = dirname(embeddedDir(config));
  for (;;) {
    const socketDir = await EmbeddedPostgres.locate(embeddedDir(config));
    if (socketDir !== null) return { socketDir, [Symbol.asyncDispose]: () => Promise.resolve() };
    mustBeOurs(existsSync(dir) ? dir : config.dataDir);
    makeDirectory(dir);
    const owner = own(dir);
    if (!(owner instanceof SetupError)) return startEmbedded(config, owner);
    // A server that is just starting owns it, and soon listens.
    if (performance.now() > until) throw owner;
    await Bun.sleep(againMs);
  }
}

/** Files of root's in the directory of a server that is not root would keep it from starting. */
function mustBeOurs(dir: string): void {
  const uid = statSync(dir, { throwIfNoEntry: false })?.uid ?? 0;
  if (process.getuid?.() !== 0 || uid === 0) return;
  throw new SetupError(
    `${dir} belongs to the user ${uid}, who could not read what root writes there.`,
    `Run this as that user: sudo -u '#${uid}' …, or while the server runs.`,
  );
}

function own(dir: string): Disposable | SetupError {
  try {
    return ownDirectory(dir);
  } catch (error) {
    if (error instanceof SetupError) return error;
    if (sqliteCode(error) === null) throw error;
    throw new SetupError(`${dir} cannot be used.`, "Run this as the user that runs the server.", {
      cause: error,
    });
  }
}

async function startEmbedded(config: Config, owner: Disposable): Promise<Reached> {
  try {
    const log = createLog("silent");
    const embedded = await EmbeddedPostgres.start({ dir: embeddedDir(config), log });
    return {
      socketDir: embedded.socketDir,
      [Symbol.asyncDispose]: async () => {
        await embedded[Symbol.asyncDispose]();
        owner[Symbol.dispose]();
      },
    };
  } catch (error) {
    owner[Symbol.dispose]();
    throw error;
  }
}

/** A failure of the database as a command tells it; anything else as it is. */
function databaseFault(error: unknown): unknown {
  if (!isAway(error) && !(error instanceof PostgresError)) return error;
  const cause = error instanceof PostgresError ? error : error.cause;
  const reason = cause instanceof Error ? `: ${cause.message}` : "";
  return new SetupError(
    `The database of the accounts cannot be used${reason.replace(/\.$/, "")}.`,
    "Run `argo-alpine doctor`.",
    { cause: error },
  );
}
