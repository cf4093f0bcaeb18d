/** What a Chromium lets pages of other origins do: headers, redirections, WebSockets. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { PASSWORD, type ServedAccounts } from "../harness/accounts.ts";
import { WRITE_TOKEN } from "../harness/app.ts";
import { until } from "../harness/process.ts";
import { tcpProxy } from "../harness/proxy.ts";
import { noBrowser, openWorld, type World } from "../client/in-page.ts";
import { range, serve, signals, writer } from "../client/serve.ts";

/** What the page has: functions that run in it see these, and nothing of this file. */
declare const client: typeof import("../../client/src/index.ts");
declare const first: SocketLog;
declare const source: { readyState: number };
declare const ids: number[];

type SocketLog = { messages: Record<string, unknown>[]; closed: string | null };

const inBrowser = test.skipIf(noBrowser);

let world: World;
let at: ServedAccounts;
let key: string;
beforeAll(async () => {
  if (noBrowser) return;
  world = await openWorld();
  ({ at, key } = world);
}, 120_000);
afterAll(() => world?.[Symbol.asyncDispose]());

inBrowser(
  "all headers that may be sent are let through, and those of answers are seen",
  async () => {
    await using page = await world.open();
    const seen = await page.run(
      async (url, token, writeToken) => {
        const send = async (path: string, init: RequestInit): Promise<Record<string, string>> => {
          const response = await fetch(`${url}${path}`, init);
          await response.body?.cancel();
          return { status: String(response.status), ...Object.fromEntries(response.headers) };
        };
        const common = { "X-Request-Id": "of-a-page-1", "X-Requested-With": "page" };
        const reading = { Authorization: `Bearer ${token}`, ...common };
        const writing = {
          ...common,
          Authorization: `Bearer ${writeToken}`,
          "Content-Type": "application/json",
          "Idempotency-Key": "twice-from-a-page",
        };
        const body = '{"symbol":"PAGE","action":"HOLD","confidence":2,"entry_price":2}';
        const post = { method: "POST", headers: writing, body };
        const stream = { headers: { ...reading, "Last-Event-ID": "3" } };
        return {
          first: await send("/api/signals", post),
          second: await send("/api/signals", post),
          stream: await send("/api/signals/stream", stream),
          latest: await send("/api/signals/latest", { headers: reading }),
          none: await send("/nowhere", { headers: reading }),
        };
      },
      at.server.url,
      key,
      WRITE_TOKEN,
    );
    const { first, second, stream, latest, none } = seen;
    for (const one of Object.values(seen)) expect(one["x-request-id"]).toBe("of-a-page-1");
    expect([first["status"], first["signal-head"]]).toEqual([
      "201",
      expect.stringMatching(/^\d+$/),
    ]);
    expect(second["idempotency-replayed"]).toBe("true");
    expect(stream["content-type"]).toStartWith("text/event-stream");
    expect(latest["etag"]).toMatch(/^(W\/)?".+"$/);
    expect(none["status"]).toBe("404");
  },
);

inBrowser("a page of another origin is shown nothing", async () => {
  await using page = await world.open(world.stranger);
  const before = await at.call("GET", "/api/signals/latest", undefined, key);
  const head = before.headers.get("signal-head");
  const told = await page.run(
    async (url, token, writeToken) => {
      const nameOf = (work: Promise<unknown>): Promise<unknown> =>
        work.then(
          () => null,
          ({ name }: Error) => name,
        );
      const once = { deadlineMs: 900, random: () => 1 };
      const signal = { symbol: "EVIL", action: "BUY", confidence: 1, entry_price: 1 } as const;
      const plain = { method: "POST", body: JSON.stringify(signal) };
      return [
        await nameOf(new client.Argo({ url, token, ...once }).latest()),
        await nameOf(new client.Argo({ url, ...once }).latest()),
        await nameOf(new client.Argo({ url, token: writeToken, ...once }).post(signal)),
        // Without a preflight: what is sent so arrives, and has no rights.
        await nameOf(fetch(`${url}/api/signals`, plain)),
        await nameOf(fetch(`${url}/health`)),
        await new Promise((resolve) => {
          const socket = new WebSocket(`${url.replace("http", "ws")}/api/signals/ws`);
          socket.addEventListener("open", () => resolve("open"));
          socket.addEventListener("error", () => resolve("refused"));
        }),
      ];
    },
    at.server.url,
    key,
    WRITE_TOKEN,
  );
  expect(told).toEqual([...Array<string>(5).fill("TypeError"), "refused"]);
  const after = await at.call("GET", "/api/signals/latest", undefined, key);
  expect(after.headers.get("signal-head")).toBe(head);
  expect(page.console().join("\n")).toContain("blocked by CORS policy");
});

