/** Cursors behind retention: what may be missing is told once, then it goes on. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { openApp, READ_TOKEN, signal, type App } from "../../harness/app.ts";
import { Events } from "../../harness/events.ts";
import { Messages } from "../../harness/messages.ts";

const reader = { Authorization: `Bearer ${READ_TOKEN}` };
const DAYS = 30;

let app: App;
let url: string;
beforeAll(async () => {
  app = await openApp({
    fixture: null,
    env: { SIGNALS_RETENTION_DAYS: String(DAYS) },
    now: Date.now(),
  });
  url = app.listen();
  await post(1_200);
});
afterAll(() => app[Symbol.asyncDispose]());

let price = 96;
async function post(count: number): Promise<void> {
  for (let left = count; left > 0; left -= 600) {
    const size = Math.min(left, 600);
    const rows = Array.from({ length: size }, () => signal({ entry_price: (price += 0.001) }));
    expect((await app.post(rows)).status).toBe(201);
  }
}

/** Lets rows be old, and deletes them for it. */
async function expire(where: string): Promise<void> {
  const old = new Date(app.clock.ms - (DAYS + 1) * 86_400_000).toISOString();
  app.engine.run(`UPDATE argo_received SET received_at = '${old}' WHERE ${where}`);
  await app.deps.argo.writer.forget();
}

const stream = async (since: number): Promise<Events> => {
  const path = `/api/signals/stream?since_id=${since}`;
  const events = new Events(await app.get(path, reader));
  await events.must("head");
  return events;
};
const socket = async (since: number): Promise<Messages> => {
  const messages = await Messages.open(`${url}/api/signals/ws`, reader);
  await messages.subscribe({ resume_from: since });
  return messages;
};
const gapOfExport = async (since: number): Promise<[string | null, number]> => {
  const response = await app.get(`/api/signals/export?since_id=${since}`, reader);
  const lines = (await response.text()).split("\n");
  return [response.headers.get("signal-gap"), lines.length - 1];
};

test("nothing is told while nothing was deleted for its age", async () => {
  // By somebody else, and not for that.
  app.engine.run("DELETE FROM signals WHERE id <= 100");
  await using events = await stream(0);
  expect((await events.must("signal")).id).toBe(101);
  await using messages = await socket(0);
  expect((await messages.must("signal")).id).toBe(101);
  expect(await gapOfExport(0)).toEqual([null, 1_100]);
});

test("a cursor behind it is told once what may be missing, then what is left", async () => {
  await expire("id <= 600");
  await using events = await stream(200);
  const gap = await events.must("gap");
  expect([gap.id, gap.data]).toEqual([200, { from: 201, to: 600 }]);
  expect((await events.ids(600)).at(0)).toBe(601);
  await using messages = await socket(200);
  expect(await messages.must("gap")).toEqual({ type: "gap", id: 200, from: 201, to: 600 });
  expect((await messages.ids(600)).at(0)).toBe(601);
  await post(1);
  expect([await events.ids(1), await messages.ids(1)]).toEqual([[1_201], [1_201]]);
  expect(await gapOfExport(200)).toEqual(["from=201, to=600", 601]);
});

test("who had read all that is gone is told nothing", async () => {
  for (const since of [600, 900]) {
    await using events = await stream(since);
    expect((await events.must("signal")).id).toBe(since + 1);
    await using messages = await socket(since);
    expect((await messages.must("signal")).id).toBe(since + 1);
    expect((await gapOfExport(since))[0]).toBeNull();
  }
  await using live = new Events(await app.get("/api/signals/stream", reader));
  expect((await live.must("head")).id).toBe(1_201);
  expect(await live.isQuiet()).toBe(true);
});

test("what is left among them is told, and the gap not twice", async () => {
  await expire("id <= 1100 AND id <> 650 AND id <> 1099");
  await using events = await stream(0);
  expect((await events.must("gap")).data).toEqual({ from: 1, to: 1_100 });
  expect(await events.ids(3)).toEqual([650, 1_099, 1_101]);
  // From in between it may be missing again.
  await using messages = await socket(650);
  expect(await messages.must("gap")).toEqual({ type: "gap", id: 650, from: 651, to: 1_100 });
  expect(await messages.ids(2)).toEqual([1_099, 1_101]);
});

test("what is deleted while somebody is behind is told as well", async () => {
  await post(1_000);
  const path = "/api/signals/stream?since_id=1101";
  const response = await app.get(path, reader);
  await using events = new Events(response);
  await events.must("head");
  // The first slice has been read by now or not: nothing of it is lost without a word.
  await expire("id <= 1900");
  const told: number[] = [];
  let gap: Record<string, unknown> | null = null;
  while (told.at(-1) !== 2_201) {
    const event = await events.next();
    if (event?.event === "gap") gap = event.data;
    if (event?.event === "signal") told.push(event.id);
  }
  expect(gap).toMatchObject({ to: 1_900 });
  expect(told.slice(-301)).toEqual(Array.from({ length: 301 }, (_, i) => 1_901 + i));
});

test("a table made anew has no gap", async () => {
  app.engine.transaction(() => {
    const { sql } = app.engine
      .query<{ sql: string }, []>("SELECT sql FROM sqlite_master WHERE name = 'signals'")
      .get() ?? { sql: "" };
    app.engine.run("DROP TABLE signals");
    app.engine.run(sql);
  })();
  await app.deps.argo.writer.adopt(false);
  await post(2);
  await using events = await stream(0);
  expect((await events.must("signal")).id).toBe(1);
});
