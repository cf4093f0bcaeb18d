import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { BareOptions, BareReport } from "../lib/bare-transaction";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { runGenerator } from "../lib/generator";
import type { IngestOptions, IngestReport } from "../lib/ingest-client";
import { benchDir, cacheDir } from "../lib/paths";
import type { Server } from "../lib/peers";
import { serverCore, spawnPinned } from "../lib/process";
import { type Kind, portOf, startProduct, writeHeaders } from "../lib/product";
import { emptyResult, type Result, unmeasured } from "../lib/result";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { fixed, median, ratios, spread } from "../lib/stats";
import { readSyncs, straceSyncs } from "../lib/strace";

export const ingest: Bench = { name: "ingest", title: "Ingest", run };

const rows = 1_000_000;
const inFlight = 64;
const rowsPerBatch = 1_000;
const batchesInFlight = 4;
const acksPerSyncMin = 16;
const syncDelayUs = 20_000;
/** How far the clocks of strace and of the client may be apart. */
const clockSlackMs = 1;

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await countSyncs(context, result);
  await proveOrder(context, result);
  await compareUnsynced(context, result);
  await compareBatches(context, result);
  return result;
}

let runs = 0;

async function post(
  server: Server,
  options: Pick<IngestOptions, "inFlight" | "rowsPerPost" | "seconds" | "ledger">,
): Promise<IngestReport> {
  const report = await runGenerator<IngestOptions, IngestReport>("ingest-client.ts", {
    port: portOf(server),
    headers: writeHeaders,
    run: runs++,
    ...options,
  });
  if (report.failures > 0) throw new Error(`a post failed: ${report.firstFailure}`);
  if (report.duplicates > 0) throw new Error(`${report.duplicates} posts were duplicates`);
  return report;
}

async function countSyncs(context: Context, result: Result): Promise<void> {
  const name = "ingest, 64 in flight, one signal a request: acknowledgements for each fsync";
  const target = `≥ ${acksPerSyncMin}`;
  const trace = straceSyncs("ingest");
  if ("missing" in trace) {
    result.missing.push(`strace: ${trace.missing}`);
    result.figures.push(unmeasured(name, target, trace.missing));
    return;
  }
  context.say("  acknowledgements for each fsync");
  await using servers = new Servers();
  const db = workingCopy(rows, "ingest-syncs");
  servers.afterwards(() => discard(db));
  const server = servers.add(
    await startProduct({ kind: "serve", db, instance: "ingest-syncs", under: trace.under }),
  );
  await post(server, { inFlight, rowsPerPost: 1, seconds: 1 });
  const before = readSyncs(trace.file).length;
  const report = await post(server, { inFlight, rowsPerPost: 1, seconds: context.secondsPerRound });
  const syncs = readSyncs(trace.file).slice(before);
  const ratio = report.posts / syncs.length;
  const log = syncs.filter(({ path }) => path.endsWith("-wal")).length;
  result.figures.push({
    name,
    target,
    measured: `${fixed(ratio, 1)} (${fixed(report.posts)} acknowledged, ${fixed(syncs.length)} syncs, ${fixed(log)} of them of the log, the rest of checkpoints)`,
    met: ratio >= acksPerSyncMin,
  });
}

async function proveOrder(context: Context, result: Result): Promise<void> {
  const name = "ingest: acknowledged before its own fsync had returned";
  const trace = straceSyncs("ingest-order", syncDelayUs);
  if ("missing" in trace) {
    result.figures.push(unmeasured(name, "0", trace.missing));
    return;
  }
  context.say("  no acknowledgement before its fsync");
  await using servers = new Servers();
  const db = workingCopy(1_000, "ingest-order");
  servers.afterwards(() => discard(db));
  const server = servers.add(
    await startProduct({ kind: "serve", db, instance: "ingest-order", under: trace.under }),
  );
  const ledger = join(cacheDir, "logs", "ingest-ledger.txt");
  const seconds = context.secondsPerRound;
  const report = await post(server, { inFlight, rowsPerPost: 1, seconds, ledger });
  const syncs = readSyncs(trace.file).filter(({ path }) => path.endsWith("-wal"));
  const acks = readFileSync(ledger, "utf8").trim().split("\n");
  let early = 0;
  for (const line of acks) {
    const [sentMs = 0, ackedMs = 0] = line.split(" ").map(Number);
    const covered = syncs.some(
      ({ startMs, endMs }) => startMs >= sentMs - clockSlackMs && endMs <= ackedMs + clockSlackMs,
    );
    if (!covered) early += 1;
  }
  result.figures.push({
    name,
    target: "0",
    measured: `${early} of ${fixed(acks.length)}`,
    met: early === 0 && acks.length > 0,
  });
  result.notes.push(
    `Order: with each sync held back by ${syncDelayUs / 1_000} ms, a sync of the log must begin after the post was sent and return before its answer came (clocks within ${clockSlackMs} ms). The fastest post took ${fixed(report.minUs / 1_000, 1)} ms.`,
  );
}

