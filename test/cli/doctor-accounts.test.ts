import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync } from "node:fs";
import { Client } from "pg";
import { Seal } from "../../src/alpine/seal.ts";
import { JWT_SECRET } from "../harness/accounts.ts";
import { freePort, startServer, tempDir, until, type TempDir } from "../harness/process.ts";
import { postgres, redis, type TestDatabase } from "../harness/servers.ts";
import { smtp } from "../harness/smtp.ts";
import { json, run } from "./run.ts";

type Check = { name: string; status: string; detail: string; fix: string | null };

const ours = new Set([
  "accounts database",
  "accounts schema",
  "accounts owner",
  "accounts secret",
  "accounts sealed",
  "clocks",
  "redis",
  "mail",
]);

/** What doctor says of accounts; the exit code says whether anything of it is fatal. */
async function examine(env: Record<string, string>) {
  const args = ["doctor", "--json", "--quick"];
  const { code, out, err } = await run(args, { env: { PORT: "0", DATA_DIR: dir.path, ...env } });
  expect(err).toBe("");
  const { checks } = JSON.parse(out) as { checks: Check[] };
  const of = (name: string): Check | undefined => checks.find((check) => check.name === name);
  const found = checks.filter((check) => ours.has(check.name));
  for (const { status, fix } of found) expect(fix === null).toBe(status === "ok");
  expect(code).toBe(checks.some((check) => check.status === "fail") ? 1 : 0);
  const faults = found.filter((check) => check.status !== "ok");
  return { code, out, of, faults: faults.map(({ status, name }) => `${status} ${name}`) };
}

let dir: TempDir;
beforeEach(() => {
  dir = tempDir();
});
afterEach(() => dir[Symbol.dispose]());

