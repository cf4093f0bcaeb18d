import { wireAnswer } from "../lib/bytes";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { bothCores, childrenOf } from "../lib/process";
import { readHeaders, startProduct } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { fixed, median, ratios, spread } from "../lib/stats";
import { type Sample, wrkRound } from "../lib/wrk";

const rows = 1_000_000;
const connections = 64;
const ratioMax = 1.1;

export const workers: Bench = {
  name: "workers",
  title: "Two workers against one",
  run,
};

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using servers = new Servers();
  const variants = [];
  for (const [name, env] of [
    ["one", {}],
    ["twin", {}],
    ["two", { ASYNC_WORKERS: "2" }],
  ] as const) {
    const db = workingCopy(rows, `workers-${name}`);
    servers.afterwards(() => discard(db));
    const instance = `workers-${name}`;
    const server = await startProduct({ kind: "serve", db, instance, env, core: bothCores });
    servers.add(server);
    const { bytes } = await wireAnswer(server, readHeaders);
    const otherPids = name === "two" ? childrenOf(server.pid) : [];
    if (name === "two" && otherPids.length !== 2) throw new Error("there are not two workers");
    const { url, pid: serverPid } = server;
    const load = { url, headers: readHeaders, answerBytes: bytes, serverPid, otherPids };
    const round = (seconds: number) => wrkRound({ ...load, connections, core: bothCores, seconds });
    variants.push({ name, round });
  }
  const samples = await interleave(context, variants);
  const of = (name: string, figure: (sample: Sample) => number) =>
    (samples.get(name) ?? []).map(figure);
  const total = (sample: Sample) => sample.cpuUsPerRequest + sample.generatorCpuUsPerRequest;
  result.tables.push({
    title: `Closed loop, ${connections} connections, two cores for server and generator, medians (least–greatest)`,
    columns: ["server", "requests/s", "CPU-µs/request, all", "of the server", "p99, ms"],
    rows: [
      ["one process", "one"],
      ["the same once more", "twin"],
      ["`--workers 2`", "two"],
    ].map(([title = "", name = ""]) => [
      title,
      spread(
        of(name, (s) => s.requestsPerSecond),
        0,
      ),
      spread(of(name, total), 1),
      spread(
        of(name, (s) => s.cpuUsPerRequest),
        1,
      ),
      fixed(median(of(name, (s) => s.p99Us)) / 1_000, 2),
    ]),
  });
  const found = ratios(of("two", total), of("one", total));
  result.figures.push({
    name: "two workers, processor time of all for a request, × one",
    target: `≤ ${ratioMax}`,
    measured: `${spread(found, 2)} ×`,
    met: median(found) <= ratioMax,
  });
  result.notes.push(
    `One process against itself: ${spread(ratios(of("twin", total), of("one", total)), 3)}. Two workers take what one and the generator leave of the cores, so requests a second say little here; on more cores each adds its own.`,
  );
  return result;
}
