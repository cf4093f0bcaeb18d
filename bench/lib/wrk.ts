import { join } from "node:path";
import { benchDir } from "./paths";
import { type bothCores, cpuUs, generatorCore, spawnPinned } from "./process";
import { findTool } from "./tools";
import { wake } from "./wake";

export type Load = {
  url: string;
  headers: Record<string, string>;
  /** Bytes of one whole answer, head included. */
  answerBytes: number;
  seconds: number;
  connections?: number;
  /** Another Lua script, for a load that varies; it must print what report.lua prints. */
  script?: string;
  /** Process whose processor time is counted. */
  serverPid: number;
  /** Further processes of the same server. */
  otherPids?: readonly number[];
  /** Where the generator runs; its own core unless said otherwise. */
  core?: typeof bothCores;
};

export type Sample = {
  requestsPerSecond: number;
  cpuUsPerRequest: number;
  /** The generator's own. */
  generatorCpuUsPerRequest: number;
  /** Share of its core that the server used; well below 1 means that the generator was the limit. */
  serverBusy: number;
  p50Us: number;
  p99Us: number;
  requests: number;
};

type Summary = Pick<Sample, "requests" | "p50Us" | "p99Us"> & {
  bytes: number;
  durationUs: number;
  failures: number;
};

/**
 * One closed-loop round: a ceiling of throughput, with no honest tail.
 * @throws when any answer failed or was not of the size of the checked one.
 */
export async function wrkRound(load: Load): Promise<Sample> {
  const tool = findTool("wrk");
  if ("missing" in tool) throw new Error(`wrk: ${tool.missing}`);
  const connections = load.connections ?? 32;
  await wake(load.url, load.headers);
  const pids = [load.serverPid, ...(load.otherPids ?? [])];
  const serverCpuUs = () => pids.reduce((sum, pid) => sum + cpuUs(pid), 0);
  const before = serverCpuUs();
  const child = spawnPinned(
    [
      tool.path,
      "-t1",
      `-c${connections}`,
      `-d${load.seconds}s`,
      ...Object.entries(load.headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`]),
      "-s",
      load.script ?? join(benchDir, "lib/report.lua"),
      load.url,
    ],
    { core: load.core ?? generatorCore, log: "wrk", pipeOutput: true },
  );
  const output = await child.output();
  const used = serverCpuUs() - before;
  await child.exited;
  const generatorUs = Number(child.handle.resourceUsage()?.cpuTime.total ?? 0);
  const line = /^JSON (.*)$/m.exec(output)?.[1];
  if (!line) throw new Error(`wrk printed no summary:\n${output}`);
  const summary = JSON.parse(line) as Summary;
  if (summary.requests === 0) throw new Error("wrk got no answer at all");
  if (summary.failures > 0) throw new Error(`${summary.failures} requests failed at ${load.url}`);
  // wrk counts only 4xx and 5xx as failures; an answer of another size is not the checked one.
  const size = summary.bytes / summary.requests;
  if (load.answerBytes > 0 && Math.abs(size / load.answerBytes - 1) > 0.02) {
    throw new Error(`answers of ${size} bytes where ${load.answerBytes} were checked: ${load.url}`);
  }
  return {
    requestsPerSecond: (summary.requests * 1e6) / summary.durationUs,
    cpuUsPerRequest: used / summary.requests,
    generatorCpuUsPerRequest: generatorUs / summary.requests,
    serverBusy: used / summary.durationUs,
    p50Us: summary.p50Us,
    p99Us: summary.p99Us,
    requests: summary.requests,
  };
}
