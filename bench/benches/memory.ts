import { join } from "node:path";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { Engine } from "../lib/engine";
import { benchDir } from "../lib/paths";
import { generatorCore, rssBytes } from "../lib/process";
import { buildBinary, type Kind, readHeaders, startProduct } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { Servers } from "../lib/servers";
import { fixed, median } from "../lib/stats";
import { wrkRound } from "../lib/wrk";

export const memory: Bench = { name: "memory", title: "Resident memory", run };

const limitMb = 100;
/** Growth from the second quarter of a run to its last that still counts as flat. */
const flatMb = 5;
const commitsPerSecond = 20;
const sampleEveryMs = 500;

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  const wanted = context.quick ? 400_000 : 10_000_000;
  const fault = buildBinary();
  if (fault) result.missing.push(`the compiled binary: ${fault}`);
  const kinds: Kind[] = fault ? ["serve"] : ["binary", "serve"];
  const rows: string[][] = [];
  for (const kind of kinds) {
    context.say(`  ${kind}`);
    const { samples, requests } = await sampled(kind, wanted, context);
    const mb = samples.map((bytes) => bytes / 1e6);
    const quarter = Math.floor(mb.length / 4);
    const second = median(mb.slice(quarter, 2 * quarter));
    const last = median(mb.slice(3 * quarter));
    const most = Math.max(...mb);
    rows.push([
      kind === "binary" ? "compiled binary" : "`bun src/main.ts serve`",
      fixed(requests),
      fixed(mb[0] ?? Number.NaN, 1),
      ...[0, 1, 2, 3].map((q) => fixed(median(mb.slice(q * quarter, (q + 1) * quarter)), 1)),
      fixed(most, 1),
    ]);
    if (kind !== kinds[0]) continue;
    result.figures.push({
      name: "resident memory serving 1,000,000 rows, after 10,000,000 requests",
      target: `≤ ${limitMb} MB, and flat`,
      measured: `${fixed(last, 1)} MB, at most ${fixed(most, 1)} MB, ${fixed(last - second, 1)} MB from the second quarter to the last (${kind}, ${fixed(requests)} requests)`,
      met: last <= limitMb && last - second <= flatMb && (context.quick || requests >= wanted),
    });
  }
  result.tables.push({
    title: "MB resident (statm), medians of the quarters of the run",
    columns: ["server", "requests", "at the start", "1st", "2nd", "3rd", "4th", "most"],
    rows,
  });
  result.notes.push(
    `A mix of ten polls (limits, premium, a symbol, a strategy) at full speed, while the engine commits ${commitsPerSecond} signals/s, so that the cache is filled anew all the time.`,
  );
  return result;
}

async function sampled(
  kind: Kind,
  wanted: number,
  context: Context,
): Promise<{ samples: number[]; requests: number }> {
  await using servers = new Servers();
  const db = workingCopy(1_000_000, "memory");
  servers.afterwards(() => discard(db));
  const server = servers.add(await startProduct({ kind, db, instance: `memory-${kind}` }));
  const samples = [rssBytes(server.pid)];
  const engine = new Engine(db, commitsPerSecond, undefined, generatorCore);
  await engine.start();
  const timer = setInterval(() => samples.push(rssBytes(server.pid)), sampleEveryMs);
  let requests = 0;
  try {
    while (requests < wanted) {
      const sample = await wrkRound({
        url: server.url,
        headers: readHeaders,
        answerBytes: 0,
        seconds: context.quick ? 2 : 10,
        script: join(benchDir, "lib/mixed.lua"),
        serverPid: server.pid,
      });
      requests += sample.requests;
      context.say(`    ${fixed(requests)} requests, ${fixed(rssBytes(server.pid) / 1e6, 1)} MB`);
    }
  } finally {
    clearInterval(timer);
    await engine.kill();
  }
  return { samples, requests };
}
