import { Database } from "bun:sqlite";
import { wireAnswer } from "../lib/bytes";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { runGenerator } from "../lib/generator";
import { latestPath, portOf, readHeaders, startProduct } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { Servers } from "../lib/servers";
import type { StaleOptions, StaleReport } from "../lib/stale-client";
import { fixed } from "../lib/stats";

export const stale: Bench = { name: "stale", title: "Stale answers while another writes", run };

/** Commits a second, and the share of all polls that race them. */
const races = [
  { commitsPerSecond: 1, share: 0.2 },
  { commitsPerSecond: 100, share: 0.3 },
  { commitsPerSecond: 1_000, share: 0.5 },
];
const checkpointEveryMs = 500;

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  const polls = context.quick ? 60_000 : 1_000_000;
  await using servers = new Servers();
  const db = workingCopy(1_000_000, "stale");
  servers.afterwards(() => discard(db));
  const server = servers.add(await startProduct({ kind: "serve", db, instance: "stale" }));
  const first = await wireAnswer(server, readHeaders, latestPath);
  if (first.status !== 200) throw new Error(`status ${first.status}`);

  const rows: string[][] = [];
  let stales = 0;
  let asked = 0;
  let failures = 0;
  for (const { commitsPerSecond, share } of races) {
    context.say(`  ${commitsPerSecond} commits/s`);
    using checkpoints = new Checkpoints(db);
    const report = await runGenerator<StaleOptions, StaleReport>("stale-client.ts", {
      port: portOf(server),
      path: latestPath,
      headers: readHeaders,
      db,
      commitsPerSecond,
      polls: Math.round(polls * share),
      secondsMin: context.quick ? 3 : 20,
      connections: 16,
      promptConnections: 8,
      fresh: true,
      kills: 2,
    });
    stales += report.stale;
    asked += report.polls;
    failures += report.failures;
    result.notes.push(...report.examples.map((example) => `stale: ${example}`));
    rows.push([
      String(commitsPerSecond),
      fixed(report.polls),
      fixed(report.notModified),
      fixed(report.freshPolls),
      fixed(report.commits),
      `${checkpoints.taken} (${checkpoints.refused} met a lock)`,
      String(report.kills),
      fixed(report.polls / report.seconds),
      report.stale === 0 ? "0" : `${report.stale} (${report.freshStale} on new connections)`,
      String(report.failures),
    ]);
  }
  result.tables.push({
    title:
      "`serve` against the engine's ledger; a poll is judged by the highest id known as committed when it was sent",
    columns: [
      "commits/s",
      "polls",
      "of them 304",
      "first of a connection",
      "commits",
      "forced checkpoints",
      "kill -9",
      "polls/s",
      "stale",
      "failed",
    ],
    rows,
  });
  result.notes.push(
    `Body and Signal-Head are both checked. 16 connections poll without a pause, a quarter of them with If-None-Match; 8 more poll the moment the ledger grows, and so does a new connection each time. Every ${checkpointEveryMs} ms another process of SQLite truncates the log beside the writer's own checkpoints.`,
  );
  result.figures.push({
    name: "stale answers, racing the engine at 1, 100 and 1,000 commits/s, checkpoints, kill -9",
    target: "0 of 1,000,000 polls",
    measured: `${stales} of ${fixed(asked)} polls${failures > 0 ? `, ${failures} failed` : ""}`,
    met: stales === 0 && failures === 0 && (context.quick || asked >= 1_000_000),
  });
  return result;
}

/** Checkpoints from outside, at a fixed pace; by SQLite 3.53, which is free of the WAL-reset bug. */
class Checkpoints implements Disposable {
  taken = 0;
  refused = 0;
  readonly #db: Database;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(path: string) {
    this.#db = new Database(path);
    this.#db.run("PRAGMA busy_timeout = 50");
    const checkpoint = this.#db.query<{ busy: number }, []>("PRAGMA wal_checkpoint(TRUNCATE)");
    this.#timer = setInterval(() => {
      if (checkpoint.get()?.busy === 0) this.taken += 1;
      else this.refused += 1;
    }, checkpointEveryMs);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#db.close();
  }
}
