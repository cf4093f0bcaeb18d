import { join } from "node:path";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { Engine } from "../lib/engine";
import { fixedRateRound, runGenerator } from "../lib/generator";
import type { IngestOptions, IngestReport } from "../lib/ingest-client";
import { benchDir } from "../lib/paths";
import type { Server } from "../lib/peers";
import { generatorCore, spawnPinned } from "../lib/process";
import { latestPath, portOf, readHeaders, startProduct, writeHeaders } from "../lib/product";
import { emptyResult, type Result, unmeasured } from "../lib/result";
import { movedUs, p99MovedText, pushLatencies, type Samples, spreadUs } from "../lib/tails";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { fixed, median } from "../lib/stats";
import { straceSyncs } from "../lib/strace";

export const tail: Bench = { name: "tail", title: "Latency at a fixed rate", run };

const pollsPerSecond = 2_000;
const commitsPerSecond = 1_000;
/** What p99 may move under commits, beyond the spread of the quiet server against itself. */
const commitsAllowanceUs = 1_000;
/** "Unmoved": within the spread of the quiet server against itself and this. */
const unmovedAllowanceUs = 500;
const cpuLimit = 1.5;
const syncDelayUs = 20_000;

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await underCommits(context, result);
  await underLock(context, result);
  await underSlowDisk(context, result);
  result.notes.push(
    `${fixed(pollsPerSecond)} polls/s over 64 connections, each poll timed from the moment it was due. The engine and other writers share the generator's core; the generator runs at real-time priority, sleeps 50 µs a turn and takes each answer at its next turn, so every latency includes up to 0.1 ms of its own.`,
    `Spread: the median over the rounds of |p99 − p99| between the quiet server and itself. "Unmoved" means within that spread and ${fixed(unmovedAllowanceUs / 1_000, 1)} ms.`,
  );
  return result;
}

const poll = (server: Server, seconds: number) =>
  fixedRateRound(
    {
      port: portOf(server),
      path: latestPath,
      headers: readHeaders,
      requestsPerSecond: pollsPerSecond,
      seconds,
      connections: 64,
    },
    server.pid,
  );

async function underCommits(context: Context, result: Result): Promise<void> {
  context.say("  under commits");
  await using servers = new Servers();
  const db = workingCopy(1_000_000, "tail");
  servers.afterwards(() => discard(db));
  const server = servers.add(await startProduct({ kind: "serve", db, instance: "tail" }));
  let commits = 0;
  let seconds = 0;
  const samples = await interleave(context, [
    { name: "quiet", round: (s) => poll(server, s) },
    { name: "quiet, again", round: (s) => poll(server, s) },
    {
      name: `${fixed(commitsPerSecond)} commits/s`,
      round: async (s) => {
        const engine = new Engine(db, commitsPerSecond, undefined, generatorCore);
        await engine.start();
        const before = engine.commits;
        const startedMs = performance.now();
        const sample = await poll(server, s);
        commits += engine.commits - before;
        seconds += (performance.now() - startedMs) / 1_000;
        await engine.kill();
        return sample;
      },
    },
  ]);
  pushLatencies(result, "While the engine commits", samples);
  const [quiet, again, busy] = [...samples.values()];
  if (!quiet || !again || !busy) throw new Error("a variant has no samples");
  const moved = movedUs(quiet, busy);
  const floor = spreadUs(quiet, again);
  const cpu =
    median(busy.map((s) => s.cpuUsPerRequest)) / median(quiet.map((s) => s.cpuUsPerRequest));
  result.figures.push(
    {
      name: "2,000 polls/s while 1,000 commits/s arrive: p99",
      target: "≤ quiet + 1 ms beyond the spread",
      measured: p99MovedText(quiet, again, busy),
      met: moved <= commitsAllowanceUs + floor,
    },
    {
      name: "the same: CPU-µs a poll, × quiet",
      target: `≤ ${cpuLimit}`,
      measured: fixed(cpu, 2),
      met: cpu <= cpuLimit,
    },
  );
  result.notes.push(`The engine reached ${fixed(commits / seconds)} commits/s.`);
}

