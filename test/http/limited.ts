/** One of several processes that share a limit: offers requests of one key and says what it let in. */
import { SlidingWindow } from "../../src/http/limit.ts";
import { SharedLimit } from "../../src/http/share.ts";
import { createLog } from "../../src/platform/log.ts";
import { Redis } from "../../src/platform/redis.ts";
import { until } from "../harness/process.ts";

export type Orders = {
  url: string;
  limit: number;
  windowMs: number;
  /** Of each process, evenly. */
  requestsPerSecond: number;
  seconds: number;
};

/** Printed when it is ready, and at the end. A line on standard input begins it. */
export type Outcome = { letIn: number[]; refused: number; exchanges: number };

if (import.meta.main) {
  const orders = JSON.parse(process.argv[2] ?? "") as Orders;
  const { url, limit, windowMs, requestsPerSecond, seconds } = orders;
  await using redis = new Redis({ url, log: createLog("silent") });
  const limiter = new SlidingWindow({ limit, windowMs, keysMax: 1_000, now: Date.now });
  await using shared = new SharedLimit(limiter, redis);
  await until(() => redis.up, "redis");
  console.log("ready");
  await Bun.stdin.stream().getReader().read();
  const letIn: number[] = [];
  const begun = performance.now();
  for (let offered = 0; ;) {
    const passed = (performance.now() - begun) / 1000;
    while (offered < Math.min(passed, seconds) * requestsPerSecond) {
      offered += 1;
      if (limiter.take("customer").allowed) letIn.push(Date.now());
    }
    if (passed >= seconds) break;
    await Bun.sleep(1);
  }
  await Bun.sleep(500);
  const { refused } = limiter;
  console.log(JSON.stringify({ letIn, refused, exchanges: shared.exchanges } satisfies Outcome));
}
