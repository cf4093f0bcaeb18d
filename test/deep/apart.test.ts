/** Streams of an alpine whose argo is elsewhere: through cuts, kills and silence. */
import { expect, test } from "bun:test";
import { openSplit } from "../alpine/split.ts";
import { READ_TOKEN, signal, WRITE_TOKEN } from "../harness/app.ts";
import { Events } from "../harness/events.ts";
import { Messages } from "../harness/messages.ts";
import { randomNumbers, tellSeed } from "../harness/seed.ts";

const reader = { Authorization: `Bearer ${READ_TOKEN}` };
const CUTS = 100;

test("argo is cut off, killed and silent: neither gap nor duplicate, and no stream is left mute", async () => {
  tellSeed();
  const random = randomNumbers();
  const below = (n: number): number => Math.floor(random() * n);
  await using split = await openSplit("postgres");
  const url = split.alpine.server.url;
  const post = async (): Promise<number> => {
    const response = await fetch(`${split.argo.url}/api/signals`, {
      method: "POST",
      headers: { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" },
      body: JSON.stringify(signal({ entry_price: 96 + random() * 9 })),
    });
    const { signals } = (await response.json()) as { signals: { id: number }[] };
    return signals[0]?.id ?? 0;
  };
  const told = { last: await post(), over: false };
  const from = told.last;
  const faults: string[] = [];
  const client = async (socket: boolean): Promise<number> => {
    let [cursor, count] = [from, 0];
    while (!told.over || cursor < told.last) {
      try {
        if (socket) {
          await using messages = await Messages.open(`${url}/api/signals/ws`, reader);
          await messages.subscribe({ resume_from: cursor });
          for (let take = below(200); take > 0 && !(told.over && cursor >= told.last); take -= 1) {
            const message = await messages.next(40_000);
            if (message?.id === undefined) break;
            if (message.type === "signal" && message.id !== cursor + 1) {
              faults.push(`${message.id} after ${cursor}`);
            }
            cursor = message.id;
            count += 1;
          }
        } else {
          const path = `${url}/api/signals/stream?since_id=${cursor}`;
          await using events = new Events(await fetch(path, { headers: reader }));
          for (let take = below(200); take > 0 && !(told.over && cursor >= told.last); take -= 1) {
            const event = await events.next(40_000);
            if (event === null) break;
            if (event.event === "signal" && event.id !== cursor + 1) {
              faults.push(`${event.id} after ${cursor}`);
            }
            cursor = event.id;
            count += 1;
          }
        }
      } catch (error) {
        if (String(error).includes("in time")) faults.push(String(error));
        await Bun.sleep(50);
      }
    }
    return count;
  };
  const clients = Array.from({ length: 8 }, (_, i) => client(i % 2 === 0));
  for (let i = 0; i < CUTS; i += 1) {
    split.link.cut();
    for (let n = below(10); n > 0; n -= 1) told.last = await post();
    await Bun.sleep(below(100));
    split.link.restore();
    for (let n = below(10); n > 0; n -= 1) told.last = await post();
    await Bun.sleep(below(200));
    if (i % 25 === 24) {
      await split.killArgo();
      await Bun.sleep(below(2) === 0 ? 100 : 6_000);
      await split.startArgo();
    }
  }
  told.over = true;
  await Promise.all(clients);
  expect(faults).toEqual([]);
}, 600_000);

test("away for five seconds, or silent: streams end and say where to resume", async () => {
  await using split = await openSplit("postgres");
  const url = split.alpine.server.url;
  const open = async (): Promise<[Events, Messages, number]> => {
    const events = new Events(await fetch(`${url}/api/signals/stream`, { headers: reader }));
    const messages = await Messages.open(`${url}/api/signals/ws`, reader);
    const { id } = await events.must("head");
    await messages.subscribe();
    return [events, messages, id];
  };
  const endOf = async ([events, messages, id]: [Events, Messages, number]): Promise<number> => {
    const begun = performance.now();
    let event = await events.next(40_000);
    while (event?.event === "head") event = await events.next(40_000);
    expect([event?.event, event?.data]).toEqual(["end", { reason: "unavailable", id }]);
    let message = await messages.next(40_000);
    while (message?.type === "head") message = await messages.next(40_000);
    expect(message).toEqual({ type: "end", reason: "unavailable", id });
    return performance.now() - begun;
  };
  const first = await open();
  await split.killArgo();
  expect(await endOf(first)).toBeWithin(4_500, 7_000);
  expect((await fetch(`${url}/api/signals/stream`, { headers: reader })).status).toBe(503);
  await split.startArgo();
  await Bun.sleep(2_000);
  const second = await open();
  process.kill(split.argo.pid, "SIGSTOP");
  try {
    expect(await endOf(second)).toBeWithin(4_500, 30_000);
  } finally {
    process.kill(split.argo.pid, "SIGCONT");
  }
}, 120_000);
