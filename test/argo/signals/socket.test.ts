import type { Database } from "bun:sqlite";
import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { viewHeader, viewOf, viewText } from "../../../src/http/entitlement.ts";
import {
  LEGACY_ROWS,
  openApp,
  problemOf,
  READ_TOKEN,
  SERVICE_TOKEN,
  signal,
  WRITE_TOKEN,
  type App,
} from "../../harness/app.ts";
import { Messages } from "../../harness/messages.ts";
import { startServer, tempDir, until } from "../../harness/process.ts";
import { randomNumbers, tellSeed } from "../../harness/seed.ts";

const PATH = "/api/signals/ws";
const TICKET = "/api/signals/ws-ticket";
const reader = { Authorization: `Bearer ${READ_TOKEN}` };

const INSERT = `INSERT INTO signals (symbol, action, entry_price, confidence, timestamp, strategy)
  VALUES (?, 'BUY', 1, ?, '2026-01-01T00:00:00Z', ?)`;
/** Commits one row as the engine would. @returns its id. */
const add = (db: Database, symbol = "SPX", confidence = 50, strategy = "trend"): number =>
  Number(db.run(INSERT, [symbol, confidence, strategy]).lastInsertRowid);
const range = (from: number, to: number): number[] =>
  Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);

let app: App;
let url: string;
beforeAll(async () => {
  app = await openApp({ now: Date.now() });
  url = app.listen();
});
afterAll(() => app[Symbol.asyncDispose]());

const opened = (query = "", headers: Record<string, string> = reader) =>
  Messages.open(url + PATH + query, headers);
const head = () => app.deps.argo.reader.look().maxId;

describe("a socket", () => {
  test("is told the head, then what comes, as lists show it and as SSE numbers it", async () => {
    await using messages = await opened();
    const from = head();
    expect(await messages.subscribe()).toEqual({
      type: "subscribed",
      resume_from: from,
      head: from,
    });
    await app.post(signal({ symbol: "Größe 😀", entry_price: 97 }));
    const own = await messages.must("signal");
    const id = add(app.engine);
    const other = await messages.must("signal");
    expect([own.id, other.id]).toEqual([from + 1, id]);
    for (const message of [own, other]) {
      const shown = await app.json(`/api/signals/${message.id}`, reader);
      expect(JSON.stringify(message["signal"])).toBe(JSON.stringify(shown));
    }
  });

  test("is sent all that it missed, then goes on", async () => {
    await using whole = await opened();
    await using rest = await opened();
    const last = head();
    expect(await whole.subscribe({ resume_from: 0 })).toEqual({
      type: "subscribed",
      resume_from: 0,
      head: last,
    });
    await rest.subscribe({ resume_from: last - 2 });
    expect(await whole.ids(last)).toEqual(range(1, last));
    expect(await rest.ids(2)).toEqual([last - 1, last]);
    const id = add(app.engine);
    expect([await whole.ids(1), await rest.ids(1)]).toEqual([[id], [id]]);
  });

  test("another subscription takes the place of the last, and none ends it", async () => {
    await using messages = await opened();
    const from = head();
    await messages.subscribe({ symbol: "A" });
    const a = add(app.engine, "A");
    add(app.engine, "B");
    expect(await messages.ids(1)).toEqual([a]);
    await messages.subscribe({ symbol: "B", resume_from: from });
    expect(await messages.ids(1)).toEqual([a + 1]);
    add(app.engine, "A");
    const b = add(app.engine, "B");
    expect(await messages.ids(1)).toEqual([b]);
    messages.send({ type: "unsubscribe" });
    await messages.must("unsubscribed");
    add(app.engine, "B");
    expect(await messages.isQuiet()).toBe(true);
    messages.send({ type: "ping" });
    await messages.must("pong");
  });

  test.each([
    [{ symbol: "STREAMED", min_confidence: 60, strategy: "trend" }],
    [{ premium_only: true }],
    [{ min_confidence: 94.95 }],
    [{ symbol: "NOTHING" }],
  ])("%o is what latest shows with the same filter, live and replayed", async (filter) => {
    const from = head();
    await using live = await opened();
    await live.subscribe(filter);
    for (const symbol of ["STREAMED", "OTHER"]) {
      for (const strategy of ["trend", "mean"]) {
        for (const confidence of [50, 69.9, 94.9, 95])
          add(app.engine, symbol, confidence, strategy);
      }
    }
    const query = new URLSearchParams(
      Object.entries(filter).map(([name, value]): [string, string] => [name, String(value)]),
    );
    const path = `/api/signals/latest?${query.toString()}&limit=500`;
    const polled = await app.json<{ id: number }[]>(path, reader);
    const expected = polled.map(({ id }) => id).filter((id) => id > from);
    expected.sort((a, b) => a - b);
    await using replayed = await opened();
    await replayed.subscribe({ ...filter, resume_from: from });
    expect(await live.ids(expected.length)).toEqual(expected);
    expect(await replayed.ids(expected.length)).toEqual(expected);
    expect([await live.isQuiet(), await replayed.isQuiet(1)]).toEqual([true, true]);
  });

  test("a cursor ahead of the head is told so, and goes on live", async () => {
    await using messages = await opened();
    const from = head();
    const { resume_from: cursor } = await messages.subscribe({ resume_from: from + 1_000 });
    expect(cursor).toBe(from);
    expect(await messages.must("ahead")).toEqual({ type: "ahead", id: from });
    const id = add(app.engine);
    expect(await messages.ids(1)).toEqual([id]);
    app.engine.run("DELETE FROM signals WHERE id = ?", [id]);
    expect((await messages.must("ahead")).id).toBe(from);
  });

  test("is told its head every 15 seconds", async () => {
    await using messages = await opened();
    await messages.subscribe({ symbol: "NOTHING" });
    app.clock.ms += 15_000;
    expect(await messages.must("head")).toEqual({ type: "head", id: head(), head: head() });
  });

  test("a plan sees no more than its polls", async () => {
    const view = viewText(viewOf(false, 900));
    const headers = { Authorization: `Bearer ${SERVICE_TOKEN}`, [viewHeader]: view };
    await using late = await opened("", headers);
    await late.subscribe();
    await using full = await opened();
    await full.subscribe();
    const plain = add(app.engine);
    const premium = add(app.engine, "SPX", 99);
    expect(await full.ids(2)).toEqual([plain, premium]);
    expect(await late.isQuiet()).toBe(true);
    app.clock.ms += 900_000;
    expect((await late.ids(1)).includes(premium)).toBe(false);
  });
});

