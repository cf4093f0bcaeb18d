import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, chownSync } from "node:fs";
import { eq, sql } from "drizzle-orm";
import { integer, jsonb, pgTable, text, timestamp } from "drizzle-orm/pg-core";
import { AppError, SetupError } from "../../src/errors.ts";
import { createLog } from "../../src/platform/log.ts";
import { Metrics } from "../../src/platform/metrics.ts";
import { Postgres, PostgresError, type PostgresOptions } from "../../src/platform/postgres.ts";
import { spawnChild } from "../harness/children.ts";
import { leastMs, tempDir, until } from "../harness/process.ts";
import { tcpProxy } from "../harness/proxy.ts";
import { ownPostgres, postgres, type TestDatabase } from "../harness/servers.ts";

const things = pgTable("things", {
  id: integer().primaryKey(),
  doc: jsonb(),
  tags: text().array(),
  at: timestamp({ withTimezone: true }),
});
const schema = { things };

let database: TestDatabase;

beforeAll(async () => {
  database = await (await postgres()).createDatabase();
  await using pg = open();
  await pg.db.execute(
    sql`CREATE TABLE things (id int PRIMARY KEY, doc jsonb, tags text[], at timestamptz)`,
  );
});
afterAll(() => database[Symbol.asyncDispose]());

function open(options: Partial<PostgresOptions> = {}): Postgres<typeof schema> {
  const at = { url: database.url };
  const log = createLog("silent");
  return Postgres.open(
    { at, poolSize: 2, maxOverflow: 1, recycleSeconds: 3_600, log, ...options },
    schema,
  );
}

/** What a call failed with, and how long that took. */
async function failure(work: () => Promise<unknown>): Promise<{ error: unknown; ms: number }> {
  const begun = performance.now();
  try {
    await work();
  } catch (error) {
    return { error, ms: performance.now() - begun };
  }
  throw new Error("it did not fail");
}

async function unavailable(work: () => Promise<unknown>): Promise<AppError & { ms: number }> {
  const { error, ms } = await failure(work);
  if (!(error instanceof AppError)) throw new Error(`not an AppError: ${String(error)}`);
  expect(error.status).toBe(503);
  expect(error.retryAfterSeconds).toBeGreaterThan(0);
  return Object.assign(error, { ms });
}

const ask = (pg: Postgres<typeof schema>) => pg.db.execute(sql`SELECT 1`);
const backend = async (pg: Postgres<typeof schema>) =>
  (await pg.db.execute<{ pid: number }>(sql`SELECT pg_backend_pid() AS pid`)).rows[0]?.pid;

