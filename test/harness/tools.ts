/** Finds the programs that tests need: on PATH, else from Debian's packages, without root. */
import { existsSync, readdirSync } from "node:fs";
import { chmod, mkdir, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";

export type ToolName = "python3" | "strace" | "redis-server" | "wrk";

/** Where a program is, or why there is none. */
export type Tool = { path: string } | { path: null; reason: string };

export interface FindToolOptions {
  /** Instead of PATH. */
  searchPath?: string;
  cacheDir?: string;
}

// Each probe does what the tests need, so that a program that starts and cannot is not found.
const PROBES: Record<ToolName, { args: string[]; exitCode: number }> = {
  python3: { args: ["-c", "import http.client, sqlite3, ssl"], exitCode: 0 },
  strace: { args: ["-f", "-o", "/dev/null", "true"], exitCode: 0 },
  "redis-server": { args: ["--version"], exitCode: 0 },
  wrk: { args: ["--version"], exitCode: 1 },
};

const FETCH_MS_MAX = 60_000;
const PROBE_MS_MAX = 10_000;
const CACHE = join(import.meta.dir, "../../node_modules/.cache/argo-tools");

const found = new Map<string, Promise<Tool>>();

/** The absolute path of a program that works here, fetched once where it is not installed. */
export function findTool(name: ToolName, options: FindToolOptions = {}): Promise<Tool> {
  const searchPath = options.searchPath ?? process.env["PATH"] ?? "";
  const cacheDir = options.cacheDir ?? CACHE;
  const key = `${name}\n${searchPath}\n${cacheDir}`;
  const tool = found.get(key) ?? search(name, searchPath, cacheDir);
  found.set(key, tool);
  return tool;
}

async function search(name: ToolName, searchPath: string, cacheDir: string): Promise<Tool> {
  const installed = Bun.which(name, { PATH: searchPath });
  if (installed !== null && (await works(name, installed))) return { path: installed };
  const wrapper = join(cacheDir, name, "run");
  if (await works(name, wrapper)) return { path: wrapper };
  try {
    await fetchPackages(name, cacheDir);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { path: null, reason: `${name} is not installed and could not be fetched: ${why}` };
  }
  if (await works(name, wrapper)) return { path: wrapper };
  return { path: null, reason: `${name} was fetched but does not run here` };
}

async function works(name: ToolName, path: string): Promise<boolean> {
  if (!(await Bun.file(path).exists())) return false;
  const { args, exitCode } = PROBES[name];
  const probe = Bun.spawn([path, ...args], {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "ignore",
    timeout: PROBE_MS_MAX,
    killSignal: "SIGKILL",
  });
  return (await probe.exited) === exitCode;
}

/** Downloads the package with all it depends on and unpacks it beside a wrapper script. */
async function fetchPackages(name: ToolName, cacheDir: string): Promise<void> {
  const deadline = Date.now() + FETCH_MS_MAX;
  const work = join(cacheDir, `${name}.${process.pid}.tmp`);
  const final = join(cacheDir, name);
  try {
    const debs = await download(name, work, deadline);
    const root = join(work, "tree/root");
    await mkdir(root, { recursive: true });
    for (const deb of debs) await run(["dpkg", "-x", deb, root], deadline);
    const wrapper = join(work, "tree/run");
    await Bun.write(wrapper, wrapperScript(name, root, join(final, "root")));
    await chmod(wrapper, 0o755);
    await rm(final, { recursive: true, force: true });
    await rename(join(work, "tree"), final);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** The .deb files, by apt with lists, cache and state of its own: it needs no root so. */
async function download(name: ToolName, work: string, deadline: number): Promise<string[]> {
  const archives = join(work, "cache/archives");
  await mkdir(join(archives, "partial"), { recursive: true });
  await mkdir(join(work, "lists/partial"), { recursive: true });
  // An empty status counts nothing as installed, so the closure is whole whatever is here.
  await Bun.write(join(work, "status"), "");
  // Some images clean the system's cache after an update: not ours to touch.
  const config = join(work, "apt.conf");
  await Bun.write(config, "#clear APT::Update::Post-Invoke;\n#clear DPkg::Post-Invoke;\n");
  const options = {
    "Dir::State::lists": join(work, "lists"),
    "Dir::State::status": join(work, "status"),
    "Dir::Cache": join(work, "cache"),
    "Dir::Log": work,
    "Debug::NoLocking": "1",
    "APT::Sandbox::User": "root",
    "Acquire::http::Timeout": "15",
  };
  const apt = ["apt-get", "-c", config, "-qq", "-y"];
  for (const [key, value] of Object.entries(options)) apt.push("-o", `${key}=${value}`);

  await run([...apt, "update"], deadline);
  const install = ["--no-install-recommends", "--download-only", "install", name];
  await run([...apt, ...install], deadline);
  const files = await readdir(archives);
  // The C library stays the system's: another one would not fit its loader.
  const debs = files.filter((file) => file.endsWith(".deb") && !file.startsWith("libc6_"));
  return debs.map((file) => join(archives, file));
}

function wrapperScript(name: ToolName, root: string, finalRoot: string): string {
  const program = ["usr/bin", "usr/sbin", "bin"].find((dir) => existsSync(join(root, dir, name)));
  if (program === undefined) throw new Error(`its package holds no ${name}`);
  const lib = ["lib", "usr/lib"].filter((dir) => existsSync(join(root, dir)));
  const libraries = lib.flatMap((dir) =>
    readdirSync(join(root, dir))
      .filter((triplet) => triplet.includes("-linux-"))
      .map((triplet) => join(finalRoot, dir, triplet)),
  );
  const lines = [`export LD_LIBRARY_PATH='${libraries.join(":")}'`];
  if (name === "python3") lines.push(`export PYTHONHOME='${join(finalRoot, "usr")}'`);
  return `#!/bin/sh\n${lines.join("\n")}\nexec '${join(finalRoot, program, name)}' "$@"\n`;
}

async function run(command: string[], deadline: number): Promise<void> {
  const [program = ""] = command;
  if (Bun.which(program) === null) throw new Error(`there is no ${program} here`);
  const timeout = Math.max(1, deadline - Date.now());
  const child = Bun.spawn(command, {
    env: { ...process.env, LC_ALL: "C", DEBIAN_FRONTEND: "noninteractive" },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
    timeout,
    killSignal: "SIGKILL",
  });
  const stderr = await child.stderr.text();
  if ((await child.exited) === 0) return;
  if (Date.now() >= deadline) throw new Error(`${program} took more than ${FETCH_MS_MAX} ms`);
  throw new Error(`${program}: ${stderr.trim().split("\n").at(-1) ?? ""}`);
}