describe("what is not understood", () => {
  const bad = (name: string, value: unknown): [Record<string, unknown>, string] => [
    { type: "subscribe", [name]: value },
    name,
  ];
  const cases: [unknown, number, string[]][] = [
    ...[
      bad("resume_from", -1),
      bad("resume_from", "5"),
      bad("resume_from", 1.5),
      bad("resume_from", 1e300),
      bad("resume_from", null),
      bad("min_confidence", 101),
      bad("premium_only", "true"),
      bad("symbol", ""),
      bad("symbol", "a\nb"),
      bad("strategy", "x".repeat(65)),
      bad("limit", 1),
      bad("__proto__ ", 1),
    ].map(([message, field]): [unknown, number, string[]] => [message, 422, [field]]),
    [{ type: "publish" }, 422, ["type"]],
    [{}, 422, ["type"]],
    [[], 422, ["body"]],
    ["null", 422, ["body"]],
    ["{", 400, []],
    ["", 400, []],
  ];

  test("is said by field, and the socket goes on", async () => {
    for (const some of [cases.slice(0, 10), cases.slice(10)]) {
      await using messages = await opened();
      for (const [message, status, fields] of some) {
        messages.send(message);
        const error = await messages.must("error");
        const named = (error["errors"] ?? []) as { field: string }[];
        expect([message, error["status"], named.map(({ field }) => field)]).toEqual([
          message,
          status,
          fields,
        ]);
      }
      await messages.subscribe();
    }
  });

  test("bytes instead of text are 400", async () => {
    await using messages = await opened();
    messages.socket.send(new TextEncoder().encode('{"type":"ping"}'));
    expect((await messages.must("error"))["status"]).toBe(400);
  });

  test("whatever is sent is answered, and ends nothing", async () => {
    tellSeed();
    const random = randomNumbers();
    const pick = <T>(some: readonly T[]): T => some[Math.floor(random() * some.length)] as T;
    const names = ["type", "resume_from", "symbol", "min_confidence", "__proto__", "constructor"];
    const values = ["subscribe", "ping", -1, 1e308, null, true, {}, [[]], "\ud800", "\u0000", 3];
    for (let i = 0; i < 15; i += 1) {
      await using messages = await opened();
      for (let n = 0; n < 19; n += 1) {
        const fields = Array.from({ length: 1 + Math.floor(random() * 4) }, () => {
          return `${JSON.stringify(pick(names))}:${JSON.stringify(pick(values))}`;
        });
        const text = `{${fields.join(",")}}`;
        messages.send(random() < 0.8 ? text : text.slice(0, Math.floor(random() * text.length)));
        let answer = await messages.next();
        while (answer && /^(signal|head|ahead)$/.test(answer.type)) answer = await messages.next();
        expect(answer?.type).toMatch(/^(error|pong|subscribed)$/);
      }
    }
  });

  test("a frame of 10 MB ends the connection, and costs nobody anything", async () => {
    await using messages = await opened();
    await using other = await opened();
    await other.subscribe();
    messages.send("x".repeat(10_000_000));
    expect((await messages.closed).code).toBe(1009);
    const id = add(app.engine);
    expect(await other.ids(1)).toEqual([id]);
  });

  test("a thousand subscriptions at once are a flood, which ends with the cursor", async () => {
    await using messages = await opened();
    for (let i = 0; i < 1_000; i += 1) messages.send({ type: "subscribe", resume_from: head() });
    const { code, reason } = await messages.closed;
    expect([code, reason]).toEqual([1008, `flood resume_from=${head()}`]);
    await until(() => app.deps.argo.feed.followers === 0, "nothing is left of them");
  });

  test.each([0x89, 0x8a])(
    "so are pings and pongs (%i), which are answered also for who reads nothing",
    async (kind) => {
      const { socket, seen } = await rawSocket();
      try {
        const { feed } = app.deps.argo;
        const others = feed.followers - 1;
        socket.pause();
        const frame = Buffer.concat([
          Buffer.from([kind, 0x80 | 125, 0, 0, 0, 0]),
          Buffer.alloc(125),
        ]);
        socket.write(Buffer.concat(Array<Buffer>(20_000).fill(frame)));
        await until(() => feed.followers === others, "it is cut off");
        const closed = new Promise((resolve) => socket.once("close", resolve));
        socket.resume();
        await closed;
        expect(seen().length).toBeLessThan(1024 * 1024);
      } finally {
        socket.destroy();
      }
    },
  );

  test("who asks for nothing within 5 seconds is closed", async () => {
    await using messages = await opened();
    await using subscribed = await opened();
    await subscribed.subscribe();
    app.clock.ms += 4_900;
    expect(await messages.isQuiet(300)).toBe(true);
    app.clock.ms += 200;
    expect(await messages.closed).toEqual({ code: 1008, reason: "idle" });
    expect(subscribed.socket.readyState).toBe(WebSocket.OPEN);
    // Also who had something and asks for nothing any more, when nobody else waits.
    await Bun.sleep(300);
    subscribed.send({ type: "unsubscribe" });
    await subscribed.must("unsubscribed");
    app.clock.ms += 5_100;
    expect(await subscribed.closed).toEqual({ code: 1008, reason: "idle" });
  });
});

