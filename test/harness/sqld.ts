/** The libSQL server that tests talk to, on a free port of 127.0.0.1. */
import { chmodSync, cpSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Client, createClient } from "@libsql/client/http";
import { spawnChild } from "./children.ts";
import { freePort, tempDir } from "./process.ts";
import { faulty, type Faulty, logged } from "./servers.ts";

export interface Sqld extends Faulty {
  url: string;
  /** What an engine that writes there directly would use. */
  client: Client;
  /** Its database as it is now, while it is stopped. */
  save(): void;
  /** Puts back what was saved, while it is stopped. */
  restore(): void;
}

const program = (): string => {
  const beside = dirname(dirname(Bun.resolveSync("sqld/package.json", import.meta.dir)));
  const path = join(beside, `@sqld/${process.platform}-${process.arch}/sqld`);
  // The package holds it without the right to be run.
  chmodSync(path, 0o755);
  return path;
};

/**
 * A libSQL server of the caller's own, there in some 30 ms: empty, or beginning with an SQLite file
 * that `fill` makes at a path.
 */
export async function sqld(fill?: (path: string) => void): Promise<Sqld> {
  const dir = tempDir();
  const port = freePort();
  const url = `http://127.0.0.1:${port}`;
  const data = dir.file("data");
  const saved = dir.file("saved");
  const logPath = dir.file("sqld.log");
  if (fill) {
    mkdirSync(join(data, "dbs/default"), { recursive: true });
    fill(join(data, "dbs/default/data"));
  }
  const command = [program(), "--no-welcome", "--http-listen-addr", `127.0.0.1:${port}`];
  command.push("--db-path", data);
  const server = faulty({
    port,
    logPath,
    spawn: () =>
      spawnChild(logged(command, logPath), {
        cwd: dir.path,
        env: { RUST_LOG: "warn", SQLD_SHUTDOWN_TIMEOUT: "1" },
      }),
    stopSignal: "SIGTERM",
    isReady: () =>
      fetch(`${url}/health`).then(
        ({ ok }) => ok,
        () => false,
      ),
    dispose: () => dir[Symbol.dispose](),
  });
  try {
    await server.start();
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
  const client = createClient({ url, intMode: "number" });
  const copy = (from: string, to: string): void => {
    rmSync(to, { recursive: true, force: true });
    cpSync(from, to, { recursive: true });
  };
  return {
    ...server,
    url,
    client,
    save: () => copy(data, saved),
    restore: () => copy(saved, data),
    async [Symbol.asyncDispose]() {
      client.close();
      await server[Symbol.asyncDispose]();
    },
  };
}
