/** Jobs on a real Postgres: what fails is tried again, nothing ends the process, the end is quick. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import pino from "pino";
import { Jobs, type JobsOptions, type Task } from "../../src/platform/jobs.ts";
import { createLog } from "../../src/platform/log.ts";
import { Postgres } from "../../src/platform/postgres.ts";
import { until } from "../harness/process.ts";
import { postgres, type TestDatabase } from "../harness/servers.ts";

let database: TestDatabase;
let server: Postgres;
beforeAll(async () => {
  database = await (await postgres()).createDatabase();
  server = Postgres.open({
    at: { url: database.url },
    poolSize: 10,
    maxOverflow: 0,
    recycleSeconds: 0,
    log: createLog("silent"),
  });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const execute: JobsOptions["execute"] = (text, values) => server.pool.query(text, values);

type Line = { msg: string; level: number; reason?: string; tries?: number };
function logged() {
  const lines: Line[] = [];
  const write = (line: string) => void lines.push(JSON.parse(line) as Line);
  return { lines, log: pino({ level: "debug", base: undefined }, { write }) };
}

const open = (tasks: Task[], more: Partial<JobsOptions> = {}) =>
  new Jobs({
    execute,
    embedded: false,
    tasks,
    log: createLog("silent"),
    delayMs: 0,
    lookEverySeconds: 0.5,
    ...more,
  });
const up = (...all: Jobs[]) => until(() => all.every((jobs) => jobs.up), "jobs are up");
const send = (jobs: Jobs, name: string, data: object = {}) =>
  server.transaction((tx) => jobs.send(tx, name, data));

test("several that start at once on an empty database all run, and each job is done by one", async () => {
  const done: string[] = [];
  const task = (by: string): Task => ({
    name: "shared",
    run: (data) => Promise.resolve(void done.push(`${(data as { n: number }).n} ${by}`)),
  });
  await using one = open([task("one")]);
  await using two = open([task("two")]);
  await using three = open([task("three")]);
  await up(one, two, three);
  for (let n = 0; n < 9; n += 1) await send(one, "shared", { n });
  await until(() => done.length >= 9, "all are done");
  await Bun.sleep(600);
  const numbers = done.map((text) => Number(text.split(" ")[0]));
  expect(numbers.toSorted()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
});

test("a job that is handed over in a transaction that is taken back never was", async () => {
  let runs = 0;
  await using jobs = open([{ name: "undone", run: () => Promise.resolve(void (runs += 1)) }]);
  await up(jobs);
  const undone = server.transaction(async (tx) => {
    await jobs.send(tx, "undone", {});
    throw new Error("on purpose");
  });
  expect(await undone.catch(String)).toContain("on purpose");
  await send(jobs, "undone");
  jobs.wake("undone");
  await until(() => runs > 0, "the other is done");
  await Bun.sleep(1_200);
  expect(runs).toBe(1);
});

test("the first job that is sent asks for nothing beside its transaction", async () => {
  let late = 0;
  // As on a busy machine: what a worker asks for its queue comes after the job was sent.
  const slow: JobsOptions["execute"] = async (text, values) => {
    if (Array.isArray(values?.[0]) && text.includes("q.name")) await Bun.sleep((late += 1) && 300);
    return execute(text, values);
  };
  let runs = 0;
  const run = () => Promise.resolve(void (runs += 1));
  await using jobs = open([{ name: "first", run }], { execute: slow });
  await up(jobs);
  await send(jobs, "first");
  await until(() => runs === 1, "it is done");
  expect(late).toBeGreaterThan(0);
});

test("what fails is tried again until it does not, and is logged without what it was about", async () => {
  const { lines, log } = logged();
  let tries = 0;
  const run = () => {
    tries += 1;
    return tries < 3 ? Promise.reject(new Error(`failure ${tries}\nat a line`)) : Promise.resolve();
  };
  await using jobs = open([{ name: "fails", run }], { log });
  await up(jobs);
  await send(jobs, "fails", { secret: "CANARY" });
  await until(() => tries === 3, "the third try");
  const told = lines.filter(({ msg }) => msg.startsWith("background job failed"));
  expect(told).toMatchObject([
    { tries: 1, reason: "failure 1" },
    { tries: 2, reason: "failure 2" },
  ]);
  expect(JSON.stringify(lines)).not.toContain("CANARY");
});

test("a database that cannot be used yet is waited for, and one that falters later ends nothing", async () => {
  const { lines, log } = logged();
  let broken = true;
  let runs = 0;
  const faltering: JobsOptions["execute"] = (text, values) =>
    broken ? Promise.reject(new Error("the database falters")) : execute(text, values);
  const task = { name: "falters", run: () => Promise.resolve(void (runs += 1)) };
  await using jobs = open([task], { log, execute: faltering });
  await until(() => lines.some(({ msg }) => msg.includes("cannot start yet")), "a first try");
  expect(jobs.up).toBe(false);
  expect(await send(jobs, "falters").catch(String)).toContain("starting");
  broken = false;
  await up(jobs);
  broken = true;
  await until(() => lines.some(({ msg }) => msg === "background jobs falter"), "a look that fails");
  await Bun.sleep(1_500);
  // Each look fails; one in a minute is told aloud.
  const aloud = lines.filter(({ msg, level }) => msg === "background jobs falter" && level >= 40);
  expect(aloud).toHaveLength(1);
  broken = false;
  await send(jobs, "falters");
  await until(() => runs === 1, "the job is done");
});

test("the end tells what runs to end, waits for little, and leaves the job to the next", async () => {
  const begun = Promise.withResolvers<void>();
  const seen: string[] = [];
  const obeys: Task["run"] = (_, signal) =>
    new Promise((_resolve, reject) => {
      begun.resolve();
      signal.addEventListener("abort", () => {
        seen.push("told to end");
        reject(new Error("ended"));
      });
    });
  const first = open([{ name: "handed_on", run: obeys }]);
  await up(first);
  await send(first, "handed_on");
  await begun.promise;
  await first[Symbol.asyncDispose]();
  await using _next = open([
    { name: "handed_on", run: () => Promise.resolve(void seen.push("done")) },
  ]);
  await until(() => seen.includes("done"), "the next does it");
  expect(seen).toEqual(["told to end", "done"]);

  // One that does not listen.
  const runs = Promise.withResolvers<void>();
  const never = () => {
    runs.resolve();
    return new Promise<void>(() => undefined);
  };
  const deaf = open([{ name: "deaf", run: never }]);
  await up(deaf);
  await send(deaf, "deaf");
  await runs.promise;
  const ms = performance.now();
  await deaf[Symbol.asyncDispose]();
  expect(performance.now() - ms).toBeLessThan(20_000);
});

test("one that ends before it has started starts nothing", async () => {
  const jobs = open([], { delayMs: 60_000 });
  const ms = performance.now();
  await jobs[Symbol.asyncDispose]();
  expect(performance.now() - ms).toBeLessThan(10_000);
  expect(jobs.up).toBe(false);
});
