import { expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { Redis } from "ioredis";
import { createTransport } from "nodemailer";
import { Client } from "pg";
import { BUILT_ENV } from "../run.ts";
import { spawnChild } from "./children.ts";
import {
  freePort,
  holdWriteLock,
  startEngine,
  startServer,
  tempDir,
  until,
  type Committed,
} from "./process.ts";
import { tcpProxy } from "./proxy.ts";
import { ownPostgres, postgres, redis, sharing, type Template } from "./servers.ts";
import { smtp } from "./smtp.ts";
import { findTool } from "./tools.ts";

const RUN = join(import.meta.dir, "../run.ts");

async function script(path: string, body: string): Promise<string> {
  await Bun.write(path, `#!/bin/sh\n${body}\n`);
  await Bun.$`chmod +x ${path}`;
  return path;
}

test("a server is there once it says where it listens, and gone after its signal", async () => {
  using dir = tempDir();
  const binary = await script(
    dir.file("server"),
    `trap 'exit 7' TERM; env; echo '{"msg":"listening","url":"http://127.0.0.1:1"}'
     while :; do sleep 0.02; done`,
  );
  await using server = await startServer({ binary, env: { GIVEN: "yes" } });
  expect(server.url).toBe("http://127.0.0.1:1");
  expect(server.logs()).toContain("GIVEN=yes");
  // The shell adds the last four by itself.
  const expected = /^(PATH|HOME|TMPDIR|GIVEN|PORT|PWD|OLDPWD|SHLVL|_)$/;
  const names = server.logs().flatMap((line) => /^(\w+)=/.exec(line)?.[1] ?? []);
  expect(names.filter((name) => !expected.test(name))).toEqual([]);
  expect(await server.stop()).toBe(7);
});

test("a server that ends or stays silent is an error that shows what it printed", async () => {
  using dir = tempDir();
  const binary = await script(dir.file("server"), "echo 'no such file' >&2; exit 3");
  const start = startServer({ binary });
  await expect(start).rejects.toThrow(/ended with exit code 3\nno such file/);
  await start.catch(() => null);
});

test("the engine's ledger is what the file holds, and a kill ends it", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using engine = await startEngine({ db, rate: 500, seconds: 60 });
  await until(() => engine.lastId() >= 20, "twenty commits");
  engine.kill();
  await engine.done;
  // Not read-only: the kill may leave a journal that the first reader has to roll back.
  using file = new Database(db);
  const query = file.query<Committed, []>("SELECT id, sha256 FROM signals ORDER BY id");
  const rows = query.all();
  // The last commit may have been killed between returning and being printed.
  expect(rows.length - engine.committed().length).toBeWithin(0, 2);
  expect(rows.slice(0, engine.committed().length)).toEqual(engine.committed());
});

test("the write lock is held until it is released", async () => {
  using dir = tempDir();
  using file = new Database(dir.file("a.db"));
  file.run("CREATE TABLE t (x)");
  await using lock = await holdWriteLock(dir.file("a.db"), 60);
  expect(() => file.run("INSERT INTO t VALUES (1)")).toThrow(/locked/);
  await lock.release();
  file.run("INSERT INTO t VALUES (1)");
});

test("a child ends with the process that started it, however that ends", async () => {
  if (Bun.which("setpriv") === null) return;
  using dir = tempDir();
  const children = join(import.meta.dir, "children.ts");
  await Bun.write(
    dir.file("parent.ts"),
    `import { spawnChild } from ${JSON.stringify(children)};
     console.log(spawnChild(["sleep", "60"]).pid); await Bun.sleep(60_000);`,
  );
  let pid = 0;
  await using parent = spawnChild([process.execPath, dir.file("parent.ts")], {
    onLine: (line) => (pid = Number(line)),
  });
  await until(() => pid > 0, "the grandchild");
  parent.kill("SIGKILL");
  await until(() => !alive(pid), "the end of the grandchild");
});

// A process that nobody has waited for yet is still listed, as a zombie.
function alive(pid: number): boolean {
  const stat = `/proc/${pid}/stat`;
  return existsSync(stat) && !/^\d+ \(.*\) Z/.test(readFileSync(stat, "utf8"));
}

