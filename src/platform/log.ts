import pino, { type Logger } from "pino";

export type { Logger };

const waitingBytesMax = 1024 * 1024;
const flushMs = 500;

/** Lines that nobody read in time, since the start of this process. */
export let droppedLines = 0;

/**
 * JSON lines on standard output, without transports: a compiled binary has no worker for them.
 * A reader of the log that stalls costs lines, never an answer. What is `always` said is in each.
 */
export function createLog(level: string, always: Record<string, unknown> | null = null): Logger {
  const destination = pino.destination({ dest: 1, sync: false, maxLength: waitingBytesMax });
  destination.on("drop", () => {
    droppedLines += 1;
  });
  const log = pino(
    {
      level,
      base: always ?? undefined,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      // Headers and bodies are never logged; this is the second line of defence.
      redact: {
        paths: ["authorization", "*.authorization", "token", "*.token"],
        censor: "[hidden]",
      },
    },
    destination,
  );
  destinations.set(log, destination);
  return log;
}

const destinations = new WeakMap<Logger, ReturnType<typeof pino.destination>>();

/** The last act of a process: waits until all lines are out, but not for a reader that stalls. */
export async function endLog(log: Logger): Promise<void> {
  const destination = destinations.get(log);
  if (!destination) return;
  await new Promise<void>((resolve) => {
    setTimeout(resolve, flushMs);
    destination.once("close", () => resolve());
    destination.end();
  });
  // Else the library would write what is left at the exit, and wait for that reader there.
  destination.destroy();
}
