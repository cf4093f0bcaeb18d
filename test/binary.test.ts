import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, statSync } from "node:fs";
import { spawnChild } from "./harness/children.ts";
import { startServer, tempDir, until } from "./harness/process.ts";
import { sqld } from "./harness/sqld.ts";

const root = new URL("..", import.meta.url).pathname;
const binary = `${root}dist/argo-alpine`;
/** What base-nossl-debian12 adds to the image, MB, by the sum of its layers. */
const baseMb = 15;
const dir = tempDir();

/** Runs one command of the binary in an empty directory that knows nothing of this project. */
async function run(...words: string[]): Promise<{ code: number; out: string }> {
  const child = Bun.spawn([binary, ...words], {
    cwd: dir.path,
    env: { PATH: "/usr/bin:/bin" },
    stdout: "pipe",
    stderr: "pipe",
  });
  const out = await new Response(child.stdout).text();
  return { code: await child.exited, out };
}

beforeAll(async () => {
  if (existsSync(binary)) return;
  const build = Bun.spawn([process.execPath, "build.ts"], { cwd: root, stdout: "ignore" });
  expect(await build.exited).toBe(0);
});
afterAll(() => dir[Symbol.dispose]());

test("migrates, imports, serves, is polled, takes a post, ends", async () => {
  const token = "binary-test-token-1";
  expect((await run("migrate")).code).toBe(0);
  const imported = await run("import", `${root}test/fixtures/argo-legacy.db`, "--json");
  expect(imported.code).toBe(0);
  expect(JSON.parse(imported.out)).toMatchObject({ written: 3489 });
  await using server = await startServer({
    binary,
    cwd: dir.path,
    env: { ARGO_WRITE_TOKEN: token, SHUTDOWN_DELAY_SECONDS: "0" },
  });
  const latest = `${server.url}/api/signals/latest?limit=1`;
  const [before] = (await (await fetch(latest)).json()) as { id: number; symbol: string }[];
  expect(before).toMatchObject({ id: 3489, symbol: "SPX" });
  const posted = await fetch(`${server.url}/api/signals`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ symbol: "EURUSD", action: "BUY", confidence: 97, entry_price: 1.1 }),
  });
  expect(posted.status).toBe(201);
  const after = await fetch(latest);
  expect(after.headers.get("signal-head")).toBe("3490");
  expect(await after.json()).toMatchObject([{ id: 3490, symbol: "EURUSD" }]);
  for (const path of [
    "/",
    "/start.js",
    "/start.css",
    "/docs",
    "/docs/swagger-ui-bundle.js",
    "/openapi.json",
    "/metrics",
  ]) {
    expect((await fetch(server.url + path)).status).toBe(200);
  }
  expect((await run("health", "--url", server.url)).code).toBe(0);
  expect(await server.stop("SIGTERM")).toBe(0);
  expect(server.logs().at(-1)).toContain('"stopped"');
});

test("is a node of a libSQL server", async () => {
  const token = "binary-test-token-1";
  await using origin = await sqld();
  using own = tempDir();
  await using server = await startServer({
    binary,
    cwd: own.path,
    env: { ARGO_WRITE_TOKEN: token, SHUTDOWN_DELAY_SECONDS: "0", LIBSQL_URL: origin.url },
  });
  await until(async () => (await fetch(`${server.url}/readyz`)).ok, "a node that is ready");
  const posted = await fetch(`${server.url}/api/signals`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ symbol: "EURUSD", action: "BUY", confidence: 97, entry_price: 1.1 }),
  });
  expect(posted.status).toBe(201);
  const read = await fetch(`${server.url}/api/signals/latest?min_id=1`);
  expect(await read.json()).toMatchObject([{ id: 1, symbol: "EURUSD" }]);
});

test("starts the embedded Postgres that it holds", async () => {
  const place = tempDir();
  const words = ["embedded-postgres", place.path, place.file(".s.PGSQL.5432")];
  const begun = performance.now();
  await using child = spawnChild([binary, ...words], { cwd: place.path });
  await until(() => child.lines().length > 0 || !child.running(), "a word");
  console.log(`first start in the binary: ${(performance.now() - begun).toFixed()} ms`);
  expect(child.lines()).toEqual(['{"ready":true}']);
  child.endInput();
  expect(await child.done).toBe(0);
  place[Symbol.dispose]();
});

// Bun alone is 107 MB, its bytecode for a start in 50 ms another 10.
test("makes an image of less than 150 MB", () => {
  expect(statSync(binary).size / 1e6 + baseMb).toBeLessThan(150);
});
