import { expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { startServer, tempDir } from "../harness/process.ts";
import { findTool } from "../harness/tools.ts";
import { ask, change, copyLegacy, json, LEGACY_ROWS, run, start } from "./run.ts";

test("writes what the server's export answers, byte for byte, also before adoption", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  const before = await run(["--db", db, "export"]);
  expect(before).toMatchObject({ code: 0, err: "" });

  await using server = await startServer({ env: { SIGNALS_DB: db } });
  const answer = await (await fetch(`${server.url}/api/signals/export?since_id=1000`)).text();
  const after = await run(["--db", db, "export", "--since-id", "1000"]);
  expect(after.out).toBe(answer);
  expect(before.out.endsWith(answer)).toBe(true);
  expect(answer.split("\n")).toHaveLength(LEGACY_ROWS - 1000 + 1);
});

test("a file appears whole, and takes the place of an older one", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  const out = dir.file("out.ndjson");
  await Bun.write(out, "older");
  const written = await json(["--db", db, "export", "--out", out, "--since-id", "3000"]);
  expect(written).toMatchObject({ rows: 489, since_id: 3000, head: LEGACY_ROWS });
  const { out: direct } = await run(["--db", db, "export", "--since-id", "3000"]);
  expect(await Bun.file(out).text()).toBe(direct);
  expect(readdirSync(dir.path).toSorted()).toEqual(["out.ndjson", "signals.db"]);
});

test("a reader that leaves early ends it without noise", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await run(["--db", db, "seed", "--rows", "20000"]);
  const child = start(["--db", db, "export"]);
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  expect(new TextDecoder().decode(value)).toStartWith('{"id":1,');
  await reader.cancel();
  expect([await child.exited, await child.stderr.text()]).toEqual([0, ""]);
});

test("faults are one line and its fix, with exit code 1", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  change(dir.file("none.db"), "CREATE TABLE other (a)");
  const cases: [args: string[], message: RegExp][] = [
    [["--db", dir.file("absent.db"), "export"], /There is no /],
    [["--db", dir.file("none.db"), "export"], /has no table of signals/],
    [["--db", db, "export", "--since-id", "-1"], /not a whole number/],
    [["--db", db, "export", "--since-id", "x"], /not a whole number/],
    [["--db", db, "export", "--out", dir.file("no/out")], /cannot be written/],
    [["--db", db, "export", "--out", db], /is the signal file itself/],
  ];
  for (const [args, message] of cases) {
    const refused = await run(args);
    expect(refused).toMatchObject({ code: 1, out: "" });
    expect(refused.err).toMatch(message);
    expect(refused.err).toMatch(/^argo-alpine: .+\n {2}.+\n$/);
  }
});

test("a file whose writer was killed halfway is not read, nor changed, but named", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  const killed = `
    import os, sqlite3, sys
    db = sqlite3.connect(sys.argv[1], isolation_level=None)
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN")
    db.execute("UPDATE signals SET confidence = 1, symbol = 'HALF' || symbol")
    os.kill(os.getpid(), 9)`.replaceAll("\n    ", "\n");
  const python = await findTool("python3");
  if (python.path === null) throw new Error(python.reason);
  await Bun.spawn([python.path, "-c", killed, db]).exited;
  expect(existsSync(`${db}-journal`)).toBe(true);

  const refused = await run(["--db", db, "export"]);
  expect([refused.code, refused.out]).toEqual([1, ""]);
  expect(refused.err).toMatch(/left in the middle of a write[^]*migrate/);
  expect((await run(["--db", db, "doctor"])).out).toMatch(
    /^fail {2}signal file .*middle of a write/m,
  );
  await json(["--db", db, "migrate"]);
  expect(ask(db, "SELECT 1 FROM signals WHERE confidence = 1")).toEqual([]);
});

test("every command has its help, and colours are for terminals alone", async () => {
  for (const name of ["migrate", "import", "seed", "export", "backup", "restore", "doctor"]) {
    const help = await run([name, "--help"]);
    expect(help).toMatchObject({ code: 0, err: "" });
    expect(help.out).toContain(`argo-alpine ${name}`);
    expect(help.out).toContain("--json");
    expect(help.out).toContain("--db <file>");
  }
});