async function compareUnsynced(context: Context, result: Result): Promise<void> {
  context.say("  against synchronous=OFF");
  await using servers = new Servers();
  const variants = [];
  for (const kind of ["serve", "unsynced"] satisfies Kind[]) {
    const instance = `ingest-${kind}`;
    const db = workingCopy(rows, instance);
    servers.afterwards(() => discard(db));
    const server = servers.add(await startProduct({ kind, db, instance }));
    variants.push({
      name: kind === "serve" ? "**durable, as `serve` runs it**" : "`synchronous=OFF`",
      round: (seconds: number) => post(server, { inFlight, rowsPerPost: 1, seconds }),
    });
  }
  const samples = await interleave(context, variants);
  const [durable, unsynced] = [...samples.values()].map(rates);
  const found = ratios(durable ?? [], unsynced ?? []);
  result.tables.push({
    title: `One signal a post, ${inFlight} in flight, ${fixed(rows)} rows there`,
    columns: ["variant", "acknowledged/s", "p50, ms", "p99, ms"],
    rows: [...samples].map(([name, taken]) => [
      name,
      spread(rates(taken), 0),
      fixed(median(taken.map((s) => s.p50Us)) / 1_000, 2),
      fixed(median(taken.map((s) => s.p99Us)) / 1_000, 2),
    ]),
  });
  result.figures.push({
    name: "the same, × the same endpoint with `synchronous=OFF`",
    target: "≥ 0.7",
    measured: spread(found),
    met: median(found) >= 0.7,
  });
}

async function compareBatches(context: Context, result: Result): Promise<void> {
  context.say("  batches against a bare transaction");
  await using servers = new Servers();
  const db = workingCopy(rows, "ingest-batches");
  const bareDb = workingCopy(rows, "ingest-bare");
  servers.afterwards(() => discard(db));
  servers.afterwards(() => discard(bareDb));
  const server = servers.add(await startProduct({ kind: "serve", db, instance: "ingest-batches" }));
  const samples = await interleave<{ rows: number; seconds: number }>(context, [
    {
      name: "**argo-alpine, arrays of 1,000**",
      round: (seconds) =>
        post(server, { inFlight: batchesInFlight, rowsPerPost: rowsPerBatch, seconds }),
    },
    { name: "bare db.transaction of 1,000", round: (seconds) => bare(bareDb, seconds) },
  ]);
  const [ours, floor] = [...samples.values()].map((taken) => taken.map((s) => s.rows / s.seconds));
  const found = ratios(ours ?? [], floor ?? []);
  result.tables.push({
    title: `Batches of ${fixed(rowsPerBatch)}, ${batchesInFlight} posts in flight, ${fixed(rows)} rows there`,
    columns: ["variant", "rows/s"],
    rows: [...samples].map(([name, taken]) => [
      name,
      spread(
        taken.map((s) => s.rows / s.seconds),
        0,
      ),
    ]),
  });
  result.figures.push({
    name: "ingest, batches of 1,000, × a bare durable `db.transaction` with the same rows and hashing",
    target: "≥ 0.8",
    measured: spread(found),
    met: median(found) >= 0.8,
  });
  result.notes.push(
    "The bare transaction reads no HTTP and no JSON, validates nothing and looks for no duplicate; the making of its rows is not counted. It runs on the server's core, into a copy of the same file with the same indexes and triggers.",
  );
}

async function bare(db: string, seconds: number): Promise<BareReport> {
  const options: BareOptions = { db, rowsPerBatch, seconds, run: runs++ };
  const script = join(benchDir, "lib/bare-transaction.ts");
  const child = spawnPinned([process.execPath, script, JSON.stringify(options)], {
    core: serverCore,
    log: "bare-transaction",
    pipeOutput: true,
  });
  const output = await child.output();
  if ((await child.exited) !== 0) throw new Error("the bare transaction failed");
  return JSON.parse(output) as BareReport;
}

const rates = (samples: IngestReport[]) => samples.map((sample) => sample.posts / sample.seconds);
