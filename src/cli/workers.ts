import type { Config } from "../config";
import { SetupError } from "../errors";
import { createLog, endLog } from "../platform/log";
import { self } from "../platform/self";
import { version } from "../version";
import { Supervisor, WorkerFailed } from "../workers/supervisor";
import { holdPort, mustBeFree, urlOf } from "./port";
import { untilSignal } from "./until-signal";

/** What a worker takes to end at most, beside the delay that is configured. */
const endMs = 13_000;

/**
 * Runs several workers until SIGTERM, SIGINT or SIGHUP, which drain them; SIGUSR2 replaces them one by
 * one. `words` are those that this was started with. @returns the exit code.
 * @throws SetupError when they cannot be run here, or the port is taken.
 */
export async function superviseWorkers(config: Config, words: string[]): Promise<number> {
  mustFitWorkers(config);
  using _port = holdPort(config);
  mustBeFree(config);
  const stop = untilSignal();
  let supervisor: Supervisor | null = null;
  // Who is still being started is as new as can be; without a listener the signal would kill.
  process.on("SIGUSR2", () => void supervisor?.reload());
  const { workers, role, logLevel, shutdownDelaySeconds } = config;
  const log = createLog(logLevel);
  try {
    supervisor = await Supervisor.start(
      {
        workers,
        // What is said last counts.
        command: ({ slot, port, joins }) => {
          const own = ["--port", `${port}`, "--as-worker", `${slot}`];
          return [...self(), ...words, ...own, ...(joins ? ["--joins"] : [])];
        },
        port: config.port,
        endMs: shutdownDelaySeconds * 1000 + endMs,
        log,
      },
      stop,
    );
    const url = urlOf({ ...config, port: supervisor.port });
    const signals = config.argoUrl ?? config.signalsDb;
    if (supervisor.listens) log.info({ url, version, role, signals, workers }, "listening");
    await stop;
    const well = await supervisor.stop();
    log.info("all workers stopped");
    return well ? 0 : 1;
  } catch (error) {
    // The worker has said why.
    if (error instanceof WorkerFailed) return error.exitCode;
    throw error;
  } finally {
    await endLog(log);
  }
}

/** What more than one worker needs. @throws SetupError that names the fix. */
export function mustFitWorkers({ workers, role, databaseUrl, redisUrl }: Config): void {
  if (workers === 1) return;
  if (process.platform !== "linux") {
    throw new SetupError(
      "Several workers share a port, which Linux alone spreads over them.",
      "Leave --workers and ASYNC_WORKERS out here.",
    );
  }
  if (role === "argo") return;
  if (databaseUrl === null) {
    throw new SetupError(
      `The embedded Postgres serves one process, and ${workers} workers are asked for.`,
      "Set DATABASE_URL; or leave --workers and ASYNC_WORKERS out, or say --role argo to serve signals alone.",
    );
  }
  if (redisUrl !== null) return;
  throw new SetupError(
    `${workers} workers with accounts need Redis: attempts at passwords are counted exactly, for all together.`,
    "Set REDIS_URL, or leave --workers and ASYNC_WORKERS out.",
  );
}
