import type { Database } from "bun:sqlite";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import pino from "pino";
import {
  fullView,
  viewHeader,
  viewOf,
  viewText,
  type View,
} from "../../../src/http/entitlement.ts";
import {
  fieldsOf,
  LEGACY_ROWS,
  openApp,
  problemOf,
  READ_TOKEN,
  SERVICE_TOKEN,
  signal,
  type App,
} from "../../harness/app.ts";
import { Events } from "../../harness/events.ts";
import { Messages } from "../../harness/messages.ts";
import { startServer, tempDir, until } from "../../harness/process.ts";
import { randomNumbers, tellSeed } from "../../harness/seed.ts";

const STREAM = "/api/signals/stream";
const reader = { Authorization: `Bearer ${READ_TOKEN}` };
const as = (view: View) => ({
  Authorization: `Bearer ${SERVICE_TOKEN}`,
  [viewHeader]: viewText(view),
});
const starter = viewOf(false, 900);

const opened = async (app: App, query = "", headers: Record<string, string> = reader) =>
  new Events(await app.get(STREAM + query, headers));
const listening = async (url: string, query = "", headers: Record<string, string> = reader) =>
  new Events(await fetch(url + STREAM + query, { headers }));

const INSERT = `INSERT INTO signals (symbol, action, entry_price, confidence, timestamp, strategy)
  VALUES (?, 'BUY', 1, ?, '2026-01-01T00:00:00Z', ?)`;
/** Commits one row as the engine would. @returns its id. */
const add = (db: Database, symbol = "SPX", confidence = 50, strategy = "trend"): number =>
  Number(db.run(INSERT, [symbol, confidence, strategy]).lastInsertRowid);
const range = (from: number, to: number): number[] =>
  Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);

