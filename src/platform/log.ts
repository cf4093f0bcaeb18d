import pino, { type Logger } from "pino";

export type { Logger };

/** JSON lines on standard output, without transports: a compiled binary has no worker for them. */
export function createLog(level: string): Logger {
  return pino(
    {
      level,
      base: undefined,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      // Headers and bodies are never logged; this is the second line of defence.
      redact: {
        paths: ["authorization", "*.authorization", "token", "*.token"],
        censor: "[hidden]",
      },
    },
    pino.destination({ fd: 1, sync: true }),
  );
}