inBrowser(
  "a WebSocket by ticket: acknowledged, replayed, live; the ticket is good once",
  async () => {
    await using page = await world.open();
    const author = writer(at.server.url);
    const before = (await author.post(signals(3))).at(-1)?.id ?? 0;
    const ticket = await page.run(
      async (url, email, password) => {
        const login = { body: { email, password } };
        const session = client.unwrap(
          await new client.Argo({ url }).api.POST("/api/auth/login", login),
        );
        const argo = new client.Argo({ url, token: session.access_token });
        return client.unwrap(await argo.api.POST("/api/signals/ws-ticket")).ticket;
      },
      at.server.url,
      world.email,
      PASSWORD,
    );
    const open = (name: string, subscribe: object): Promise<void> =>
      page.run(
        (name, url, subscribe) => {
          const socket = new WebSocket(url);
          const log: SocketLog = { messages: [], closed: null };
          Object.assign(globalThis, { [name]: log });
          socket.addEventListener("open", () => socket.send(JSON.stringify(subscribe)));
          socket.addEventListener("message", ({ data }) => log.messages.push(JSON.parse(data)));
          socket.addEventListener(
            "close",
            ({ code, reason }) => (log.closed = `${code} ${reason}`),
          );
        },
        name,
        `${at.server.url.replace("http", "ws")}/api/signals/ws?ticket=${ticket}`,
        subscribe,
      );
    const messages = (): Promise<Record<string, unknown>[]> => page.run(() => first.messages);
    const closed = (name: string): Promise<unknown> => page.value(`${name}.closed`);

    await open("first", { type: "subscribe", resume_from: before - 2 });
    await until(async () => (await messages()).length === 3, "what was missed");
    await author.post(signals(1));
    await until(async () => (await messages()).length === 4, "the live one");
    const told = (await messages()).map(({ type, id, resume_from }) => [type, id ?? resume_from]);
    expect(told).toEqual([
      ["subscribed", before - 2],
      ["signal", before - 1],
      ["signal", before],
      ["signal", before + 1],
    ]);
    await open("second", { type: "subscribe" });
    await until(async () => (await closed("second")) !== null, "the second");
    expect(await closed("second")).toStartWith("1006");
    expect(await closed("first")).toBeNull();
  },
);

inBrowser("what leads elsewhere is told, and not followed", async () => {
  const { origin } = world.listed;
  const cors = {
    "Access-Control-Allow-Origin": origin,
    "Access-Control-Allow-Headers": "Authorization",
  };
  const asked: string[] = [];
  await using elsewhere = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      const { pathname } = new URL(request.url);
      asked.push(`${request.method} ${pathname}`);
      if (request.method === "OPTIONS") return new Response(null, { headers: cors });
      const headers = { ...cors, Location: `${at.server.url}${pathname}` };
      return new Response(null, { status: 302, headers });
    },
  });
  await using page = await world.open();
  const told = await page.run(
    async (url, token) => {
      const argo = new client.Argo({ url, token });
      const messageOf = ({ name, message }: Error): string => `${name} ${message}`;
      const stream = argo.stream()[Symbol.asyncIterator]();
      return [
        await argo.latest().then(String, messageOf),
        await stream.next().then(String, messageOf),
      ];
    },
    elsewhere.url.origin,
    key,
  );
  expect(told).toEqual(Array(2).fill("ArgoError 0 http: leads elsewhere"));
  expect(asked.filter((one) => one.startsWith("GET "))).toEqual([
    "GET /api/signals/latest",
    "GET /api/signals/stream",
  ]);
});

inBrowser(
  "the browser's own EventSource resumes without gap or duplicate",
  async () => {
    await using open = await serve({ SIGNALS_ACCESS: "open", CORS_ORIGINS: world.listed.origin });
    await using way = await tcpProxy({ port: open.port });
    await using page = await world.open();
    const author = writer(open.url);
    await author.post(signals(30));
    await page.value(`
    globalThis.ids = [];
    globalThis.source = new EventSource("http://127.0.0.1:${way.port}/api/signals/stream?since_id=10");
    source.addEventListener("signal", ({ data }) => ids.push(JSON.parse(data).id));`);
    for (const last of [30, 80, 130]) {
      await until(
        async () => (await page.run(() => ids.at(-1))) === last,
        `signal ${last}`,
        20_000,
      );
      way.cut();
      await author.post(signals(50));
      way.restore();
    }
    await until(async () => (await page.run(() => ids.at(-1))) === 180, "the last", 20_000);
    expect(await page.run(() => ids)).toEqual(range(11, 180));
    expect(await page.run(() => source.readyState)).toBe(1);
  },
  120_000,
);
