import { expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
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
  expect(start).rejects.toThrow(/ended with exit code 3\nno such file/);
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

test("a free port can be listened on", () => {
  using server = Bun.serve({ port: freePort(), fetch: () => new Response() });
  expect(server.port).toBeGreaterThan(0);
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

for (const [what, source, last, exitCode] of CASES) {
  test(`the runner's last line and exit code: ${what}`, async () => {
    using dir = tempDir();
    await Bun.write(dir.file("test/a.test.ts"), source);
    if (source.includes("./none.ts")) await Bun.write(dir.file("test/c.test.ts"), OK);
    await Bun.write(dir.file("test/deep/b.test.ts"), 'throw new Error("not unless --deep");');
    const output: string[] = [];
    await using run = spawnChild([process.execPath, RUN], {
      cwd: dir.path,
      onLine: (line) => void output.push(line),
    });
    expect(await run.done).toBe(exitCode);
    // Without a report there are no counts to print.
    if (last === null) expect(output.filter((line) => line.includes(" passed, "))).toEqual([]);
    else expect(output.at(-1)).toBe(last);
  });
}
