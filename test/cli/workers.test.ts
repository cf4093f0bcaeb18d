import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { holdPort } from "../../src/cli/port.ts";
import { JWT_SECRET } from "../harness/accounts.ts";
import { spawnChild, within } from "../harness/children.ts";
import { Events } from "../harness/events.ts";
import { Messages } from "../harness/messages.ts";
import { freePort, tempDir, until } from "../harness/process.ts";
import { Load, startWorkers, total } from "../harness/workers.ts";
import { MAIN, signal, Wire, WRITE_TOKEN } from "../faults/harness.ts";

const upgrade = {
  Connection: "Upgrade",
  Upgrade: "websocket",
  "Sec-WebSocket-Version": "13",
  "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
};
const isThere = (pid: number): boolean => existsSync(`/proc/${pid}`);

test("workers serve one port as one server: commits, keys, numbers, deaths, the end", async () => {
  using dir = tempDir();
  const token = "read-token-of-the-workers";
  await using server = await startWorkers(dir.path, 3, { env: { ARGO_READ_TOKEN: token } });
  const { url } = server;
  expect(server.logs().filter((line) => line.includes('"listening"'))).toHaveLength(1);
  expect(server.workers()).toHaveLength(3);

  // A commit by any of them is seen at once by all, and told by all.
  const load = new Load(url).stream(9).post(4);
  await until(() => load.posted.length >= 100, "posts");
  expect(await load.stop()).toBe(true);
  expect(load.faults).toEqual([]);
  const posted = load.posted.toSorted((a, b) => a - b);
  for (const ids of load.streamed) expect(ids).toEqual(posted);

  // One key, whichever of them it meets.
  const once = signal("ONCE", 1, false);
  const answers = await Promise.all(
    Array.from({ length: 20 }, async () => {
      using wire = await Wire.open(url);
      return await wire.post(once, { "Idempotency-Key": "key-of-the-workers" });
    }),
  );
  const statuses = answers.map(({ status }) => status);
  expect(statuses.filter((status) => status !== 201 && status !== 409)).toEqual([]);
  expect(new Set(answers.filter((a) => a.status === 201).map((a) => a.body)).size).toBe(1);
  using db = new Database(dir.file("signals.db"), { readonly: true });
  const { rows } = db
    .query<{ rows: number }, []>("SELECT count(*) AS rows FROM signals WHERE symbol = 'ONCE'")
    .get() ?? { rows: 0 };
  expect(rows).toBe(1);

  // A ticket is good at any of them, and once.
  const headers = { Authorization: `Bearer ${token}`, Connection: "close" };
  for (let i = 0; i < 6; i += 1) {
    const given = await fetch(`${url}/api/signals/ws-ticket`, { method: "POST", headers });
    const { ticket } = (await given.json()) as { ticket: string };
    const path = `/api/signals/ws?ticket=${ticket}`;
    await using messages = await Messages.open(url + path, {});
    expect(await messages.subscribe()).toMatchObject({ head: Math.max(...posted) + 1 });
    expect((await fetch(url + path, { headers: upgrade })).status).toBe(401);
  }

  // Whoever is scraped tells of all, and what the dead have counted is not lost.
  const before = await (await fetch(`${url}/metrics`)).text();
  expect(total(before, "argo_workers")).toBe(3);
  const written = load.posted.length + 1;
  expect(total(before, "argo_ingested_signals_total", "written")).toBe(written);
  const [first = 0] = server.workers();
  process.kill(first, "SIGKILL");
  await until(() => server.logs().some((line) => line.includes("worker started again")), "another");
  expect(server.workers()).not.toContain(first);
  let after = "";
  await until(
    async () => {
      after = await (await fetch(`${url}/metrics`)).text();
      return total(after, "argo_workers") === 3;
    },
    () => `three workers in ${after}`,
  );
  expect(total(after, "argo_ingested_signals_total", "written")).toBe(written);
  expect(total(after, "argo_worker_restarts_total")).toBe(1);

  const workers = server.workers();
  expect(await server.stop()).toBe(0);
  expect(workers.filter(isThere)).toEqual([]);
});

test("they are replaced one by one, and no request fails; streams resume on others", async () => {
  using dir = tempDir();
  await using server = await startWorkers(dir.path, 2);
  const before = server.workers();
  const load = new Load(server.url).keep(4).connect(8).post(2).stream(3).socket(3);
  await until(() => load.posted.length > 10, "posts");
  // As who tells all processes of a service.
  for (const pid of before) process.kill(pid, "SIGUSR2");
  await server.reload();
  expect(server.workers().filter((pid) => before.includes(pid))).toEqual([]);
  expect(await load.stop()).toBe(true);
  console.log(`${load.polls} polls, ${load.connections} new connections`);
  expect(load.faults).toEqual([]);
  expect(load.resumed).toBeGreaterThan(4);
  const all = load.posted.toSorted((a, b) => a - b);
  for (const ids of load.streamed) expect(ids).toEqual(all);
  expect(server.logs().filter((line) => line.includes("may be reset"))).toEqual([]);
  // Those who left have told what they counted.
  const text = await (await fetch(`${server.url}/metrics`)).text();
  expect(total(text, "argo_ingested_signals_total", "written")).toBe(all.length);
  expect(total(text, "api_requests_total", "/api/signals/latest")).toBe(load.polls);
  // Streams that are open when all of it ends are told so.
  const open = await Promise.all(
    Array.from(
      { length: 4 },
      async () => new Events(await fetch(`${server.url}/api/signals/stream`)),
    ),
  );
  for (const events of open) await events.must("head");
  expect(await server.stop("SIGINT")).toBe(0);
  for (const events of open) expect((await events.must("end")).data["reason"]).toBe("draining");
});