describe("a stream", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp({ now: Date.now() });
  });
  afterAll(() => app[Symbol.asyncDispose]());

  test("begins with the head and goes on with what comes, as lists show it", async () => {
    await using events = await opened(app);
    const { headers } = events.response;
    expect(headers.get("content-type")).toBe("text/event-stream");
    expect(headers.get("cache-control")).toBe("no-store");
    expect(headers.get("x-accel-buffering")).toBe("no");
    expect(headers.get("content-encoding")).toBeNull();
    const head = await events.must("head");
    expect(events.retryMs).toBeGreaterThanOrEqual(1_000);
    expect(head.data).toEqual({ id: head.id });
    expect(head.id).toBe(app.deps.argo.reader.look().maxId);
    await app.post(signal({ symbol: "Größe 😀", entry_price: 97 }));
    const own = await events.must("signal");
    const id = add(app.engine);
    const other = await events.must("signal");
    expect([own.id, other.id]).toEqual([head.id + 1, id]);
    const { signals } = await app.json<{ signals: { id: number }[] }>("/api/signals?limit=50", {
      ...reader,
    });
    for (const event of [own, other]) {
      const listed =
        signals.find((row) => row.id === event.id) ??
        (await app.json<{ id: number }>(`/api/signals/${event.id}`, reader));
      expect(JSON.stringify(event.data)).toBe(JSON.stringify(listed));
      expect(event.data["received_at"]).toBeString();
    }
  });

  test("is not packed, whatever the client takes", async () => {
    await using events = await opened(app, "", { ...reader, "Accept-Encoding": "gzip" });
    expect(events.response.headers.get("content-encoding")).toBeNull();
    await events.must("head");
  });

  test("replays what was missed, all of it, and the header wins over the query", async () => {
    const head = app.deps.argo.reader.look().maxId;
    await using whole = await opened(app, "?since_id=0");
    expect((await whole.must("head")).data).toEqual({ id: head });
    expect(await whole.ids(head)).toEqual(range(1, head));
    const since = { ...reader, "Last-Event-ID": String(head - 2) };
    await using rest = await opened(app, "?since_id=5", since);
    // Who is cut off at once has missed nothing more.
    expect((await rest.must("head")).id).toBe(head - 2);
    expect(await rest.ids(2)).toEqual([head - 1, head]);
    const id = add(app.engine);
    expect([await whole.ids(1), await rest.ids(1)]).toEqual([[id], [id]]);
  });

  test.each([
    ["?symbol=STREAMED", (row: Row) => row.symbol === "STREAMED"],
    ["?strategy=mean", (row: Row) => row.strategy === "mean"],
    ["?min_confidence=70", (row: Row) => row.confidence >= 70],
    ["?premium_only=true", (row: Row) => row.confidence >= 95],
    [
      "?symbol=STREAMED&min_confidence=60&strategy=trend",
      (row: Row) => row.symbol === "STREAMED" && row.confidence >= 60 && row.strategy === "trend",
    ],
    ["?symbol=NOTHING", () => false],
  ])("%s is what latest shows with the same filter, live and replayed", async (query, passes) => {
    const from = app.deps.argo.reader.look().maxId;
    await using live = await opened(app, query);
    await live.must("head");
    const rows: Row[] = [];
    for (const symbol of ["STREAMED", "OTHER"]) {
      for (const strategy of ["trend", "mean"]) {
        for (const confidence of [50, 69.9, 70, 94.9, 95, 100]) {
          const id = add(app.engine, symbol, confidence, strategy);
          rows.push({ id, symbol, confidence, strategy });
        }
      }
    }
    const expected = rows.filter(passes).map(({ id }) => id);
    expect(await live.ids(expected.length)).toEqual(expected);
    const polled = await app.json<Row[]>(`/api/signals/latest${query}&limit=500`, reader);
    const newest = polled.map(({ id }) => id).filter((id) => id > from);
    expect(newest.toSorted((a, b) => a - b)).toEqual(expected);
    await using replayed = await opened(app, `${query}&since_id=${from}`);
    await replayed.must("head");
    expect(await replayed.ids(expected.length)).toEqual(expected);
    expect([await live.isQuiet(), await replayed.isQuiet()]).toEqual([true, true]);
  });

  test("tells its head every 15 seconds, quiet or not", async () => {
    await using quiet = await opened(app, "?symbol=NOTHING");
    await using busy = await opened(app);
    await quiet.must("head");
    await busy.must("head");
    const id = add(app.engine);
    expect(await busy.ids(1)).toEqual([id]);
    app.clock.ms += 14_000;
    expect(await quiet.isQuiet(700)).toBe(true);
    app.clock.ms += 1_000;
    for (const events of [quiet, busy]) {
      const { id: cursor, data } = await events.must("head");
      expect([cursor, data]).toEqual([id, { id }]);
    }
    expect(await quiet.isQuiet(700)).toBe(true);
    // Whoever resumes from there has missed nothing.
    await using again = await opened(app, `?since_id=${quiet.lastId}`);
    await again.must("head");
    expect(await again.isQuiet()).toBe(true);
  });

  test.each(["-1", "x", "", "1.0", "1e3", "9".repeat(17), "1&since_id=2"])(
    "since_id=%s is 400",
    async (value) => {
      const response = await app.get(`${STREAM}?since_id=${value}`, reader);
      expect([response.status, await fieldsOf(response)]).toEqual([400, ["since_id"]]);
    },
  );

  test.each(["-1", "x", "1.0", "9".repeat(17), "1, 2"])(
    "Last-Event-ID: %s is 400",
    async (value) => {
      const response = await app.get(STREAM, { ...reader, "Last-Event-ID": value });
      expect([response.status, await fieldsOf(response)]).toEqual([400, ["Last-Event-ID"]]);
    },
  );

  test.each(["?min_confidence=x", "?limit=1", "?symbol=", "?premium_only=maybe"])(
    "%s is 400",
    async (query) => {
      expect((await app.get(STREAM + query, reader)).status).toBe(400);
    },
  );

  test("needs what a poll needs", async () => {
    await using closed = await openApp({ fixture: null, env: { SIGNALS_ACCESS: "key" } });
    const statuses: number[] = [];
    for (const headers of [undefined, { Authorization: "Bearer unknown-0123456789" }]) {
      statuses.push((await closed.get(STREAM, headers)).status);
    }
    expect(statuses).toEqual([401, 401]);
    await using guests = await openApp({ env: { SIGNALS_ACCESS: "open" } });
    await using events = await opened(guests, "", {});
    await events.must("head");
  });

  test("a cursor ahead of the head is told so, and goes on live", async () => {
    const head = app.deps.argo.reader.look().maxId;
    await using events = await opened(app, `?since_id=${head + 1_000}`);
    const ahead = await events.must("ahead");
    expect([ahead.id, ahead.data]).toEqual([head, { id: head }]);
    const id = add(app.engine);
    expect(await events.ids(1)).toEqual([id]);
  });

  test("HEAD tells the headers and opens nothing", async () => {
    const open = app.deps.argo.feed.followers;
    const response = await app.send(
      new Request(`http://argo.test${STREAM}`, { method: "HEAD", headers: reader }),
    );
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    expect(await response.text()).toBe("");
    expect(app.deps.argo.feed.followers).toBe(open);
  });

  test("opening one counts as one read", async () => {
    const env = { RATE_LIMIT_PER_MINUTE: "3" };
    await using limited = await openApp({ env });
    const statuses: number[] = [];
    for (let i = 0; i < 4; i += 1) {
      const response = await limited.get(STREAM, reader);
      statuses.push(response.status);
      await response.body?.cancel();
    }
    expect(statuses).toEqual([200, 200, 200, 429]);
  });
});