test("a free port can be listened on, and is given to nobody else of the run", async () => {
  using server = Bun.serve({ port: freePort(), fetch: () => new Response() });
  expect(server.port).toBeGreaterThan(0);
  const here = Array.from({ length: 200 }, freePort);
  expect(new Set([...here, server.port]).size).toBe(201);
  const harness = JSON.stringify(join(import.meta.dir, "process.ts"));
  const code = `import { freePort } from ${harness};
    for (let i = 0; i < 2_750; i += 1) console.log(freePort());`;
  await using other = spawnChild([process.execPath, "-e", code], {
    env: { BUN_TEST_WORKER_ID: "5" },
  });
  expect(await other.done).toBe(0);
  const there = new Set(other.lines().map(Number));
  expect(there.size).toBeGreaterThan(2_000);
  expect(here.filter((port) => there.has(port))).toEqual([]);
});

test("what is awaited in vain is told, with what was seen last", async () => {
  let looks = 0;
  const never = () => (looks += 1) < 0;
  await expect(until(never, "a wonder", 20)).rejects.toThrow("a wonder: not within 20 ms");
  looks = 0;
  const waited = until(never, () => `a wonder after ${looks} looks`, 20);
  await expect(waited).rejects.toThrow(/a wonder after [1-9]\d* looks: not within/);
});

/** What a query answers, in one connection. */
async function rows(url: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new Client(url);
  // What a killed server does to an idle connection is no fault of the test.
  client.on("error", () => undefined);
  await client.connect();
  try {
    return (await client.query(text)).rows as Record<string, unknown>[];
  } finally {
    await client.end();
  }
}

test("a database is fresh, its role's own, and gone with its scope", async () => {
  const server = await postgres();
  let name = "";
  {
    await using a = await server.createDatabase();
    await using b = await server.createDatabase();
    name = a.name;
    await rows(a.url, "CREATE TABLE t (x int)");
    expect(await rows(b.url, "SELECT to_regclass('t') AS t")).toEqual([{ t: null }]);
    const role = "SELECT usename, usesuper FROM pg_user WHERE usename = current_user";
    expect(await rows(a.url, role)).toEqual([{ usename: "argo", usesuper: false }]);
    // A session that was forgotten does not keep it.
    const forgotten = new Client(a.url);
    forgotten.on("error", () => undefined);
    await forgotten.connect();
  }
  const left = `SELECT 1 FROM pg_database WHERE datname = '${name}'`;
  expect(await rows(server.superuserUrl, left)).toEqual([]);
});

test("a template is made once, whoever asks at the same time, and not when it fails", async () => {
  const server = await postgres();
  let made = 0;
  const template: Template = {
    key: `harness ${crypto.randomUUID()}`,
    async prepare(url) {
      await rows(url, "CREATE TABLE t AS SELECT 7 AS x");
      made += 1;
      if (made === 1) throw new Error("a migration failed");
    },
  };
  expect(await server.createDatabase(template).catch(String)).toMatch(/a migration failed/);
  const databases = await Promise.all([1, 2, 3].map(() => server.createDatabase(template)));
  for (const { url } of databases) {
    expect(await rows(url, "UPDATE t SET x = x + 1 RETURNING x")).toEqual([{ x: 8 }]);
  }
  for (const database of databases) await database[Symbol.asyncDispose]();
  expect(made).toBe(2);
});

test("pg_stat_statements counts, where the server has it", async () => {
  const server = await postgres();
  await using database = await server.createDatabase();
  const extension = rows(database.superuserUrl, "CREATE EXTENSION pg_stat_statements");
  if (!server.hasStatements) return void (await extension.catch(() => null));
  await extension;
  for (let i = 0; i < 3; i += 1) await rows(database.url, "SELECT 1 AS counted");
  const calls = "SELECT calls::int FROM pg_stat_statements WHERE query LIKE '%AS counted'";
  expect(await rows(database.superuserUrl, calls)).toEqual([{ calls: 3 }]);
});

test("a Postgres of one's own is killed, stopped, brought back with its data, paused", async () => {
  await using server = await ownPostgres({ settings: { max_connections: "17" } });
  await using database = await server.createDatabase();
  const { url } = database;
  expect(await rows(url, "SHOW max_connections")).toEqual([{ max_connections: "17" }]);
  await rows(url, "CREATE TABLE t AS SELECT 1 AS x");
  await server.kill();
  expect(await rows(url, "SELECT 1").catch((error: { code: string }) => error.code)).toBe(
    "ECONNREFUSED",
  );
  await server.start();
  expect(await rows(url, "UPDATE t SET x = 2 RETURNING x")).toEqual([{ x: 2 }]);
  await server.stop();
  await server.start();
  server.pause();
  let answered = false;
  const answer = rows(url, "SELECT x FROM t").finally(() => (answered = true));
  await Bun.sleep(200);
  expect(answered).toBe(false);
  server.resume();
  expect(await answer).toEqual([{ x: 2 }]);
  expect(server.log()).toContain("database system was not properly shut down");
});

