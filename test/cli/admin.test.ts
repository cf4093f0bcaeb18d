import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { drizzle, type NodePgDatabase } from "drizzle-orm/node-postgres";
import { chownSync, existsSync, mkdirSync, readdirSync } from "node:fs";
import { Client } from "pg";
import * as schema from "../../db/alpine/schema.ts";
import { JWT_SECRET, PASSWORD } from "../harness/accounts.ts";
import { spawnChild } from "../harness/children.ts";
import { freePort, startServer, tempDir, until, type Server } from "../harness/process.ts";
import { postgres, type TestDatabase } from "../harness/servers.ts";
import { findTool } from "../harness/tools.ts";
import { json, run, type Run } from "./run.ts";

type Env = Record<string, string>;
const create = (env: Env, email: string, more: string[] = [], stdin = `${PASSWORD}\n`) =>
  run(["admin", "create", "--email", email, ...more], { env, stdin });

const send = (server: Server, method: string, path: string, body?: object, token?: string) =>
  fetch(server.url + path, {
    method,
    headers: {
      ...(body && { "Content-Type": "application/json" }),
      ...(token !== undefined && { Authorization: `Bearer ${token}` }),
    },
    ...(body && { body: JSON.stringify(body) }),
  });

type Tokens = { access_token: string; refresh_token: string };

/** Logs in at once: a command that has ended is in force. */
async function login(server: Server, email: string, password = PASSWORD): Promise<Tokens> {
  const response = await send(server, "POST", "/api/auth/login", { email, password });
  expect([email, response.status]).toEqual([email, 200]);
  return (await response.json()) as Tokens;
}

const mayAdminister = async (server: Server, { access_token: token }: Tokens): Promise<number> =>
  (await send(server, "GET", "/api/admin/users", undefined, token)).status;

const ready = (server: Server): Promise<void> =>
  until(async () => (await fetch(`${server.url}/readyz`)).ok, "the accounts");

const refused = ({ code, out, err }: Run): string => {
  expect([code, out]).toEqual([1, ""]);
  expect(err).toMatch(/^argo-alpine: .+\n {2}.+\n$/);
  return err;
};