describe("Postgres", () => {
  let database: TestDatabase;
  let env: { DATABASE_URL: string; JWT_SECRET: string };
  beforeAll(async () => {
    database = await (await postgres()).createDatabase();
    env = { DATABASE_URL: database.url, JWT_SECRET };
  });
  afterAll(() => database[Symbol.asyncDispose]());

  async function query(text: string): Promise<void> {
    const client = new Client(database.superuserUrl);
    await client.connect();
    try {
      await client.query(text);
    } finally {
      await client.end();
    }
  }

  test("an empty one is to be migrated, and then sound", async () => {
    const empty = await examine(env);
    expect([empty.code, empty.faults]).toEqual([0, ["warn accounts schema"]]);
    expect(empty.of("accounts schema")).toMatchObject({
      detail: expect.stringContaining("0000_accounts"),
      fix: "Run `argo-alpine migrate`, or let the next start do it.",
    });
    const migrate = ["migrate", "--data-dir", dir.path];
    const { migrations } = await json<{ migrations: string[] }>(migrate, { env });
    expect(migrations[0]).toBe("0000_accounts");
    const again = await run(migrate, { env });
    expect(again.out).toEndWith("\naccounts: nothing to do\n");
    const alone = await json([...migrate, "--role", "argo"], { env });
    expect(alone["migrations"]).toBeNull();

    const sound = await examine(env);
    expect([sound.code, sound.faults]).toEqual([0, []]);
    expect(sound.of("accounts database")?.detail).toMatch(
      /^Postgres \d+\.\d+.* answers in \d+ ms, on this machine, without TLS$/,
    );
    expect(sound.of("clocks")?.detail).toMatch(/^this machine and Postgres are \d+ ms apart$/);
    expect(sound.of("accounts secret")?.detail).toBe("1 JWT_SECRET, the first one signs");
    expect(sound.out).not.toContain(new URL(database.url).password);
    expect(sound.out).not.toContain(JWT_SECRET);
  });

  test("a secret that is not the one of these accounts is told", async () => {
    await json(["migrate", "--data-dir", dir.path], { env });
    const [userId, id] = [Bun.randomUUIDv7(), Bun.randomUUIDv7()];
    const sealed = (secret: string) =>
      Buffer.from(new Seal([secret], "webhook").seal("whsec_x", id)).toString("hex");
    await query(`INSERT INTO users (id, email, password_hash, full_name, created_at, updated_at, password_changed_at)
      VALUES ('${userId}', 'a@example.com', '', 'A', now(), now(), now())`);
    await query(`INSERT INTO webhooks
      (id, user_id, url, premium_only, secret, status, place, created_at, updated_at)
      VALUES ('${id}', '${userId}', 'https://example.com/', false,
        '\\x${sealed(JWT_SECRET)}', 'enabled', 0, now(), now())`);
    try {
      expect((await examine(env)).faults).toEqual([]);
      const other = await examine({ ...env, JWT_SECRET: "another".repeat(6) });
      expect([other.code, other.faults]).toEqual([1, ["fail accounts sealed"]]);
      expect(other.of("accounts sealed")?.detail).toStartWith("secrets of webhooks cannot be read");
    } finally {
      await query(`DELETE FROM users WHERE id = '${userId}'`);
    }
  });

  test("a later release's is left alone", async () => {
    await json(["migrate", "--data-dir", dir.path], { env });
    await query("INSERT INTO argo_alpine.migrations (name) VALUES ('9999_later')");
    const { code, faults, of } = await examine(env);
    expect([code, faults]).toEqual([1, ["fail accounts schema"]]);
    expect(of("accounts schema")?.detail).toContain("later release: 9999_later");
    const migrate = await run(["migrate", "--data-dir", dir.path], { env });
    expect([migrate.code, migrate.out]).toEqual([1, ""]);
    expect(migrate.err).toContain("later release: 9999_later");
    await query("DELETE FROM argo_alpine.migrations WHERE name = '9999_later'");
  });

  test("a user who may not make tables is named before a migration fails", async () => {
    await using bare = await (await postgres()).createDatabase();
    const client = new Client(bare.superuserUrl);
    await client.connect();
    await client.query(`ALTER DATABASE ${bare.name} OWNER TO postgres`);
    await client.query("REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    await client.end();
    const own = { ...env, DATABASE_URL: bare.url };
    const { code, of } = await examine(own);
    expect([code, of("accounts schema")]).toMatchObject([
      1,
      { status: "fail", fix: expect.stringContaining("GRANT CREATE ON DATABASE") },
    ]);
    const migrate = await run(["migrate", "--data-dir", dir.path], { env: own });
    expect([migrate.code, migrate.out]).toEqual([1, ""]);
    expect(migrate.err).toMatch(/^argo-alpine: .*permission denied.*\n {2}.*doctor.*\n$/);
  });

  test("a clock that goes wrong is told", async () => {
    await query(
      "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT pg_catalog.now() - interval '1 hour' $$",
    );
    const url = new URL(database.url);
    url.searchParams.set("options", "-csearch_path=public,pg_catalog");
    const { code, faults, of } = await examine({ ...env, DATABASE_URL: url.href });
    await query("DROP FUNCTION public.clock_timestamp()");
    expect([code, faults]).toEqual([0, ["warn clocks"]]);
    expect(of("clocks")?.detail).toMatch(/^the clock of Postgres is 3\d{3}\.\d s behind/);
  });

  test("what cannot be reached, or does not want us", async () => {
    const password = "a-password-that-nobody-knows";
    const unwanted = new URL(database.url);
    unwanted.password = password;
    const cases: [string, RegExp][] = [
      [`postgres://argo:${password}@127.0.0.1:${freePort()}/argo`, /ECONNREFUSED/],
      [unwanted.href, /password authentication failed/],
      [`postgres://argo:${password}@db.example.com/argo?sslmode=disable`, /without TLS/],
      [`postgres://argo:${password}@localhost/argo?connect=1`, /parameters that are not known/],
    ];
    for (const [url, said] of cases) {
      const { code, faults, of, out } = await examine({ ...env, DATABASE_URL: url });
      expect([code, faults]).toEqual([1, ["fail accounts database"]]);
      expect(of("accounts database")?.detail).toMatch(said);
      expect(out).not.toContain(password);
    }
  });
});

describe("the embedded one", () => {
  test("is described before it is made, while a server has it, and after", async () => {
    const before = await examine({});
    expect([before.code, before.faults]).toEqual([0, []]);
    expect(before.of("accounts database")?.detail).toEndWith("; made at the first start");
    expect(before.of("accounts secret")?.detail).toEndWith("jwt.secret is made at the first start");

    const env = { DATA_DIR: dir.path, SHUTDOWN_DELAY_SECONDS: "0" };
    await using server = await startServer({ role: "all", env });
    await until(async () => (await fetch(`${server.url}/readyz`)).ok, "the accounts");
    const during = await examine({ PORT: new URL(server.url).port });
    expect([during.code, during.faults]).toEqual([0, []]);
    expect(during.of("accounts database")?.detail).toEndWith(`; in use by process ${server.pid}`);
    expect(during.of("accounts schema")?.detail).toBe("is of this release");
    expect(during.of("accounts secret")?.detail).toContain("jwt.secret, mode 600");
    await server.stop();
    const after = await examine({});
    expect(after.of("accounts database")?.detail).toEndWith("; not in use");
  });

  test("is refused where other machines connect, unless it is said aloud", async () => {
    const env = { HOST: "0.0.0.0", ARGO_READ_TOKEN: "a-token-of-this-test" };
    const refused = await examine(env);
    expect([refused.code, refused.faults]).toEqual([1, ["fail accounts database"]]);
    expect(refused.of("accounts database")?.fix).toContain("--embedded");
    expect((await examine({ ...env, EMBEDDED: "true" })).faults).toEqual([]);
  });
});

describe("the kept secret", () => {
  test.each([
    [
      "0".repeat(64),
      0o644,
      "warn",
      /can be read by others \(644\)/,
      /^Run: chmod 600 .*jwt.secret$/,
    ],
    ["0".repeat(31), 0o600, "fail", /cut short/, /backup/],
  ] as const)("%s with mode %d is %s", async (secret, mode, status, detail, fix) => {
    await Bun.write(dir.file("jwt.secret"), `${secret}\n`);
    chmodSync(dir.file("jwt.secret"), mode);
    const { of, faults, out } = await examine({});
    expect(faults).toEqual([`${status} accounts secret`]);
    expect(of("accounts secret")?.detail).toMatch(detail);
    expect(of("accounts secret")?.fix).toMatch(fix);
    expect(out).not.toContain(secret);
  });

  test("one beside another that is said is told, unless it is said as well", async () => {
    const kept = "0".repeat(64);
    await Bun.write(dir.file("jwt.secret"), `${kept}\n`);
    chmodSync(dir.file("jwt.secret"), 0o600);
    const { of, faults, out } = await examine({ JWT_SECRET });
    expect(faults).toEqual(["warn accounts secret"]);
    expect(of("accounts secret")?.detail).toContain(`${dir.file("jwt.secret")} holds another`);
    expect(of("accounts secret")?.fix).toContain("after a comma");
    expect(out).not.toContain(kept);
    expect((await examine({ JWT_SECRET: `${JWT_SECRET},${kept}` })).faults).toEqual([]);
  });

  test("one in the configuration that is too short is refused by its name", async () => {
    const { code, of } = await examine({ JWT_SECRET: "too-short" });
    expect([code, of("configuration")?.status]).toEqual([1, "fail"]);
    expect(of("configuration")?.detail).toMatch(/JWT_SECRET.*32 or more/);
  });
});

test("Redis: one that evicts, one that does not, none", async () => {
  const password = "a-password-that-nobody-knows";
  const settings = { requirepass: password, "maxmemory-policy": "allkeys-lru" };
  await using server = await redis({ settings });
  const evicting = await examine({ REDIS_URL: server.url });
  expect([evicting.code, evicting.faults]).toEqual([0, ["warn redis"]]);
  expect(evicting.of("redis")?.detail).toMatch(/^Redis \d.* answers, maxmemory-policy allkeys-lru/);
  await using sound = await redis();
  const fine = await examine({ REDIS_URL: sound.url });
  expect([fine.code, fine.faults]).toEqual([0, []]);
  expect(fine.of("redis")?.detail).toEndWith("maxmemory-policy noeviction");

  const wrong = server.url.replace(password, `${password}-not`);
  for (const [url, said] of [
    [wrong, /WRONGPASS/],
    [`redis://127.0.0.1:${server.port}`, /NOAUTH/],
    [`redis://:${password}@127.0.0.1:${freePort()}`, /ECONNREFUSED/],
  ] as const) {
    const { code, faults, of, out } = await examine({ REDIS_URL: url });
    expect([code, faults]).toEqual([0, ["warn redis"]]);
    expect(of("redis")?.detail).toMatch(said);
    expect(out).not.toContain(password);
  }
});

test("mail: a server that takes it, one that is none, none", async () => {
  await using server = await smtp();
  const fine = await examine({ SMTP_URL: server.url });
  expect(fine.faults).toEqual([]);
  expect(fine.of("mail")?.detail).toMatch(/^the mail server answers on 127\.0\.0\.1:\d+$/);

  using other = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: { open: (socket) => void socket.end("SSH-2.0-OpenSSH\r\n"), data() {} },
  });
  for (const [url, status, said] of [
    [`smtp://user:hidden-word@127.0.0.1:${other.port}`, "warn", /no mail server/],
    [`smtp://user:hidden-word@127.0.0.1:${freePort()}`, "warn", /ECONNREFUSED/],
    ["smtp://user:hidden-word@mail.example.com/x?y=1", "fail", /more in it than a server/],
  ] as const) {
    const { faults, of, out } = await examine({ SMTP_URL: url });
    expect(faults).toEqual([`${status} mail`]);
    expect(of("mail")?.detail).toMatch(said);
    expect(out).not.toContain("hidden-word");
  }
});

test("a directory of somebody else's is named", async () => {
  mkdirSync(dir.file("postgres/cluster"), { recursive: true });
  if (process.getuid?.() === 0) {
    // To root nothing is closed.
    expect((await examine({})).of("accounts database")?.detail).toEndWith("; not in use");
    return;
  }
  chmodSync(dir.file("postgres/cluster"), 0);
  expect((await examine({})).faults).toEqual(["fail accounts database"]);
});
