/** Secrets of accounts stay so in everything that is said, whatever fails meanwhile (H7). */
import { expect, test } from "bun:test";
import { sql } from "drizzle-orm";
import { canary, leaks, liveOnce } from "../alpine/life.ts";
import { openDatabase } from "../alpine/migrating.ts";
import { serveAccounts, type ServedAccounts } from "../harness/accounts.ts";
import { spawnChild, within } from "../harness/children.ts";
import { startServer, tempDir, until } from "../harness/process.ts";
import { type OwnPostgres, ownPostgres, redis, type TestDatabase } from "../harness/servers.ts";
import { smtp } from "../harness/smtp.ts";
import { MAIN } from "./harness.ts";

const PAGES = ["/metrics", "/openapi.json", "/health", "/readyz", "/version", "/docs"];

/** The address of a database for somebody with this password. */
async function withPassword(
  server: OwnPostgres,
  database: TestDatabase,
  password: string,
): Promise<string> {
  await using owner = openDatabase(database.superuserUrl);
  await owner.db.execute(sql.raw(`CREATE ROLE teller LOGIN PASSWORD '${password}'`));
  await owner.db.execute(sql.raw(`GRANT argo TO teller`));
  const url = new URL(database.url);
  return `postgres://teller:${password}@127.0.0.1:${server.port}${url.pathname}`;
}

