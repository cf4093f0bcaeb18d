import { readFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDir } from "./paths";
import { findTool, firstLine } from "./tools";

/** One fsync or fdatasync that returned, in milliseconds of the epoch. */
export type Sync = { startMs: number; endMs: number; path: string };

/**
 * A command prefix that records every sync of a server and its threads into `file`, each held back
 * by `delayUs` if given. The filter runs in the kernel (seccomp-bpf), so that nothing else the
 * server does is slowed. Says why when strace cannot be used here.
 */
export function straceSyncs(
  label: string,
  delayUs = 0,
): { under: string[]; file: string } | { missing: string } {
  const tool = findTool("strace");
  if ("missing" in tool) return tool;
  const file = join(cacheDir, "logs", `strace-${label}.txt`);
  const base = [tool.path, "-f", "--seccomp-bpf", "-qq", "-e", "signal=none"];
  const probe = Bun.spawnSync([...base, "-e", "trace=fsync", "-o", "/dev/null", "true"]);
  if (!probe.success) return { missing: `strace cannot attach: ${probe.stderr.toString().trim()}` };
  const delay =
    delayUs > 0 ? ["-e", `inject=fsync,fdatasync:delay_enter=${Math.round(delayUs)}`] : [];
  const under = [...base, "-e", "trace=fsync,fdatasync", ...delay, "-ttt", "-T", "-y", "-o", file];
  return { under, file };
}

const whole = /^\d+ +(\d+\.\d+) f(?:data)?sync\(\d+<(.*?)>\) += 0 .*<(\d+\.\d+)>$/;
const begun = /^(\d+) +\d+\.\d+ f(?:data)?sync\(\d+<(.*?)> <unfinished/;
const resumed = /^(\d+) +(\d+\.\d+) <\.\.\. f(?:data)?sync resumed>\) += 0 .*<(\d+\.\d+)>$/;

/** Reads what strace has written so far. */
export function readSyncs(file: string): Sync[] {
  const syncs: Sync[] = [];
  const open = new Map<string, string>();
  for (const line of readFileSync(file, "utf8").split("\n")) {
    const one = whole.exec(line);
    if (one) {
      const startMs = Number(one[1]) * 1_000;
      syncs.push({ startMs, endMs: startMs + Number(one[3]) * 1_000, path: one[2] ?? "" });
      continue;
    }
    const first = begun.exec(line);
    if (first) {
      open.set(first[1] ?? "", first[2] ?? "");
      continue;
    }
    const second = resumed.exec(line);
    if (second) {
      const endMs = Number(second[2]) * 1_000;
      const startMs = endMs - Number(second[3]) * 1_000;
      syncs.push({ startMs, endMs, path: open.get(second[1] ?? "") ?? "" });
    }
  }
  return syncs;
}

/** strace's version, for the report. */
export function straceVersion(): string | null {
  const tool = findTool("strace");
  return "path" in tool ? firstLine([tool.path, "-V"]) : null;
}