test("a Redis is empty, killed, brought back, paused, flushed, behind its password", async () => {
  await using server = await redis({ settings: { requirepass: "a/b", maxmemory: "3mb" } });
  const open = async <T>(use: (client: Redis) => Promise<T>): Promise<T> => {
    const client = new Redis(server.url, { retryStrategy: () => null });
    client.on("error", () => undefined);
    try {
      return await use(client);
    } finally {
      client.disconnect();
    }
  };
  expect(await open((client) => client.config("GET", "maxmemory"))).toEqual([
    "maxmemory",
    `${3 * 1024 * 1024}`,
  ]);
  await open((client) => client.set("a", "1"));
  await server.flush();
  expect(await open((client) => client.dbsize())).toBe(0);
  await server.kill();
  expect(await open((client) => client.ping()).catch(() => "refused")).toBe("refused");
  await server.start();
  server.pause();
  const answer = open((client) => client.ping());
  expect(await Promise.race([answer, Bun.sleep(100).then(() => "silence")])).toBe("silence");
  server.resume();
  expect(await answer).toBe("PONG");
  await server.stop();
  expect(server.log()).toContain("bye bye");
});

test("servers and directories end with the process that started them, killed or not", async () => {
  if (Bun.which("setpriv") === null) return;
  using dir = tempDir();
  // Below it somebody else than root has to get to files of their own.
  chmodSync(dir.path, 0o711);
  mkdirSync(dir.file("tmp"), { mode: 0o711 });
  await Bun.write(
    dir.file("parent.ts"),
    `import { ownPostgres, redis } from ${JSON.stringify(join(import.meta.dir, "servers.ts"))};
     const servers = await Promise.all([ownPostgres(), redis()]);
     console.log(servers.map((server) => server.port).join(" "));
     if (process.argv[2] === "exit") process.exit(0); else await Bun.sleep(60_000);`,
  );
  const ends = ["exit", "kill"].map(async (how, i) => {
    let ports: number[] = [];
    await using parent = spawnChild([process.execPath, dir.file("parent.ts"), how], {
      // Ports of their own: both begin at the same moment.
      env: { TMPDIR: dir.file("tmp"), BUN_TEST_WORKER_ID: `${6 + i}` },
      onLine: (line) => (ports = line.split(" ").map(Number)),
    });
    await until(() => ports.length === 2, "the servers");
    if (how === "kill") parent.kill("SIGKILL");
    for (const port of ports) {
      await until(async () => (await reach(port)) === "ECONNREFUSED", "their end");
    }
  });
  await Promise.all(ends);
  await until(() => readdirSync(dir.file("tmp")).length === 0, "the end of their directories");
});

/** How a connection fails, or null when it does not. */
function reach(port: number): Promise<string | null> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(null));
    socket.on("connect", () => socket.destroy());
    socket.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
  });
}

test("a link is slow, silent, cut, and whole again", async () => {
  using echo = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: { data: (socket, piece) => void socket.write(piece) },
  });
  await using proxy = await tcpProxy({ port: echo.port });
  let got = "";
  const errors: string[] = [];
  const open = (): ReturnType<typeof connect> =>
    connect(proxy.port, "127.0.0.1")
      .on("data", (piece) => (got += piece.toString()))
      .on("error", (error: NodeJS.ErrnoException) => errors.push(error.code ?? ""));
  const socket = open();
  socket.write("a");
  await until(() => got === "a", "the echo");
  proxy.delay(100);
  const before = performance.now();
  socket.write("b");
  await until(() => got === "ab", "the slow echo");
  expect(performance.now() - before).toBeGreaterThan(190);
  proxy.restore();
  proxy.blackhole();
  socket.write("c");
  open().write("d");
  await Bun.sleep(100);
  expect(got).toBe("ab");
  expect(proxy.open()).toBe(2);
  proxy.restore();
  await until(() => got.length === 4, "what was held");
  expect(errors).toEqual([]);
  proxy.cut();
  await until(() => errors.length === 2, "the end of both");
  open();
  await until(() => errors.length === 3, "the end of a new one");
  expect(errors).toEqual(["ECONNRESET", "ECONNRESET", "ECONNRESET"]);
  proxy.restore();
  got = "";
  open().end("e");
  await until(() => got === "e", "the echo of a new one");
});