describe("who is let in", () => {
  const upgrade = {
    Upgrade: "websocket",
    Connection: "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
  };

  test("as for polls, before the upgrade, as a problem document", async () => {
    await using closed = await openApp({
      env: { SIGNALS_ACCESS: "key", RATE_LIMIT_PER_MINUTE: "3" },
    });
    const at = closed.listen();
    const statuses: number[] = [];
    const bearers = [null, "unknown-0123456789", WRITE_TOKEN, READ_TOKEN, READ_TOKEN, READ_TOKEN];
    for (const token of bearers) {
      const headers = { ...upgrade, ...(token && { Authorization: `Bearer ${token}` }) };
      const response = await fetch(at + PATH, { headers });
      statuses.push(response.status);
      if (response.status >= 400) await problemOf(response);
    }
    expect(statuses).toEqual([401, 401, 403, 101, 101, 101]);
    const limited = await fetch(at + PATH, { headers: { ...upgrade, ...reader } });
    expect([limited.status, limited.headers.get("retry-after")]).not.toContain(null);
    expect((await problemOf(limited)).code).toBe("rate_limited");
  });

  test("a request that is no upgrade is 400", async () => {
    const response = await fetch(url + PATH, { headers: reader });
    expect(response.status).toBe(400);
    expect((await problemOf(response)).detail).toContain("upgrade");
    // Bun's own answer.
    const old = { ...upgrade, ...reader, "Sec-WebSocket-Version": "8" };
    expect((await fetch(url + PATH, { headers: old })).status).toBe(426);
    expect((await fetch(`${url}${PATH}?tickets=1`, { headers: reader })).status).toBe(400);
  });

  test("pages of this server and of the allowlist alone", async () => {
    const env = { CORS_ORIGINS: "https://app.example" };
    await using listed = await openApp({ env });
    const at = listed.listen();
    const statusOf = async (origin: string): Promise<number> => {
      const headers = { ...upgrade, ...reader, Origin: origin };
      return (await fetch(at + PATH, { headers })).status;
    };
    const { port } = new URL(at);
    for (const origin of ["https://app.example", at]) expect(await statusOf(origin)).toBe(101);
    for (const origin of [
      "null",
      "https://app.example.evil.example",
      "https://evil-app.example",
      "https://app.example:8443",
      "http://app.example",
      `http://127.0.0.1:${Number(port) + 1}`,
      `http://127.0.0.1`,
      `http://localhost:${port}`,
      "file://",
      "x",
    ]) {
      expect([origin, await statusOf(origin)]).toEqual([origin, 403]);
    }
  });
});

