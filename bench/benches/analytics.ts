import { countAnalytics, periodsOf } from "../../src/alpine/admin/analytics";
import * as schema from "../../db/alpine/schema";
import { createLog } from "../../src/platform/log";
import { Postgres } from "../../src/platform/postgres";
import { connectAccounts, startAccounts, startBackend } from "../lib/accounts";
import { wireAnswer } from "../lib/bytes";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { get, repeatableHeaders } from "../lib/http";
import { startPeer } from "../lib/peers";
import { emptyResult, type Result } from "../lib/result";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { fixed, median, ratios, spread } from "../lib/stats";
import { wrkRound } from "../lib/wrk";

export const analytics: Bench = {
  name: "analytics",
  title: "Analytics of a million users",
  run,
};

const path = "/api/admin/analytics";
const timesPerRound = 5;
const shareMax = 0.5;
const rateMin = 20_000;
const leastOfConstant = 0.2;

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  const users = context.quick ? 50_000 : 1_000_000;
  await using backend = await startBackend();
  await using servers = new Servers();
  const db = workingCopy(1_000, "analytics");
  servers.afterwards(() => discard(db));
  const server = servers.add(await startAccounts({ db, instance: "analytics", backend }));
  const { headers } = server.operator;
  const client = await connectAccounts(backend.databaseUrl, "analytics");
  servers.afterwards(() => client.end());
  context.say(`  making ${fixed(users)} users`);
  // Who come over two years, more of them lately; a fiftieth are shut out.
  await client.query(
    `INSERT INTO users (id, email, full_name, password_hash, tier, is_active, created_at,
       updated_at, password_changed_at)
     SELECT gen_random_uuid(), 'user' || n || '@example.org', 'Name ' || md5(n::text),
       repeat('x', 97), (ARRAY['starter', 'starter', 'starter', 'pro', 'elite'])[1 + n % 5],
       n % 50 <> 0, at, at, at
     FROM (SELECT n, now() - random() * random() * interval '730 days' AS at
           FROM generate_series(1, $1) AS n) AS made`,
    [users],
  );
  await client.query("VACUUM ANALYZE users");

  const log = createLog("silent");
  const at = { url: backend.databaseUrl };
  await using postgres = Postgres.open(
    { at, poolSize: 1, maxOverflow: 0, recycleSeconds: 0, log },
    schema,
  );
  const statements = eight(Date.now());
  const timed = async (work: () => Promise<unknown>): Promise<number> => {
    const took: number[] = [];
    for (let i = 0; i < timesPerRound; i += 1) {
      const begun = performance.now();
      await work();
      took.push(performance.now() - begun);
    }
    return median(took);
  };
  const counted = await interleave(context, [
    {
      name: "one",
      round: () => timed(() => countAnalytics(postgres.db, Date.now())),
    },
    {
      name: "eight",
      round: () =>
        timed(async () => {
          for (const text of statements) await client.query(text);
        }),
    },
  ]);
  const [one = [], eightMs = []] = [counted.get("one"), counted.get("eight")];
  result.tables.push({
    title: `${fixed(users)} users, medians (least–greatest) of the rounds, ms`,
    columns: ["what", "ms", "× eight"],
    rows: [
      ["all of analytics, usage too", spread(one, 1), spread(ratios(one, eightMs))],
      ["eight counts, one after the other", spread(eightMs, 1), "1"],
    ],
  });
  result.figures.push({
    name: `analytics on ${fixed(users)} users, uncached, × the eight counts it replaces`,
    target: `≤ ${shareMax}`,
    measured: `${spread(ratios(one, eightMs))} ×`,
    met: median(ratios(one, eightMs)) <= shareMax,
  });

  const url = new URL(path, server.url).href;
  await get(url, headers);
  const answer = await get(url, headers);
  const start = { body: answer.body, headers: repeatableHeaders(answer.headers), db, sql: "" };
  const constant = await startPeer("raw-constant", { ...start, instance: "analytics" });
  if ("missing" in constant) throw new Error(constant.missing);
  servers.add(constant);
  const rounds = await Promise.all(
    [server, constant].map(async (peer) => {
      const { bytes: answerBytes, status } = await wireAnswer(peer, headers, path);
      if (status !== 200) throw new Error(`${peer.name} answers ${status}`);
      const load = { headers, answerBytes, serverPid: peer.pid, url: new URL(path, peer.url).href };
      return { name: peer.name, round: (seconds: number) => wrkRound({ ...load, seconds }) };
    }),
  );
  const samples = await interleave(context, rounds);
  const rate = (name: string) =>
    (samples.get(name) ?? []).map((sample) => sample.requestsPerSecond);
  const [ours, theirs] = [rate(server.name), rate(constant.name)];
  const against = ratios(ours, theirs);
  result.tables.push({
    title: "Cached: closed loop, 32 connections, medians (least–greatest) of the rounds",
    columns: ["variant", "requests/s", "× constant"],
    rows: [
      [`\`${path}\``, spread(ours, 0), spread(against)],
      ["raw Bun, the same bytes and headers", spread(theirs, 0), "1"],
    ],
  });
  result.figures.push({
    name: "the same, cached",
    target: `≥ ${fixed(rateMin)} requests/s or ${leastOfConstant} × raw Bun constant`,
    measured: `${spread(ours, 0)} requests/s, ${spread(against)} ×`,
    met: median(ours) >= rateMin || median(against) >= leastOfConstant,
  });
  return result;
}

/** What one statement replaces: a count for each number that is shown. */
function eight(nowMs: number): string[] {
  const { today, week, month } = periodsOf(nowMs);
  const since = (at: Date) => `created_at >= '${at.toISOString()}'`;
  const tier = (name: string) => `tier = '${name}'`;
  const conditions = ["is_active", since(today), since(week), since(month)];
  conditions.push(tier("starter"), tier("pro"), tier("elite"));
  return [
    "SELECT count(*) FROM users",
    ...conditions.map((condition) => `SELECT count(*) FROM users WHERE ${condition}`),
  ];
}
