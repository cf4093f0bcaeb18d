import { join } from "node:path";
import { benchDir } from "./paths";
import { cpuUs, generatorCore, spawnPinned } from "./process";
import type { OpenLoopOptions, OpenLoopReport } from "./open-loop";
import { wake } from "./wake";

/** Runs one of our own generators as a process of its own and reads the JSON that it prints. */
export async function runGenerator<Options, Report>(
  script: string,
  options: Options,
  realtime = false,
): Promise<Report> {
  const child = spawnPinned(
    [process.execPath, join(benchDir, "lib", script), JSON.stringify(options)],
    { core: generatorCore, log: script.replace(".ts", ""), pipeOutput: true, realtime },
  );
  const output = await child.output();
  const code = await child.exited;
  if (code !== 0) throw new Error(`${script} ended with ${code}: bench/.cache/logs has its words`);
  return JSON.parse(output) as Report;
}

export type FixedRateSample = OpenLoopReport & { cpuUsPerRequest: number };

/** One round at a fixed rate, with the server's processor time for each request. */
export async function fixedRateRound(
  options: OpenLoopOptions,
  serverPid: number,
): Promise<FixedRateSample> {
  await wake(`http://127.0.0.1:${options.port}${options.path}`, options.headers);
  const before = cpuUs(serverPid);
  const report = await runGenerator<OpenLoopOptions, OpenLoopReport>("open-loop.ts", options, true);
  const cpuUsPerRequest = (cpuUs(serverPid) - before) / report.sent;
  if (report.failures > 0) throw new Error(`${report.failures} polls failed at a fixed rate`);
  return { ...report, cpuUsPerRequest };
}
