import type { Server } from "bun";
import { beforeEach, expect, test } from "bun:test";
import { fullView } from "../../../src/http/entitlement.ts";
import { Frame } from "../../../src/argo/signals/event.ts";
import type { ReceivedSignal } from "../../../src/argo/signals/signal.ts";
import { type Topic, Topics } from "../../../src/argo/signals/topics.ts";
import { turn } from "../../harness/app.ts";

/** Many who are told the same, with sockets that only note what they are sent. */

const all = { minConfidence: 0 };
const tail = {
  headId: 0,
  position: 0,
  joined: new Set<never>(),
  replay: () => Promise.reject(new Error("nothing is replayed")),
};

class Listener {
  readonly meter = null;
  waitingBytes = 0;
  readonly topics = new Set<string>();
  readonly got: number[] = [];
  subscribe = (topic: string): void => void this.topics.add(topic);
  unsubscribe = (topic: string): void => void this.topics.delete(topic);
  slow(): void {
    throw new Error("nobody is slow here");
  }
}

let topics: Topics;
let topic: Topic;
let listeners: Listener[];
let id: number;

/** To whoever is subscribed when it is published, as Bun does. */
const server = {
  publish(name: string, text: string): number {
    const { id: sent } = JSON.parse(text) as { id: number };
    for (const { topics: held, got } of listeners) if (held.has(name)) got.push(sent);
    return text.length;
  },
} as unknown as Server<unknown>;

const join = (): Listener => {
  const listener = new Listener();
  listeners.push(listener);
  topic = topics.join(tail, fullView, all, server, listener);
  return listener;
};

/** Somebody with a filter of their own. */
const joinAlone = (i: number): { topic: Topic; listener: Listener } => {
  const listener = new Listener();
  listeners.push(listener);
  const filter = { minConfidence: i / 1_000 };
  return { topic: topics.join(tail, fullView, filter, server, listener), listener };
};

/** Tells the next signal. */
function tell(): void {
  id += 1;
  topic.take([new Frame({ id, confidence: 50 } as ReceivedSignal)]);
}

const upTo = (last: number): number[] => Array.from({ length: last }, (_, i) => i + 1);
const at = (i: number): Listener => listeners[i] as Listener;

beforeEach(() => {
  topics = new Topics();
  listeners = [];
  id = 0;
  for (let i = 0; i < 250; i += 1) join();
});

test("a few are told at once, the others in the turns that follow", async () => {
  tell();
  expect(listeners.filter(({ got }) => got.length === 1)).toHaveLength(100);
  await turn();
  expect(listeners.filter(({ got }) => got.length === 1)).toHaveLength(200);
  await turn();
  for (const { got } of listeners) expect(got).toEqual([1]);
});

test("however fast it goes, all are told all in order, and none waits for long", async () => {
  for (let i = 0; i < 60; i += 1) {
    tell();
    await turn();
    for (const { got } of listeners) expect(id - got.length).toBeLessThanOrEqual(3);
  }
  for (let i = 0; i < 3; i += 1) await turn();
  for (const { got } of listeners) expect(got).toEqual(upTo(60));
});

test("who leaves before it was their turn resumes where they were", async () => {
  tell();
  await turn();
  await turn();
  tell();
  tell();
  const [told, leaves] = [at(0), at(240)];
  expect([told.got, topic.unsentAfter(told)]).toEqual([[1, 2], 2]);
  expect([leaves.got, topic.unsentAfter(leaves)]).toEqual([[1], 1]);
  topics.part(tail, topic, leaves);
  for (let i = 0; i < 6; i += 1) await turn();
  expect([leaves.got, told.got, at(249).got]).toEqual([[1], [1, 2, 3], [1, 2, 3]]);
  expect(topic.unsentAfter(told)).toBeNull();
});

test("thousands at once go in pieces, and who does not take them is cut off where they were", async () => {
  const slow = at(7);
  slow.waitingBytes = 1_000_000;
  let cursor: number | null = null;
  slow.slow = () => {
    cursor = topic.unsentAfter(slow);
    topics.part(tail, topic, slow);
  };
  const frames = Array.from({ length: 5_000 }, () => {
    id += 1;
    return new Frame({ id, confidence: 50 } as ReceivedSignal);
  });
  topic.take(frames);
  expect(at(0).got.length).toBeWithin(1, 400);
  while (topic.left) await turn();
  expect(slow.got.length).toBeWithin(1, 4_999);
  expect(cursor as number | null).toBe(slow.got.at(-1) ?? null);
  expect(slow.got).toEqual(upTo(slow.got.length));
  for (const other of [at(0), at(249)]) expect(other.got).toEqual(upTo(5_000));
});

test("who joins is told what comes from then on", async () => {
  tell();
  const joins = join();
  tell();
  for (let i = 0; i < 4; i += 1) await turn();
  expect([joins.got, at(249).got, at(0).got]).toEqual([[2], [1, 2], [1, 2]]);
});

test("when all have left there is nothing to be told, and nobody waits", async () => {
  tell();
  for (const listener of listeners) topics.part(tail, topic, listener);
  await turn();
  const joins = join();
  tell();
  expect(joins.got).toEqual([2]);
});

test("filters of their own are told in turns as well", async () => {
  for (const listener of listeners) topics.part(tail, topic, listener);
  const alone = Array.from({ length: 250 }, (_, i) => joinAlone(i + 1));
  const frame = new Frame({ id: 1, confidence: 50 } as ReceivedSignal);
  for (const each of alone) each.topic.take([frame]);
  for (const told of [100, 200, 250]) {
    expect(alone.filter(({ listener }) => listener.got.length === 1)).toHaveLength(told);
    await turn();
  }
});
