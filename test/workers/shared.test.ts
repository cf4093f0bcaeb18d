/** What the workers of a server have in their supervisor's memory. */
import { expect, test } from "bun:test";
import { SlidingWindow } from "../../src/http/limit.ts";
import { SharedLimit } from "../../src/http/share.ts";
import { Metrics } from "../../src/platform/metrics.ts";
import { Channel } from "../../src/workers/channel.ts";
import { SharedCounts } from "../../src/workers/counts.ts";
import { MergedMetrics } from "../../src/workers/merged.ts";
import { until } from "../harness/process.ts";
import { total } from "../harness/workers.ts";

test("counts add up, turn with the minute, are taken over by who comes later, and are bounded", () => {
  let now = 1_000;
  const counts = new SharedCounts(100, () => now);
  const tell = (key: string, letIn: number, elapsed = 0, current = letIn, previous = 0) =>
    counts.exchange([key], [600, letIn, elapsed, current, previous]);
  expect(tell("a", 100, 500)).toEqual([500, 100, 0]);
  // Of another worker, whose own window began just now.
  expect(tell("a", 20)).toEqual([500, 120, 0]);
  now += 59_500;
  expect(tell("a", 1)).toEqual([0, 1, 120]);
  now += 30_000;
  expect(counts.exchange(["b", "a"], [600, 5, 0, 5, 0, 600, 0, 0, 0, 0])).toEqual([
    0, 5, 0, 30_000, 1, 120,
  ]);
  now += 90_000;
  // What is past two minutes counts for nothing: it begins as the worker knows it.
  expect(tell("a", 7, 100)).toEqual([100, 7, 0]);
  // One that the worker knows from before the supervisor's time.
  expect(tell("c", 2, 61_000, 9, 3)).toEqual([1_000, 0, 9]);
  for (let i = 0; i < 1_000; i += 1) tell(`many:${i}`, 1);
  expect(counts.size).toBeLessThanOrEqual(101);
});

test("limiters that meet there decide together", async () => {
  const counts = new SharedCounts(100, () => performance.now());
  const meeting = {
    connected: true,
    exchange: (keys: string[], numbers: number[]) =>
      Promise.resolve(counts.exchange(keys, numbers)),
  };
  const member = () => {
    const limiter = new SlidingWindow({ limit: 100, keysMax: 100, now: Date.now });
    return { limiter, shared: new SharedLimit(limiter, meeting) };
  };
  const takes = ({ limiter }: ReturnType<typeof member>, count: number) =>
    Array.from({ length: count }, () => limiter.take("key").allowed).filter(Boolean).length;
  const [a, b] = [member(), member()];
  expect(takes(a, 60)).toBe(60);
  await until(() => a.shared.exchanges > 0, "an exchange");
  expect(takes(b, 1)).toBe(1);
  await until(() => b.shared.exchanges > 0, "an exchange");
  expect(takes(b, 100)).toBe(39);
  await a.shared[Symbol.asyncDispose]();
  await b.shared[Symbol.asyncDispose]();
});

/** The metrics of a process that has counted so much. */
function counted(requests: number, head: number): Metrics {
  const metrics = new Metrics();
  metrics.requests.of({ route: "/x" }).value += requests;
  for (let i = 0; i < requests; i += 1) metrics.requestDuration.of({ route: "/x" }).observe(0.001);
  metrics.watch("gauge", "argo_head_id", "The head.", () => head, "max");
  metrics.watch("gauge", "argo_streams_open", "Streams.", () => 2);
  return metrics;
}

test("metrics are added up, and never fall when a worker goes or says nothing", async () => {
  const merged = new MergedMetrics();
  const [a, b] = [await counted(3, 10).snapshot(), await counted(4, 12).snapshot()];
  merged.note(1, a);
  merged.note(2, b);
  const both = new Map([
    [1, a],
    [2, b],
  ]);
  const numbers = (text: string) =>
    [
      "api_requests_total",
      "api_request_duration_seconds_count",
      "argo_head_id",
      "argo_streams_open",
      "argo_workers",
      "argo_workers_silent",
    ].map((name) => total(text, name));
  expect(numbers(await merged.text(both, 2, 0))).toEqual([7, 7, 12, 4, 2, 0]);
  // The second is silent: its counters are as last known, its gauges nobody's.
  expect(numbers(await merged.text(new Map([[1, a]]), 2, 0))).toEqual([7, 7, 10, 2, 2, 1]);
  merged.ended(1);
  merged.ended(2);
  const c = await counted(5, 13).snapshot();
  expect(numbers(await merged.text(new Map([[3, c]]), 1, 2))).toEqual([12, 12, 13, 2, 1, 0]);
  merged.note(3, c);
  merged.ended(3);
  expect(numbers(await merged.text(new Map(), 0, 2)).slice(0, 2)).toEqual([12, 12]);
});

test("who asks is answered, or knows in time that there is no answer", async () => {
  const channel = (handlers = {}): { one: Channel; other: Channel } => {
    const one: Channel = new Channel((message) => queueMicrotask(() => other.receive(message)), {});
    const other: Channel = new Channel((message) => one.receive(message), handlers);
    return { one, other };
  };
  const never = new Promise(() => undefined);
  const fails = () => {
    throw new Error("a fault of the other end");
  };
  const { one } = channel({ double: (n: number) => 2 * n, never: () => never, fails });
  expect(await one.ask("double", 21, 1_000)).toBe(42);
  const none = ["never", "fails", "nothing of this name"].map((kind) => one.ask(kind, null, 20));
  expect(await Promise.all(none)).toEqual([undefined, undefined, undefined]);
  const answer = Promise.withResolvers<number>();
  const slow = channel({ slow: () => answer.promise }).one;
  expect(await slow.ask("slow", null, 20)).toBeUndefined();
  expect(slow.isOwed).toBe(true);
  answer.resolve(1);
  await until(() => !slow.isOwed, "the answer that was owed");
  const late = one.ask("never", null, 60_000);
  one.end();
  expect(await late).toBeUndefined();
  expect(await one.ask("double", 1, 60_000)).toBeUndefined();
});
