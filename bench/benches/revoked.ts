import { type Backend, call, logIn, signUp, startAccounts, startBackend } from "../lib/accounts";
import { wireAnswer } from "../lib/bytes";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { latestPath } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { Servers } from "../lib/servers";
import { fixed, median, percentile } from "../lib/stats";

export const revoked: Bench = {
  name: "revoked",
  title: "A session ended here, felt elsewhere",
  run,
};

const lanes = 8;
const askEveryMs = 2;
const waitMsMax = 10_000;
/** The tables are looked at twice a second: logouts come at any time between two looks. */
const phaseMs = 500;

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  for (const withRedis of [true, false]) {
    await using backend = await startBackend();
    const most = withRedis ? 1_000 : 2_000;
    const delays = await endSessions(context, backend, withRedis);
    const p99 = percentile(delays, 99);
    result.figures.push({
      name: `a session ended, refused by another server, ${withRedis ? "with" : "without"} Redis: p99`,
      target: `≤ ${most / 1_000} s`,
      measured: `${fixed(p99, 1)} ms (median ${fixed(median(delays), 1)} ms, most ${fixed(Math.max(...delays), 1)} ms, ${delays.length} logouts)`,
      met: p99 <= most,
    });
  }
  result.notes.push(
    `Timed from the moment the logout was sent to the first 401 of the other server, which is asked every ${askEveryMs} ms with a token that it had just answered. Both servers share a core.`,
  );
  return result;
}

async function endSessions(
  context: Context,
  backend: Backend,
  withRedis: boolean,
): Promise<number[]> {
  await using servers = new Servers();
  const db = workingCopy(1_000, "revoked");
  servers.afterwards(() => discard(db));
  const shared = withRedis ? backend : { ...backend, redisUrl: null };
  const here = servers.add(await startAccounts({ db, instance: "revoked-1", backend: shared }));
  const there = servers.add(await startAccounts({ db, instance: "revoked-2", backend: shared }));
  const delays: number[] = [];
  const logouts = context.quick ? 2 : Math.ceil(200 / lanes);
  const lane = async () => {
    const person = await signUp(here);
    for (let i = 0; i < logouts; i += 1) {
      const { headers } = await logIn(here, person);
      await Bun.sleep(Math.random() * phaseMs);
      const known = await wireAnswer(there, headers, latestPath);
      if (known.status !== 200) throw new Error(`the other server answers ${known.status}`);
      const sentMs = performance.now();
      const ended = await call(here, "POST", "/api/auth/logout", undefined, headers);
      if (ended.status !== 204) throw new Error(`a logout: ${ended.status}`);
      while ((await wireAnswer(there, headers, latestPath)).status !== 401) {
        if (performance.now() - sentMs > waitMsMax) throw new Error("it is never felt");
        await Bun.sleep(askEveryMs);
      }
      delays.push(performance.now() - sentMs);
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return delays;
}
