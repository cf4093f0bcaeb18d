/** Streams for long: through quiet times, cuts, restarts and kills. */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { READ_TOKEN } from "../harness/app.ts";
import { Events } from "../harness/events.ts";
import { Messages } from "../harness/messages.ts";
import { freePort, startServer, tempDir, until, type Server } from "../harness/process.ts";
import { randomNumbers, tellSeed } from "../harness/seed.ts";

const CUTS = Number(process.env["STREAM_CUTS"] ?? 10_000);
const CLIENTS = 40;
/** A stream, whatever it is sent over. */
type Connection = AsyncDisposable & {
  next(withinMs: number): Promise<{ event: string; id: number } | null>;
};
const reader = { Authorization: `Bearer ${READ_TOKEN}` };

test("a quiet stream, and a poll that waits, outlive the idle limit", async () => {
  await using server = await startServer({ env: { ARGO_READ_TOKEN: READ_TOKEN } });
  const response = await fetch(`${server.url}/api/signals/stream`, { headers: reader });
  await using events = new Events(response);
  await events.must("head");
  const begun = performance.now();
  const headers = { ...reader, "If-None-Match": "*" };
  const poll = fetch(`${server.url}/api/signals/latest?wait=13`, { headers });
  expect((await events.must("head", 20_000)).data).toEqual({ id: 0 });
  expect((performance.now() - begun) / 1_000).toBeGreaterThan(14);
  expect((await poll).status).toBe(304);
  await events.must("head", 20_000);
}, 60_000);

test(`${CUTS} random cuts, with restarts and kills: neither gap nor duplicate`, async () => {
  tellSeed();
  const random = randomNumbers();
  const below = (n: number): number => Math.floor(random() * n);
  using dir = tempDir();
  const port = String(freePort());
  const db = dir.file("signals.db");
  const env = {
    PORT: port,
    SIGNALS_DB: db,
    ARGO_READ_TOKEN: READ_TOKEN,
    SHUTDOWN_DELAY_SECONDS: "0",
  };
  const start = (): Promise<Server> =>
    startServer({ cwd: dir.path, env: { ...env, RATE_LIMIT_PER_MINUTE: "1000000000" } });
  let server = await start();
  using engine = new Database(db, { readwrite: true });
  engine.run("PRAGMA busy_timeout = 10000");
  const insert = engine.prepare(
    `INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
     VALUES ('SPX', 'BUY', 1, 50, '2026-01-01T00:00:00Z')`,
  );
  const told = { cuts: 0, last: 0, over: false, lives: 1 };

  const write = async (): Promise<void> => {
    while (told.cuts < CUTS) {
      engine.transaction(() => {
        for (let i = below(10); i >= 0; i -= 1) told.last = Number(insert.run().lastInsertRowid);
      })();
      await Bun.sleep(below(20));
    }
    told.over = true;
  };
  const disturb = async (): Promise<void> => {
    while (!told.over) {
      await Bun.sleep(1_000 + below(2_000));
      if (below(2) === 0) server.kill();
      await server.stop();
      server = await start();
      told.lives += 1;
    }
  };
  const url = `http://127.0.0.1:${port}/api/signals`;
  const connect = async (cursor: number, socket: boolean): Promise<Connection> => {
    if (!socket) {
      const headers = { ...reader, "Last-Event-ID": String(cursor) };
      const events = new Events(await fetch(`${url}/stream`, { headers }));
      return {
        next: (withinMs) => events.next(withinMs),
        [Symbol.asyncDispose]: () => events[Symbol.asyncDispose](),
      };
    }
    const messages = await Messages.open(`${url}/ws`, reader);
    await messages.subscribe({ resume_from: cursor });
    return {
      next: async (withinMs) => {
        const message = await messages.next(withinMs);
        return message && { event: message.type, id: message.id ?? NaN };
      },
      [Symbol.asyncDispose]: () => messages[Symbol.asyncDispose](),
    };
  };
  const client = async (): Promise<number> => {
    let cursor = 0;
    let signals = 0;
    while (!told.over || cursor < told.last) {
      let opened = false;
      try {
        await using events = await connect(cursor, below(2) === 0);
        opened = true;
        for (
          let take = 1 + below(200);
          take > 0 && !(told.over && cursor >= told.last);
          take -= 1
        ) {
          const event = await events.next(30_000);
          if (event === null) break;
          if (event.event === "signal") {
            signals += 1;
            if (event.id !== cursor + 1) fault(`${event.id} after ${cursor}`);
          } else if (event.id !== cursor) fault(`${event.event} ${event.id} after ${cursor}`);
          cursor = event.id;
        }
      } catch (error) {
        if (faults.length > 0) throw error;
        await Bun.sleep(20);
      }
      if (opened) told.cuts += 1;
    }
    expect(signals).toBe(told.last);
    return signals;
  };
  const faults: string[] = [];
  function fault(text: string): never {
    faults.push(text);
    throw new Error(text);
  }
  const [, , ...read] = await Promise.all([
    write(),
    disturb(),
    ...Array.from({ length: CLIENTS }, client),
  ]);
  await server.stop();
  console.log(
    `${told.cuts} cuts, ${told.lives} lives of the server, ${told.last} signals to ${read.length} clients`,
  );
  expect(faults).toEqual([]);
  expect(told.lives).toBeGreaterThan(3);
}, 600_000);

test("18,000 streams leave no memory behind", async () => {
  await using server = await startServer({
    env: { ARGO_READ_TOKEN: READ_TOKEN, RATE_LIMIT_PER_MINUTE: "1000000000" },
  });
  const residentMiB = async (): Promise<number> => {
    const text = await (await fetch(`${server.url}/metrics`)).text();
    return Number(/process_resident_memory_bytes (\d+)/.exec(text)?.[1]) / 1024 / 1024;
  };
  const round = async (): Promise<number> => {
    const cut = new AbortController();
    const open = await Promise.all(
      Array.from({ length: 200 }, async () => {
        const init = { headers: reader, signal: cut.signal };
        const events = new Events(await fetch(`${server.url}/api/signals/stream`, init));
        await events.must("head");
        return events;
      }),
    );
    cut.abort();
    await until(async () => {
      const text = await (await fetch(`${server.url}/metrics`)).text();
      return /^argo_streams_open 0$/m.test(text);
    }, "all have left");
    expect(open.length).toBe(200);
    return residentMiB();
  };
  const sizes: number[] = [];
  for (let i = 0; i < 90; i += 1) sizes.push(await round());
  const [first = 0] = sizes;
  const most = Math.max(...sizes);
  console.log(`resident ${first.toFixed(0)} MiB after 200 streams, at most ${most.toFixed(0)}`);
  // Garbage comes to some 40 MiB before it is collected; 12 KiB kept of each would be 200.
  expect(most - first).toBeLessThan(80);
}, 120_000);
