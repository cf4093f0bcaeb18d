import { closeSync, openSync, writeSync } from "node:fs";
import { Connection, requestBytes } from "./connection";
import { Histogram } from "./histogram";

/**
 * A producer, as a program: `bun ingest-client.ts JSON`. Posts distinct signals over a number of
 * connections, each with one post in flight. Prints one line of JSON.
 */
export type IngestOptions = {
  port: number;
  headers: Record<string, string>;
  inFlight: number;
  /** Signals in each post; 1 sends a bare object, more an array. */
  rowsPerPost: number;
  seconds: number;
  /** Tells the content of one run from that of another. */
  run: number;
  /** Where to note when each post was sent and acknowledged: "sentMs ackedMs" a line, epoch. */
  ledger?: string;
};

export type IngestReport = {
  posts: number;
  rows: number;
  failures: number;
  duplicates: number;
  seconds: number;
  p50Us: number;
  p99Us: number;
  minUs: number;
  firstFailure: string;
};

const firstMs = Date.UTC(2019, 5, 1);

/** The signal number n of a run: distinct in content, plain in shape. */
export function signalAt(run: number, n: number): Record<string, string | number> {
  const up = n % 2 === 0 ? 1 : -1;
  const entry = Number((100 + (n % 10_000) / 100).toFixed(4));
  return {
    symbol: `SYM${String(n % 20).padStart(2, "0")}`,
    action: up > 0 ? "BUY" : "SELL",
    confidence: Number((60 + (n % 3_990) / 100).toFixed(2)),
    entry_price: entry,
    target_price: Number((entry * (1 + 0.05 * up)).toFixed(4)),
    stop_price: Number((entry * (1 - 0.03 * up)).toFixed(4)),
    strategy: `bench_${run}`,
    timestamp: new Date(firstMs + n).toISOString(),
  };
}

async function run(options: IngestOptions): Promise<IngestReport> {
  const latencies = new Histogram();
  const ledger = options.ledger === undefined ? null : openSync(options.ledger, "w");
  let failures = 0;
  let firstFailure = "";
  let posts = 0;
  let duplicates = 0;
  let minUs = Number.POSITIVE_INFINITY;
  let n = 0;
  const nextBody = () => {
    if (options.rowsPerPost === 1) return JSON.stringify(signalAt(options.run, n++));
    return JSON.stringify(
      Array.from({ length: options.rowsPerPost }, () => signalAt(options.run, n++)),
    );
  };
  const headers = { ...options.headers, "content-type": "application/json" };
  const startedMs = performance.now();
  const endMs = startedMs + options.seconds * 1_000;
  const lane = async () => {
    const connection = await Connection.open(options.port);
    while (performance.now() < endMs) {
      const request = requestBytes("POST", "/api/signals", headers, nextBody());
      const sentMs = performance.now();
      const answer = await connection.ask(request);
      const ackedMs = performance.now();
      const us = (ackedMs - sentMs) * 1_000;
      latencies.record(us);
      if (us < minUs) minUs = us;
      if (answer.status !== 201) {
        failures += 1;
        firstFailure ||= `${answer.status}: ${answer.body.toString().slice(0, 300)}`;
        continue;
      }
      posts += 1;
      if (answer.body.includes('"duplicate":true')) duplicates += 1;
      if (ledger !== null) {
        const line = [sentMs, ackedMs].map((ms) => (performance.timeOrigin + ms).toFixed(3));
        writeSync(ledger, `${line.join(" ")}\n`);
      }
    }
    connection.close();
  };
  await Promise.all(Array.from({ length: options.inFlight }, lane));
  const seconds = (performance.now() - startedMs) / 1_000;
  if (ledger !== null) closeSync(ledger);
  return {
    posts,
    rows: posts * options.rowsPerPost,
    failures,
    duplicates,
    seconds,
    p50Us: latencies.percentileUs(50),
    p99Us: latencies.percentileUs(99),
    minUs,
    firstFailure,
  };
}

if (import.meta.main) {
  const options = JSON.parse(process.argv[2] ?? "{}") as IngestOptions;
  process.stdout.write(`${JSON.stringify(await run(options))}\n`);
  process.exit(0);
}
