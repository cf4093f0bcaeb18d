import { expect, test } from "bun:test";
import { chmodSync, mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { freePort, startServer, tempDir } from "../harness/process.ts";
import { change, copyLegacy, json, run, type RunOptions } from "./run.ts";

type Check = { name: string; status: string; detail: string; fix: string | null };

/** Runs doctor as JSON; the checks that are not ok, and the exit code. */
async function examine(db: string, options: RunOptions = {}, ...flags: string[]) {
  const own = { PORT: "0", DATA_DIR: dirname(db), ARGO_WRITE_TOKEN: "a-token-of-this-test" };
  const env = { ...own, ...options.env };
  const { code, out, err } = await run(["--db", db, "doctor", "--json", ...flags], { env });
  expect(err).toBe("");
  const { checks } = JSON.parse(out) as { checks: Check[] };
  for (const { status, fix } of checks) expect(fix === null).toBe(status === "ok");
  const faults = checks.filter((c) => c.status !== "ok" && c.name !== "writer's sqlite");
  const of = (name: string) => checks.find((c) => c.name === name);
  return { code, faults: faults.map((c) => `${c.status} ${c.name}`), of };
}

function ownDir(dir: { file(name: string): string }): string {
  mkdirSync(dir.file("data"), { mode: 0o750 });
  return dir.file("data/signals.db");
}

test("finds nothing wrong with a sound set-up, and mentions the bug of older SQLites", async () => {
  using dir = tempDir();
  const db = copyLegacy(ownDir(dir));
  await json(["--db", db, "migrate"]);
  const { code, faults, of } = await examine(db);
  expect([code, faults]).toEqual([0, []]);
  expect(of("writer's sqlite")?.detail).toContain("SQLite 3.7.0 to 3.51.2");
  expect(of("integrity")?.detail).toMatch(/quick_check found nothing in .* MB, \d+ ms/);
  expect(of("indexes")?.detail).toBe("all 5 are there");
  expect((await examine(db, {}, "--quick")).of("integrity")?.detail).toContain("--quick");
});

test("prints words, one line a check with its fix below, and no colours outside terminals", async () => {
  using dir = tempDir();
  const env = { PORT: "0" };
  const { code, out } = await run(["--db", ownDir(dir), "doctor"], { env });
  expect(code).toBe(0);
  expect(out).toMatch(/^ok {4}configuration /m);
  expect(out).toMatch(/^warn {2}signal file +there is no .+\n +Run `argo-alpine migrate`\.$/m);
  expect(out.includes("\u001b")).toBe(false);
});

test("names what a file that is not adopted lacks", async () => {
  using dir = tempDir();
  const { code, faults, of } = await examine(copyLegacy(ownDir(dir)));
  expect(code).toBe(0);
  expect(faults).toEqual(["warn journal", "warn adoption", ...Array(5).fill("warn indexes")]);
  expect(of("indexes")).toMatchObject({
    detail: "idx_signal_created is missing: reads by time visit every row",
    fix: "Run `argo-alpine migrate`.",
  });
});

test("names the one index that is missing, and rows that pin the top", async () => {
  using dir = tempDir();
  const db = copyLegacy(ownDir(dir));
  await json(["--db", db, "migrate"]);
  change(
    db,
    "DROP INDEX idx_signal_premium_created",
    "UPDATE signals SET timestamp = '2099-01-01T00:00:00+00:00' WHERE id IN (5, 9)",
  );
  const { code, faults, of } = await examine(db);
  expect([code, faults]).toEqual([0, ["warn indexes", "warn future dates"]]);
  expect(of("indexes")?.detail).toContain("idx_signal_premium_created");
  expect(of("future dates")?.detail).toContain(
    "id 9 (2099-01-01T00:00:00+00:00), id 5 (2099-01-01T00:00:00+00:00)",
  );
});

test("names odd tables: columns missing or not to be filled, no key, mixed timestamps", async () => {
  using dir = tempDir();
  const db = ownDir(dir);
  change(
    db,
    "CREATE TABLE signals (symbol, action, entry_price, confidence, timestamp, desk TEXT NOT NULL)",
    "INSERT INTO signals VALUES ('A','BUY',1,50,'2020-01-01T00:00:00Z','x'), ('A','BUY',1,50,'2020-01-02 00:00:00','x')",
  );
  await json(["--db", db, "migrate"]);
  const { code, faults, of } = await examine(db);
  expect([code, faults]).toEqual([0, ["warn columns", "warn ids", "warn timestamps"]]);
  expect(of("columns")?.detail).toContain("desk");
  expect(of("ids")?.detail).toContain("VACUUM");
  expect(of("timestamps")?.detail).toContain('"2020-01-02 00:00:00"');
  expect(of("table")?.detail).toContain("no column sha256");
  expect(of("table")?.detail).toContain("no column strategy");
});

test("a damaged file and one that is no SQLite fail with the way back", async () => {
  using dir = tempDir();
  const db = ownDir(dir);
  await Bun.write(db, "not a database, whatever its name says");
  chmodSync(db, 0o600);
  const text = await examine(db);
  expect([text.code, text.faults]).toEqual([1, ["fail signal file"]]);
  expect(text.of("signal file")?.fix).toContain("argo-alpine restore BACKUP");

  const damaged = copyLegacy(dir.file("data/damaged.db"));
  await json(["--db", damaged, "migrate"]);
  const bytes = readFileSync(damaged);
  bytes.fill(0xab, 40 * 4096, 60 * 4096);
  await Bun.write(damaged, bytes);
  const { code, of } = await examine(damaged);
  expect(code).toBe(1);
  expect(of("integrity")?.status).toBe("fail");
});

test("names permissions that are too wide", async () => {
  using dir = tempDir();
  const db = copyLegacy(ownDir(dir));
  await json(["--db", db, "migrate"]);
  chmodSync(dir.file("data"), 0o755);
  chmodSync(db, 0o666);
  const open = await examine(db);
  expect([open.code, open.faults]).toEqual([0, ["warn signal file"]]);
  expect(open.of("signal file")).toMatchObject({ fix: `Run: chmod o= ${db}` });
  chmodSync(dir.file("data"), 0o757);
  expect((await examine(db)).faults).toEqual(["warn data directory", "warn signal file"]);
});

test("a port of our own is fine, one taken by something else is not", async () => {
  using dir = tempDir();
  const db = copyLegacy(ownDir(dir));
  await using server = await startServer({ env: { SIGNALS_DB: db } });
  const own = await examine(db, { env: { PORT: new URL(server.url).port } });
  expect([own.code, own.of("port")?.detail]).toEqual([0, expect.stringContaining("argo-alpine")]);

  using other = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("{}") });
  const taken = await examine(db, { env: { PORT: String(other.port) } });
  expect([taken.code, taken.faults]).toEqual([1, ["fail port"]]);
  expect((await examine(db, { env: { PORT: String(freePort()) } })).of("port")?.status).toBe("ok");
});