interface Row {
  id: number;
  symbol: string;
  confidence: number;
  strategy: string;
}

test("clients that go away leave nothing behind, and without any the file is not looked at", async () => {
  await using app = await openApp({ now: Date.now() });
  const url = app.listen();
  const { feed } = app.deps.argo;
  const cut = new AbortController();
  const response = await fetch(url + STREAM, { headers: reader, signal: cut.signal });
  const events = new Events(response);
  await events.must("head");
  const inProcess = await opened(app);
  await inProcess.must("head");
  expect(feed.followers).toBe(2);
  cut.abort();
  await inProcess[Symbol.asyncDispose]();
  await until(() => feed.followers === 0, "both have left");
  await Bun.sleep(20);
  const { looks } = feed;
  add(app.engine);
  await Bun.sleep(50);
  expect(feed.looks).toBe(looks);
});

/** Streams of whoever has no credential are counted by their address. */
const behindProxy = { now: Date.now(), env: { SIGNALS_ACCESS: "open", TRUST_PROXY: "1" } };
const from = (address: string): Record<string, string> => ({ "X-Forwarded-For": address });

test("of one address without a credential the newest win, over whatever they are sent", async () => {
  await using app = await openApp(behindProxy);
  const url = app.listen();
  await using other = await opened(app, "", from("192.0.2.1"));
  await other.must("head");
  const open: Events[] = [];
  // One client may use every address of its network.
  for (let i = 0; i < 50; i += 1) open.push(await opened(app, "", from(`2001:db8::${i + 1}`)));
  for (const events of open) await events.must("head");
  const id = add(app.engine);
  for (const events of [...open, other]) expect(await events.ids(1)).toEqual([id]);
  await using socket = await Messages.open(`${url}/api/signals/ws`, from("2001:db8::ffff"));
  await socket.subscribe();
  await using newest = await opened(app, "", from("2001:db8:0:0:1::"));
  await newest.must("head");
  for (const events of open.splice(0, 2)) {
    expect((await events.must("end", 1_000)).data).toEqual({ reason: "replaced", id });
    expect(await events.next()).toBeNull();
  }
  // Those of the operator's tokens are not counted, wherever they come from.
  for (let i = 0; i < 20; i += 1) {
    await (await opened(app, "", { ...reader, ...from("2001:db8::1") }))[Symbol.asyncDispose]();
  }
  const next = add(app.engine);
  for (const events of [...open, newest, other]) expect(await events.ids(1)).toEqual([next]);
  expect(await socket.ids(1)).toEqual([next]);
  for (const events of open) await events[Symbol.asyncDispose]();
});

test("too many streams without a credential are 503; those that go make room", async () => {
  await using app = await openApp(behindProxy);
  const open: Events[] = [];
  for (let i = 0; i < 1_000; i += 1) open.push(await opened(app, "", from(`192.0.2.${i % 50}`)));
  const response = await app.get(STREAM, from("198.51.100.1"));
  expect(response.status).toBe(503);
  expect(response.headers.get("retry-after")).toBe("30");
  // Whoever has one already is not kept out by it.
  open.push(await opened(app, "", from("192.0.2.0")));
  const replaced = open.shift();
  await replaced?.must("head");
  expect((await replaced?.must("end", 1_000))?.data["reason"]).toBe("replaced");
  // The operator's own are not counted with them.
  open.push(await opened(app));
  await open.pop()?.[Symbol.asyncDispose]();
  await using events = await opened(app);
  await events.must("head");
  const id = add(app.engine);
  for (const one of open) expect(await one.ids(1)).toEqual([id]);
  for (const one of open) await one[Symbol.asyncDispose]();
});

