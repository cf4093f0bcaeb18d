import { call, logIn, makeKey, signUp, startAccounts, startBackend } from "../lib/accounts";
import { wireAnswer } from "../lib/bytes";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { get, repeatableHeaders } from "../lib/http";
import { startPeer } from "../lib/peers";
import { emptyResult, type Result } from "../lib/result";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { fixed, median, ratios, spread } from "../lib/stats";
import { type Sample, wrkRound } from "../lib/wrk";

export const subscribed: Bench = {
  name: "subscribed",
  title: "An account's own view of the signals, for each plan",
  run,
};

const path = "/api/signals/subscribed?limit=10";
const least = 0.6;

/** Each plan's first page, beside a raw Bun server that sends the same bytes to the same headers. */
async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using backend = await startBackend();
  await using servers = new Servers();
  const db = workingCopy(1_000_000, "subscribed");
  servers.afterwards(() => discard(db));
  const serve = servers.add(await startAccounts({ db, instance: "subscribed", backend }));
  const rounds: { name: string; round: (seconds: number) => Promise<Sample> }[] = [];
  const tiers = ["starter", "pro", "elite"];
  for (const tier of tiers) {
    const session = await logIn(serve, await signUp(serve));
    const key = await makeKey(serve, session);
    const me = await call(serve, "GET", "/api/auth/me", undefined, session.headers);
    const { id } = (await me.json()) as { id: string };
    await call(serve, "PATCH", `/api/admin/users/${id}`, { tier }, serve.operator.headers);
    const url = new URL(path, serve.url).href;
    // Until the key is known by its new plan.
    await Bun.sleep(1_000);
    const { body, headers } = await get(url, key);
    const start = { body, headers: repeatableHeaders(headers), db, sql: "", instance: tier };
    const constant = await startPeer("raw-constant", start);
    if ("missing" in constant) throw new Error(constant.missing);
    servers.add(constant);
    for (const [name, server] of [
      [tier, serve],
      [`${tier} constant`, constant],
    ] as const) {
      const answer = await wireAnswer(server, key, path);
      if (answer.status !== 200 || answer.body.toString() !== body) {
        throw new Error(`${name} answers ${answer.status} ${answer.body.toString()}`);
      }
      const load = { headers: key, answerBytes: answer.bytes, serverPid: server.pid };
      const at = new URL(path, server.url).href;
      rounds.push({ name, round: (seconds) => wrkRound({ ...load, url: at, seconds }) });
    }
  }
  const samples = await interleave(context, rounds);
  const of = (name: string) => samples.get(name) ?? [];
  const rate = (name: string) => of(name).map((sample) => sample.requestsPerSecond);
  const cpu = (name: string) => median(of(name).map((sample) => sample.cpuUsPerRequest));
  result.tables.push({
    title: "Closed loop, 32 connections, medians (least–greatest) of the rounds",
    columns: ["variant", "requests/s", "× constant", "CPU-µs/request"],
    rows: rounds.map(({ name }) => {
      const constant = rate(`${name.split(" ")[0]} constant`);
      const against = spread(ratios(rate(name), constant), 2);
      return [name, spread(rate(name), 0), against, fixed(cpu(name), 1)];
    }),
  });
  for (const tier of tiers) {
    const found = ratios(rate(tier), rate(`${tier} constant`));
    result.figures.push({
      name: `\`/api/signals/subscribed\` of ${tier}, × raw Bun constant`,
      target: `≥ ${least}`,
      measured: `${spread(found, 2)} ×`,
      met: median(found) >= least,
    });
  }
  return result;
}
