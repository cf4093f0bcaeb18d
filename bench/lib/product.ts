import { existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { untilReady } from "./http";
import { binaryPath, benchDir, cacheDir, rootDir } from "./paths";
import type { Server } from "./peers";
import { type bothCores, childrenOf, cpuUs, freePort, serverCore, spawnPinned } from "./process";

export const readToken = "bench-read-token-0123456789";
export const writeToken = "bench-write-token-0123456789";
export const readHeaders = { authorization: `Bearer ${readToken}` };
export const writeHeaders = { authorization: `Bearer ${writeToken}` };
export const latestPath = "/api/signals/latest?limit=10";

/**
 * How our server runs:
 * - `serve`: `bun src/main.ts serve`, everything on, only the limit raised;
 * - `binary`: the same, compiled;
 * - `bare`: the route of the latest signals alone, without what `serve` puts around it;
 * - `unsynced`: everything on, but the writer with `synchronous=OFF`.
 */
export type Kind = "serve" | "binary" | "bare" | "unsynced";

export type ProductOptions = {
  kind: Kind;
  /** Signals alone, or accounts as well; `argo` when left out. */
  role?: "argo" | "all";
  db: string;
  /** Tells servers of one run apart; names the log and the data directory. */
  instance: string;
  env?: Record<string, string>;
  /** Where it runs; the servers' core unless said otherwise. */
  core?: typeof bothCores;
  /** Put before the command, such as strace with its arguments. */
  under?: readonly string[];
};

/** Starts our server on its core and waits for its first answer. */
export async function startProduct(options: ProductOptions): Promise<Server> {
  const { kind, db, instance, role = "argo" } = options;
  const port = freePort();
  const command = [...(options.under ?? []), ...commandFor(kind, role)];
  const child = spawnPinned(command, {
    core: options.core ?? serverCore,
    log: `argo-${instance}`,
    wrapper: options.under !== undefined,
    env: { ...productEnv(db, instance), PORT: String(port), ...options.env },
  });
  const url = `http://127.0.0.1:${port}${latestPath}`;
  try {
    await untilReady(url, readHeaders, child.exited);
    // Polls are answered before accounts have started.
    if (role === "all") await untilReady(new URL("/readyz", url).href, {}, child.exited);
  } catch (error) {
    await child.stop();
    throw error;
  }
  // strace runs the server as its child: that one's time and memory are the ones to read.
  const pid = options.under ? (childrenOf(child.pid)[0] ?? child.pid) : child.pid;
  await settled(pid);
  return { name: instance, url, pid, child };
}

const settleMs = 60_000;
const lookMs = 500;
/** Share of a core under which a server counts as idle. */
const idleShare = 0.02;

/** Waits until a server does nothing by itself: after its start it checks its file for damage. */
async function settled(pid: number): Promise<void> {
  const deadline = performance.now() + settleMs;
  // The check begins a second after the start, so the first quiet moment is not the last.
  await Bun.sleep(3 * lookMs);
  while (performance.now() < deadline) {
    const before = cpuUs(pid);
    await Bun.sleep(lookMs);
    if (cpuUs(pid) - before < idleShare * lookMs * 1_000) return;
  }
  throw new Error(`a server was still busy ${settleMs} ms after its start`);
}

/** What a server of this name keeps its things in. */
export const dataDirOf = (instance: string): string => join(cacheDir, "data", `dir-${instance}`);

/** The environment of a benched server: a client with a token, and a limit that nothing meets. */
export function productEnv(db: string, instance: string): Record<string, string> {
  const dataDir = dataDirOf(instance);
  rmSync(dataDir, { recursive: true, force: true });
  mkdirSync(dataDir, { recursive: true });
  return {
    HOST: "127.0.0.1",
    SIGNALS_DB: db,
    DATA_DIR: dataDir,
    SIGNALS_ACCESS: "key",
    ARGO_READ_TOKEN: readToken,
    ARGO_WRITE_TOKEN: writeToken,
    RATE_LIMIT_PER_MINUTE: "1000000000",
    LOG_LEVEL: "info",
    SHUTDOWN_DELAY_SECONDS: "0",
  };
}

function commandFor(kind: Kind, role: string): string[] {
  const main = join(rootDir, "src/main.ts");
  if (kind === "serve") return [process.execPath, main, "serve", "--role", role];
  if (kind === "binary") return [binaryPath, "serve", "--role", role];
  return [process.execPath, join(benchDir, `servers/${kind}.ts`)];
}

/** The port in a server's URL. */
export function portOf(server: Server): number {
  return Number(new URL(server.url).port);
}

/** Compiles our server into dist/ as a release does; null when done, else why not. */
export function buildBinary(): string | null {
  const done = Bun.spawnSync([process.execPath, "run", "build"], {
    cwd: rootDir,
    timeout: 180_000,
  });
  if (done.success && existsSync(binaryPath)) return null;
  return `bun run build failed: ${done.stderr.toString().trim().slice(-300)}`;
}