describe("a ticket", () => {
  const ticketOf = async (at: App): Promise<string> => {
    const response = await at.send(
      new Request(`http://argo.test${TICKET}`, { method: "POST", headers: reader }),
    );
    expect(response.status).toBe(201);
    const { ticket, expires_in: seconds } = (await response.json()) as Record<string, unknown>;
    expect(seconds).toBe(60);
    return String(ticket);
  };
  const refused = async (query: string): Promise<number> => {
    const headers = { Upgrade: "websocket", Connection: "Upgrade" };
    return (await fetch(url + PATH + query, { headers })).status;
  };

  test("opens one socket, once, without any header", async () => {
    const ticket = await ticketOf(app);
    await using messages = await opened(`?ticket=${ticket}`, {});
    await messages.subscribe();
    expect(await refused(`?ticket=${ticket}`)).toBe(401);
    const id = add(app.engine);
    expect(await messages.ids(1)).toEqual([id]);
  });

  test("is good for 60 seconds", async () => {
    const [late, inTime] = [await ticketOf(app), await ticketOf(app)];
    app.clock.ms += 59_000;
    await using messages = await opened(`?ticket=${inTime}`, {});
    await messages.subscribe();
    app.clock.ms += 1_000;
    expect(await refused(`?ticket=${late}`)).toBe(401);
  });

  test.each(["", "x", "x".repeat(100), "x".repeat(101)])("%p is none", async (ticket) => {
    expect(await refused(`?ticket=${ticket}`)).toBe(ticket.length > 100 ? 400 : 401);
  });

  test("guessing is limited like reading", async () => {
    await using limited = await openApp({ env: { RATE_LIMIT_PER_MINUTE: "2" } });
    const statuses: number[] = [];
    for (let i = 0; i < 3; i += 1)
      statuses.push((await limited.get(`${PATH}?ticket=x${i}`)).status);
    expect(statuses).toEqual([401, 401, 429]);
  });
});

/** A client that can stop to read. */
async function rawSocket(): Promise<{ socket: Socket; seen: () => Buffer }> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  const pieces: Buffer[] = [];
  socket.on("data", (bytes: Buffer) => pieces.push(bytes));
  socket.on("error", () => undefined);
  socket.write(
    `GET ${PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${READ_TOKEN}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`,
  );
  const seen = () => Buffer.concat(pieces);
  await until(() => seen().includes("101 Switching"), "the upgrade");
  const text = Buffer.from('{"type":"subscribe"}');
  // A mask of zeros changes nothing.
  socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), text]));
  await until(() => seen().includes("subscribed"), "the subscription");
  return { socket, seen };
}