describe("the sequence", () => {
  test("has neither gap nor duplicate, whoever commits and whenever somebody comes", async () => {
    tellSeed();
    const random = randomNumbers();
    const below = (n: number): number => Math.floor(random() * n);
    await using app = await openApp({ now: Date.now() });
    const url = app.listen();
    const total = 1_500;
    const last = LEGACY_ROWS + total;
    const follow = async (): Promise<number> => {
      await Bun.sleep(below(600));
      const since = below(2) === 0 ? below(LEGACY_ROWS) : LEGACY_ROWS - below(20);
      await using events = await listening(url, `?since_id=${since}`);
      const ids = await events.ids(last - since, 20_000);
      expect(ids).toEqual(range(since + 1, last));
      return ids.length;
    };
    const write = async (): Promise<void> => {
      for (let written = 0; written < total;) {
        const size = Math.min(total - written, 1 + below(8));
        if (below(2) === 0) {
          const rows = Array.from({ length: size }, () =>
            signal({ entry_price: 96 + random() * 9 }),
          );
          const posted = await app.post(rows, { "Idempotency-Key": crypto.randomUUID() });
          expect(posted.status).toBe(201);
        } else {
          app.engine.transaction(() => {
            for (let i = 0; i < size; i += 1) add(app.engine);
          })();
        }
        written += size;
        if (below(4) === 0) await Bun.sleep(below(6));
      }
    };
    const followers = Array.from({ length: 20 }, follow);
    await write();
    expect(app.deps.argo.reader.look().maxId).toBe(last);
    const read = await Promise.all(followers);
    expect(Math.min(...read)).toBeGreaterThanOrEqual(total);
  });

  test("is resumed from random cuts without gap or duplicate", async () => {
    tellSeed();
    const random = randomNumbers();
    await using app = await openApp({ now: Date.now() });
    const url = app.listen();
    const total = 1_000;
    const last = LEGACY_ROWS + total;
    let writing = true;
    const write = async (): Promise<void> => {
      for (let i = 0; i < total; i += 1) {
        add(app.engine);
        if (i % 3 === 0) await Bun.sleep(1);
      }
      writing = false;
    };
    const client = async (): Promise<number> => {
      const ids: number[] = [];
      let cursor = LEGACY_ROWS - 500;
      let cuts = 0;
      while (cursor < last) {
        await using events = await listening(url, "", { ...reader, "Last-Event-ID": `${cursor}` });
        const take = 1 + Math.floor(random() * 60);
        for (let i = 0; i < take && cursor < last; i += 1) {
          const event = await events.next();
          if (event === null) break;
          if (event.event === "signal") ids.push(event.id);
          cursor = event.id;
        }
        cuts += 1;
      }
      expect(ids).toEqual(range(LEGACY_ROWS - 499, last));
      return cuts;
    };
    const [, ...cuts] = await Promise.all([write(), client(), client(), client()]);
    expect(writing).toBe(false);
    expect(Math.min(...(cuts as number[]))).toBeGreaterThan(10);
  });

  test("tells of rows that are taken away, and repeats none of the others", async () => {
    await using app = await openApp({ now: Date.now() });
    await using events = await opened(app);
    const { id: head } = await events.must("head");
    expect([add(app.engine), add(app.engine)]).toEqual([head + 1, head + 2]);
    expect(await events.ids(2)).toEqual([head + 1, head + 2]);
    app.engine.run("UPDATE signals SET confidence = 1 WHERE id = ?", [head + 1]);
    app.engine.run("DELETE FROM signals WHERE id = ?", [head]);
    expect(await events.isQuiet()).toBe(true);
    app.engine.run("DELETE FROM signals WHERE id > ?", [head]);
    const ahead = await events.must("ahead");
    expect([ahead.id, ahead.data]).toEqual([head - 1, { id: head - 1 }]);
    const id = add(app.engine);
    expect(await events.ids(1)).toEqual([id]);
  });

  test("stands while the table is away, and goes on when it is back", async () => {
    await using app = await openApp({ now: Date.now() });
    await using events = await opened(app);
    const { id: head } = await events.must("head");
    app.engine.run("ALTER TABLE signals RENAME TO elsewhere");
    expect((await app.get(STREAM, reader)).status).toBe(503);
    expect(await events.isQuiet()).toBe(true);
    app.engine.run("ALTER TABLE elsewhere RENAME TO signals");
    const id = add(app.engine);
    expect(await events.ids(1)).toEqual([id]);
    expect(id).toBe(head + 1);
  });
});