describe("beside a server, on Postgres", () => {
  let database: TestDatabase;
  let server: Server;
  let env: Env;
  beforeAll(async () => {
    database = await (await postgres()).createDatabase();
    env = { DATABASE_URL: database.url, JWT_SECRET, SHUTDOWN_DELAY_SECONDS: "0" };
    server = await startServer({ role: "all", env });
    await ready(server);
  });
  afterAll(async () => {
    await server.stop();
    await server[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  async function rows<T>(read: (db: NodePgDatabase<typeof schema>) => Promise<T>): Promise<T> {
    const client = new Client(database.url);
    await client.connect();
    try {
      return await read(drizzle(client, { schema }));
    } finally {
      await client.end();
    }
  }

  /** As whoever has the mailbox does. */
  const verify = (email: string) =>
    rows(async (db) =>
      db.update(schema.users).set({ isVerified: true }).where(eq(schema.users.email, email)),
    );

  test("makes one who can log in and administer at once, and writes it down", async () => {
    const words = ["--full-name", "Ada Lovelace"];
    const done = await create(env, "Ada@example.com", words);
    expect(done).toEqual({ code: 0, out: "Ada@example.com is an administrator now.\n", err: "" });
    expect(await mayAdminister(server, await login(server, "ada@example.com"))).toBe(200);
    const [user] = await rows(async (db) => db.select().from(schema.users));
    expect(user).toMatchObject({ fullName: "Ada Lovelace", role: "admin", isVerified: true });
    const entries = await rows(async (db) =>
      db.select().from(schema.auditLog).where(eq(schema.auditLog.event, "admin_created")),
    );
    expect(entries).toMatchObject([
      { actorId: null, subjectId: user?.id, details: { by: "command line" } },
    ]);
  });

  test("a known address is refused, and made one where that is said: every server hears", async () => {
    const body = { email: "member@example.com", password: PASSWORD, full_name: "A Member" };
    expect((await send(server, "POST", "/api/auth/signup", body)).status).toBe(201);
    const before = await login(server, body.email);
    const mayBefore = await mayAdminister(server, before);
    expect(mayBefore).toBe(403);

    const err = refused(await create(env, "MEMBER@example.com", [], "another password\n"));
    expect(err).toContain("has an account already");
    expect(err).toContain("--promote");
    expect(await mayAdminister(server, before)).toBe(403);

    await verify(body.email);
    const args = ["admin", "create", "--email", "MEMBER@example.com", "--promote"];
    const done = await json(args, { env });
    expect(done).toMatchObject({ email: body.email, role: "admin", full_name: "A Member" });
    // No session from before gets the new rights.
    await until(async () => (await mayAdminister(server, before)) === 401, "the change");
    const { refresh_token } = before;
    expect((await send(server, "POST", "/api/auth/refresh", { refresh_token })).status).toBe(401);
    expect(await mayAdminister(server, await login(server, body.email))).toBe(200);

    const again = await run(args, { env });
    expect([again.code, again.out]).toEqual([
      0,
      "member@example.com was one already, with the password as it was.\n",
    ]);
  });

  test("an address that nobody has verified needs a new password, which ends what was made before", async () => {
    const body = { email: "squatted@example.com", password: PASSWORD, full_name: "Mallory" };
    expect((await send(server, "POST", "/api/auth/signup", body)).status).toBe(201);
    const before = await login(server, body.email);
    const given = { name: "a key", scopes: ["signals:read"] };
    const made = await send(server, "POST", "/api/keys", given, before.access_token);
    const { key } = (await made.json()) as { key: string };
    const poll = async () =>
      (await send(server, "GET", "/api/signals/latest", undefined, key)).status;
    expect(await poll()).not.toBe(401);

    const err = refused(await create(env, body.email, ["--promote"]));
    expect(err).toContain("squatted@example.com has not been verified.");
    expect(err).toContain("--password-file");
    expect(await mayAdminister(server, before)).toBe(403);

    const words = ["--promote", "--password-file", "/dev/stdin"];
    const done = await create(env, body.email, words, "the operator's own password\n");
    expect(done.out).toBe("squatted@example.com is an administrator now, with the new password.\n");
    await until(async () => (await mayAdminister(server, before)) === 401, "the change");
    await until(async () => (await poll()) === 401, "the end of the key");
    const { refresh_token } = before;
    expect((await send(server, "POST", "/api/auth/refresh", { refresh_token })).status).toBe(401);
    const old = { email: body.email, password: PASSWORD };
    expect((await send(server, "POST", "/api/auth/login", old)).status).toBe(401);
    const now = await login(server, body.email, "the operator's own password");
    expect(await mayAdminister(server, now)).toBe(200);
  });

  test("somebody who is shut out stays shut out", async () => {
    const body = { email: "out@example.com", password: PASSWORD, full_name: "Shut Out" };
    expect((await send(server, "POST", "/api/auth/signup", body)).status).toBe(201);
    const ofThem = eq(schema.users.email, body.email);
    await rows(async (db) => db.update(schema.users).set({ isActive: false }).where(ofThem));
    const before = await rows(async (db) => db.select().from(schema.users).where(ofThem));
    const err = refused(await create(env, body.email, ["--promote"]));
    expect(err).toContain(`out@example.com is shut out (user ${before[0]?.id}).`);
    expect(err).toContain('PATCH /api/admin/users/{id} with {"is_active":true}');
    expect(await rows(async (db) => db.select().from(schema.users).where(ofThem))).toEqual(before);

    await rows(async (db) => db.update(schema.users).set({ isActive: true }).where(ofThem));
    await verify(body.email);
    const done = await create(env, body.email, ["--promote"]);
    const said = "is an administrator now, with the password as it was";
    expect(done.out).toBe(`${body.email} ${said}.\n`);
    const [after] = await rows(async (db) => db.select().from(schema.users).where(ofThem));
    expect(after).toMatchObject({ role: "admin", isActive: true, isVerified: true });
  });

  test("somebody unknown cannot be promoted", async () => {
    const err = refused(await create(env, "nobody@example.com", ["--promote"]));
    expect(err).toContain("Nobody has an account with nobody@example.com");
  });

  test("five at once for one address make one", async () => {
    const runs = await Promise.all(
      Array.from({ length: 5 }, () => create(env, "race@example.com")),
    );
    expect(runs.map((done) => done.code).toSorted()).toEqual([0, 1, 1, 1, 1]);
    for (const done of runs) if (done.code === 1) refused(done);
  });

  test("reads the password from a file, whatever ends its line", async () => {
    using dir = tempDir();
    await Bun.write(dir.file("password"), " pässword with spaces \r\n");
    const words = ["--password-file", dir.file("password")];
    expect((await create(env, "file@example.com", words, "not this one")).code).toBe(0);
    await login(server, "file@example.com", " pässword with spaces ");
  });

  test("asks on a terminal, twice, and shows nothing", async () => {
    const said = await typed([`${PASSWORD}x\u007f\r`, `${PASSWORD}\r`], "tty@example.com");
    expect(said.lines).toEqual([
      "Password:",
      "Once more:",
      "tty@example.com is an administrator now.",
    ]);
    expect(said.code).toBe(0);
    await login(server, "tty@example.com");
    const unlike = await typed([`${PASSWORD}\r`, `another ${PASSWORD}\r`], "unlike@example.com");
    expect([unlike.code, unlike.lines[2]]).toEqual([1, "argo-alpine: The two are not the same."]);
    const left = await typed(["corr\u0003"], "left@example.com");
    expect([left.code, left.lines[1]]).toEqual([1, "argo-alpine: No password was given."]);
  });

  /** Runs the command on a terminal of its own and types one text after each prompt. */
  async function typed(keys: string[], email: string): Promise<{ code: number; lines: string[] }> {
    const tool = await findTool("python3");
    if (tool.path === null) throw new Error(tool.reason);
    const main = new URL("../../src/main.ts", import.meta.url).pathname;
    const command = [process.execPath, main, "admin", "create", "--email", email];
    await using child = spawnChild([tool.path, "-c", TERMINAL, JSON.stringify(keys), ...command], {
      env,
    });
    const code = await child.done;
    return {
      code,
      lines: child
        .lines()
        .map((line) => line.trim())
        .filter((line) => line !== ""),
    };
  }
});

const TERMINAL = `
import json, os, pty, sys
keys = json.loads(sys.argv[1])
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
shown = b""
while True:
    try:
        read = os.read(fd, 4096)
    except OSError:
        break
    if not read:
        break
    shown += read
    if keys and shown.rstrip().endswith((b"Password:", b"Once more:")):
        os.write(fd, keys.pop(0).encode())
sys.stdout.write(shown.decode())
sys.stdout.flush()
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`;

describe("with the embedded database", () => {
  test("before the first start, while the server starts, and while it runs", async () => {
    using dir = tempDir();
    const env = { DATA_DIR: dir.path, SHUTDOWN_DELAY_SECONDS: "0" };
    const early = await create(env, "early@example.com");
    expect(early.out).toBe(
      `early@example.com is an administrator now, in ${dir.path}/postgres/cluster.\n`,
    );
    await using server = await startServer({ role: "all", env });
    // It listens already; its database is still starting and has an owner.
    const during = await create(env, "during@example.com");
    expect([during.code, during.err]).toEqual([0, ""]);
    await ready(server);
    const running = await create(env, "running@example.com");
    expect([running.code, running.err]).toEqual([0, ""]);
    for (const email of ["early@example.com", "during@example.com", "running@example.com"]) {
      expect(await mayAdminister(server, await login(server, email))).toBe(200);
    }
    expect(await server.stop()).toBe(0);
    expect(server.logs().join("\n")).not.toContain("no administrator yet");
  });

  test("two at once without a server: one waits for the other", async () => {
    using dir = tempDir();
    const env = { DATA_DIR: dir.path };
    const runs = await Promise.all(["a", "b"].map((name) => create(env, `${name}@example.com`)));
    expect(runs.map(({ code, err }) => [code, err])).toEqual([
      [0, ""],
      [0, ""],
    ]);
  });

  test.if(process.getuid?.() === 0)("root leaves the directory of another user alone", async () => {
    using dir = tempDir();
    mkdirSync(dir.file("data/postgres"), { recursive: true });
    chownSync(dir.file("data/postgres"), 65_534, 65_534);
    mkdirSync(dir.file("fresh"));
    chownSync(dir.file("fresh"), 65_534, 65_534);
    for (const [data, left] of [
      ["data", ["postgres"]],
      ["fresh", []],
    ] as const) {
      const err = refused(await create({ DATA_DIR: dir.file(data) }, "root@example.com"));
      expect(err).toContain("belongs to the user 65534");
      expect(readdirSync(dir.file(data), { recursive: true })).toEqual([...left]);
    }
  });
});

describe("what will not do is named, and nothing is made", () => {
  const cases: [string, { email?: string; more?: string[]; stdin?: string; said: RegExp }][] = [
    ["no address", { email: "nobody", said: /--email "nobody": must be an e-mail address/ }],
    ["a name of two lines", { more: ["--full-name", "a\nb"], said: /--full-name "a\\nb"/ }],
    ["no password", { stdin: "", said: /no password/ }],
    ["an empty line", { stdin: "\n", said: /no password/ }],
    ["a short password", { stdin: "seven77\n", said: /password will not do/ }],
    ["a long password", { stdin: "x".repeat(257), said: /password will not do/ }],
    ["an endless password", { stdin: "x".repeat(100_000), said: /password will not do/ }],
    ["no such file", { more: ["--password-file", "/nowhere"], said: /\/nowhere cannot be read/ }],
  ];
  test.each(cases)("%s", async (_name, { email = "right@example.com", more, stdin, said }) => {
    using dir = tempDir();
    const err = refused(await create({ DATA_DIR: dir.file("data") }, email, more, stdin));
    expect(err).toMatch(said);
    if (stdin !== undefined && stdin.trim() !== "") expect(err).not.toContain(stdin.trim());
    expect(existsSync(dir.file("data"))).toBe(false);
  });

  test("bytes that are no text", async () => {
    const args = ["admin", "create", "--email", "right@example.com"];
    const stdin = Uint8Array.from([0x70, 0x61, 0x73, 0x73, 0xff, 0xfe, 0x77, 0x6f, 0x72, 0x64]);
    expect(refused(await run(args, { stdin }))).toContain("UTF-8");
  });

  test("no address", async () => {
    const { code, out, err } = await run(["admin", "create"]);
    expect([code, out]).toEqual([1, ""]);
    expect(err).toMatch(/^error: /);
  });

  test("a database that is away, or does not want us: without its password", async () => {
    const password = "a-password-that-nobody-knows";
    const away = `postgres://argo:${password}@127.0.0.1:${freePort()}/argo`;
    const there = new URL((await postgres()).url);
    there.password = password;
    for (const [url, said] of [
      [away, "ECONNREFUSED"],
      [there.href, "password authentication failed"],
    ] as const) {
      const err = refused(await create({ DATABASE_URL: url, JWT_SECRET }, "a@example.com"));
      expect(err).toContain("The database of the accounts cannot be used");
      expect(err).toContain(said);
      expect(err).not.toContain(password);
    }
  });
});
