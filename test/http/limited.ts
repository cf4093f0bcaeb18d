/** One of several processes that share a limit: offers requests of one key and says what it let in. */
import { SlidingWindow } from "../../src/http/limit.ts";
import { inRedis, SharedLimit } from "../../src/http/share.ts";
import { createLog } from "../../src/platform/log.ts";
import { Redis } from "../../src/platform/redis.ts";
import { spawnChild, tail } from "../harness/children.ts";
import { until } from "../harness/process.ts";

export type Orders = {
  url: string;
  limit: number;
  /** Of each process, evenly. */
  requestsPerSecond: number;
  seconds: number;
};

/** What was let in, by the time of day in ms. */
export type Outcome = { letIn: number[]; refused: number };

/** Has so many processes do it at the same time, and adds up what they say. */
export async function runTogether(orders: Orders, processes: number): Promise<Outcome> {
  await using stack = new AsyncDisposableStack();
  const printed: string[][] = [];
  const children = Array.from({ length: processes }, (_, i) => {
    const lines: string[] = (printed[i] = []);
    const command = [process.execPath, import.meta.path, JSON.stringify(orders)];
    return stack.use(spawnChild(command, { onLine: (line) => void lines.push(line) }));
  });
  await until(() => printed.every((lines) => lines.includes("ready")), "the processes");
  for (const child of children) child.endInput();
  for (const child of children) {
    if ((await child.done) !== 0) throw new Error(`a process failed\n${tail(child.lines())}`);
  }
  const outcomes = printed.map((lines) => JSON.parse(lines.at(-1) ?? "") as Outcome);
  return {
    letIn: outcomes.flatMap(({ letIn }) => letIn).toSorted((a, b) => a - b),
    refused: outcomes.reduce((sum, { refused }) => sum + refused, 0),
  };
}

if (import.meta.main) {
  const orders = JSON.parse(process.argv[2] ?? "") as Orders;
  const { url, limit, requestsPerSecond, seconds } = orders;
  await using redis = new Redis({ url, log: createLog("silent") });
  const limiter = new SlidingWindow({ limit, keysMax: 1_000, now: Date.now });
  await using _ = new SharedLimit(limiter, inRedis(redis));
  await until(() => redis.up, "redis");
  console.log("ready");
  // Its end begins it, for all processes together.
  await Bun.stdin.text();
  const letIn: number[] = [];
  let due = performance.now();
  for (let offered = 0; offered < seconds * requestsPerSecond;) {
    // After a pause of the machine it goes on where it was: arrears at once would be another rate.
    due = Math.max(due, performance.now() - 20);
    for (; due <= performance.now(); due += 1000 / requestsPerSecond) {
      offered += 1;
      if (limiter.take("customer").allowed) letIn.push(Date.now());
    }
    await Bun.sleep(1);
  }
  await Bun.sleep(500);
  const { refused } = limiter;
  console.log(JSON.stringify({ letIn, refused } satisfies Outcome));
}
