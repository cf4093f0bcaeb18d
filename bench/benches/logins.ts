import { connectAccounts, type Person, signUp } from "../lib/accounts";
import type { Bench, Context } from "../lib/context";
import { runGenerator } from "../lib/generator";
import type { LoginOptions, LoginReport } from "../lib/login-client";
import { pollsPerSecond, startPolled } from "../lib/polled";
import { emptyResult, type Result } from "../lib/result";
import { movedUs, p99MovedText, pushLatencies, spreadUs } from "../lib/tails";
import { interleave } from "../lib/rounds";
import { fixed, spread } from "../lib/stats";

export const logins: Bench = {
  name: "logins",
  title: "Polls while others log in and a heavy query runs",
  run,
};

const loginsPerSecond = 50;
const allowanceUs = 1_000;
/** Enough that none comes near the limit of attempts of one account. */
const peopleCount = 40;
const heavyMs = 1_000;
const trialRows = 100_000;
const warmMs = 2_000;

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  for (const embedded of [false, true]) await underLogins(context, result, embedded);
  result.notes.push(
    `${fixed(pollsPerSecond)} polls/s with an API key over 64 connections, each timed from the moment it was due; ${loginsPerSecond} logins/s with right passwords of ${peopleCount} accounts, each sent when it is due; and, one after the other, queries that reckon for about a second. Passwords are hashed on the server's core, beside the polls. Postgres and Redis share the generator's core, the embedded Postgres the server's: there all queries wait for the heavy one, those of the logins too.`,
  );
  return result;
}

async function underLogins(context: Context, result: Result, embedded: boolean): Promise<void> {
  const title = embedded ? "embedded Postgres" : "Postgres and Redis";
  context.say(`  ${title}`);
  await using stack = new AsyncDisposableStack();
  const { databaseUrl, instance, server, poll } = await startPolled(stack, "logins", embedded);
  const people: Person[] = [];
  while (people.length < peopleCount) people.push(await signUp(server));
  const heavy = await openHeavy(databaseUrl, instance);
  stack.defer(() => heavy.client.end());
  const answered = new Map<string, number>();
  const samples = await interleave(context, [
    { name: "quiet", round: poll },
    { name: "quiet, again", round: poll },
    {
      name: `${loginsPerSecond} logins/s, heavy queries`,
      round: async (seconds) => {
        const over = new AbortController();
        const querying = (async () => {
          while (!over.signal.aborted) await heavy.query();
        })();
        const url = new URL("/api/auth/login", server.url).href;
        const offered = { url, logins: people, loginsPerSecond, seconds };
        const [sample, report] = await Promise.all([
          poll(seconds),
          runGenerator<LoginOptions, LoginReport>("login-client.ts", offered),
        ]);
        over.abort();
        await querying;
        for (const [status, count] of Object.entries(report.answered)) {
          answered.set(status, (answered.get(status) ?? 0) + count);
        }
        return sample;
      },
    },
  ]);
  pushLatencies(result, title, samples);
  const [quiet, again, busy] = [...samples.values()];
  if (!quiet || !again || !busy) throw new Error("a variant has no samples");
  result.figures.push({
    name: `2,000 polls/s while ${loginsPerSecond} logins/s are offered and a query of 1 s runs, ${title}: p99`,
    target: "≤ quiet + 1 ms beyond the spread",
    measured: p99MovedText(quiet, again, busy),
    met: movedUs(quiet, busy) <= allowanceUs + spreadUs(quiet, again),
  });
  const told = [...answered].map(([status, count]) => `${fixed(count)} × ${status}`);
  result.notes.push(
    `${title}: logins answered ${told.join(", ")}; ${heavy.tookMs.length} heavy queries took ${spread(heavy.tookMs, 0)} ms.`,
  );
}

/** A query that only reckons, made long enough on this machine, through a connection of its own. */
async function openHeavy(databaseUrl: string | null, instance: string) {
  const client = await connectAccounts(databaseUrl, instance);
  const reckon = async (rows: number): Promise<number> => {
    const startedMs = performance.now();
    await client.query(
      `SELECT count(*) FROM (SELECT generate_series(1, ${rows}) AS i) AS n
       WHERE md5(i::text) < '8'`,
    );
    return performance.now() - startedMs;
  };
  // The embedded one is several times faster once it has run for a moment.
  let trialMs = Infinity;
  for (const endMs = performance.now() + warmMs; performance.now() < endMs;) {
    trialMs = Math.min(trialMs, await reckon(trialRows));
  }
  const rows = Math.round((trialRows * heavyMs) / trialMs);
  const tookMs: number[] = [];
  return { client, tookMs, query: async () => void tookMs.push(await reckon(rows)) };
}
