/** Polls from a process of its own: `bun poller.ts URL SECONDS` prints what it saw as JSON. */
import { Pollers, quantile } from "./harness.ts";

export interface Seen {
  polls: number;
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
  faults: string[];
}

async function main(url: string, seconds: number): Promise<void> {
  const pollers = Pollers.start(url, { connections: 2 });
  await Bun.sleep(seconds * 1_000);
  await pollers.stop();
  const { durationsMs, faults } = pollers;
  const [p50Ms = 0, p99Ms = 0, maxMs = 0] = [0.5, 0.99, 1].map((part) =>
    quantile(durationsMs, part),
  );
  const seen: Seen = { polls: durationsMs.length, p50Ms, p99Ms, maxMs, faults };
  console.log(JSON.stringify(seen));
}

if (import.meta.main) await main(process.argv[2] ?? "", Number(process.argv[3]));