/** What is asked while something fails, with secrets wherever one may be. */
async function askAll(
  at: ServedAccounts,
  secrets: Record<string, string>,
  id: string,
): Promise<{ texts: string[]; statuses: number[] }> {
  const { third = "", access5 = "", refresh5 = "", adminAccess = "", rotatedKey = "" } = secrets;
  const { totpSecret = "", usedCode = "", resetToken = "", key = "" } = secrets;
  const email = "else@example.com";
  const asked: [string, string, unknown?, string?][] = [
    ["POST", "/api/auth/login", { email, password: third }],
    ["POST", "/api/auth/login", { email, password: third, totp: usedCode }],
    ["POST", "/api/auth/login", `{"email":"${email}","password":"${third}`],
    ["POST", "/api/auth/login", { email: third, password: third, more: third }],
    ["POST", "/api/auth/login", { email: [third], password: 7, totp: totpSecret }],
    ["POST", `/api/auth/login?password=${third}`, {}],
    ["POST", "/api/auth/signup", { email: third, password: third, full_name: `${third}\n` }],
    ["POST", "/api/auth/refresh", { refresh_token: refresh5 }],
    ["POST", "/api/auth/refresh", { refresh_token: [refresh5] }],
    ["POST", "/api/auth/password/reset", { token: resetToken, new_password: third }],
    ["POST", "/api/auth/password/forgot", { email }],
    ["POST", "/api/auth/verify-email", { token: resetToken }],
    ["POST", "/api/auth/setup", { token: resetToken, email, password: third, full_name: "x" }],
    ["POST", "/api/auth/password/change", { current_password: third, new_password: "x" }, access5],
    ["POST", "/api/auth/totp/disable", { password: third, totp: usedCode }, access5],
    ["POST", "/api/auth/totp/setup", { password: third }, access5],
    ["GET", "/api/auth/me", undefined, access5],
    ["GET", "/api/auth/me", undefined, `${access5}x`],
    ["GET", "/api/auth/me", undefined, key],
    ["GET", `/api/users/sessions?cursor=${refresh5}`, undefined, access5],
    ["PUT", "/api/users/profile", { email: "x@example.com", password: third }, access5],
    ["POST", "/api/keys", { name: third, scopes: [rotatedKey] }, access5],
    ["DELETE", `/api/keys/${rotatedKey}`, undefined, access5],
    ["PATCH", `/api/admin/users/${id}`, { tier: adminAccess }, adminAccess],
    ["GET", `/api/admin/users?search=${third}&tier=${third}`, undefined, adminAccess],
    ["GET", "/api/signals/latest", undefined, key],
    ["GET", `/api/signals/latest?key=${rotatedKey}`],
    ["GET", `/${rotatedKey}`],
  ];
  const answers = await Promise.all(
    asked.map(async ([method, path, body, token]) => {
      const response = await at.call(method, path, body, token);
      const headers = [...response.headers].map((pair) => pair.join(": ")).join("\n");
      return { status: response.status, text: `${headers}\n${await response.text()}` };
    }),
  );
  return {
    statuses: answers.map(({ status }) => status),
    // What succeeds may give tokens to whom they belong. A path is named as it was asked for.
    texts: answers.flatMap(({ status, text }) =>
      status < 400 ? [] : [text.replaceAll(/"instance":"[^"]*"/g, "")],
    ),
  };
}

test("a whole life at debug level, then everything fails: no secret is told", async () => {
  const own = {
    database: canary("database"),
    redis: canary("redis"),
    smtp: canary("smtp"),
    jwt: canary("jwt"),
    metrics: canary("metrics"),
    read: canary("read"),
    write: canary("write"),
  };
  await using server = await ownPostgres();
  await using database = await server.createDatabase();
  await using cache = await redis({ settings: { requirepass: own.redis } });
  await using sink = await smtp({ auth: { user: "teller", pass: own.smtp } });
  await using at = await serveAccounts("source", "postgres", {
    DATABASE_URL: await withPassword(server, database, own.database),
    REDIS_URL: cache.url,
    SMTP_URL: sink.url,
    JWT_SECRET: own.jwt,
    METRICS_TOKEN: own.metrics,
    ARGO_READ_TOKEN: own.read,
    ARGO_WRITE_TOKEN: own.write,
    LOG_LEVEL: "trace",
    DEBUG: "true",
  });
  const texts: Record<string, string> = {};
  const look = async (phase: string): Promise<void> => {
    for (const path of PAGES) {
      texts[`${path} ${phase}`] = await (await fetch(at.server.url + path)).text();
    }
  };

  const link = () => at.server.logs().findLast((line) => line.includes("#setup="));
  await until(() => link() !== undefined, "the link for the first administrator");
  const setupToken = /#setup=([\w-]+)/.exec(link() ?? "")?.[1] ?? "";
  const life = await liveOnce({ at, sink, now: Date.now, setupToken: async () => setupToken });
  const { setupToken: shown = "", ...others } = life.secrets;
  const secrets: Record<string, string> = { ...others, ...own };
  const ask = async (phase: string): Promise<number[]> => {
    const { texts: said, statuses } = await askAll(at, secrets, life.member.id);
    for (const [i, text] of said.entries()) texts[`answer ${i} ${phase}`] = text;
    await look(phase);
    return statuses;
  };
  await ask("at first");

  for (const fault of [451, 550, "hangup"] as const) {
    sink.fail(fault);
    const failed = () => at.server.logs().filter((line) => line.includes("mail not sent")).length;
    const before = failed();
    await at.must(202, "POST", "/api/auth/password/forgot", { email: "admin@example.com" });
    await until(() => failed() > before, "a mail that fails");
    await ask(`while mails fail (${fault})`);
  }
  sink.fail(null);
  await cache.kill();
  await ask("without Redis");
  await cache.start();
  cache.pause();
  await ask("while Redis is silent");
  cache.resume();

  await server.kill();
  expect(await ask("without Postgres")).toContain(503);
  await server.start();
  await until(
    async () => (await (await fetch(`${at.server.url}/health`)).text()).includes('"healthy"'),
    "accounts are back",
  );
  // What nobody could foresee: a table is gone under the server.
  await using owner = openDatabase(database.superuserUrl);
  await owner.db.execute(sql`DROP TABLE refresh_tokens, one_time_tokens CASCADE`);
  await until(async () => (await ask("with tables gone")).includes(500), "a failure inside");

  expect(await at.server.stop()).toBe(0);
  const log = at.server.logs();
  texts["the log"] = log.join("\n");
  expect(log.filter((line) => line.includes('"request failed"')).length).toBeGreaterThan(0);
  expect(log.length).toBeGreaterThan(200);
  for (const told of ["mail not sent", "redis cannot be had", "Postgres cannot be used"]) {
    expect([told, log.some((line) => line.includes(told))]).toEqual([told, true]);
  }
  expect(Object.keys(texts).length).toBeGreaterThan(100);
  expect(leaks(secrets, texts)).toEqual([]);
  // The one exception, which whoever starts the server reads there.
  expect(log.filter((line) => line.includes(shown)).length).toBe(1);
});

test("servers that refuse the password are not told of by it", async () => {
  using dir = tempDir();
  const own = { database: canary("database"), redis: canary("redis"), smtp: canary("smtp") };
  await using server = await ownPostgres();
  await using cache = await redis({ settings: { requirepass: "another password" } });
  await using sink = await smtp({ auth: { user: "teller", pass: "another password" } });
  const url = new URL(cache.url);
  url.password = own.redis;
  const mail = new URL(sink.url);
  mail.password = own.smtp;
  await using database = await server.createDatabase();
  const refused = new URL(database.url);
  refused.password = own.database;
  const env = { REDIS_URL: url.href, SMTP_URL: mail.href, JWT_SECRET: canary("jwt") };
  const common = { LOG_LEVEL: "trace", PORT: "0", SHUTDOWN_DELAY_SECONDS: "0" };

  const texts: Record<string, string> = {};
  const start = (name: string, databaseUrl: string) =>
    startServer({
      role: "all",
      cwd: dir.path,
      env: { ...common, ...env, DATA_DIR: dir.file(name), DATABASE_URL: databaseUrl },
    });
  {
    await using at = await start("one", database.url);
    await until(async () => (await fetch(`${at.url}/readyz`)).ok, "accounts");
    const post = (path: string, body: unknown) =>
      fetch(`${at.url}/api/auth${path}`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
    const signup = { email: "a@example.com", password: canary("x"), full_name: "A" };
    expect((await post("/signup", signup)).status).toBe(201);
    await until(() => at.logs().some((line) => line.includes("mail not sent")), "a failed mail");
    expect(at.logs().join("\n")).toContain("redis cannot be had");
    expect(await at.stop()).toBe(0);
    texts["mail and Redis"] = at.logs().join("\n");
  }
  {
    await using at = await start("two", refused.href);
    await until(() => at.logs().some((line) => line.includes("trying again")), "a failed start");
    texts["health"] = await (await fetch(`${at.url}/health`)).text();
    await at.stop();
    texts["Postgres"] = at.logs().join("\n");
    expect(texts["Postgres"]).toContain("password authentication failed");
  }
  expect(leaks({ ...own, jwt: env.JWT_SECRET }, texts)).toEqual([]);
});

test("addresses that cannot be used are refused by their names, not by what is in them", async () => {
  using dir = tempDir();
  const secret = canary("address");
  const long = { JWT_SECRET: canary("jwt") };
  const wrong: [name: string, env: Record<string, string>][] = [
    ["DATABASE_URL", { DATABASE_URL: `mysql://user:${secret}@127.0.0.1/db` }],
    ["DATABASE_URL", { DATABASE_URL: `postgres://user:${secret}@[127.0.0.1/db` }],
    ["DATABASE_URL", { DATABASE_URL: `postgres://user:${secret}%zz@127.0.0.1:1/db` }],
    ["DATABASE_URL", { DATABASE_URL: `postgres://user:${secret}@db.example/db?sslmode=disable` }],
    ["DATABASE_URL", { DATABASE_URL: `postgres://user:${secret}@db.example/db?sslmode=maybe` }],
    ["REDIS_URL", { REDIS_URL: `http://:${secret}@127.0.0.1` }],
    ["REDIS_URL", { REDIS_URL: `redis://:${secret}%zz@127.0.0.1:1` }],
    ["SMTP_URL", { SMTP_URL: `smtp://user:${secret}@127.0.0.1/path` }],
    ["SMTP_URL", { SMTP_URL: `smtp://user:${secret}%zz@127.0.0.1` }],
    ["SMTP_URL", { SMTP_URL: `mail://user:${secret}@127.0.0.1` }],
    ["JWT_SECRET", { JWT_SECRET: secret.slice(0, 31) }],
    ["METRICS_TOKEN", { METRICS_TOKEN: `${secret} and more` }],
  ];
  for (const [name, given] of wrong) {
    const env = { ...long, DATA_DIR: dir.file("data"), PORT: "0", LOG_LEVEL: "trace", ...given };
    await using child = spawnChild([process.execPath, MAIN, "serve"], { cwd: dir.path, env });
    const code = await within(child.done, 60_000);
    const said = child.lines().join("\n");
    expect([given, code, said.includes(name)]).toEqual([given, 1, true]);
    expect(said).not.toContain("    at ");
    expect(leaks({ secret, cut: secret.slice(0, 31), ...long }, { said })).toEqual([]);
  }
});