test("a mail server keeps mails, asks who sends, and fails as told", async () => {
  await using server = await smtp({ auth: { user: "argo", pass: "p@ss" } });
  const send = (url: string, socketTimeout = 30_000): Promise<unknown> => {
    const transport = createTransport({ url, socketTimeout });
    const link = `https://argo.test/verify?token=${"é=".repeat(60)}`;
    const mail = { from: "a@argo.test", to: "B <b@argo.test>", subject: "Grüße", text: link };
    return transport.sendMail(mail).then(
      () => "sent",
      (error: { responseCode?: number; code?: string }) => error.responseCode ?? error.code,
    );
  };
  expect(await send(server.url)).toBe("sent");
  const mail = await server.mailFor("b@argo.test");
  expect(mail).toMatchObject({ from: "a@argo.test", to: ["b@argo.test"], subject: "Grüße" });
  expect(mail.text.trim()).toBe(`https://argo.test/verify?token=${"é=".repeat(60)}`);
  expect(await send(server.url.replace("p%40ss", "wrong"))).toBe(535);
  for (const [fault, seen] of [
    [451, 451],
    [550, 550],
    ["silent", "ETIMEDOUT"],
    ["hangup", "ECONNECTION"],
  ] as const) {
    server.fail(fault);
    expect(await send(server.url, fault === "silent" ? 300 : undefined)).toBe(seen);
  }
  server.fail(null);
  expect(await send(server.url)).toBe("sent");
  expect(server.mails()).toHaveLength(2);
  server.clear();
  expect(server.mails()).toEqual([]);
});

test("python3 is found or fetched", async () => {
  const python = await findTool("python3");
  expect(python).toEqual({ path: expect.stringMatching(/^\//) });
});

const OK = 'import { test } from "bun:test"; test("ok", () => {}); test.skip("later", () => {});';
const CASES: [what: string, file: string, last: string | null, exitCode: number][] = [
  ["passing tests", OK, "1 passed, 0 failed, 1 skipped", 0],
  ["a failing test", `${OK} test("bad", () => { throw 1; });`, "1 passed, 1 failed, 1 skipped", 1],
  ["only skipped tests", OK.replace("test(", "test.skip("), "0 passed, 0 failed, 2 skipped", 1],
  ["a file that does not load", 'import "./none.ts";', "1 passed, 1 failed, 1 skipped", 1],
  ["a test that ends the run", `${OK} test("x", () => process.exit(0));`, null, 1],
  ["no test", "", null, 1],
];

test("failures are told once more at the end of a run, with what was wrong", async () => {
  using dir = tempDir();
  await Bun.write(
    dir.file("test/a.test.ts"),
    `${OK}\ntest("<bad> & \\"odd\\"", () => { throw new Error("first\\n'second'"); });`,
  );
  await using run = spawnChild([process.execPath, RUN], {
    cwd: dir.path,
    env: { ...sharing(await postgres()), [BUILT_ENV]: "yes" },
  });
  expect(await run.done).toBe(1);
  const told = `test/a.test.ts:2: <bad> & "odd"\n    first\n    'second'`;
  expect(run.lines().join("\n")).toContain(told);
});

for (const [what, source, last, exitCode] of CASES) {
  test(`the runner's last line and exit code: ${what}`, async () => {
    using dir = tempDir();
    await Bun.write(dir.file("test/a.test.ts"), source);
    if (source.includes("./none.ts")) await Bun.write(dir.file("test/c.test.ts"), OK);
    await Bun.write(dir.file("test/deep/b.test.ts"), 'throw new Error("not unless --deep");');
    const output: string[] = [];
    await using run = spawnChild([process.execPath, RUN], {
      cwd: dir.path,
      env: { ...sharing(await postgres()), [BUILT_ENV]: "yes" },
      onLine: (line) => void output.push(line),
    });
    expect(await run.done).toBe(exitCode);
    // Without a report there are no counts to print.
    if (last === null) expect(output.filter((line) => line.includes(" passed, "))).toEqual([]);
    else expect(output.at(-1)).toBe(last);
  });
}
