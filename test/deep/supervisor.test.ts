/** What a supervisor does about workers that are not well. */
import { afterAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { SetupError } from "../../src/errors.ts";
import { createLog } from "../../src/platform/log.ts";
import { Supervisor, WorkerFailed } from "../../src/workers/supervisor.ts";
import { MAIN } from "../faults/harness.ts";
import { freePort, tempDir, until } from "../harness/process.ts";
import { childrenOf } from "../harness/servers.ts";

const dir = tempDir();
afterAll(() => dir[Symbol.dispose]());
const log = createLog("silent");
const nameOf = (pid: number): string => readFileSync(`/proc/${pid}/comm`, "utf8").trim();
const never = new Promise<void>(() => undefined);
const options = { workers: 2, port: 0, endMs: 5_000, hangMs: 2_000, log };

test("one that cannot start ends the start with its own exit code", async () => {
  const command = () => ["/bin/sh", "-c", "exit 3"];
  const failed = await Supervisor.start({ ...options, command }, never).catch((e: unknown) => e);
  expect(failed).toBeInstanceOf(WorkerFailed);
  expect(failed).toHaveProperty("exitCode", 3);
});

test("one that is killed at each start is told of", async () => {
  const command = () => ["/bin/sh", "-c", "kill -9 $$"];
  const failed = await Supervisor.start({ ...options, command }, never).catch((e: unknown) => e);
  expect(failed).toBeInstanceOf(SetupError);
  expect(String(failed)).toContain("SIGKILL");
}, 20_000);

test("one that is stuck as it starts keeps nobody from stopping", async () => {
  const command = () => ["/bin/sh", "-c", "exec sleep 60"];
  const supervisor = await Supervisor.start({ ...options, command, endMs: 500 }, Bun.sleep(300));
  expect(supervisor.listens).toBe(false);
  expect(await supervisor.stop()).toBe(false);
  expect(childrenOf(process.pid).map(nameOf)).not.toContain("sleep");
}, 10_000);

test("one that hangs is killed and another takes its place; a broken reload changes nothing", async () => {
  const before = childrenOf(process.pid);
  const workers = () => childrenOf(process.pid).filter((pid) => !before.includes(pid));
  const port = freePort();
  let broken = false;
  let stuck = false;
  const serve = [process.execPath, MAIN, "serve", "--role", "argo", "--log-level", "silent"];
  const command = ({ slot }: { slot: number }) => {
    if (stuck) return ["/bin/sh", "-c", "exec sleep 60"];
    const own = ["--data-dir", dir.path, "--port", `${port}`, "--as-worker", `${slot}`];
    return [...serve, ...own, ...(broken ? ["--nonsense"] : [])];
  };
  const supervisor = await Supervisor.start({ ...options, port, command }, never);
  const poll = async (): Promise<number> => {
    const headers = { Connection: "close" };
    return (await fetch(`http://127.0.0.1:${port}/livez`, { headers })).status;
  };
  try {
    const [hung = 0, other = 0] = workers();
    process.kill(hung, "SIGSTOP");
    await Bun.sleep(1_000);
    process.kill(hung, "SIGCONT");
    await Bun.sleep(3_000);
    expect(workers()).toEqual([hung, other]);
    process.kill(hung, "SIGSTOP");
    await until(() => workers().length === 2 && !workers().includes(hung), "another one");
    expect(workers()).toContain(other);
    expect(await poll()).toBe(200);
    // Also one that never comes so far as to listen.
    stuck = true;
    process.kill(other, "SIGKILL");
    const isStuck = (): boolean => workers().some((pid) => nameOf(pid) === "sleep");
    await until(isStuck, "one that is stuck");
    stuck = false;
    await until(() => workers().length === 2 && !isStuck(), "another in its place");
    await Bun.sleep(2_000);
    const well = workers();
    broken = true;
    await supervisor.reload();
    await until(() => workers().length === 2, "the end of what could not start");
    expect(workers().toSorted()).toEqual(well.toSorted());
    for (let i = 0; i < 10; i += 1) expect(await poll()).toBe(200);
  } finally {
    // One that is being started in another's place is told to end like all.
    broken = false;
    process.kill(workers()[0] ?? 0, "SIGKILL");
    await until(() => workers().length === 1, "a death");
    await until(() => workers().length === 2, "another in its place");
    expect(await supervisor.stop()).toBe(true);
  }
}, 40_000);