test("a slow client is cut off with its cursor, has missed nothing before it, and costs nobody else anything", async () => {
  await using healthy = await opened();
  await healthy.subscribe();
  const from = head();
  const { feed } = app.deps.argo;
  const others = feed.followers;
  const { socket, seen } = await rawSocket();
  try {
    socket.pause();
    const strategy = "x".repeat(2_000);
    let last = from;
    for (let batch = 0; batch < 60 && feed.followers > others; batch += 1) {
      app.engine.transaction(() => {
        for (let i = 0; i < 200; i += 1) last = add(app.engine, "SPX", 50, strategy);
      })();
      expect((await healthy.ids(200)).at(-1)).toBe(last);
    }
    expect(feed.followers).toBe(others);
    const id = add(app.engine);
    expect(await healthy.ids(1)).toEqual([id]);
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.resume();
    await closed;
    const text = seen().toString("latin1");
    const ids = [...text.matchAll(/\{"type":"signal","id":(\d+)/g)].map(([, at]) => Number(at));
    const cursor = Number(/\{"type":"end","reason":"slow","id":(\d+)\}/.exec(text)?.[1]);
    expect(ids).toEqual(range(from + 1, cursor));
    expect(text).toEndWith(`slow resume_from=${cursor}`);
    await using resumed = await opened();
    await resumed.subscribe({ resume_from: cursor });
    expect(await resumed.ids(id - cursor)).toEqual(range(cursor + 1, id));
  } finally {
    socket.destroy();
  }
});

test("rows of any length are replayed in pieces that a client can hold", async () => {
  const from = head();
  const long = "x".repeat(48 * 1024);
  app.engine.transaction(() => {
    for (let i = 0; i < 60; i += 1) add(app.engine, "SPX", 50, long);
  })();
  const slice = await app.deps.argo.far.replay(
    [from, head(), 500, null],
    { minConfidence: 0 },
    "message",
  );
  expect(slice.text.length).toBeLessThan(600 * 1024);
  expect(slice.nextId).toBe(slice.ids.at(-1) ?? null);
  // What had no room is not read with each of them again: the next one reads fewer rows.
  const none = { symbol: "NONE", minConfidence: 0 };
  const next = await app.deps.argo.far.replay([from, head(), 500, null], none, "message");
  expect(next.nextId).toBe(from + 16);
  await using messages = await opened();
  await messages.subscribe({ resume_from: from });
  expect(await messages.ids(60)).toEqual(range(from + 1, from + 60));
});

test("the sequence is resumed from random cuts without gap or duplicate, over either", async () => {
  tellSeed();
  const random = randomNumbers();
  await using own = await openApp({ now: Date.now() });
  const at = own.listen() + PATH;
  const last = LEGACY_ROWS + 600;
  const write = async (): Promise<void> => {
    for (let i = 0; i < 600; i += 1) {
      add(own.engine);
      if (i % 3 === 0) await Bun.sleep(1);
    }
  };
  const client = async (): Promise<void> => {
    const ids: number[] = [];
    let cursor = LEGACY_ROWS - 500;
    while (cursor < last) {
      await using messages = await Messages.open(at, reader);
      await messages.subscribe({ resume_from: cursor });
      const take = 1 + Math.floor(random() * 60);
      for (let i = 0; i < take && cursor < last; i += 1) {
        const message = await messages.next();
        if (message?.id === undefined) break;
        if (message.type === "signal") ids.push(message.id);
        cursor = message.id;
      }
    }
    expect(ids).toEqual(range(LEGACY_ROWS - 499, last));
  };
  await Promise.all([write(), client(), client()]);
});

describe("the end of the server", () => {
  test("SIGTERM closes sockets with their cursor, subscribed or not, with exit code 0", async () => {
    using dir = tempDir();
    await using server = await startServer({
      cwd: dir.path,
      env: { ARGO_READ_TOKEN: READ_TOKEN, SHUTDOWN_DELAY_SECONDS: "0" },
    });
    const sockets = await Promise.all(
      range(1, 4).map(() => Messages.open(server.url + PATH, reader)),
    );
    const subscribed = sockets.slice(1);
    for (const messages of subscribed) await messages.subscribe();
    const begun = performance.now();
    const stopped = server.stop();
    for (const messages of subscribed) {
      expect(await messages.must("end")).toEqual({ type: "end", reason: "draining", id: 0 });
      expect(await messages.closed).toEqual({ code: 1001, reason: "draining resume_from=0" });
    }
    expect(await sockets[0]?.closed).toEqual({ code: 1001, reason: "draining" });
    expect(await stopped).toBe(0);
    // They would be cut off after seven seconds.
    expect(performance.now() - begun).toBeLessThan(6_000);
  });
});
