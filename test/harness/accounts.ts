/** The application with accounts: on Postgres and Redis, on Postgres alone, or embedded. */
import { eq } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { Client } from "pg";
import { migrate, type Database } from "../../src/alpine/database.ts";
import * as schema from "../../db/alpine/schema.ts";
import { openApp, type App, type AppOptions } from "./app.ts";
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

export interface Accounts extends AsyncDisposable {
  app: App;
  backend: Backend;
  database: TestDatabase | null;
  redis: TestRedis | null;
  clock: App["clock"];
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

async function prepare(url: string): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await migrate(drizzle(client, { schema }) as unknown as Database);
  } finally {
    await client.end();
  }
}

const template = { key: "accounts", prepare };
let emails = 0;

/** Opens it; the servers, the file and the connections go with its scope. */
export async function openAccounts(options: AccountsOptions = {}): Promise<Accounts> {
  const { beside } = options;
  const backend = options.backend ?? beside?.backend ?? BACKEND;
  const own = beside === undefined;
  const { servers = {} } = options;
  const database =
    own && backend !== "embedded"
      ? await (servers.postgres ?? (await postgres())).createDatabase(template)
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

  const call: Accounts["call"] = (method, path, body, token) =>
    app.send(
      new Request(`http://argo.test${path}`, {
        method,
        headers: {
          ...(token && { Authorization: `Bearer ${token}` }),
          ...(body !== undefined && { "Content-Type": "application/json" }),
        },
        body: body === undefined ? null : typeof body === "string" ? body : JSON.stringify(body),
      }),
    );
  const must: Accounts["must"] = async <T>(status: number, ...request: Parameters<typeof call>) => {
    const response = await call(...request);
    const text = await response.text();
    if (response.status !== status) {
      throw new Error(`${request[0]} ${request[1]}: ${response.status}, not ${status}: ${text}`);
    }
    return (text === "" ? null : JSON.parse(text)) as T;
  };
  const login: Accounts["login"] = async (email, password = PASSWORD) => {
    await deps.alpine?.windows.loginAddress.forgive("127.0.0.1");
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
  const member: Accounts["member"] = async (given = {}) => {
    const email = given.email ?? `member-${(emails += 1)}@example.com`;
    const password = given.password ?? PASSWORD;
    // All of a test's users come from one address.
    await deps.alpine?.windows.signupAddress.forgive("127.0.0.1");
    await must(201, "POST", "/api/auth/signup", { email, password, full_name: "A Member" });
    return login(email, password);
  };
  const db = (): Database => {
    if (!deps.alpine) throw new Error("there are no accounts");
    return deps.alpine.db();
  };
  return {
    app,
    backend,
    database: database ?? beside?.database ?? null,
    redis: cache ?? beside?.redis ?? null,
    clock: app.clock,
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
    async [Symbol.asyncDispose]() {
      await app[Symbol.asyncDispose]();
      await database?.[Symbol.asyncDispose]();
      if (!servers.redis) await cache?.[Symbol.asyncDispose]();
    },
  };
}
