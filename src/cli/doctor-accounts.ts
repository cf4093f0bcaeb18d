import { accessSync, constants, existsSync, readFileSync, statSync } from "node:fs";
import { connect, isIP } from "node:net";
import { dirname } from "node:path";
import { connect as connectTls } from "node:tls";
import { sql } from "drizzle-orm";
import { Redis } from "ioredis";
import * as schema from "../../db/alpine/schema";
import { embeddedDir } from "../alpine/alpine";
import { changedLater, type Database, migrationState } from "../alpine/database";
import { Seal } from "../alpine/seal";
import { secretPath } from "../alpine/secrets";
import { unsealed } from "../alpine/unsealed";
import { type Config, isLoopback } from "../config";
import { AppError, SetupError } from "../errors";
import { EmbeddedPostgres } from "../platform/embedded";
import { ownerOf } from "../platform/lock";
import { createLog } from "../platform/log";
import { serverOf } from "../platform/mail";
import { Postgres, PostgresError, type PostgresOptions } from "../platform/postgres";
import { type Check, fail, ok, warn } from "./check";
import { plural, seconds } from "./output";

const askMs = 3_000;
const oldestPostgres = 14;
const skewMsMax = 2_000;
const secretLengthMin = 32;

const databaseName = "accounts database";
const schemaName = "accounts schema";
const migrateFix = "Run `argo-alpine migrate`, or let the next start do it.";

/** What accounts stand on. Changes nothing. */
export async function accountChecks(config: Config): Promise<Check[]> {
  const checks = await Promise.all([
    config.databaseUrl === null ? embedded(config) : own(config.databaseUrl, config),
    secret(config),
    redis(config),
    mail(config),
  ]);
  return checks.flat();
}

type Answers = {
  version: string;
  version_number: number;
  tls: string | null;
  now_ms: number;
  may_create: boolean;
};

/** A Postgres of the operator's. */
function own(url: string, config: Config): Promise<Check[]> {
  return asking({ url }, async (db) => {
    const begunMs = Date.now();
    const { rows } = await db.execute<Answers>(sql`
      SELECT current_setting('server_version') AS version,
        current_setting('server_version_num')::int AS version_number,
        (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS tls,
        (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS now_ms,
        has_database_privilege(current_database(), 'CREATE')
          AND coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create`);
    const endedMs = Date.now();
    const [answers] = rows;
    if (!answers) throw new Error("a row without a condition is missing");
    return [
      server(answers, endedMs - begunMs),
      clock(answers.now_ms - (begunMs + endedMs) / 2),
      await migrations(db, answers.may_create),
      ...(await seals(db, config)),
    ];
  });
}

function server({ version, version_number, tls }: Answers, ms: number): Check {
  const way =
    tls === null ? "on this machine, without TLS" : `over ${tls}, its certificate verified`;
  const detail = `Postgres ${version} answers in ${seconds(ms)}, ${way}`;
  return version_number >= oldestPostgres * 10_000
    ? ok(databaseName, detail)
    : fail(databaseName, `${detail}: too old`, `Use Postgres ${oldestPostgres} or later.`);
}

/** By how much the clock of Postgres is ahead. */
function clock(aheadMs: number): Check {
  const name = "clocks";
  const apart = Math.abs(aheadMs);
  if (apart <= skewMsMax) return ok(name, `this machine and Postgres are ${seconds(apart)} apart`);
  return warn(
    name,
    `the clock of Postgres is ${seconds(apart)} ${aheadMs > 0 ? "ahead" : "behind"}: sessions and keys may end early or late`,
    "Let both machines keep time with NTP.",
  );
}

async function migrations(db: Database, mayCreate: boolean): Promise<Check> {
  const { missing, unknown } = await migrationState(db);
  if (unknown.length > 0) {
    const error = changedLater(unknown);
    return fail(schemaName, error.message, error.fix);
  }
  if (missing.length === 0) return ok(schemaName, "is of this release");
  const detail = `${plural(missing.length, "migration")} to come: ${missing.join(", ")}`;
  return mayCreate
    ? warn(schemaName, detail, migrateFix)
    : fail(
        schemaName,
        `${detail}, and this user may not make tables`,
        "As the owner of the database: GRANT CREATE ON DATABASE … TO …; GRANT CREATE ON SCHEMA public TO …",
      );
}

