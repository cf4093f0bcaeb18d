import { writeSync } from "node:fs";
import { setPriority } from "node:os";
import { SetupError } from "../errors";
import type { ChildWord } from "../platform/embedded";

/** So that a heavy query takes no time from polls. */
const niceness = 10;

/**
 * The process of the embedded Postgres. It ends with the one that started it, which holds its
 * standard input, and tells it on its standard output how it goes.
 */
export async function embedded(dir: string, socket: string): Promise<void> {
  // A terminal or a service manager signals all processes at once; the server ends this one last.
  process.on("SIGTERM", () => undefined);
  process.on("SIGINT", () => undefined);
  process.umask(0o077);
  setPriority(niceness);
  const { promise, resolve } = Promise.withResolvers<void>();
  process.stdin.on("end", resolve).on("error", resolve).resume();
  try {
    const { servePglite } = await import("../platform/pglite");
    await using _server = await servePglite({ dir, socket, die });
    say({ ready: true });
    await promise;
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say({ fault: error.message, fix: error.fix });
    process.exitCode = 1;
  }
}

function die(reason: string): never {
  writeSync(2, `${reason}\n`);
  process.kill(process.pid, "SIGKILL");
  throw new Error(reason);
}

const say = (word: ChildWord): boolean => process.stdout.write(`${JSON.stringify(word)}\n`);
