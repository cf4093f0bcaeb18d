import { call, logIn, type Session, signUp, startAccounts, startBackend } from "../lib/accounts";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { emptyResult, type Result } from "../lib/result";
import { Servers } from "../lib/servers";
import { fixed } from "../lib/stats";

export const lookups: Bench = { name: "lookups", title: "Users looked up without Postgres", run };

const mePath = "/api/auth/me";
const users = 100;
const everyMs = 500;
/** Polls of one user from one change of their profile to the next. */
const pollsPerChange = 25;
const leastShare = 0.85;

/** Everybody asks who they are, each at a time of their own, and now and then changes their name. */
async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using backend = await startBackend();
  await using servers = new Servers();
  const db = workingCopy(1_000, "lookups");
  servers.afterwards(() => discard(db));
  const server = servers.add(await startAccounts({ db, instance: "lookups", backend }));
  const seconds = context.quick ? 5 : 40;
  const sessions: Session[] = [];
  while (sessions.length < users) sessions.push(await logIn(server, await signUp(server)));
  let [polls, misses, changes] = [0, 0, 0];
  const endMs = performance.now() + seconds * 1_000;
  const user = async ({ headers }: Session, i: number) => {
    await Bun.sleep((i * everyMs) / users);
    for (let n = 1; performance.now() < endMs; n += 1) {
      const answer = await call(server, "GET", mePath, undefined, headers);
      await answer.text();
      if (answer.status !== 200) throw new Error(`${mePath}: ${answer.status}`);
      polls += 1;
      if (answer.headers.get("x-cache") !== "hit") misses += 1;
      if ((n + i) % pollsPerChange === 0) {
        const body = { full_name: `User ${i} ${n}` };
        const changed = await call(server, "PUT", "/api/users/profile", body, headers);
        if (changed.status !== 200) throw new Error(`a profile: ${await changed.text()}`);
        await changed.text();
        changes += 1;
      }
      await Bun.sleep(everyMs);
    }
  };
  await Promise.all(sessions.map(user));
  const share = 1 - misses / polls;
  result.figures.push({
    name: `users looked up without Postgres, ${users} users polling`,
    target: "≥ 85 %",
    measured: `${fixed(100 * share, 1)} % of ${fixed(polls)}, ${fixed(changes)} profiles changed meanwhile`,
    met: share >= leastShare,
  });
  result.notes.push(
    `Each user asks twice a second, from an empty cache on, for ${seconds} s; what is held ends by itself after the default five minutes.`,
  );
  return result;
}