/** Whether the secrets are those of these accounts; nothing where nothing is sealed yet, or there are no tables. */
async function seals(db: Database, config: Config): Promise<Check[]> {
  if ((await migrationState(db)).missing.length > 0) return [];
  const secrets = secretsAtHand(config);
  const closed = await unsealed(db, {
    seal: new Seal(secrets, "second factor"),
    webhookSeal: new Seal(secrets, "webhook"),
  });
  return closed.map((what) =>
    fail(
      "accounts sealed",
      `${what} cannot be read: the secret is another than the one that they were made with`,
      `Put back ${secretPath(config)}, or add that secret to JWT_SECRET after a comma.`,
    ),
  );
}

/** The secrets, without making one. */
function secretsAtHand(config: Config): readonly string[] {
  if (config.jwtSecrets.length > 0) return config.jwtSecrets;
  const path = secretPath(config);
  return readable(path) ? [readFileSync(path, "utf8").trim()] : [];
}

/** Asks a database; one that cannot be asked is a fault of its own. */
async function asking(
  at: PostgresOptions["at"],
  ask: (db: Database) => Promise<Check[]>,
): Promise<Check[]> {
  const fix = "Start Postgres, and correct DATABASE_URL.";
  try {
    const common = { poolSize: 1, maxOverflow: 0, recycleSeconds: 0, log: createLog("silent") };
    await using postgres = Postgres.open({ ...common, at, statementTimeoutMs: askMs }, schema);
    return await ask(postgres.db);
  } catch (error) {
    if (error instanceof SetupError) return [fail(databaseName, error.message, error.fix)];
    if (!(error instanceof AppError || error instanceof PostgresError)) throw error;
    const cause = error instanceof AppError && error.cause instanceof Error ? error.cause : error;
    return [fail(databaseName, `cannot be used: ${cause.message}`, fix)];
  }
}

/** Looks from outside, and asks where a server has it open: to start it would own it. */
async function embedded(config: Config): Promise<Check[]> {
  const name = databaseName;
  const dir = embeddedDir(config);
  const said = config.embedded || isLoopback(config.host);
  const place = said
    ? ok(name, `embedded in ${dir}: for evaluation and small set-ups`)
    : fail(
        name,
        `embedded, while other machines reach ${config.host}: serve refuses that`,
        "Set DATABASE_URL, or say --embedded (EMBEDDED=true).",
      );
  if (!existsSync(dir)) return [{ ...place, detail: `${place.detail}; made at the first start` }];
  if (!may(dir)) {
    return [
      fail(
        name,
        `${dir} cannot be used by this user`,
        "Run this as the user that runs the server.",
      ),
    ];
  }
  const socketDir = await EmbeddedPostgres.locate(dir);
  const pid = ownerOf(dirname(dir));
  const owner = pid === null ? "a server" : pid === 0 ? "a process elsewhere" : `process ${pid}`;
  if (socketDir !== null) {
    const checks = await asking({ socketDir }, async (db) => [
      await migrations(db, true),
      ...(await seals(db, config)),
    ]);
    return [{ ...place, detail: `${place.detail}; in use by ${owner}` }, ...checks];
  }
  if (pid === null) return [{ ...place, detail: `${place.detail}; not in use` }];
  return [
    place,
    warn(
      "accounts owner",
      `${owner} owns the embedded database, which does not answer`,
      "If it is not just starting or stopping, stop that process.",
    ),
  ];
}

