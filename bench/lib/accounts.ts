import { join } from "node:path";
import { Client } from "pg";
import { EmbeddedPostgres } from "../../src/platform/embedded";
import { ownPostgres, redis, type TestPostgres } from "../../test/harness/servers";
import { rootDir } from "./paths";
import type { Server } from "./peers";
import { dataDirOf, type ProductOptions, startProduct } from "./product";

/** What servers with accounts share: a Postgres with one database for us, and a Redis. */
export type Backend = AsyncDisposable & {
  postgres: TestPostgres;
  databaseName: string;
  databaseUrl: string;
  redisUrl: string;
  jwtSecret: string;
};

/** Starts both on the core of whoever calls, and stops them with its scope. */
export async function startBackend(): Promise<Backend> {
  const stack = new AsyncDisposableStack();
  try {
    const postgres = stack.use(await ownPostgres());
    const { url: redisUrl } = stack.use(await redis());
    const database = stack.use(await postgres.createDatabase());
    return {
      postgres,
      databaseName: database.name,
      databaseUrl: database.url,
      redisUrl,
      jwtSecret: crypto.randomUUID(),
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

type AccountsOptions = Omit<ProductOptions, "kind" | "role"> & {
  /** Null for the embedded Postgres, and no Redis. */
  backend: (Pick<Backend, "databaseUrl" | "jwtSecret"> & { redisUrl: string | null }) | null;
  /** What every plan lets its holders read; nobody meets it when left out. */
  requestsPerMinute?: number;
};

/** Our server with an administrator's session. */
export type AccountsServer = Server & { operator: Session };

/** Starts our server with accounts, and waits until they can be used. */
export async function startAccounts(given: AccountsOptions): Promise<AccountsServer> {
  const { backend, requestsPerMinute = 1_000_000_000, ...options } = given;
  const env = {
    ...(backend && { DATABASE_URL: backend.databaseUrl, JWT_SECRET: backend.jwtSecret }),
    ...(backend?.redisUrl && { REDIS_URL: backend.redisUrl }),
    // Many users come from one machine here; each says which address it would come from.
    TRUST_PROXY: "1",
    ...options.env,
  };
  const server = await startProduct({ ...options, kind: "serve", role: "all", env });
  try {
    const operator = await makeOperator(server, { ...env, DATA_DIR: dataDirOf(options.instance) });
    for (const tier of ["starter", "pro", "elite"]) {
      const change = { requests_per_minute: requestsPerMinute };
      await must(200, server, "PATCH", `/api/admin/plans/${tier}`, change, operator.headers);
    }
    return { ...server, operator };
  } catch (error) {
    await server.child.stop();
    throw error;
  }
}

/** A connection of our own to the accounts of a server; null is the embedded database. */
export async function connectAccounts(
  databaseUrl: string | null,
  instance: string,
): Promise<Client> {
  const cluster = join(dataDirOf(instance), "postgres", "cluster");
  const host = (await EmbeddedPostgres.locate(cluster)) ?? "";
  const embedded = { host, user: "postgres", database: "postgres" };
  const client = new Client(databaseUrl === null ? embedded : { connectionString: databaseUrl });
  await client.connect();
  return client;
}

/** An administrator, made by the command as an operator makes them; once for servers that share. */
async function makeOperator(server: Server, env: Record<string, string>): Promise<Session> {
  const email = "operator@example.com";
  const main = join(rootDir, "src/main.ts");
  Bun.spawnSync([process.execPath, main, "admin", "create", "--email", email], {
    env: { ...process.env, ...env },
    stdin: Buffer.from(`${password}\n`),
  });
  return logIn(server, { email, password, address: "10.255.0.1" });
}

const password = "correct horse battery staple";
let people = 0;

/** Somebody with an account. */
export type Person = { email: string; password: string; address: string };
export type Session = { access: string; headers: Record<string, string> };

/** Sends JSON. */
export function call(
  server: Server,
  method: string,
  path: string,
  body: unknown = undefined,
  headers: Record<string, string> = {},
): Promise<Response> {
  return fetch(new URL(path, server.url), {
    method,
    headers: { ...(body !== undefined && { "content-type": "application/json" }), ...headers },
    ...(body !== undefined && { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(30_000),
  });
}

async function must<T>(status: number, ...request: Parameters<typeof call>): Promise<T> {
  const answer = await call(...request);
  const text = await answer.text();
  if (answer.status === status) return JSON.parse(text) as T;
  throw new Error(`${request[1]} ${request[2]}: ${answer.status} where ${status} was due: ${text}`);
}

/** Makes an account, at an address of its own. */
export async function signUp(server: Server): Promise<Person> {
  people += 1;
  const address = `10.0.${Math.floor(people / 250)}.${1 + (people % 250)}`;
  const email = `user-${people}@example.com`;
  const body = { email, password, full_name: `User ${people}` };
  await must(201, server, "POST", "/api/auth/signup", body, { "x-forwarded-for": address });
  return { email, password, address };
}

/** Opens a session. */
export async function logIn(server: Server, person: Person): Promise<Session> {
  const { email, address } = person;
  const body = { email, password: person.password };
  const tokens = await must<{ access_token: string }>(
    200,
    server,
    "POST",
    "/api/auth/login",
    body,
    {
      "x-forwarded-for": address,
    },
  );
  const access = tokens.access_token;
  return { access, headers: { authorization: `Bearer ${access}` } };
}

/** Makes a key that reads signals. @returns its header. */
export async function makeKey(server: Server, session: Session): Promise<Record<string, string>> {
  const body = { name: "bench", scopes: ["signals:read"] };
  const made = await must<{ key: string }>(201, server, "POST", "/api/keys", body, session.headers);
  return { authorization: `Bearer ${made.key}` };
}
