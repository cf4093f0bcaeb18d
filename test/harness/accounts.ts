/** The application with accounts: on Postgres and Redis, on Postgres alone, or embedded. */
import { join } from "node:path";
import { eq } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { Client } from "pg";
import { migrate, type Database } from "../../src/alpine/database.ts";
import * as schema from "../../db/alpine/schema.ts";
import { embeddedDir } from "../../src/alpine/alpine.ts";
import { EmbeddedPostgres } from "../../src/platform/embedded.ts";
import { createLog } from "../../src/platform/log.ts";
import { Postgres } from "../../src/platform/postgres.ts";
import { newUser } from "../../src/alpine/users/store.ts";
import { CHEAP, openApp, READ_TOKEN, WRITE_TOKEN, type App, type AppOptions } from "./app.ts";
import { startServer, tempDir, until, type Server } from "./process.ts";
import { type OwnPostgres, postgres, redis, type TestDatabase, type TestRedis } from "./servers.ts";

export const backends = ["postgres+redis", "postgres", "embedded"] as const;
export type Backend = (typeof backends)[number];

/** What tests run on unless they say so themselves; the whole suite passes on each. */
export const BACKEND = (process.env["ARGO_TEST_ACCOUNTS"] ?? "postgres+redis") as Backend;

export const JWT_SECRET = "a-secret-of-the-tests-0123456789abcdef";
export const PASSWORD = "correct horse battery staple";

export interface AccountsOptions extends AppOptions {
  backend?: Backend;
  /** Servers of another application, to be a second one beside it. */
  beside?: Accounts;
  /** Servers of the caller's own, to break. */
  servers?: { postgres?: OwnPostgres; redis?: TestRedis };
}

/** One user with a session. */
export interface Member {
  id: string;
  email: string;
  password: string;
  access: string;
  refresh: string;
}

/** What tests ask of accounts, however they are served. */
export interface AccountsClient {
  /** Sends JSON, as somebody where a token is given. */
  call(method: string, path: string, body?: unknown, token?: string | null): Promise<Response>;
  /** The same; the answer must have this status. Gives its JSON, or null without a body. */
  must<T>(
    status: number,
    method: string,
    path: string,
    body?: unknown,
    token?: string | null,
  ): Promise<T>;
  /** Signs up and logs in somebody new. */
  member(given?: { email?: string; password?: string }): Promise<Member>;
  /** Somebody new who is an administrator. */
  admin(): Promise<Member>;
  login(email: string, password?: string): Promise<Member>;
  /** A key of somebody, its secret. */
  key(member: Member, scopes?: string[]): Promise<string>;
  /** The rows themselves. */
  db(): Database;
}

/** Served in this process, with a clock that the test sets. */
export interface Accounts extends AccountsClient, AsyncDisposable {
  app: App;
  backend: Backend;
  database: TestDatabase | null;
  redis: TestRedis | null;
  clock: App["clock"];
}

/** Tests ask as often as they like, but for those of the limits, which say so. */
const unlimited = 1_000_000_000;

async function prepare(url: string): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await migrate(drizzle(client, { schema }) as unknown as Database);
    await client.query(`UPDATE plans SET requests_per_minute = ${unlimited}`);
  } finally {
    await client.end();
  }
}

/** The tables of accounts, without limits. */
export const accountsTemplate = { key: "accounts", prepare };
let emails = 0;

/** Opens it; the servers, the file and the connections go with its scope. */
export async function openAccounts(options: AccountsOptions = {}): Promise<Accounts> {
  const { beside } = options;
  const backend = options.backend ?? beside?.backend ?? BACKEND;
  const own = beside === undefined;
  const { servers = {} } = options;
  const database =
    own && backend !== "embedded"
      ? await (servers.postgres ?? (await postgres())).createDatabase(accountsTemplate)
      : null;
  const cache = own && backend === "postgres+redis" ? (servers.redis ?? (await redis())) : null;
  const databaseUrl = (database ?? beside?.database)?.url;
  const redisUrl = (cache ?? beside?.redis)?.url;
  const app = await openApp({
    fixture: null,
    ...options,
    role: "all",
    env: { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl, JWT_SECRET, ...options.env },
  });
  const { deps } = app;
  if (backend === "embedded") {
    await deps.alpine?.changes.write(async (tx, tell) => {
      await tx.update(schema.plans).set({ requestsPerMinute: unlimited });
      for (const tier of schema.tiers) tell({ kind: "plan", tier });
    });
  }

  const forgive = async (): Promise<void> => {
    // All of a test's users come from one address.
    await deps.alpine?.windows.loginAddress.forgive("127.0.0.1");
    await deps.alpine?.windows.signupAddress.forgive("127.0.0.1");
  };
  const db = (): Database => {
    if (!deps.alpine) throw new Error("there are no accounts");
    return deps.alpine.db();
  };
  return {
    ...clientOf(app.send, db, forgive),
    app,
    backend,
    database: database ?? beside?.database ?? null,
    redis: cache ?? beside?.redis ?? null,
    clock: app.clock,
    async [Symbol.asyncDispose]() {
      await app[Symbol.asyncDispose]();
      try {
        await database?.[Symbol.asyncDispose]();
      } catch (error) {
        // A server of the caller's own may be broken: what broke it is what the test should tell.
        if (!servers.postgres) throw error;
      }
      if (!servers.redis) await cache?.[Symbol.asyncDispose]();
    },
  };
}

