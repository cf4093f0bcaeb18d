/** Accounts behind several workers of one server: what is revoked or counted at one holds at all. */
import { expect, test } from "bun:test";
import { serveAccounts } from "../harness/accounts.ts";
import { Events } from "../harness/events.ts";
import { until } from "../harness/process.ts";
import { childrenOf } from "../harness/servers.ts";

test("what is revoked at one worker is refused by all, and logins are counted once", async () => {
  await using accounts = await serveAccounts("source", "postgres+redis", { ASYNC_WORKERS: "3" });
  const { server } = accounts;
  /** Each over a connection of its own, so that all workers are met: 3 × (2/3)^24 misses one. */
  const everywhere = (path: string, init: RequestInit = {}): Promise<number[]> => {
    const headers = { ...(init.headers as Record<string, string>), Connection: "close" };
    const ask = async () => (await fetch(server.url + path, { ...init, headers })).status;
    return Promise.all(Array.from({ length: 24 }, ask));
  };
  const all = (status: number, path: string, token = "") =>
    until(
      async () => {
        const headers = { Authorization: `Bearer ${token}` };
        return (await everywhere(path, token === "" ? {} : { headers })).every((s) => s === status);
      },
      `${status} everywhere`,
      10_000,
    );
  await all(200, "/readyz");
  const told = () => server.logs().filter((line) => line.includes("no administrator yet")).length;
  await until(() => told() === 1, "the link for an administrator, once");

  const member = await accounts.member();
  const key = await accounts.key(member);
  await all(200, "/api/signals/latest", key);
  await all(200, "/api/auth/me", member.access);
  // Whoever comes to a worker that joins finds its accounts there.
  process.kill(server.pid, "SIGUSR2");
  const replaced = () => server.logs().filter((line) => line.includes("worker replaced")).length;
  const met = new Map<number, number>();
  const headers = { Authorization: `Bearer ${member.access}` };
  while (replaced() < 3) {
    for (const status of await everywhere("/api/auth/me", { headers })) {
      met.set(status, (met.get(status) ?? 0) + 1);
    }
  }
  console.log(`${met.get(200)} requests while three workers were replaced`);
  expect([...met.keys()]).toEqual([200]);

  await accounts.must(204, "POST", "/api/auth/logout-all", undefined, member.access);
  const begun = performance.now();
  await all(401, "/api/auth/me", member.access);
  const tookMs = performance.now() - begun;
  console.log(`a logout is felt by all workers after ${tookMs.toFixed(0)} ms`);
  expect(tookMs).toBeLessThan(1_500);

  const statuses = await everywhere("/api/auth/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ email: member.email, password: "not the password at all" }),
  });
  const count = (status: number) => statuses.filter((s) => s === status).length;
  // 503 where too many are hashed at once: those are given back.
  expect(count(401)).toBeLessThanOrEqual(10);
  expect(count(401)).toBeGreaterThan(0);
  expect(count(401) + count(429) + count(503)).toBe(24);
  expect(told()).toBe(1);
  expect(await server.stop()).toBe(0);
}, 40_000);

test("the newest stream wins at whichever worker, and a killed one's count no more", async () => {
  await using accounts = await serveAccounts("source", "postgres+redis", { ASYNC_WORKERS: "3" });
  const { server } = accounts;
  const member = await accounts.member();
  const headers = { Authorization: `Bearer ${member.access}`, Connection: "close" };
  const open = async (): Promise<Events> => {
    const events = new Events(await fetch(`${server.url}/api/signals/stream`, { headers }));
    await events.must("head");
    return events;
  };
  // A starter has one.
  let last = await open();
  for (let i = 0; i < 12; i += 1) {
    const next = await open();
    // At once where all workers hear of Redis; one that has just begun looks every two seconds.
    expect((await last.must("end")).data["reason"]).toBe("replaced");
    last = next;
  }
  for (const pid of childrenOf(server.pid)) process.kill(pid, "SIGKILL");
  await until(
    async () => (await fetch(`${server.url}/readyz`).catch(() => null))?.ok === true,
    "workers are back",
    20_000,
  );
  await using after = await open();
  expect(await after.isQuiet(3_000)).toBe(true);
}, 60_000);