test("names who may read and write, and a configuration that is refused", async () => {
  using dir = tempDir();
  const db = copyLegacy(ownDir(dir));
  await json(["--db", db, "migrate"]);
  const env = { HOST: "0.0.0.0", SIGNALS_ACCESS: "open", ARGO_WRITE_TOKEN: "" };
  const argo = ["--role", "argo"];
  const open = await examine(db, { env }, ...argo);
  expect([open.code, open.faults]).toEqual([0, ["warn writing", "warn reading"]]);
  const keyed = await examine(db, { env: { HOST: "0.0.0.0" } }, ...argo);
  expect(keyed.of("reading")?.detail).toContain("no read token");
  const several = { ASYNC_WORKERS: "2", REDIS_URL: "redis://127.0.0.1:1" };
  const workers = await examine(db, { env: several }, ...argo);
  expect([workers.code, workers.faults]).toEqual([0, ["warn redis"]]);
  expect(workers.of("workers")?.detail).toContain("2 processes");
  const embedded = await examine(db, { env: several });
  expect([embedded.code, embedded.of("workers")?.detail]).toEqual([
    1,
    expect.stringContaining("serves one process"),
  ]);
  const refused = await examine(db, { env: { PORT: "99999", TRUST_PROXY: "x" } });
  expect([refused.code, refused.faults]).toEqual([1, ["fail configuration"]]);
  expect(refused.of("configuration")?.detail).toMatch(/PORT.*TRUST_PROXY/);
});

test("an alpine without signals of its own is told how its argo is", async () => {
  using dir = tempDir();
  const token = "a-token-of-the-tests-0123";
  await using argo = await startServer({
    env: { ARGO_SERVICE_TOKEN: token, SIGNALS_ACCESS: "key" },
  });
  const look = async (env: Record<string, string>) => {
    const { out } = await run(["doctor", "--role", "alpine", "--json"], {
      cwd: dir.path,
      env: { PORT: "0", ARGO_URL: argo.url, ARGO_SERVICE_TOKEN: token, ...env },
    });
    const { checks } = JSON.parse(out) as { checks: { name: string; status: string }[] };
    return new Map(checks.map(({ name, status, ...rest }) => [name, { status, ...rest }]));
  };
  const good = await look({});
  expect(good.get("argo")?.status).toBe("ok");
  expect([...good.keys()].filter((name) => /signal file|sqlite|disk/.test(name))).toEqual([]);
  const refused = await look({ ARGO_SERVICE_TOKEN: "another-token-0123456789" });
  expect(refused.get("argo")).toMatchObject({
    status: "fail",
    detail: expect.stringContaining("refuses ARGO_SERVICE_TOKEN"),
  });
  expect((await look({ ARGO_URL: "http://127.0.0.1:1" })).get("argo")?.status).toBe("fail");
});