test("a supervisor that is killed leaves nobody behind", async () => {
  using dir = tempDir();
  await using server = await startWorkers(dir.path, 2);
  const workers = server.workers();
  expect(workers).toHaveLength(2);
  server.kill();
  await until(() => !workers.some(isThere), "the end of the workers");
});

test("without Redis they share their limits through the supervisor, also one that came later", async () => {
  using dir = tempDir();
  const limit = 200;
  const env = { RATE_LIMIT_PER_MINUTE: `${limit}`, TRUST_PROXY: "1", SIGNALS_ACCESS: "open" };
  await using server = await startWorkers(dir.path, 4, { env });
  let from = "";
  const poll = async (): Promise<number> => {
    using wire = await Wire.open(server.url);
    return (await wire.get("/api/signals/latest", { "X-Forwarded-For": from })).status;
  };
  // N × limit / 50 + r × d, as documented; d is some 50 ms where all share two processors. A worker
  // that gets none for longer tells later: that is not so each time.
  let beyond = Infinity;
  for (let round = 1; round <= 5 && beyond > 0; round += 1) {
    from = `192.0.2.${round}`;
    let letIn = 0;
    const begun = performance.now();
    for (let i = 0; i < 60; i += 1) {
      const statuses = await Promise.all(Array.from({ length: 10 }, poll));
      letIn += statuses.filter((status) => status === 200).length;
    }
    const perSecond = 600_000 / (performance.now() - begun);
    console.log(`${letIn} let in of 600 at a limit of ${limit}, ${perSecond.toFixed(0)}/s`);
    expect(letIn).toBeGreaterThanOrEqual(limit);
    beyond = letIn - (limit + (4 * limit) / 50 + perSecond * 0.05);
  }
  expect(beyond).toBeLessThanOrEqual(0);
  for (const pid of server.workers()) process.kill(pid, "SIGKILL");
  const again = () => server.logs().filter((line) => line.includes("worker started again")).length;
  await until(() => again() === 4, "all of them anew");
  // Who is new knows of a key after its first hundredth of the limit and one exchange; each for
  // itself would let in 200.
  let late = 0;
  for (let refused = 0; refused < 40;) {
    const isLetIn = (await poll()) === 200;
    if (isLetIn) late += 1;
    refused = isLetIn ? 0 : refused + 1;
    if (late > limit) break;
    await Bun.sleep(5);
  }
  expect(late).toBeLessThanOrEqual(limit);
});

test("what keeps workers from starting is told once, with its mend", async () => {
  using dir = tempDir();
  const run = async (env: Record<string, string>, ...words: string[]) => {
    const command = [process.execPath, MAIN, "serve", "--workers", "3", ...words];
    const given = { DATA_DIR: dir.path, PORT: "0", ARGO_WRITE_TOKEN: WRITE_TOKEN, ...env };
    await using child = spawnChild(command, { cwd: dir.path, env: given });
    const code = await within(child.done, 60_000);
    return { code, said: child.lines().filter((line) => line.startsWith("argo-alpine:")) };
  };
  const database = "postgres://argo:secret-word@127.0.0.1:1/argo";
  expect(await run({})).toEqual({
    code: 1,
    said: [expect.stringContaining("embedded Postgres serves one process, and 3 workers")],
  });
  expect(await run({ DATABASE_URL: database, JWT_SECRET })).toEqual({
    code: 1,
    said: [expect.stringContaining("need Redis")],
  });
  expect(existsSync(dir.file("signals.db"))).toBe(false);
  await Bun.write(dir.file("bad.db"), "no SQLite file at all, and long enough to be sure of it");
  const bad = { SIGNALS_DB: dir.file("bad.db") };
  const refused = await run(bad, "--role", "argo");
  expect(refused.code).toBe(1);
  expect(refused.said).toHaveLength(1);
  expect(refused.said[0]).toContain("bad.db");
  // One that has just begun has nothing that listens yet.
  const port = freePort();
  {
    using _held = holdPort({ host: "127.0.0.1", port });
    expect(await run({ PORT: `${port}` }, "--role", "argo")).toEqual({
      code: 1,
      said: [expect.stringContaining("EADDRINUSE")],
    });
  }
  // Others of its kind share their port among themselves alone.
  await using other = await startWorkers(dir.path, 2);
  expect(await run({ PORT: new URL(other.url).port }, "--role", "argo")).toEqual({
    code: 1,
    said: [expect.stringContaining("EADDRINUSE")],
  });
});
