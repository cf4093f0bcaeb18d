import type { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { viewHeader, viewOf, viewText } from "../../../src/http/entitlement.ts";
import {
  fieldsOf,
  openApp,
  READ_TOKEN,
  SERVICE_TOKEN,
  signal,
  type App,
} from "../../harness/app.ts";
import { until } from "../../harness/process.ts";

/** Polls that wait for a change. */

const LATEST = "/api/signals/latest";
const reader = { Authorization: `Bearer ${READ_TOKEN}` };
const starter = {
  Authorization: `Bearer ${SERVICE_TOKEN}`,
  [viewHeader]: viewText(viewOf(false, 900)),
};
const add = (db: Database, symbol: string, confidence = 50): number =>
  Number(
    db.run(
      `INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
       VALUES (?, 'BUY', 1, ?, '2026-01-01T00:00:00Z')`,
      [symbol, confidence],
    ).lastInsertRowid,
  );

let app: App;
beforeAll(async () => {
  app = await openApp({ now: Date.now(), env: { SIGNALS_ACCESS: "key" } });
});
afterAll(() => app[Symbol.asyncDispose]());

const etagOf = async (path: string, headers: Record<string, string> = reader): Promise<string> =>
  (await app.get(path, headers)).headers.get("etag") ?? "";

/** Begins a poll that waits, and is waiting when this returns. */
async function waiting(path: string, etag: string, headers: Record<string, string> = reader) {
  const { feed } = app.deps.argo;
  const before = feed.watchers;
  const begun = performance.now();
  const poll = app.get(path, { ...headers, "If-None-Match": etag });
  let over = false;
  const answer = poll.then((response) => {
    over = true;
    return { response, ms: performance.now() - begun };
  });
  await until(() => feed.watchers > before, "the poll waits");
  return { answer, isOver: () => over };
}

test.each([LATEST, "/api/signals/subscribed"])(
  "%s waits for a commit, by whomever",
  async (path) => {
    const headers =
      path === LATEST ? reader : { ...starter, [viewHeader]: viewText(viewOf(true, 0)) };
    for (const commit of [
      () => Promise.resolve(add(app.engine, "SPX")),
      () =>
        app.post(signal({ entry_price: 96 + Math.random() }), {
          "Idempotency-Key": crypto.randomUUID(),
        }),
    ]) {
      const etag = await etagOf(`${path}?limit=500`, headers);
      const { answer, isOver } = await waiting(`${path}?limit=500&wait=25`, etag, headers);
      await Bun.sleep(50);
      expect(isOver()).toBe(false);
      await commit();
      const { response } = await answer;
      expect(response.status).toBe(200);
      expect(response.headers.get("etag")).toBe(await etagOf(`${path}?limit=500`, headers));
      expect(app.deps.argo.feed.watchers).toBe(0);
    }
  },
);

test("is answered at once without If-None-Match, or when there is news", async () => {
  for (const headers of [reader, { ...reader, "If-None-Match": '"other"' }]) {
    const begun = performance.now();
    const response = await app.get(`${LATEST}?wait=25`, headers);
    expect(response.status).toBe(200);
    expect(performance.now() - begun).toBeLessThan(15_000);
  }
});

test("is 304 when the time is up, and 0 is no time", async () => {
  const etag = await etagOf(LATEST);
  const { answer } = await waiting(`${LATEST}?wait=1`, etag);
  const { response, ms } = await answer;
  expect(response.status).toBe(304);
  expect(response.headers.get("etag")).toBe(etag);
  expect(ms).toBeGreaterThan(900);
  expect(ms).toBeLessThan(15_000);
  const headers = { ...reader, "If-None-Match": etag };
  expect((await app.get(`${LATEST}?wait=0`, headers)).status).toBe(304);
});

test("its connection is let be idle for as long as it waits, and no longer", async () => {
  const etag = await etagOf(LATEST);
  const idle: number[] = [];
  const listener = { timeout: (_: Request, seconds: number) => void idle.push(seconds) };
  const headers = { ...reader, "If-None-Match": etag };
  const request = new Request(`http://argo.test${LATEST}?wait=1`, { headers });
  const answer = await app.fetch(request, listener as Parameters<App["fetch"]>[1]);
  expect([answer.status, idle[0], idle.at(-1)]).toEqual([304, 11, 10]);
});

test("goes on waiting through what its answer does not show", async () => {
  const path = `${LATEST}?symbol=AWAITED`;
  const { answer, isOver } = await waiting(`${path}&wait=25`, await etagOf(path));
  for (let i = 0; i < 5; i += 1) add(app.engine, "OTHER");
  await Bun.sleep(100);
  expect(isOver()).toBe(false);
  const id = add(app.engine, "AWAITED");
  const { response } = await answer;
  const [row] = (await response.json()) as { id: number }[];
  expect(row?.id).toBe(id);
});

test("tells a delayed plan when a signal falls due, and of premium ones nothing", async () => {
  const path = "/api/signals/subscribed?limit=500";
  const { answer, isOver } = await waiting(`${path}&wait=60`, await etagOf(path, starter), starter);
  add(app.engine, "SPX", 99);
  const id = add(app.engine, "SPX", 50);
  await Bun.sleep(100);
  expect(isOver()).toBe(false);
  app.clock.ms = Date.now() + 900_000;
  const { response } = await answer;
  const { signals } = (await response.json()) as { signals: { id: number }[] };
  expect(signals.map((row) => row.id)).toContain(id);
  expect(signals.map((row) => row.id)).not.toContain(id - 1);
  app.clock.ms = Date.now();
});

test("min_id tells nothing of what a plan does not show", async () => {
  const id = add(app.engine, "SPX", 50);
  type Row = { sha256: string; confidence: number };
  const rows = await app.json<Row[]>(`${LATEST}?limit=500`, reader);
  const old = rows.find(({ sha256, confidence }) => sha256 !== "" && confidence < 95);
  const paths = [LATEST, "/api/signals", "/api/stats", "/api/signals/export"];
  paths.push(`/api/signals/hash/${old?.sha256}`, `/api/signals/${id}`);
  const ask = (headers: Record<string, string>, minId: number) =>
    Promise.all(
      paths.map(async (path) => {
        const answer = await app.get(`${path}?min_id=${minId}`, headers);
        return [answer.status, await answer.text()];
      }),
    );
  const shown = await ask(starter, id);
  expect(await ask(starter, id + 1)).toEqual(shown);
  expect(shown.map(([status]) => status)).toEqual([200, 200, 200, 200, 200, 404]);
  for (const [status] of await ask(reader, id)) expect(status).toBe(200);
  for (const [status] of await ask(reader, id + 1)) expect(status).toBe(503);
});

describe("refused", () => {
  test.each(["61", "-1", "x", "", "1.5", "1&wait=2"])("wait=%s is 400", async (value) => {
    const response = await app.get(`${LATEST}?wait=${value}`, reader);
    expect([response.status, await fieldsOf(response)]).toEqual([400, ["wait"]]);
  });

  test("with a token that is not known, and another field's fault, as without wait", async () => {
    expect((await app.get(`${LATEST}?wait=1`)).status).toBe(401);
    const response = await app.get(`${LATEST}?wait=1&limit=x`, reader);
    expect([response.status, await fieldsOf(response)]).toEqual([400, ["limit"]]);
    expect((await app.get("/api/signals?wait=1", reader)).status).toBe(400);
  });
});

test("of one address without a credential, and of all of them, few wait: more are answered at once", async () => {
  const env = { SIGNALS_ACCESS: "open", TRUST_PROXY: "1" };
  await using open = await openApp({ now: Date.now(), env });
  const { feed } = open.deps.argo;
  let cut = new AbortController();
  const poll = (headers: Record<string, string>): Promise<Response> => {
    const url = `http://argo.test${LATEST}?wait=60`;
    const given = { ...headers, "If-None-Match": "*" };
    return open.send(new Request(url, { headers: given, signal: cut.signal }));
  };
  const polls: Promise<Response>[] = [];
  const wait = async (headers: Record<string, string>): Promise<void> => {
    const before = feed.watchers;
    polls.push(poll(headers));
    await until(() => feed.watchers > before, "the poll waits");
  };
  const from = (address: string) => ({ "X-Forwarded-For": address });
  for (let i = 0; i < 50; i += 1) await wait(from(`2001:db8::${i}`));
  expect((await poll(from("2001:db8::ffff"))).status).toBe(304);
  expect(feed.watchers).toBe(50);
  for (let i = 50; i < 1_000; i += 1) polls.push(poll(from(`192.0.2.${i % 50}`)));
  await until(() => feed.watchers === 1_000, "all wait");
  expect((await poll(from("198.51.100.1"))).status).toBe(304);
  // Those of the operator's tokens are not counted with them.
  await wait({ ...reader, ...from("2001:db8::1") });
  cut.abort();
  const statuses = (await Promise.all(polls)).map(({ status }) => status);
  expect(new Set(statuses)).toEqual(new Set([304]));
  expect(feed.watchers).toBe(0);
  cut = new AbortController();
  for (let i = 0; i < 50; i += 1) await wait(from("2001:db8::1"));
  cut.abort();
  await Promise.all(polls);
});

test("a client that goes away frees its place", async () => {
  const url = app.listen();
  const { feed } = app.deps.argo;
  const cut = new AbortController();
  const headers = { ...reader, "If-None-Match": "*" };
  const poll = fetch(`${url}${LATEST}?wait=60`, { headers, signal: cut.signal });
  await until(() => feed.watchers === 1, "the poll waits");
  cut.abort();
  await expect(poll).rejects.toThrow();
  await until(() => feed.watchers === 0, "its place is free");
});

test("the end of the server answers all who wait", async () => {
  await using own = await openApp({ now: Date.now() });
  const { feed } = own.deps.argo;
  const headers = { ...reader, "If-None-Match": "*" };
  const polls = Array.from({ length: 50 }, () => own.get(`${LATEST}?wait=60`, headers));
  await until(() => feed.watchers === 50, "all wait");
  feed.drain();
  const answers = await Promise.all(polls);
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([304]));
  expect(feed.watchers).toBe(0);
});
