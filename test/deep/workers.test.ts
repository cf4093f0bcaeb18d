/** Workers killed, replaced and orphaned under load: nothing acknowledged is lost, nothing doubled. */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { LATEST, Wire } from "../faults/harness.ts";
import { freePort, tempDir, until } from "../harness/process.ts";
import { randomNumbers, SEED, tellSeed } from "../harness/seed.ts";
import { Load, startWorkers, total } from "../harness/workers.ts";

const WINDOW_MS = 60_000;
const ROOT = new URL("../..", import.meta.url).pathname;
const BINARY = `${ROOT}dist/argo-alpine`;

/** The ids in a file, ascending. */
function idsIn(path: string): number[] {
  using db = new Database(path, { readonly: true });
  const rows = db.query<{ id: number }, []>("SELECT id FROM signals ORDER BY id").all();
  return rows.map(({ id }) => id);
}

/** What every stream must have been told: all that is in the file, in order, up to its own end. */
function expectWhole(load: Load, path: string): void {
  const there = idsIn(path);
  const lost = load.posted.filter((id) => !there.includes(id));
  expect({ lost, faults: load.faults }).toEqual({ lost: [], faults: [] });
  expect(new Set(load.posted).size).toBe(load.posted.length);
  for (const ids of load.streamed) expect(ids).toEqual(there.slice(0, ids.length));
}

test("kill -9 of workers and of their supervisor under load", async () => {
  tellSeed();
  const random = randomNumbers(SEED);
  using dir = tempDir();
  const env = { PORT: `${freePort()}` };
  let server = await startWorkers(dir.path, 4, { env });
  const load = new Load(server.url, true).keep(4).connect(4).post(4).stream(6).socket(4);
  const kills = { workers: 0, supervisors: 0, reloads: 0 };
  const endsAt = performance.now() + 40_000;
  try {
    for (let round = 1; performance.now() < endsAt; round += 1) {
      await Bun.sleep(100 + random() * 900);
      const workers = server.workers();
      const victim = workers[Math.floor(random() * workers.length)];
      if (round % 12 === 0) {
        server.kill();
        kills.supervisors += 1;
        await until(() => !workers.some((pid) => existsSync(`/proc/${pid}`)), "no orphan", 15_000);
        await server[Symbol.asyncDispose]();
        server = await startWorkers(dir.path, 4, { env });
      } else if (round % 5 === 0) {
        process.kill(server.pid, "SIGUSR2");
        kills.reloads += 1;
      } else if (victim !== undefined) {
        process.kill(victim, "SIGKILL");
        kills.workers += 1;
      }
    }
    await until(() => server.workers().length >= 4, "all workers", 20_000);
    expect(await load.stop()).toBe(true);
    console.log(
      `${kills.workers} workers and ${kills.supervisors} supervisors killed, ${kills.reloads} reloads: ` +
        `${load.posted.length} posts, ${load.polls} polls, ${load.resumed} streams opened`,
    );
    expectWhole(load, dir.file("signals.db"));
    expect(load.posted.length).toBeGreaterThan(200);
    expect(await server.stop()).toBe(0);
  } finally {
    await server[Symbol.asyncDispose]();
  }
}, 120_000);

test("replaced again and again under load: no request fails, and the numbers add up", async () => {
  using dir = tempDir();
  await using server = await startWorkers(dir.path, 3);
  const load = new Load(server.url).keep(8).connect(32).post(2).stream(6).socket(4);
  const begun = performance.now();
  for (let round = 0; round < 5; round += 1) await server.reload();
  const seconds = (performance.now() - begun) / 1000;
  expect(await load.stop()).toBe(true);
  const perSecond = (load.connections / seconds).toFixed(0);
  console.log(`15 workers replaced at ${perSecond} new connections/s: ${load.polls} polls`);
  expectWhole(load, dir.file("signals.db"));
  const text = await (await fetch(`${server.url}/metrics`)).text();
  expect(total(text, "api_requests_total", LATEST)).toBe(load.polls);
  expect(total(text, "argo_ingested_signals_total", "written")).toBe(load.posted.length);
  expect(await server.stop()).toBe(0);
}, 120_000);

test("so are those of the binary", async () => {
  if (!existsSync(BINARY)) {
    const build = Bun.spawn([process.execPath, "build.ts"], { cwd: ROOT, stdout: "ignore" });
    expect(await build.exited).toBe(0);
  }
  using dir = tempDir();
  await using server = await startWorkers(dir.path, 2, { binary: BINARY });
  const load = new Load(server.url).keep(4).connect(16).post(2).stream(2).socket(2);
  await server.reload();
  expect(await load.stop()).toBe(true);
  expectWhole(load, dir.file("signals.db"));
  expect(server.logs().filter((line) => line.includes("may be reset"))).toEqual([]);
  expect(await server.stop()).toBe(0);
}, 120_000);

test("four workers without Redis under twice the limit let in at most 5% more", async () => {
  const limit = 600;
  using dir = tempDir();
  const env = { RATE_LIMIT_PER_MINUTE: `${limit}` };
  await using server = await startWorkers(dir.path, 4, { env });
  const letIn: number[] = [];
  const endsAt = performance.now() + 100_000;
  for (let next = performance.now(); next < endsAt; next += WINDOW_MS / (2 * limit)) {
    await Bun.sleep(Math.max(0, next - performance.now()));
    using wire = await Wire.open(server.url);
    if ((await wire.get(LATEST)).status === 200) letIn.push(performance.now());
  }
  const most = Math.max(
    ...letIn.map((at, i) => i - letIn.findIndex((other) => other > at - WINDOW_MS) + 1),
  );
  console.log(`${letIn.length} let in, at most ${most} in any minute`);
  expect(most).toBeWithin(limit, 1.05 * limit + 1);
}, 150_000);

test("a supervisor that stood still counts once what was told it meanwhile", async () => {
  using dir = tempDir();
  const env = { RATE_LIMIT_PER_MINUTE: "300" };
  await using server = await startWorkers(dir.path, 2, { env });
  const poll = async (times: number): Promise<void> => {
    for (let i = 0; i < times; i += 1) {
      using wire = await Wire.open(server.url);
      expect((await wire.get(LATEST)).status).toBe(200);
      await Bun.sleep(60);
    }
  };
  process.kill(server.pid, "SIGSTOP");
  await poll(150);
  process.kill(server.pid, "SIGCONT");
  await poll(60);
}, 40_000);
