/** More logins than there is time to hash for: signals do not feel it, nobody waits for long (A1). */
import { expect } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { users } from "../../db/alpine/schema.ts";
import { serveAccounts, type ServedAccounts } from "../harness/accounts.ts";
import { spawnChild } from "../harness/children.ts";
import { figures, LATEST, quantile, Wire } from "./harness.ts";
import type { LoginAnswer, LoginLoad } from "./logins.load.ts";

const LOAD = new URL("./logins.load.ts", import.meta.url).pathname;
const seconds = 2;
const polls = { perSecond: 200, connections: 4 };

/** Polls at a fixed rate for so long: how long each took. Fails for what is not 200. */
async function pollSteadily(url: string, headers: Record<string, string>, seconds: number) {
  const durationsMs: number[] = [];
  const every = (1_000 * polls.connections) / polls.perSecond;
  const poll = async (first: number): Promise<void> => {
    using wire = await Wire.open(url);
    const begun = performance.now() + first;
    for (let n = 0; n * every < seconds * 1_000; n += 1) {
      await Bun.sleep(Math.max(0, begun + n * every - performance.now()));
      const answer = await wire.get(LATEST, headers);
      expect(answer.status).toBe(200);
      durationsMs.push(answer.durationMs);
    }
  };
  const loops = Array.from({ length: polls.connections }, (_, i) =>
    poll((i * every) / polls.connections),
  );
  await Promise.all(loops);
  return durationsMs;
}

async function offerLogins(load: LoginLoad): Promise<LoginAnswer[]> {
  await using child = spawnChild([process.execPath, LOAD, JSON.stringify(load)]);
  expect(await child.done).toBe(0);
  return JSON.parse(child.lines().at(-1) ?? "") as LoginAnswer[];
}

/** Threads of a process: how they are niced, and for how long they have run, clock ticks. */
function threadsOf(pid: number): { nice: number; ticks: number }[] {
  return readdirSync(`/proc/${pid}/task`).map((id) => {
    const stat = readFileSync(`/proc/${pid}/task/${id}/stat`, "utf8").replace(/^.*\) /s, "");
    const fields = stat.split(" ").map(Number);
    return { nice: fields[16] ?? 0, ticks: (fields[11] ?? 0) + (fields[12] ?? 0) };
  });
}

const nicedTicks = (pid: number): number =>
  threadsOf(pid)
    .filter(({ nice }) => nice === 19)
    .reduce((sum, { ticks }) => sum + ticks, 0);

/** Logs in again and again with the right password for as long as others are too many. */
async function insist(
  at: ServedAccounts,
  email: string,
  password: string,
  until: Promise<unknown>,
) {
  const statuses: number[] = [];
  const load = { over: false };
  void until.finally(() => (load.over = true));
  while (!load.over) {
    const response = await at.call("POST", "/api/auth/login", { email, password });
    await response.arrayBuffer();
    statuses.push(response.status);
    await Bun.sleep(50);
  }
  return statuses;
}

/** So many rounds, each quiet at first, then beside 200 logins a second. */
export async function testLogins(rounds: number): Promise<void> {
  await using at = await serveAccounts("source", "postgres+redis", { TRUST_PROXY: "1" });
  const { url, pid } = at.server;
  const person = { email: "member@example.com", password: "a password of their own" };
  await at.must(201, "POST", "/api/auth/signup", { ...person, full_name: "A Member" });
  const member = await at.login(person.email, person.password);
  const [row] = await at.db().select().from(users);
  expect(row?.passwordHash).toStartWith("$argon2id$v=19$m=19456,t=2,p=1$");
  const headers = { Authorization: `Bearer ${await at.key(member)}` };
  await pollSteadily(url, headers, 1);

  const [quiet, loaded]: [number[][], number[][]] = [[], []];
  const given: LoginAnswer[][] = [];
  const statuses: number[] = [];
  const ticksBefore = nicedTicks(pid);
  for (let round = 0; round < rounds; round += 1) {
    quiet.push(await pollSteadily(url, headers, seconds));
    const offered = offerLogins({ url, perSecond: 200, seconds: seconds + 1 });
    const insisted = insist(at, member.email, member.password, offered);
    await Bun.sleep(500);
    loaded.push(await pollSteadily(url, headers, seconds));
    given.push(await offered);
    statuses.push(...(await insisted));
  }
  const ticks = nicedTicks(pid) - ticksBefore;
  const answers = given.flat();
  const [hashed, refused] = [401, 503].map((status) =>
    answers.filter((answer) => answer[0] === status),
  ) as [LoginAnswer[], LoginAnswer[]];
  const times = (some: LoginAnswer[]): number[] => some.map(([, , ms]) => ms);
  console.log(`polls: quiet ${figures(quiet.flat())}; loaded ${figures(loaded.flat())}`);
  console.log(
    `logins: ${answers.length} offered; ${hashed.length} hashed ${figures(times(hashed))}; ${refused.length} refused ${figures(times(refused))}`,
  );

  // Every one is answered: looked at, or told to come back.
  expect(answers.length).toBe(rounds * 200 * (seconds + 1));
  expect(hashed.length + refused.length).toBe(answers.length);
  expect(hashed.length).toBeGreaterThan(0);
  expect(refused.length).toBeGreaterThan(answers.length / 4);
  expect(refused.filter(([, , , retryAfter]) => !(retryAfter > 0))).toEqual([]);
  // A refusal waits for no hash, and what waits for one does not wait ever longer.
  const hashedMs = quantile(times(hashed), 0.5);
  expect(quantile(times(refused), 0.5)).toBeLessThan(Math.max(100, hashedMs / 2));
  const half = (seconds + 1) * 500;
  const early = times(hashed.filter(([, sentMs]) => sentMs < half));
  const late = times(hashed.filter(([, sentMs]) => sentMs >= half));
  expect(quantile(late, 0.5)).toBeLessThan(2 * quantile(early, 0.5) + 1_000);

  // Hashing was done, by threads that yield. Others on this machine slow single rounds, not all.
  expect(threadsOf(pid).filter(({ nice }) => nice === 19).length).toBeGreaterThan(0);
  expect(ticks).toBeGreaterThan(5);
  const best = (phases: number[][], part: number): number =>
    Math.min(...phases.map((phase) => quantile(phase, part)));
  expect(best(loaded, 0.5)).toBeLessThan(best(quiet, 0.5) + 8);
  expect(best(loaded, 0.99)).toBeLessThan(3 * best(quiet, 0.99) + 100);

  // Whoever was told to come back was not counted as somebody who guesses.
  expect(statuses.filter((status) => status !== 200 && status !== 503)).toEqual([]);
  expect(statuses.filter((status) => status === 503).length).toBeGreaterThan(10);
  expect((await at.login(member.email, member.password)).id).toBe(member.id);
}
