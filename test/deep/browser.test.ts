/** The client in a Chromium. */
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { ServedAccounts } from "../harness/accounts.ts";
import { READ_TOKEN, WRITE_TOKEN } from "../harness/app.ts";
import { until } from "../harness/process.ts";
import { tcpProxy } from "../harness/proxy.ts";
import {
  bundle,
  CLIENT,
  faultsOf,
  followIn,
  noBrowser,
  openWorld,
  type World,
} from "../client/in-page.ts";
import { range, serve, signals, writer } from "../client/serve.ts";

/** What the page has: functions that run in it see this, and nothing of this file. */
declare const client: typeof import("../../client/src/index.ts");

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

inBrowser("it is small, and asks for nothing that a browser has not", () => {
  const bytes = Bun.gzipSync(world.listed.script).byteLength;
  console.log(`the client in a page: ${world.listed.script.length} bytes, ${bytes} packed`);
  expect(bytes).toBeLessThan(10_000);
  expect(world.listed.script).not.toMatch(/\bimport\b|\brequire\(|node:/);
});

inBrowser("every call of the client does its work, and sees every header", async () => {
  await using page = await world.open();
  const told = await page.run(
    async (url, token, writeToken) => {
      const answers: { status: number; sent: string[]; seen: string[] }[] = [];
      const noted = async (request: Request): Promise<Response> => {
        const response = await fetch(request);
        const [sent, seen] = [[...request.headers.keys()], [...response.headers.keys()]];
        answers.push({ status: response.status, sent, seen });
        return response;
      };
      const argo = new client.Argo({ url, token, fetch: noted });
      const page = await argo.latest({ limit: 5 });
      const same = (await argo.latest({ limit: 5 })) === page;
      const polls = answers.splice(0);
      // From here on with the browser's own fetch.
      const plain = new client.Argo({ url, token });
      const known = await plain.latest({ limit: 5 });
      // Two that hold the same request open: neither waits for the browser's cache of the other.
      const nexts = [plain, argo].map((one) => one.wait(known, 30));
      const author = new client.Argo({ url, token: writeToken });
      const signal = { symbol: "PAGE", action: "HOLD", confidence: 1, entry_price: 1 } as const;
      const [accepted] = await author.post(signal, { idempotencyKey: "a-page" });
      const [repeated] = await author.post(signal, { idempotencyKey: "a-page" });
      const begunMs = performance.now();
      const changed = await Promise.all(nexts);
      const changedMs = performance.now() - begunMs;
      const pages = await plain.batch([{ limit: 2 }, { symbol: "PAGE" }]);
      const exported: number[] = [];
      for await (const { id } of plain.export(18)) exported.push(id);
      const polled: number[] = [];
      for await (const { headId } of plain.poll({ limit: 1 })) {
        polled.push(headId);
        break;
      }
      const { data } = await plain.api.GET("/api/stats");
      return {
        same,
        headId: page.headId,
        etag: page.etag,
        polls,
        accepted: [accepted?.id, repeated?.id],
        changed: changed.map(({ headId }) => headId),
        changedMs,
        pages: pages.map(({ signals }) => signals.map(({ id }) => id)),
        exported,
        polled,
        total: data?.total,
      };
    },
    at.server.url,
    key,
    WRITE_TOKEN,
  );
  const { polls, etag, changedMs, ...rest } = told;
  expect(rest).toEqual({
    same: true,
    headId: 20,
    accepted: [21, 21],
    changed: [21, 21],
    pages: [[21, 20], [21]],
    exported: [19, 20, 21],
    polled: [21],
    total: 21,
  });
  expect(changedMs).toBeLessThan(5_000);
  expect(etag).toMatch(/^(W\/)?".+"$/);
  expect(polls.map(({ status }) => status)).toEqual([200, 304]);
  const names = "etag signal-head ratelimit ratelimit-policy x-ratelimit-limit x-request-id".split(
    " ",
  );
  for (const { seen } of polls) for (const name of names) expect(seen).toContain(name);
  expect(faultsOf(page)).toEqual([]);
});

inBrowser("the page of its README shows signals, and shows them anew", async () => {
  const readme = await Bun.file(join(CLIENT, "README.md")).text();
  const [, example = ""] = /## Browsers\n[^]*?```ts\n([^]*?)```/.exec(readme) ?? [];
  const entry = join(CLIENT, "src/page.ts");
  const script = example.replace("https://signals.example.com", at.server.url);
  expect(script).not.toBe(example);
  const built = await bundle(entry, { [entry]: script });
  await using page = await world.open();
  const shown = async (): Promise<string> => String(await page.value("document.body.innerText"));
  await page.value(`sessionStorage.setItem("token", ${JSON.stringify(key)})`);
  const url = `data:text/javascript;base64,${Buffer.from(built).toString("base64")}`;
  await page.value(`void import(${JSON.stringify(url)})`);
  await until(async () => (await shown()).split("\n").length === 10, "ten signals");
  const newest = { symbol: "NEWS", timestamp: new Date().toISOString() };
  await writer(at.server.url).post(signals(1, newest));
  await until(async () => /^\w+ NEWS at \d+/.test(await shown()), "the next");
  expect(faultsOf(page)).toEqual([]);
});

inBrowser(
  "a stream that is cut off again and again gives each signal once, in order",
  async () => {
    await using way = await tcpProxy({ port: Number(new URL(at.server.url).port) });
    await using page = await world.open();
    const stream = await followIn(page, `http://127.0.0.1:${way.port}`, key, 0);
    const author = writer(at.server.url);
    let last = 0;
    const caughtUp = () =>
      until(async () => (await stream.ids()).at(-1) === last, `signal ${last}`, 20_000);
    const post = async () => (last = (await author.post(signals(50))).at(-1)?.id ?? 0);
    for (let i = 0; i < 6; i += 1) {
      await post();
      // Else it may be in the middle of what it missed.
      if (i % 2 === 0) await caughtUp();
      way.cut();
      await post();
      way.restore();
    }
    await caughtUp();
    const before = await stream.told("dropped");
    way.blackhole();
    await until(
      async () => (await stream.told("dropped")) > before,
      "that nothing comes is noticed",
    );
    await post();
    way.restore();
    await caughtUp();
    expect(await stream.ids()).toEqual(range(1, last));
    expect(await stream.told("dropped")).toBeGreaterThanOrEqual(4);
    expect(await stream.cursor()).toBe(last);
    expect(faultsOf(page)).toEqual([]);
  },
  120_000,
);

inBrowser("a stream outlives the server", async () => {
  await using own = await serve({ CORS_ORIGINS: world.listed.origin });
  await using page = await world.open();
  await writer(own.url).post(signals(100));
  const stream = await followIn(page, own.url, READ_TOKEN, 50);
  await until(async () => (await stream.ids()).length === 50, "what was missed");
  const ends = [() => own.server().kill(), () => void own.server().stop()];
  for (const [i, end] of ends.entries()) {
    end();
    await own.again();
    await writer(own.url).post(signals(100));
    const last = 200 + i * 100;
    await until(async () => (await stream.ids()).at(-1) === last, `${last}`, 20_000);
  }
  expect(await stream.ids()).toEqual(range(51, 300));
  expect(await stream.told("dropped")).toBeGreaterThanOrEqual(2);

  const open = async (): Promise<string | undefined> =>
    /^argo_streams_open (\d+)$/m.exec(await (await fetch(`${own.url}/metrics`)).text())?.[1];
  expect(await open()).toBe("1");
  const broken = await page.run(
    async (url, token) => {
      for await (const { id } of new client.Argo({ url, token }).stream({}, { sinceId: 0 })) {
        if (id === 3) return id;
      }
      return null;
    },
    own.url,
    READ_TOKEN,
  );
  expect(broken).toBe(3);
  await until(async () => (await open()) === "1", "the stream that was broken off is closed");
});

inBrowser("a key that is refused, limited or revoked ends with an error that says so", async () => {
  await using page = await world.open();
  const boss = await at.admin();
  const member = await at.member();
  const asked = { name: "page", scopes: ["signals:read"] };
  const own = await at.must<{ id: string; key: string }>(
    201,
    "POST",
    "/api/keys",
    asked,
    member.access,
  );
  const refusal = (token: string): Promise<unknown> =>
    page.run(
      async (url, token) => {
        // Another attempt would come too late.
        const argo = new client.Argo({ url, token, deadlineMs: 900, random: () => 1 });
        const error: unknown = await argo.latest().catch((thrown: unknown) => thrown);
        if (!(error instanceof client.ArgoError)) throw error;
        const { status, code, retryAfterSeconds, requestId } = error;
        return { status, code, retryAfterSeconds, hasId: requestId !== null };
      },
      at.server.url,
      token,
    );
  const refused = { status: 401, code: "unauthorized", retryAfterSeconds: null, hasId: true };
  expect(await refusal("nobody")).toEqual(refused);

  const revoked = await followIn(page, at.server.url, own.key, 0);
  await until(async () => (await revoked.told("head")) > 0, "the stream");
  await at.must(204, "DELETE", `/api/keys/${own.id}`, undefined, member.access);
  await until(async () => (await revoked.error()) !== null, "the end");
  expect(await revoked.error()).toMatchObject({
    name: "StreamEndedError",
    reason: "unauthorized",
  });
  const again = await followIn(page, at.server.url, own.key, 0);
  await until(async () => (await again.error()) !== null, "the refusal");
  expect(await again.error()).toMatchObject({ name: "ArgoError", status: 401 });

  const one = { requests_per_minute: 1 };
  await at.must(200, "PATCH", "/api/admin/plans/starter", one, boss.access);
  const other = await at.key(await at.member());
  const limited = { status: 429, code: "rate_limited", hasId: true };
  const tries = [await refusal(other).catch(() => null), await refusal(other)];
  expect(tries[1]).toMatchObject(limited);
  expect((tries[1] as { retryAfterSeconds: number }).retryAfterSeconds).toBeGreaterThan(0);
  expect(faultsOf(page)).toEqual([]);
});
