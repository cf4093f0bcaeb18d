/** A fan-out whose processes, or whose database, are killed in the middle of it. */
import { Database as Sqlite } from "bun:sqlite";
import { expect, test } from "bun:test";
import { Client } from "pg";
import { JWT_SECRET, openAccounts } from "../harness/accounts.ts";
import { signal, WRITE_TOKEN } from "../harness/app.ts";
import { type Server, startServer, tempDir, until } from "../harness/process.ts";
import { ownPostgres, postgres } from "../harness/servers.ts";

const ACCOUNTS = 30_000;

async function connect(url: string): Promise<Client & AsyncDisposable> {
  const client = new Client({ connectionString: url });
  client.on("error", () => undefined);
  await client.connect();
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

const number = async (client: Client, text: string): Promise<number> => {
  const { rows } = await client.query<{ n: string }>(text);
  return Number(rows[0]?.n ?? 0);
};

const fill = (client: Client): Promise<unknown> =>
  client.query(`
    INSERT INTO users (id, email, full_name, password_hash, tier, created_at, updated_at,
      password_changed_at)
    SELECT gen_random_uuid(), 'user' || n || '@example.com', 'Somebody', 'none',
      (ARRAY['starter', 'pro', 'elite'])[1 + n % 3], now(), now(), now()
    FROM generate_series(1, ${ACCOUNTS}) AS n`);

const toldOf = (id: number) =>
  `SELECT count(*) AS n FROM notifications WHERE reference LIKE '${id} %'`;
const everybody = (ACCOUNTS / 3) * 2;

/** True once jobs are there and the place of signals is known. */
const watches = async (client: Client): Promise<boolean> =>
  (await number(client, "SELECT count(*) AS n FROM job_places WHERE name = 'premium_signals'")) ===
  1;

test("killed with -9, in however many processes, everybody is told of each signal once", async () => {
  using dir = tempDir();
  // Empty: all make its tables at once.
  await using database = await (await postgres()).createDatabase();
  await using client = await connect(database.url);
  const env = {
    DATABASE_URL: database.url,
    SIGNALS_DB: dir.file("signals.db"),
    DATA_DIR: dir.file("data"),
    JWT_SECRET,
    ARGO_WRITE_TOKEN: WRITE_TOKEN,
    LOG_LEVEL: "debug",
  };
  const start = (): Promise<Server> => startServer({ role: "all", cwd: dir.path, env });
  await using stack = new AsyncDisposableStack();
  const servers = await Promise.all([start(), start(), start()]);
  for (const server of servers) stack.use(server);
  const run = (server: Server) =>
    server.logs().some((line) => line.includes("background jobs run"));
  await until(() => servers.every(run), "background jobs run");
  await until(() => watches(client), "signals are watched");
  const falters = servers.flatMap((server) =>
    server.logs().filter((line) => /"level":"(warn|error)".*background/.test(line)),
  );
  expect(falters).toEqual([]);
  await fill(client);

  const post = (entry_price: number) =>
    fetch(`${servers[0]?.url}/api/signals`, {
      method: "POST",
      headers: { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" },
      body: JSON.stringify(signal({ entry_price })),
    });
  // Somebody cannot be told before the kill: it comes in the middle, however fast they are.
  await using holder = await connect(database.url);
  await holder.query("BEGIN");
  await holder.query(
    "SELECT 1 FROM users WHERE tier <> 'starter' ORDER BY id DESC LIMIT 1 FOR UPDATE",
  );
  expect((await post(100)).status).toBe(201);
  await until(async () => (await number(client, toldOf(1))) > 0, "somebody is told");
  for (const server of servers) server.kill();
  await Promise.all(servers.map(({ exited }) => exited));
  const half = await number(client, toldOf(1));
  expect(half).toBeGreaterThan(0);
  expect(half).toBeLessThan(everybody);
  await holder.query("ROLLBACK");

  // Meanwhile the engine writes on.
  using engine = new Sqlite(env.SIGNALS_DB, { readwrite: true });
  engine.run(
    "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES ('NDX','SELL',1,99,'2026-11-20T12:00:00+00:00')",
  );
  // As if whoever comes came a minute later: a heartbeat is missed after ten seconds.
  await client.query(
    "UPDATE pgboss.job SET heartbeat_on = heartbeat_on - interval '1 minute' WHERE state = 'active'",
  );
  stack.use(await start());
  const all = async () =>
    (await number(client, toldOf(1))) === everybody &&
    (await number(client, toldOf(2))) === everybody;
  await until(all, "everybody is told of both", 100_000);
  expect(await number(client, "SELECT count(*) AS n FROM notifications")).toBe(2 * everybody);
  const jobs = "SELECT count(*) AS n FROM pgboss.job WHERE name = 'premium_signal'";
  expect(await number(client, jobs)).toBe(2);
});

test("with the database gone for a while, signals are taken and told of when it is back", async () => {
  await using server = await ownPostgres();
  await using at = await openAccounts({
    backend: "postgres",
    servers: { postgres: server },
    env: { BACKGROUND_TASKS: "true" },
  });
  const url = at.database?.url ?? "";
  const ask = async <T>(work: (client: Client) => Promise<T>): Promise<T> => {
    await using client = await connect(url);
    return await work(client);
  };
  await until(() => ask(watches), "signals are watched");
  await ask(fill);
  const post = async (entry_price: number): Promise<void> =>
    expect((await at.app.post(signal({ entry_price }))).status).toBe(201);
  await post(100);
  await until(async () => (await ask((c) => number(c, toldOf(1)))) > 0, "somebody is told");
  await server.kill();
  await post(101);
  await Bun.sleep(1_500);
  expect((await at.app.get("/api/signals/latest?limit=1")).status).toBe(200);
  await server.start();
  await ask((c) =>
    c.query(
      "UPDATE pgboss.job SET heartbeat_on = heartbeat_on - interval '1 minute' WHERE state = 'active'",
    ),
  );
  const told = (id: number) => ask((c) => number(c, toldOf(id)));
  const all = async () => (await told(1)) === everybody && (await told(2)) === everybody;
  await until(all, "everybody is told of both", 100_000);
});