describe("with a server that is well", () => {
  test("values come back as they went in", async () => {
    await using pg = open();
    const row = {
      id: 1,
      doc: { a: [1, "x", null], 'quo"te': "\\ é" },
      tags: ["a,b", '"q"', "{}", ""],
      at: new Date(1_700_000_000_123),
    };
    await pg.db.insert(things).values(row);
    expect(await pg.db.select().from(things)).toEqual([row]);
    expect(await pg.db.query.things.findFirst()).toEqual(row);
    expect(pg.up).toBe(true);
  });

  test("a thousand failed and abandoned requests leave no connection behind", async () => {
    await using pg = open({ statementTimeoutMs: 2_000, connectTimeoutMs: 10_000 });
    await pg.db.insert(things).values({ id: 1 }).onConflictDoNothing();
    const kinds = [
      () => pg.db.execute(sql`SELECT 1 / 0`),
      () => pg.db.insert(things).values({ id: 1 }),
      () => pg.transaction(async (tx) => tx.execute(sql`SELECT nothing FROM nowhere`)),
      () =>
        pg.transaction(async (tx) => {
          await tx.insert(things).values({ id: 2 });
          throw new Error("changed my mind");
        }),
      // Given up in the middle: its connection dies under it.
      () => pg.transaction((tx) => tx.execute(sql`SELECT pg_terminate_backend(pg_backend_pid())`)),
    ];
    const outcomes = await Promise.allSettled(
      Array.from({ length: 1_000 }, (_, i) => kinds[i % kinds.length]?.()),
    );
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toEqual([]);
    const released = () => pg.pool.waitingCount === 0 && pg.pool.idleCount === pg.pool.totalCount;
    await until(released, "every connection is handed back");
    // Of those that were ended the last may still be on its way out.
    let states: string[] = [];
    const settled = async (): Promise<boolean> => {
      const { rows } = await pg.db.execute<{ state: string }>(
        sql`SELECT state FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()`,
      );
      states = rows.map(({ state }) => state);
      return states.length < 3 && states.every((state) => state === "idle");
    };
    await until(settled, () => `a few idle connections, not ${states.join()}`);
    expect(await pg.db.select().from(things).where(eq(things.id, 2))).toEqual([]);
  });

  test("a transaction that Postgres took back is not taken for done", async () => {
    await using pg = open();
    const { error } = await failure(() =>
      pg.transaction(async (tx) => {
        await tx.insert(things).values({ id: 50 });
        await tx
          .insert(things)
          .values({ id: 1 })
          .catch(() => undefined);
      }),
    );
    expect(String(error)).toContain("taken back");
    expect(await pg.db.select().from(things).where(eq(things.id, 50))).toEqual([]);
  });

  test("a query beside the transaction's handle is refused; after it, it is not", async () => {
    await using pg = open();
    let later: (() => Promise<unknown>) | undefined;
    const { error } = await failure(() => pg.transaction(() => pg.db.select().from(things)));
    expect(String(error)).toContain("beside the handle");
    await pg.transaction(async () => {
      later = () => pg.db.select().from(things);
    });
    expect(await later?.()).toBeArray();
  });

  test("statements, locks and waits for a connection are bounded, and say 503", async () => {
    await using pg = open({ statementTimeoutMs: 400, connectTimeoutMs: 200, maxOverflow: 0 });
    const slow = await unavailable(() => pg.db.execute(sql`SELECT pg_sleep(5)`));
    expect(slow.ms).toBeWithin(350, 4_900);
    expect((slow.cause as PostgresError).code).toBe("57014");

    await using other = open();
    await other.transaction(async (tx) => {
      await tx.execute(sql`LOCK TABLE things`);
      const locked = await unavailable(() => pg.db.select().from(things));
      expect((locked.cause as PostgresError).code).toBe("55P03");
    });

    const free = Promise.withResolvers<void>();
    const held = [1, 2].map(() => pg.transaction(() => free.promise));
    expect((await unavailable(() => ask(pg))).ms).toBeWithin(150, 10_000);
    free.resolve();
    await Promise.all(held);
    // None of that means that the database is away.
    expect(pg.up).toBe(true);
  });

  test("connections are recycled", async () => {
    await using pg = open({ recycleSeconds: 1 });
    const first = await backend(pg);
    expect(await backend(pg)).toBe(first);
    await Bun.sleep(1_100);
    expect(await backend(pg)).not.toBe(first);
  });

  test("statements are counted and timed", async () => {
    const metrics = new Metrics();
    const texts: string[] = [];
    await using pg = open({ metrics, onQuery: (statement) => texts.push(statement) });
    await pg.transaction((tx) => tx.execute(sql`SELECT ${"value"}::text`));
    expect(texts).toEqual(["begin", "SELECT $1::text", "commit"]);
    const { text: exposed } = await metrics.expose();
    expect(exposed).toContain('db_query_duration_seconds_count{kind="postgres"} 3');
    expect(exposed).toContain("db_up 1");
    expect(exposed).toContain("db_pool_connections 1");
  });

  test("no value and no password is in a failure", async () => {
    const canary = "canary-5c1e";
    await using pg = open();
    const wrong = new URL(database.url);
    wrong.password = canary;
    await using stranger = open({ at: { url: wrong.href } });
    const failures = [
      await failure(() => pg.db.insert(things).values({ id: 1, tags: [canary] })),
      await failure(() => pg.db.execute(sql`SELECT ${canary}::int`)),
      await failure(() => pg.db.execute(sql`SELECT ${`[${canary}`}::jsonb`)),
      await failure(() => pg.transaction((tx) => tx.execute(sql`SELECT ${canary}::uuid`))),
      await failure(() => ask(stranger)),
      await failure(async () => open({ at: { url: wrong.href.replace("127.0.0.1", "h:x") } })),
      await failure(async () =>
        open({ at: { url: `${wrong.href}?${canary.slice(7)}=${canary}` } }),
      ),
    ];
    for (const { error } of failures) {
      expect(Bun.inspect(error, { depth: 9 })).not.toContain(canary);
      expect(JSON.stringify(error)).not.toContain(canary);
    }
    expect(failures[0]?.error).toMatchObject({ code: "23505", constraint: "things_pkey" });
    expect(failures[4]?.error).toMatchObject({ status: 503 });
  });
});

describe("with a server that fails", () => {
  test("killed, it is 503 at once and again itself when it is back", async () => {
    await using server = await ownPostgres();
    await using pg = open({ at: { url: server.url } });
    await ask(pg);
    await server.kill();
    const cut = await unavailable(() => ask(pg));
    // A dead one is not waited for: a connection may take two seconds, a statement ten.
    expect(cut.ms).toBeLessThan(1_900);
    await unavailable(() => ask(pg)).catch(() => undefined);
    expect(pg.up).toBe(false);
    const failures = await Promise.all(
      Array.from({ length: 200 }, () =>
        unavailable(() => pg.transaction((tx) => tx.execute(sql`SELECT 1`))),
      ),
    );
    expect(Math.min(...failures.map(({ ms }) => ms))).toBeLessThan(1_000);
    expect(Math.max(...failures.map(({ ms }) => ms))).toBeLessThan(10_000);
    expect(await pg.check(500)).toBe(false);
    expect(pg.pool.waitingCount).toBe(0);
    expect(pg.pool.totalCount).toBe(0);
    await server.start();
    await until(() => pg.up, "up again");
    await ask(pg);
  });

  test("one that no longer answers is given up on, then refused at once", async () => {
    const target = new URL(database.url);
    await using proxy = await tcpProxy({ port: Number(target.port) });
    target.port = String(proxy.port);
    const bounds = { statementTimeoutMs: 300, connectTimeoutMs: 300 };
    await using pg = open({ at: { url: target.href }, ...bounds });
    await ask(pg);
    proxy.blackhole();
    expect((await unavailable(() => ask(pg))).ms).toBeWithin(1_000, 10_000);
    await until(() => !pg.up, "known to be down");
    expect(await leastMs(() => unavailable(() => ask(pg)))).toBeLessThan(100);
    const checked = async () => expect(await pg.check(200)).toBe(false);
    expect(await leastMs(checked, 3)).toBeLessThan(400);
    proxy.restore();
    await until(() => pg.up, "up again");
    await ask(pg);
    await until(() => pg.pool.idleCount === pg.pool.totalCount, "all released");
  });

  test("a lost idle connection ends nothing", async () => {
    await using pg = open();
    const pid = await backend(pg);
    await using other = open();
    await other.db.execute(sql`SELECT pg_terminate_backend(${pid})`);
    await until(() => pg.pool.totalCount === 0 || pg.pool.idleCount === 1, "gone");
    await Bun.sleep(50);
    await ask(pg);
  });

  for (const [what, url] of [
    ["a port that nobody listens on", () => "postgres://argo@127.0.0.1:1/argo"],
    ["a host that has no address", () => "postgres://argo@nowhere.invalid/argo"],
    ["no password where one is asked for", () => database.url.replace(/:[^:@]+@/, "@")],
    ["a database that is not there", () => `${database.url}-not`],
  ] as const) {
    test(`${what} is 503`, async () => {
      await using pg = open({ at: { url: url() } });
      const found = await unavailable(() => pg.transaction((tx) => tx.execute(sql`SELECT 1`)));
      expect(found.ms).toBeLessThan(10_000);
      expect(pg.up).toBe(false);
      expect(await leastMs(() => unavailable(() => ask(pg)))).toBeLessThan(100);
    });
  }
});

describe("addresses", () => {
  const refused: [url: string, why: RegExp][] = [
    ["not a url", /not a URL/],
    ["mysql://root@db/argo", /mysql:/],
    ["postgres://u@db.example.com/argo?sslmode=disable", /without TLS/],
    ["postgres://u@db.example.com/argo?sslmode=no-verify", /no-verify/],
    ["postgres://u@10.0.0.7/argo?sslmode=disable", /without TLS/],
    ["postgres://u@localhost/argo?host=10.0.0.7&sslmode=disable", /without TLS/],
    ["postgres://u@db.example.com/argo?uselibpqcompat=true&sslmode=require", /uselibpqcompat/],
    ["postgres://u@db.example.com/argo?sslrootcert=/nowhere/ca.pem", /sslrootcert/],
    ["postgres://u:%zz@db.example.com/argo", /not a URL/],
    ["postgres://u@db.example.com:0/argo?port=1", /port/],
  ];
  for (const [url, why] of refused) {
    test(url, async () => {
      const { error } = await failure(async () => open({ at: { url } }));
      expect(error).toBeInstanceOf(SetupError);
      expect((error as SetupError).message).toMatch(why);
      expect((error as SetupError).fix).not.toBe("");
    });
  }

  test("another machine's certificate is verified, whatever sslmode says", () => {
    for (const mode of ["", "?sslmode=prefer", "?sslmode=require", "?sslmode=verify-ca"]) {
      using pg = disposable(open({ at: { url: `postgres://u@db.example.com/argo${mode}` } }));
      expect(pg.pool.options.ssl).toMatchObject({ rejectUnauthorized: true });
    }
    using local = disposable(open({ at: { url: "postgres://u@localhost/argo" } }));
    expect(local.pool.options.ssl).toBe(false);
    using socket = disposable(open({ at: { url: "postgres://u@/argo?host=/run/postgresql" } }));
    expect(socket.pool.options).toMatchObject({ ssl: false, host: "/run/postgresql" });
  });

  test("a self-signed certificate is refused, and taken with its CA", async () => {
    await using server = await tlsServer();
    const at = (parameters: string) => ({ at: { url: `${server.url}?${parameters}` } });
    await using bare = open(at("sslmode=require"));
    const { cause } = await unavailable(() => ask(bare));
    expect(String(cause)).toContain("certificate of Postgres was refused");
    expect(String(cause)).toContain("sslrootcert=");

    await using trusting = open(at(`sslmode=require&sslrootcert=${server.ca}`));
    const { rows } = await trusting.db.execute(
      sql`SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`,
    );
    expect(rows).toEqual([{ ssl: true }]);

    // The certificate is for 127.0.0.1 alone.
    const url = server.url.replace("127.0.0.1", "localhost");
    await using misnamed = open({ at: { url: `${url}?sslmode=require&sslrootcert=${server.ca}` } });
    expect(String((await unavailable(() => ask(misnamed))).cause)).toContain("certificate");
  });

  test("a server without TLS is refused where TLS is asked for", async () => {
    await using pg = open({ at: { url: `${database.url}?sslmode=require` } });
    expect(String((await unavailable(() => ask(pg))).cause)).toContain("does not offer TLS");
  });
});

function disposable<T extends AsyncDisposable>(value: T): T & Disposable {
  return Object.assign(value, { [Symbol.dispose]: () => void value[Symbol.asyncDispose]() });
}

/** A Postgres with a certificate that signed itself, for 127.0.0.1. */
async function tlsServer() {
  const dir = tempDir();
  const ca = dir.file("server.crt");
  const key = dir.file("server.key");
  const subject = "-subj /CN=argo -addext subjectAltName=IP:127.0.0.1";
  const request = `req -x509 -newkey rsa:2048 -nodes -days 2 ${subject}`;
  await using made = spawnChild(["openssl", ...request.split(" "), "-keyout", key, "-out", ca]);
  expect(await made.done).toBe(0);
  chmodSync(dir.path, 0o755);
  chmodSync(ca, 0o644);
  chmodSync(key, 0o600);
  const nobody = 65_534;
  if (process.getuid?.() === 0) chownSync(key, nobody, nobody);
  const server = await ownPostgres({
    settings: { ssl: "on", ssl_cert_file: ca, ssl_key_file: key },
  });
  return {
    url: server.url,
    ca,
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      dir[Symbol.dispose]();
    },
  };
}
