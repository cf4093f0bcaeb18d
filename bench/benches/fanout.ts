import { Database } from "bun:sqlite";
import type { Client } from "pg";
import { connectAccounts } from "../lib/accounts";
import type { Bench, Context } from "../lib/context";
import { pollsPerSecond, startPolled } from "../lib/polled";
import { emptyResult, type Result } from "../lib/result";
import { interleave } from "../lib/rounds";
import { fixed, spread } from "../lib/stats";
import { movedUs, p99MovedText, pushLatencies, spreadUs } from "../lib/tails";

export const fanout: Bench = {
  name: "fanout",
  title: "Polls while everybody is told of a signal",
  run,
};

const allowanceUs = 1_000;
const secondsMax = 30;
const lookMs = 250;

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  for (const embedded of [false, true]) await underFanOut(context, result, embedded);
  result.notes.push(
    `${fixed(pollsPerSecond)} polls/s with an API key over 64 connections, each timed from the moment it was due; the signal is written by another connection to the file as the round begins. Seconds are from that moment to the end of the job, by the clock of the database. Postgres and Redis share the generator's core, the embedded Postgres the server's.`,
  );
  return result;
}

async function underFanOut(context: Context, result: Result, embedded: boolean): Promise<void> {
  const title = embedded ? "embedded Postgres" : "Postgres and Redis";
  const accounts = context.quick ? 10_000 : 100_000;
  context.say(`  ${title}`);
  await using stack = new AsyncDisposableStack();
  const { databaseUrl, instance, db, poll } = await startPolled(stack, "fanout", embedded);
  const client = await connectAccounts(databaseUrl, instance);
  stack.defer(() => client.end());
  await fill(client, accounts);
  using engine = new Database(db, { readwrite: true });
  const told: Told[] = [];
  const samples = await interleave(context, [
    { name: "quiet", round: poll },
    { name: "quiet, again", round: poll },
    {
      name: "a premium signal is told",
      round: async (seconds) => {
        const id = write(engine);
        const writtenMs = Date.now();
        const sample = await poll(seconds);
        told.push(await tellingOf(client, id, writtenMs));
        return sample;
      },
    },
  ]);
  pushLatencies(result, title, samples);
  const [quiet, again, busy] = [...samples.values()];
  if (!quiet || !again || !busy) throw new Error("a variant has no samples");
  result.figures.push(
    {
      name: `2,000 polls/s while ${fixed(accounts)} accounts are told of a signal, ${title}: p99`,
      target: "≤ quiet + 1 ms beyond the spread",
      measured: p99MovedText(quiet, again, busy),
      met: movedUs(quiet, busy) <= allowanceUs + spreadUs(quiet, again),
    },
    {
      name: `A signal told to ${fixed(accounts)} accounts, ${title}`,
      target: `≤ ${secondsMax} s, each once`,
      measured: `${spread(
        told.map(({ seconds }) => seconds),
        1,
      )} s, ${told.filter(({ rows, users }) => rows !== accounts || users !== accounts).length} of ${told.length} not to each once`,
      met: told.every(
        ({ seconds, rows, users }) =>
          seconds <= secondsMax && rows === accounts && users === accounts,
      ),
    },
  );
}

/** Accounts whose plan shows premium signals, beside those that poll. */
async function fill(client: Client, accounts: number): Promise<void> {
  const step = 10_000;
  for (let from = 1; from <= accounts; from += step) {
    await client.query(
      `INSERT INTO users (id, email, full_name, password_hash, tier, created_at, updated_at,
         password_changed_at)
       SELECT gen_random_uuid(), 'reader' || n || '@example.com', 'A Reader', 'none', 'pro', now(),
         now(), now()
       FROM generate_series($1::int, $2::int) AS n`,
      [from, Math.min(accounts, from + step - 1)],
    );
  }
  await client.query("VACUUM ANALYZE users");
  const watched = "SELECT 1 FROM job_places WHERE name = 'premium_signals'";
  const deadline = performance.now() + 30_000;
  while ((await client.query(watched)).rowCount === 0) {
    if (performance.now() > deadline) throw new Error("signals are not watched");
    await Bun.sleep(lookMs);
  }
}

/** Writes a premium signal as an engine does. @returns its id. */
function write(engine: Database): number {
  const { lastInsertRowid } = engine.run(
    `INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
     VALUES ('SYM00', 'BUY', 100, 99, strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now'))`,
  );
  return Number(lastInsertRowid);
}

type Told = { seconds: number; rows: number; users: number };

/** Waits for the end of the job, counts whom it has told, and clears them away. */
async function tellingOf(client: Client, id: number, writtenMs: number): Promise<Told> {
  const done = `SELECT extract(epoch FROM completed_on) * 1000 AS ms FROM pgboss.job
    WHERE name = 'premium_signal' AND state = 'completed' AND data->>'reference' LIKE '${id} %'`;
  const deadline = performance.now() + 4 * secondsMax * 1_000;
  for (;;) {
    const { rows } = await client.query<{ ms: string }>(done);
    const [job] = rows;
    if (job) {
      const counts = `SELECT count(*) AS rows, count(DISTINCT user_id) AS users FROM notifications
        WHERE reference LIKE '${id} %'`;
      const [counted] = (await client.query<{ rows: string; users: string }>(counts)).rows;
      await client.query("TRUNCATE notifications");
      const seconds = (Number(job.ms) - writtenMs) / 1_000;
      return { seconds, rows: Number(counted?.rows), users: Number(counted?.users) };
    }
    if (performance.now() > deadline) throw new Error("a fan-out did not end");
    await Bun.sleep(lookMs);
  }
}
