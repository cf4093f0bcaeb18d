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

export const memory: Bench = {
  name: "memory",
  title: "Resident memory",
  run: (context) => run(context, mixed),
};
export const variety: Bench = {
  name: "variety",
  title: "Resident memory under polls of which hardly two are the same",
  run: (context) => run(context, varied),
};

type Load = {
  script: string;
  requests: number;
  figure: string;
  /** The first of them is the one that the figure is of. */
  servers: { name: string; kind: Kind; env?: Record<string, string> }[];
  note: string;
};

const limitMb = 100;
/** Growth from the second quarter of a run to its last that still counts as flat. */
const flatMb = 5;
const commitsPerSecond = 20;
const sampleEveryMs = 500;

const binary = { name: "compiled binary", kind: "binary" } as const;
const interpreted = { name: "`bun src/main.ts serve`", kind: "serve" } as const;
const frugal = { BUN_JSC_forceRAMSize: String(128 * 1024 * 1024) };

const mixed: Load = {
  script: "lib/mixed.lua",
  requests: 10_000_000,
  figure: "resident memory serving 1,000,000 rows, after 10,000,000 requests",
  servers: [binary, interpreted],
  note: `A mix of ten polls (limits, premium, a symbol, a strategy) at full speed, while the engine commits ${commitsPerSecond} signals/s, so that the cache is filled anew all the time.`,
};
const varied: Load = {
  script: "lib/varied.lua",
  requests: 400_000,
  figure: "the same, after 400,000 requests of which hardly two are the same",
  servers: [binary, { ...binary, name: "the same, BUN_JSC_forceRAMSize of 128 MiB", env: frugal }],
  note: `Limits up to 100, offsets, symbols, strategies and confidences at random, half of the answers compressed, at full speed, while the engine commits ${commitsPerSecond} signals/s: nearly every poll reads some 50 rows, encodes them and turns another answer out of the cache. What is resident beyond the mixed run is mostly what JavaScriptCore has not collected yet, answers turned out of the cache among it (some 110 MB with ENABLE_CACHE=false): it lets its heap grow by a factor that follows the machine's memory, most from 16 GB on.`,
};

async function run(context: Context, load: Load): Promise<Result> {
  const result = emptyResult();
  const wanted = context.quick ? load.requests / 25 : load.requests;
  const fault = buildBinary();
  if (fault) result.missing.push(`the compiled binary: ${fault}`);
  const servers = load.servers.filter(({ kind }) => kind !== "binary" || !fault);
  const rows: string[][] = [];
  for (const { name, kind, env } of servers) {
    context.say(`  ${name}`);
    const { samples, requests } = await sampled({ kind, env, load, wanted }, context);
    const mb = samples.map((bytes) => bytes / 1e6);
    const quarter = Math.floor(mb.length / 4);
    const second = median(mb.slice(quarter, 2 * quarter));
    const last = median(mb.slice(3 * quarter));
    const most = Math.max(...mb);
    rows.push([
      name,
      fixed(requests),
      fixed(mb[0] ?? Number.NaN, 1),
      ...[0, 1, 2, 3].map((q) => fixed(median(mb.slice(q * quarter, (q + 1) * quarter)), 1)),
      fixed(most, 1),
    ]);
    if (rows.length > 1) continue;
    result.figures.push({
      name: load.figure,
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
  result.notes.push(load.note);
  return result;
}

async function sampled(
  run: { kind: Kind; env: Record<string, string> | undefined; load: Load; wanted: number },
  context: Context,
): Promise<{ samples: number[]; requests: number }> {
  const { kind, env = {}, load, wanted } = run;
  await using servers = new Servers();
  const db = workingCopy(1_000_000, "memory");
  servers.afterwards(() => discard(db));
  const server = servers.add(await startProduct({ kind, db, instance: `memory-${kind}`, env }));
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
        script: join(benchDir, load.script),
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
