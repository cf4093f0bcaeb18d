import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import type { StreamEvent, StreamNotice } from "../../client/src/index.ts";
import { openApp, READ_TOKEN } from "../harness/app.ts";
import { until } from "../harness/process.ts";
import { tcpProxy } from "../harness/proxy.ts";
import { bot as pythonBot, noPython } from "./bot.ts";
import { follow } from "./follow.ts";
import { range, reader, serve, signals, writer } from "./serve.ts";

test("gives what was missed, then what comes, filtered, and tells where the sequence stands", async () => {
  await using at = await serve();
  const post = writer(at.url);
  await post.post(signals(20));
  const argo = reader(at.url);
  await using all = follow(argo, {}, { sinceId: 5 });
  await using some = follow(argo, { symbol: "X", min_confidence: 90 }, { sinceId: 0 });
  await using live = follow(argo);
  await until(() => live.stream.cursor === 20, "the head");
  await post.post(signals(2, { symbol: "X" }));
  await post.post(signals(1, { symbol: "X", confidence: 50 }));
  await until(() => [all, live].every(({ ids }) => ids.at(-1) === 23), "the newest");
  expect(all.ids).toEqual(range(6, 23));
  expect(live.ids).toEqual(range(21, 23));
  expect(some.ids).toEqual([21, 22]);
  expect(all.notices).toEqual([{ type: "head", id: 5, headId: 20 }]);
});

test("an abort ends it quietly and closes its connection, and so does leaving the loop", async () => {
  await using at = await serve();
  await writer(at.url).post(signals(3));
  await using way = await tcpProxy({ port: at.port });
  const argo = reader(`http://127.0.0.1:${way.port}`);
  const aborted = follow(argo, {}, { sinceId: 0 });
  await until(() => aborted.ids.length === 3, "all three");
  await aborted[Symbol.asyncDispose]();
  await aborted.done;
  const left = argo.stream({}, { sinceId: 0 });
  for await (const { id } of left) if (id === 2) break;
  expect(left.cursor).toBe(2);
  await until(() => way.open() === 0, "both connections closed");
  // The same goes on where it was, for one at a time.
  for await (const { id } of left) {
    expect(id).toBe(3);
    await expect(left.events().next()).rejects.toThrow("is being read already");
    break;
  }
});

test("resumes over cut connections and kill -9 of the server, each signal once and in order", async () => {
  await using at = await serve();
  await using way = await tcpProxy({ port: at.port });
  const post = writer(at.url, { deadlineMs: 60_000, timeoutMs: 5_000 });
  await using bot = follow(reader(`http://127.0.0.1:${way.port}`), {}, { sinceId: 0 });
  const written: number[] = [];
  let writing = true;
  const producer = (async () => {
    for (;;) {
      if (!writing) return;
      written.push(...(await post.post(signals(3))).map(({ id }) => id));
    }
  })();
  for (let round = 0; round < 6; round += 1) {
    const before = bot.ids.length;
    await until(() => bot.ids.length > before + 20, "some more");
    if (round === 2) {
      at.server().kill();
      await at.again();
    } else {
      way.cut();
      await Bun.sleep(20);
      way.restore();
    }
  }
  writing = false;
  await producer;
  await until(() => bot.ids.at(-1) === written.at(-1), "the last");
  expect(written).toEqual(range(1, written.length));
  expect(bot.ids).toEqual(written);
  expect(bot.drops().length).toBeGreaterThanOrEqual(6);
});

test("a server that falls silent is left, and found again when it speaks", async () => {
  await using at = await serve();
  const post = writer(at.url);
  const options = { muteMs: 300, timeoutMs: 300 };
  await using bot = follow(reader(at.url, options));
  await until(() => bot.stream.cursor === 0, "the head");
  process.kill(at.server().pid, "SIGSTOP");
  // Once on the open stream, and once where none is opened.
  await until(() => bot.drops().length >= 2, "the silence is noticed");
  process.kill(at.server().pid, "SIGCONT");
  expect(bot.drops()[0]).toContain("TimeoutError");
  const [written] = await post.post(signals(1));
  await until(() => bot.ids.length > 0, "the signal");
  expect(bot.ids).toEqual([written?.id ?? 0]);
});

test("a server that is stopped and begins again is found at once", async () => {
  await using at = await serve();
  await using bot = follow(reader(at.url), {}, { sinceId: 0 });
  await writer(at.url).post(signals(1));
  await until(() => bot.ids.length === 1, "the first");
  at.server().stop();
  await until(() => bot.drops().length > 0, "the end");
  await at.again();
  await writer(at.url).post(signals(1));
  await until(() => bot.ids.length === 2, "the second");
  expect(bot.ids).toEqual([1, 2]);
  expect(bot.notices.find(({ type }) => type === "dropped")).toEqual({
    type: "dropped",
    id: 1,
    reason: "draining",
    pauseMs: 0,
  });
});