describe("what a plan may not see", () => {
  test("comes when it falls due, and premium signals never", async () => {
    await using app = await openApp({ fixture: null, now: Date.now() });
    await using late = await opened(app, "", as(starter));
    expect((await late.must("head")).data).toEqual({ id: 0 });
    await using open = await opened(app);
    await open.must("head");
    const plain = add(app.engine, "SPX", 50);
    add(app.engine, "SPX", 99);
    const second = add(app.engine, "SPX", 51);
    expect(await open.ids(3)).toEqual([1, 2, 3]);
    expect(await late.isQuiet()).toBe(true);
    await using tooSoon = await opened(app, "?since_id=0", as(starter));
    expect((await tooSoon.must("head")).data).toEqual({ id: 0 });
    expect(await tooSoon.isQuiet()).toBe(true);
    app.clock.ms = Date.now() + 900_000;
    expect(await late.ids(2)).toEqual([plain, second]);
    expect(await tooSoon.ids(2)).toEqual([plain, second]);
    await using after = await opened(app, "?since_id=0", as(starter));
    expect((await after.must("head")).data).toEqual({ id: second });
    expect(await after.ids(2)).toEqual([plain, second]);
    // The head of others is not told to whom it is not shown.
    await using ahead = await opened(app, `?since_id=${second + 1}`, as(starter));
    expect((await ahead.must("ahead")).data).toEqual({ id: second });
  });

  test("holds back what comes after it, so that ids come in order", async () => {
    await using app = await openApp({ fixture: null, now: Date.now() });
    await using early = await opened(app, "", as(starter));
    await early.must("head");
    const ids = [add(app.engine), add(app.engine), add(app.engine)];
    // The clock was set back between the first two.
    const stamp = app.engine.query("UPDATE argo_received SET received_at = ? WHERE id = ?");
    const base = Date.now();
    const at = [base + 60_000, base, base];
    at.forEach((ms, i) => stamp.run(new Date(ms).toISOString(), ids[i] ?? 0));
    app.engine.run("UPDATE signals SET confidence = confidence + 1");
    app.clock.ms = base + 900_500;
    await early.must("head");
    expect(await early.isQuiet()).toBe(true);
    // Whoever comes now finds the same.
    await using fresh = await opened(app, "?since_id=0", as(starter));
    expect((await fresh.must("head")).data).toEqual({ id: 0 });
    expect(await fresh.isQuiet()).toBe(true);
    app.clock.ms = base + 960_500;
    expect(await early.ids(3)).toEqual(ids);
    expect(await fresh.ids(3)).toEqual(ids);
  });

  test("does not wait for what arrived far ahead of the clock, and the operator is told once", async () => {
    const lines: string[] = [];
    const log = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
    await using app = await openApp({ fixture: null, now: Date.now(), log });
    const { ahead } = app.deps.argo;
    await using early = await opened(app, "", as(starter));
    await early.must("head");
    const ids = [add(app.engine), add(app.engine), add(app.engine)];
    const arrived = new Date(Date.now() + 3_600_000).toISOString();
    app.engine.run(`UPDATE argo_received SET received_at = ? WHERE id = ?`, [arrived, ids[1] ?? 0]);
    app.engine.run("UPDATE signals SET confidence = confidence + 1");
    const told = async (): Promise<[number, string | undefined]> => {
      await ahead.count();
      const { text } = await app.deps.metrics.expose();
      const gauge = /^argo_ahead_signals (\d+)$/m.exec(text)?.[1];
      return [lines.filter((line) => line.includes("ahead of the clock")).length, gauge];
    };
    expect(await told()).toEqual([1, "1"]);
    expect(JSON.parse(lines[0] ?? "")).toMatchObject({ signals: 1 });
    app.clock.ms = Date.now() + 900_000;
    expect(await early.ids(2)).toEqual([ids[0], ids[2]] as number[]);
    expect(await told()).toEqual([1, "1"]);
    app.clock.ms += 3_000_000;
    expect(await told()).toEqual([1, "0"]);
    // It stays passed over, and lists show it.
    app.clock.ms += 900_000;
    const { signals } = await app.json<{ signals: { id: number }[] }>("/api/signals", as(starter));
    expect(signals.map(({ id }) => id).toSorted((a, b) => a - b)).toEqual(ids);
    const next = add(app.engine);
    expect(await early.ids(1)).toEqual([next]);
  });

  test("what was told is resumed from and exported also by a clock that was set back", async () => {
    await using app = await openApp({ fixture: null, now: Date.now() });
    await using early = await opened(app, "", as(starter));
    await early.must("head");
    const ids = [add(app.engine), add(app.engine), add(app.engine)];
    app.clock.ms = Date.now() + 900_000;
    expect(await early.ids(3)).toEqual(ids);
    app.clock.ms -= 3_600_000;
    await early.must("head");
    await using resumed = await opened(app, "?since_id=0", as(starter));
    expect((await resumed.must("head")).data).toEqual({ id: ids[2] });
    expect(await resumed.ids(3)).toEqual(ids);
    const exported = await app.get("/api/signals/export?since_id=0", as(starter));
    expect(exported.headers.get("signal-head")).toBe(String(ids[2]));
    expect((await exported.text()).split("\n").length - 1).toBe(3);
  });

  test("what was told by a clock a little ahead is not told again by this one", async () => {
    await using app = await openApp({ fixture: null, now: Date.now() });
    const ids = [add(app.engine), add(app.engine)];
    app.clock.ms = Date.now() + 900_000;
    await using early = await opened(app, "?since_id=0", as(starter));
    await early.must("head");
    expect(await early.ids(2)).toEqual(ids);
    await early[Symbol.asyncDispose]();
    await until(() => app.deps.argo.feed.followers === 0, "it is gone");
    app.clock.ms -= 1_500;
    const resuming = opened(app, `?since_id=${ids[1]}`, as(starter));
    expect(await Promise.race([resuming, Bun.sleep(100)])).toBeUndefined();
    app.clock.ms += 1_500;
    await using resumed = await resuming;
    expect(await resumed.must("head")).toMatchObject({ id: ids[1], data: { id: ids[1] } });
    // One that is withheld for long is not waited for: another plan has shown it.
    app.clock.ms -= 60_000;
    const id = add(app.engine);
    await using other = await opened(app, `?since_id=${id}`, as(starter));
    expect(await other.must("ahead")).toMatchObject({ id: ids[1] });
  });
});