async function underLock(context: Context, result: Result): Promise<void> {
  context.say("  while another process holds the write lock");
  const name = "p99 while another process holds the write lock for 10 s";
  await using servers = new Servers();
  const db = workingCopy(1_000_000, "tail-lock");
  servers.afterwards(() => discard(db));
  const server = servers.add(await startProduct({ kind: "serve", db, instance: "tail-lock" }));
  const heldSeconds = context.quick ? 3 : 10;
  const pollSeconds = heldSeconds - 1;
  let refused = 0;
  const samples = await interleave(
    context,
    [
      { name: "quiet", round: (s) => poll(server, s) },
      { name: "quiet, again", round: (s) => poll(server, s) },
      {
        name: `locked for ${heldSeconds} s, posts arriving`,
        round: async (s) => {
          await using holder = spawnPinned(
            ["python3", join(benchDir, "lib/lock-holder.py"), db, String(s + 1)],
            { core: generatorCore, log: "lock-holder", pipeOutput: true },
          );
          await firstOutput(holder.handle.stdout);
          const [sample, posts] = await Promise.all([poll(server, s), ingest(server, s, 4)]);
          refused += posts.failures;
          return sample;
        },
      },
    ],
    context.quick ? 1 : 3,
    pollSeconds,
  );
  pushLatencies(result, "While the write lock is held elsewhere", samples);
  pushUnmoved(result, name, samples);
  result.notes.push(
    `${refused} posts that met the held lock were refused (503), as they should be.`,
  );
}

async function underSlowDisk(context: Context, result: Result): Promise<void> {
  context.say("  with fdatasync delayed");
  const name = "p99 with fdatasync delayed by 20 ms, posts arriving";
  const trace = straceSyncs("tail", syncDelayUs);
  if ("missing" in trace) {
    result.missing.push(`strace: ${trace.missing}`);
    result.figures.push(unmeasured(name, "unmoved", trace.missing));
    return;
  }
  await using servers = new Servers();
  const db = workingCopy(1_000_000, "tail-disk");
  servers.afterwards(() => discard(db));
  const server = servers.add(
    await startProduct({ kind: "serve", db, instance: "tail-disk", under: trace.under }),
  );
  let posts: IngestReport | undefined;
  const samples = await interleave(context, [
    { name: "quiet", round: (s) => poll(server, s) },
    { name: "quiet, again", round: (s) => poll(server, s) },
    {
      name: "fdatasync delayed by 20 ms, posts arriving",
      round: async (s) => {
        const [sample, report] = await Promise.all([poll(server, s), ingest(server, s, 8)]);
        if (report.failures > 0) throw new Error(`a post failed: ${report.firstFailure}`);
        posts = report;
        return sample;
      },
    },
  ]);
  pushLatencies(result, "With a slow disk (strace delays each sync of the server)", samples);
  pushUnmoved(result, name, samples);
  if (posts) {
    result.notes.push(
      `With the slow disk, ${fixed(posts.posts / posts.seconds)} posts/s were acknowledged, p50 ${fixed(posts.p50Us / 1_000, 2)} ms.`,
    );
  }
}

let runs = 100;

const ingest = (server: Server, seconds: number, inFlight: number) =>
  runGenerator<IngestOptions, IngestReport>("ingest-client.ts", {
    port: portOf(server),
    headers: writeHeaders,
    inFlight,
    rowsPerPost: 1,
    seconds,
    run: runs++,
  });

async function firstOutput(output: unknown): Promise<void> {
  if (!(output instanceof ReadableStream)) throw new Error("the output is not piped");
  const reader = output.getReader();
  await reader.read();
  reader.releaseLock();
}

function pushUnmoved(result: Result, name: string, samples: Samples): void {
  const [quiet, again, busy] = [...samples.values()];
  if (!quiet || !again || !busy) throw new Error("a variant has no samples");
  const moved = movedUs(quiet, busy);
  const floor = spreadUs(quiet, again);
  result.figures.push({
    name,
    target: "unmoved",
    measured: p99MovedText(quiet, again, busy),
    met: moved <= unmovedAllowanceUs + floor,
  });
}