function may(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function secret(config: Config): Check {
  const name = "accounts secret";
  const given = config.jwtSecrets.length;
  const path = secretPath(config);
  if (given > 0) {
    return isKeptBeside(config, path)
      ? warn(
          name,
          `JWT_SECRET is said, and ${path} holds another: second factors that were sealed with that one cannot be read`,
          "Add what the file holds to JWT_SECRET after a comma; or delete the file if nobody has an account from then.",
        )
      : ok(name, `${plural(given, "JWT_SECRET")}, the first one signs`);
  }
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) return ok(name, `${path} is made at the first start`);
  const shown = (stat.mode & 0o777).toString(8);
  if (stat.mode & 0o077) {
    return warn(name, `${path} can be read by others (${shown})`, `Run: chmod 600 ${path}`);
  }
  if (!may(dirname(path)) || !readable(path)) {
    return fail(name, `${path} cannot be read`, "Run this as the user that runs the server.");
  }
  const { length } = readFileSync(path, "utf8").trim();
  return length >= secretLengthMin
    ? ok(name, `kept in ${path}, mode ${shown}: back it up with the accounts`)
    : fail(name, `${path} is cut short`, "Put it back from a backup.");
}

/** Whether a secret was kept here before one was said, and is not among those. */
function isKeptBeside({ jwtSecrets }: Config, path: string): boolean {
  if (!existsSync(path) || !may(dirname(path)) || !readable(path)) return false;
  const kept = readFileSync(path, "utf8").trim();
  return kept.length >= secretLengthMin && !jwtSecrets.includes(kept);
}

function readable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

/** Also of servers without accounts, for their limits. */
export async function redis({ redisUrl }: Config): Promise<Check> {
  const name = "redis";
  if (redisUrl === null) return ok(name, "none: one process holds what it would");
  const client = new Redis(redisUrl, {
    lazyConnect: true,
    retryStrategy: () => null,
    connectTimeout: askMs,
    commandTimeout: askMs,
    maxRetriesPerRequest: 0,
  });
  let fault: unknown;
  client.on("error", (error) => (fault ??= error));
  try {
    await client.connect();
    const info = await client.info();
    const of = (field: string) => new RegExp(`^${field}:(.*?)\\r?$`, "m").exec(info)?.[1] ?? "?";
    const policy = of("maxmemory_policy");
    const detail = `Redis ${of("redis_version")} answers, maxmemory-policy ${policy}`;
    return policy === "noeviction"
      ? ok(name, detail)
      : warn(
          name,
          `${detail}: when it is full, limits are forgotten`,
          "Set maxmemory-policy noeviction; revocations and accounts are safe either way.",
        );
  } catch (error) {
    // The library tells the reason apart, and then only that the connection is closed.
    const reason = fault ?? error;
    return warn(
      name,
      `cannot be used, and is done without: ${reason instanceof Error ? reason.message : String(reason)}`,
      "Start Redis, and correct REDIS_URL, or REDIS_HOST, REDIS_PORT and REDIS_PASSWORD.",
    );
  } finally {
    client.disconnect();
  }
}

async function mail({ smtpUrl }: Config): Promise<Check> {
  const name = "mail";
  if (smtpUrl === null) {
    return ok(name, "no SMTP_URL: nobody can have a forgotten password sent");
  }
  try {
    const { host, port, secure } = serverOf(smtpUrl);
    const greeting = await greetingOf(host, port, secure);
    const fix = "Correct SMTP_URL.";
    return greeting.startsWith("220")
      ? ok(name, `the mail server answers on ${host}:${port}`)
      : warn(name, `${host}:${port} is no mail server that takes mail`, fix);
  } catch (error) {
    if (error instanceof SetupError) return fail(name, error.message, error.fix);
    return warn(
      name,
      `the mail server cannot be reached: ${error instanceof Error ? error.message : String(error)}`,
      "Start it, and correct SMTP_URL.",
    );
  }
}

/** The first words of a mail server; "" when it closes without. @throws when it says nothing. */
function greetingOf(host: string, port: number, secure: boolean): Promise<string> {
  const rejectUnauthorized = !isLoopback(host);
  const socket = secure
    ? connectTls({ host, port, rejectUnauthorized, servername: isIP(host) ? undefined : host })
    : connect(port, host);
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  socket
    .setTimeout(askMs, () => reject(new Error(`${host}:${port} says nothing`)))
    .once("data", (bytes) => resolve(String(bytes)))
    .once("end", () => resolve(""))
    .once("error", reject);
  return promise.finally(() => socket.destroy());
}