test("of one commit of thousands of rows few at a time are told to many, so that polls come in between", async () => {
  await using app = await openApp({ fixture: null, now: Date.now() });
  const { feed } = app.deps.argo;
  const member = { end: () => undefined };
  const channel = await feed.follow(fullView, member, null);
  const told: number[] = [];
  const sizes: number[] = [];
  channel.joined.add({
    take: (frames) => {
      sizes.push(frames.length);
      told.push(...frames.map(({ cursor }) => cursor));
    },
    rewind: () => undefined,
  });
  for (let i = 1; i < 1_000; i += 1) {
    channel.joined.add({ take: () => undefined, rewind: () => undefined });
  }
  const ids: number[] = [];
  app.engine.transaction(() => {
    for (let i = 0; i < 1_000; i += 1) ids.push(add(app.engine));
  })();
  await until(() => told.length >= ids.length, "all is told");
  expect(told).toEqual(ids);
  expect(Math.max(...sizes)).toBeLessThanOrEqual(10);
  feed.leave(channel, member);
});

test("a slow client is cut off with its cursor, and costs nobody else anything", async () => {
  await using app = await openApp({ fixture: null, now: Date.now() });
  const url = new URL(app.listen());
  const { feed } = app.deps.argo;
  await using healthy = await listening(url.origin);
  await healthy.must("head");
  const socket = connect(Number(url.port), url.hostname);
  let text = "";
  let closed = false;
  socket.on("data", (bytes) => (text += bytes.toString("latin1")));
  socket.on("close", () => (closed = true));
  socket.on("error", () => undefined);
  try {
    socket.write(
      `GET ${STREAM} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${READ_TOKEN}\r\n\r\n`,
    );
    await until(() => text.includes("event: head"), "the stream");
    socket.pause();
    const strategy = "x".repeat(2_000);
    let last = 0;
    for (let batch = 0; batch < 60 && feed.followers > 1; batch += 1) {
      app.engine.transaction(() => {
        for (let i = 0; i < 200; i += 1) last = add(app.engine, "SPX", 50, strategy);
      })();
      expect((await healthy.ids(200)).at(-1)).toBe(last);
    }
    expect(feed.followers).toBe(1);
    const id = add(app.engine);
    expect(await healthy.ids(1)).toEqual([id]);
    socket.resume();
    await until(() => text.includes("event: end"), "the end");
    const ids = [...text.matchAll(/event: signal\nid: (\d+)\n/g)].map(([, found]) => Number(found));
    const end = /event: end\nid: (\d+)\ndata: (.+)\n/.exec(text);
    expect(ids).toEqual(range(1, Number(end?.[1])));
    expect(JSON.parse(end?.[2] ?? "")).toEqual({ reason: "slow", id: ids.length });
    expect(ids.length).toBeLessThan(last);
    await using resumed = await listening(url.origin, `?since_id=${ids.length}`);
    expect(await resumed.ids(last - ids.length)).toEqual(range(ids.length + 1, last));
    expect((await app.deps.metrics.expose()).text).toContain(
      'argo_streams_ended_total{reason="slow"} 1',
    );
    await until(() => closed || text.endsWith("0\r\n\r\n"), "the connection is given back");
  } finally {
    socket.destroy();
  }
});

