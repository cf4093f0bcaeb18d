import { sql } from "drizzle-orm";
import * as schema from "../../db/alpine/schema";
import { migrate } from "../../src/alpine/database";
import { Usage, usageIntervalSeconds } from "../../src/alpine/usage/usage";
import { Meters } from "../../src/http/meter";
import { createLog } from "../../src/platform/log";
import { Postgres } from "../../src/platform/postgres";
import { startBackend } from "../lib/accounts";
import type { Bench, Context } from "../lib/context";
import { emptyResult, type Result } from "../lib/result";
import { fixed, median, spread } from "../lib/stats";

export const usage: Bench = {
  name: "usage",
  title: "What counting costs, and writing the counts down",
  run,
};

const keys = 10_000;
const pollsPerSecond = 50_000;
const pollsPerTurn = 8;
const shareMax = 0.01;

/**
 * The counting of a busy server without its polls: each interval as many answers are counted as
 * 50,000 polls a second by 10,000 accounts are, then written down. CPU is this process's alone.
 */
async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using backend = await startBackend();
  const log = createLog("silent");
  const at = { url: backend.databaseUrl };
  await using postgres = Postgres.open(
    { at, poolSize: 4, maxOverflow: 0, recycleSeconds: 0, log },
    schema,
  );
  await migrate(postgres.db);
  const ids = Array.from({ length: keys }, () => Bun.randomUUIDv7());
  await postgres.db.execute(sql`
    INSERT INTO users (id, email, full_name, password_hash, created_at, updated_at,
      password_changed_at)
    SELECT id, id || '@example.com', 'Somebody', 'none', now(), now(), now()
    FROM unnest(${sql.param(ids)}::uuid[]) AS id`);
  await postgres.db.execute(sql`
    INSERT INTO api_keys (id, user_id, name, prefix, hash, scopes, created_at)
    SELECT id, id, 'a key', 'argo_live_000000', sha256(id::text::bytea), '{signals:read}', now()
    FROM users`);
  await postgres.db.execute(sql`ANALYZE`);

  const meters = new Meters({ now: Date.now });
  const takeUsed = () => new Map(ids.map((id) => [id, Date.now()]));
  const db = () => postgres.db;
  const writer = new Usage({ db, credentials: { takeUsed }, meters, log });
  const polled = ids.map((id) => meters.of(id));
  let newest = 10;
  let shown: readonly number[] = [];
  const newSignal = (): void => {
    newest += 1;
    shown = Object.freeze(Array.from({ length: 10 }, (_, i) => newest - i));
  };
  newSignal();

  const polls = pollsPerSecond * usageIntervalSeconds;
  const rounds = context.quick ? 3 : 12;
  const counting: number[] = [];
  const shares = { counts: [] as number[], keys: [] as number[], journal: [] as number[] };
  const costOf = async (work: () => Promise<void>): Promise<number> => {
    const before = process.cpuUsage();
    await work();
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1e6 / usageIntervalSeconds;
  };
  const count = async (): Promise<void> => {
    const begun = performance.now();
    for (let i = 0; i < polls; i += 1) {
      // As many as are answered in one turn of the event loop.
      if (i % pollsPerTurn === 0) await Promise.resolve();
      const meter = polled[(i * 7_919) % keys];
      meter?.answered("signals", 200);
      meter?.deliver(shown);
    }
    counting.push(((performance.now() - begun) * 1_000) / polls);
  };
  for (let round = 0; round <= rounds; round += 1) {
    await count();
    const counts = await costOf(() => writer.flushCounts());
    const used = await costOf(() => writer.flush());
    newSignal();
    await count();
    const journal = await costOf(() => writer.flushCounts());
    // The first of each warms up, and finds nobody's row.
    if (round === 0) continue;
    shares.counts.push(counts);
    // Every sixth time.
    shares.keys.push((used * usageIntervalSeconds) / 30);
    shares.journal.push(journal);
  }
  const { rows } = await postgres.db.execute<{ requests: string; delivered: string }>(
    sql`SELECT sum(requests) AS requests, sum(delivered) AS delivered FROM usage`,
  );
  const due = polls * 2 * (rounds + 1);
  if (Number(rows[0]?.requests) !== due || Number(rows[0]?.delivered) !== due * 10) {
    throw new Error(`counted ${JSON.stringify(rows[0])}, not ${due}`);
  }
  const percent = (found: number[]) =>
    `${spread(
      found.map((share) => share * 100),
      2,
    )} %`;
  const both = shares.counts.map((share, i) => share + (shares.keys[i] ?? 0));
  result.tables.push({
    title: `${fixed(pollsPerSecond)} polls/s by ${fixed(keys)} keys: CPU of the server's process as a share of the time`,
    columns: ["work", "CPU"],
    rows: [
      ["counts of all who came, every 5 s", percent(shares.counts)],
      ["times at which keys were used, every 30 s", percent(shares.keys)],
      ["counts, and one new signal delivered to all", percent(shares.journal)],
    ],
  });
  result.notes.push(`To count one answer and what it delivers takes ${spread(counting, 3)} µs.`);
  result.figures.push({
    name: `usage written down at ${fixed(pollsPerSecond)} polls/s over ${fixed(keys)} keys`,
    target: "≤ 1 % of CPU",
    measured: percent(both),
    met: median(both) <= shareMax,
  });
  return result;
}