const noDatabase = (): never => {
  throw new Error("the rows themselves are not at hand");
};

/** The same requests, whichever way they go. */
export function clientOf(
  send: (request: Request) => Promise<Response>,
  db: () => Database = noDatabase,
  forgive: () => Promise<void> = () => Promise.resolve(),
  enter?: (email: string, password: string) => Promise<unknown>,
): AccountsClient {
  const call: AccountsClient["call"] = (method, path, body, token) =>
    send(
      new Request(`http://argo.test${path}`, {
        method,
        headers: {
          ...(token && { Authorization: `Bearer ${token}` }),
          ...(body !== undefined && { "Content-Type": "application/json" }),
        },
        body: body === undefined ? null : typeof body === "string" ? body : JSON.stringify(body),
      }),
    );
  const must: AccountsClient["must"] = async <T>(
    status: number,
    ...request: Parameters<typeof call>
  ) => {
    const response = await call(...request);
    const text = await response.text();
    if (response.status !== status) {
      throw new Error(`${request[0]} ${request[1]}: ${response.status}, not ${status}: ${text}`);
    }
    return (text === "" ? null : JSON.parse(text)) as T;
  };
  const login: AccountsClient["login"] = async (email, password = PASSWORD) => {
    await forgive();
    const tokens = await must<{ access_token: string; refresh_token: string }>(
      200,
      "POST",
      "/api/auth/login",
      { email, password },
    );
    const me = await must<{ id: string }>(
      200,
      "GET",
      "/api/auth/me",
      undefined,
      tokens.access_token,
    );
    return {
      id: me.id,
      email,
      password,
      access: tokens.access_token,
      refresh: tokens.refresh_token,
    };
  };
  const member: AccountsClient["member"] = async (given = {}) => {
    const email = given.email ?? `member-${(emails += 1)}@example.com`;
    const password = given.password ?? PASSWORD;
    await forgive();
    const body = { email, password, full_name: "A Member" };
    await (enter?.(email, password) ?? must(201, "POST", "/api/auth/signup", body));
    return login(email, password);
  };
  return {
    call,
    must,
    login,
    member,
    db,
    async admin() {
      const { email } = await member();
      await db().update(schema.users).set({ role: "admin" }).where(eq(schema.users.email, email));
      return login(email);
    },
    async key(of, scopes = ["signals:read"]) {
      const body = { name: "a key", scopes };
      const made = await must<{ key: string }>(201, "POST", "/api/keys", body, of.access);
      return made.key;
    },
  };
}

export type Program = "source" | "binary";

/** A server in a process of its own, as an operator runs it. */
export interface ServedAccounts extends AccountsClient, AsyncDisposable {
  server: Server;
}

/** Starts it and waits until its accounts are ready. */
export async function serveAccounts(
  program: Program,
  backend: Backend,
  env: Record<string, string> = {},
  role = "all",
): Promise<ServedAccounts> {
  await using cleanup = new AsyncDisposableStack();
  const dir = cleanup.use(tempDir());
  const embedded = backend === "embedded";
  const database = embedded
    ? null
    : cleanup.use(await (await postgres()).createDatabase(accountsTemplate));
  const cache = backend === "postgres+redis" ? cleanup.use(await redis()) : null;
  const server = cleanup.use(
    await startServer({
      role,
      cwd: dir.path,
      ...(program === "binary" && { binary: join(import.meta.dir, "../../dist/argo-alpine") }),
      env: {
        DATABASE_URL: database?.url,
        REDIS_URL: cache?.url,
        JWT_SECRET,
        ARGO_READ_TOKEN: READ_TOKEN,
        ARGO_WRITE_TOKEN: WRITE_TOKEN,
        RATE_LIMIT_PER_MINUTE: "1000000000",
        SHUTDOWN_DELAY_SECONDS: "0",
        ...env,
      },
    }),
  );
  await until(async () => (await fetch(`${server.url}/readyz`)).ok, "accounts are ready");
  const socketDir = await EmbeddedPostgres.locate(embeddedDir({ dataDir: dir.file("data") }));
  const own = { poolSize: 1, maxOverflow: 0, recycleSeconds: 0, log: createLog("silent") };
  const at = database ? { url: database.url } : { socketDir: socketDir ?? "" };
  const direct = cleanup.use(Postgres.open({ ...own, at }, schema));
  const send = (request: Request): Promise<Response> => {
    const { pathname, search } = new URL(request.url);
    return fetch(new Request(server.url + pathname + search, request), { redirect: "manual" });
  };
  // As signing up leaves them, but for the hash: on a machine that is busy a real one takes seconds.
  const enter = async (email: string, password: string): Promise<void> => {
    const passwordHash = await Bun.password.hash(password, { algorithm: "argon2id", ...CHEAP });
    const row = newUser(Date.now(), { email, fullName: "A Member", passwordHash });
    await direct.db.insert(schema.users).values(row);
  };
  const whole = cleanup.move();
  return {
    // Where a test says the database itself, the rows are not at hand.
    ...clientOf(send, () => direct.db, undefined, env["DATABASE_URL"] ? undefined : enter),
    server,
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}