test("a bot that is slow holds little, is cut off, and comes back for the rest", async () => {
  await using at = await serve();
  const stream = reader(at.url).stream();
  const drops: string[] = [];
  const events = stream.events();
  await events.next();
  using engine = new Database(at.db, { readwrite: true });
  engine.run("PRAGMA busy_timeout = 5000");
  const insert = engine.query(
    "INSERT INTO signals (symbol, action, confidence, entry_price, timestamp, strategy, sha256) VALUES ('SPX', 'BUY', 50, 1, '2026-01-01T00:00:00Z', ?, '')",
  );
  // 24 MB, of which sockets hold some and the server 1 MiB.
  const rows = 1_200;
  const strategy = "x".repeat(20_000);
  engine.transaction(() => {
    for (let i = 0; i < rows; i += 1) insert.run(strategy);
  })();
  const ended = async (): Promise<boolean> =>
    (await (await fetch(`${at.url}/metrics`)).text()).includes(
      'streams_ended_total{reason="slow"} 1',
    );
  await until(ended, "cut off");
  let last = 0;
  while (last < rows) {
    const { value } = (await events.next()) as { value: StreamEvent };
    if (value.type === "dropped") drops.push(value.reason);
    if (value.type !== "signal") continue;
    if (value.id !== last + 1) throw new Error(`${value.id} after ${last}`);
    last = value.id;
  }
  await events.return();
  expect(drops).toContain("slow");
});

test("what comes twice is given once, what is unknown is passed over, and who is busy is left alone", async () => {
  const asked: [since: string | null, atMs: number][] = [];
  const signal = (id: number): string => `event: signal\nid: ${id}\ndata: {"id":${id}}\n\n`;
  const events = (text: string): Response =>
    new Response(text, { headers: { "Content-Type": "text/event-stream" } });
  const answers = [
    () => new Response(null, { status: 503, headers: { "Retry-After": "0" } }),
    () =>
      events(
        `event: head\nid: 1\ndata: {"id":3}\n\n: a comment\n\nevent: news\ndata: 7\n\n${signal(2)}${signal(2)}${signal(1)}retry: 300\nevent: end\nid: 2\ndata: {"reason":"unavailable","id":2}\n\n`,
      ),
    () => events(`${signal(2)}${signal(3)}event: signal\nid: 4\nda`),
    () => events(signal(4)),
  ];
  using fake = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch({ url }) {
      asked.push([new URL(url).searchParams.get("since_id"), performance.now()]);
      return answers.shift()?.() ?? new Response(null, { status: 404 });
    },
  });
  await using bot = follow(reader(fake.url.href), {}, { sinceId: 1 });
  expect(await bot.done.catch((error: unknown) => error)).toMatchObject({ status: 404 });
  expect(bot.ids).toEqual([2, 3, 4]);
  expect(asked.map(([since]) => since)).toEqual(["1", "1", "2", "3", "4"]);
  expect((asked[2]?.[1] ?? 0) - (asked[1]?.[1] ?? 0)).toBeGreaterThanOrEqual(300);
});

test("a cursor of another file is told of, and goes on from the head", async () => {
  await using at = await serve();
  const post = writer(at.url);
  await post.post(signals(2));
  await using bot = follow(reader(at.url), {}, { sinceId: 1_000 });
  await until(() => bot.stream.cursor === 2, "the head");
  await post.post(signals(1));
  await until(() => bot.ids.length === 1, "the signal");
  expect([bot.ids, bot.notices]).toEqual([[3], [{ type: "ahead", id: 2 }]]);
});

test("an export that is cut goes on where it was", async () => {
  await using at = await serve();
  for (let i = 0; i < 6; i += 1) await writer(at.url).post(signals(1_000));
  await using way = await tcpProxy({ port: at.port });
  const ids: number[] = [];
  way.stall(50_000);
  const reading = (async () => {
    for await (const { id } of reader(`http://127.0.0.1:${way.port}`).export(10)) ids.push(id);
  })();
  await until(() => ids.length > 0 && way.isHeld(), "a part of it");
  expect(ids.length).toBeLessThan(5_990);
  way.cut();
  way.restore();
  await reading;
  expect(ids).toEqual(range(11, 6_000));
  expect(way.accepted()).toBeGreaterThanOrEqual(2);
});

test("what was deleted for its age is told of, by both clients, and the rest given", async () => {
  await using app = await openApp({
    fixture: null,
    env: { SIGNALS_RETENTION_DAYS: "30" },
    now: Date.now(),
  });
  const url = app.listen();
  await writer(url).post(signals(60));
  app.engine.run(
    "UPDATE argo_received SET received_at = '2020-01-01T00:00:00.000Z' WHERE id <= 40",
  );
  await app.deps.argo.writer.forget();
  const gap = { type: "gap", id: 10, from: 11, to: 40 } as const;
  await using bot = follow(reader(url), {}, { sinceId: 10 });
  await until(() => bot.ids.length === 20, "the rest");
  expect([bot.ids, bot.notices.at(-1)]).toEqual([range(41, 60), gap]);
  const told: StreamNotice[] = [];
  const exported: number[] = [];
  const onNotice = (notice: StreamNotice): void => void told.push(notice);
  for await (const { id } of reader(url).export(10, { onNotice })) exported.push(id);
  expect([exported, told]).toEqual([bot.ids, [gap]]);
  // Whoever would rather have nothing than a part stops it so.
  const refusing = (): never => {
    throw new Error("a gap");
  };
  await expect(reader(url).export(10, { onNotice: refusing }).next()).rejects.toThrow("a gap");
  if (noPython) return;
  for (const [what, name, since] of [
    ["stream", "signal", "10"],
    ["export", "id", ""],
  ] as const) {
    await using python = pythonBot(what, url, READ_TOKEN, since);
    await python.has(20, name);
    await until(() => python.told.length >= 21, "the gap");
    expect(python.told.find(({ type }) => type === "gap")).toEqual(gap);
  }
});
