import { Connection, requestBytes } from "./connection";
import { Histogram } from "./histogram";
import { pauser } from "./pause";

/**
 * A generator at a fixed rate, as a program: `bun open-loop.ts JSON`. Every request has a time at
 * which it is due, whatever the answers before it do, and its latency counts from that time: a
 * server that stalls is charged for all the polls it kept waiting. Prints one line of JSON.
 */
export type OpenLoopOptions = {
  port: number;
  path: string;
  headers: Record<string, string>;
  requestsPerSecond: number;
  seconds: number;
  connections: number;
};

export type OpenLoopReport = {
  sent: number;
  failures: number;
  /** Requests that had no answer when the run was over. */
  unanswered: number;
  p50Us: number;
  p99Us: number;
  p999Us: number;
  maxUs: number;
  /** How late the generator itself was in sending, 99th percentile and worst. */
  lateP99Us: number;
  lateMaxUs: number;
};

const stragglersMs = 15_000;

/** Runs the generator in this process. */
export async function openLoop(options: OpenLoopOptions): Promise<OpenLoopReport> {
  const request = requestBytes("GET", options.path, options.headers);
  const latencies = new Histogram();
  const lateness = new Histogram();
  const idle: Connection[] = [];
  let failures = 0;
  let answered = 0;
  const onLost = () => {
    failures += 1;
  };
  for (let i = 0; i < options.connections; i += 1) {
    idle.push(await Connection.open(options.port, onLost));
  }
  const everyMs = 1_000 / options.requestsPerSecond;
  const total = Math.round(options.requestsPerSecond * options.seconds);
  const start = performance.now() + 10;
  let sent = 0;
  const sendDue = () => {
    const now = performance.now();
    for (;;) {
      const due = start + sent * everyMs;
      if (sent >= total || due > now) return;
      // With no connection to spare the request waits, and its latency grows: so would a client's.
      const connection = idle.pop();
      if (!connection) return;
      sent += 1;
      lateness.record((now - due) * 1_000);
      connection.send(request, (answer) => {
        latencies.record((performance.now() - due) * 1_000);
        answered += 1;
        if (answer.status !== 200) failures += 1;
        idle.push(connection);
      });
    }
  };
  const pause = pauser(50);
  await new Promise<void>((resolve) => {
    const endMs = start + options.seconds * 1_000 + stragglersMs;
    const turn = () => {
      sendDue();
      const over = sent >= total && answered + failures >= total;
      if (over || performance.now() > endMs) {
        resolve();
        return;
      }
      pause();
      setImmediate(turn);
    };
    turn();
  });
  return {
    sent,
    failures,
    unanswered: total - answered,
    p50Us: latencies.percentileUs(50),
    p99Us: latencies.percentileUs(99),
    p999Us: latencies.percentileUs(99.9),
    maxUs: latencies.maxUs,
    lateP99Us: lateness.percentileUs(99),
    lateMaxUs: lateness.maxUs,
  };
}

if (import.meta.main) {
  const options = JSON.parse(process.argv[2] ?? "{}") as OpenLoopOptions;
  process.stdout.write(`${JSON.stringify(await openLoop(options))}\n`);
  process.exit(0);
}
