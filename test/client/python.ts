/** A Python with what the Python client depends on. */
import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { spawnChild, tail, type Child, type SpawnOptions } from "../harness/children.ts";
import { findTool } from "../harness/tools.ts";

const ROOT = join(import.meta.dir, "../..");
const CACHE = join(ROOT, "node_modules/.cache/argo-tools");

/** Starts test/client/bot.py. */
export type Bot = (args: string[], options?: SpawnOptions) => Child;

/**
 * Installs the packages once, apart from what the machine has. The reason instead, where there is
 * no Python of 3.10 or newer, no pip, or no registry.
 */
export async function pythonWith(packages: string[]): Promise<Bot | string> {
  const tool = await findTool("python3");
  if (tool.path === null) return tool.reason;
  const { path } = tool;
  const dir = join(CACHE, `python-${packages.join("-")}`);
  if (!existsSync(dir)) {
    const work = `${dir}.${process.pid}.tmp`;
    await mkdir(work, { recursive: true });
    const script = "import sys; sys.exit(sys.version_info < (3, 10) and 'Python is too old')";
    const pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1"];
    pip.push("--timeout", "10", "--target", work);
    for (const args of [
      ["-c", script],
      [...pip, ...packages],
    ]) {
      const child = spawnChild([path, ...args]);
      if ((await child.done) === 0) continue;
      await rm(work, { recursive: true, force: true });
      return tail(child.lines(), 3);
    }
    try {
      await rename(work, dir);
    } catch {
      // Another test process was quicker, and what is there is whole.
      await rm(work, { recursive: true, force: true });
    }
  }
  const env = {
    PYTHONPATH: `${join(ROOT, "clients/python")}:${dir}`,
    PYTHONDONTWRITEBYTECODE: "1",
  };
  return (args, options) =>
    spawnChild([path, join(import.meta.dir, "bot.py"), ...args], { ...options, env });
}