describe("the end of the server", () => {
  test("ends streams with their cursor, and lets nobody in", async () => {
    await using app = await openApp({ now: Date.now() });
    await using live = await opened(app);
    await using filtered = await opened(app, "?symbol=NOTHING");
    const { id: head } = await live.must("head");
    await filtered.must("head");
    const id = add(app.engine);
    expect(await live.ids(1)).toEqual([id]);
    app.deps.argo.feed.drain();
    for (const events of [live, filtered]) {
      const end = await events.must("end");
      expect([end.id, end.data]).toEqual([head + 1, { reason: "draining", id: head + 1 }]);
      expect(await events.next()).toBeNull();
    }
    const response = await app.get(STREAM, reader);
    expect(response.status).toBe(503);
    await problemOf(response);
  });

  test("SIGTERM ends them at once, with exit code 0", async () => {
    using dir = tempDir();
    await using server = await startServer({
      cwd: dir.path,
      env: { ARGO_READ_TOKEN: READ_TOKEN, SHUTDOWN_DELAY_SECONDS: "0" },
    });
    const streams = await Promise.all(Array.from({ length: 5 }, () => listening(server.url)));
    for (const events of streams) await events.must("head");
    const waiting = async (): Promise<number> => {
      const first = await fetch(`${server.url}/api/signals/latest`, { headers: reader });
      const etag = first.headers.get("etag") ?? "";
      const headers = { ...reader, "If-None-Match": etag };
      return (await fetch(`${server.url}/api/signals/latest?wait=30`, { headers })).status;
    };
    const polls = Promise.all([waiting(), waiting()]);
    await until(
      async () =>
        /^argo_polls_waiting 2$/m.test(await (await fetch(`${server.url}/metrics`)).text()),
      "both polls wait",
    );
    const begun = performance.now();
    const stopped = server.stop();
    for (const events of streams) {
      expect((await events.must("end")).data["reason"]).toBe("draining");
      expect(await events.next()).toBeNull();
    }
    expect(await polls).toEqual([304, 304]);
    expect(await stopped).toBe(0);
    // They would be cut off after seven seconds.
    expect(performance.now() - begun).toBeLessThan(6_000);
  });
});
