import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { ArgoError, unwrap, type Page } from "../../client/src/index.ts";
import { brokenOff, fakeArgo } from "../harness/fake-argo.ts";
import { READ_TOKEN, WRITE_TOKEN } from "../harness/app.ts";
import { until } from "../harness/process.ts";
import { reader, serve, signals, writer, type Served } from "./serve.ts";

const LATEST = "/api/signals/latest";

let at: Served;
beforeAll(async () => {
  at = await serve();
  await writer(at.url).post(signals(30));
});
afterAll(() => at[Symbol.asyncDispose]());

/** The error that a call ends with. */
async function errorOf(call: Promise<unknown>): Promise<unknown> {
  try {
    await call;
  } catch (error) {
    return error;
  }
  throw new Error("it did not fail");
}

async function refused(call: Promise<unknown>): Promise<ArgoError> {
  const error = await errorOf(call);
  if (error instanceof ArgoError) return error;
  throw error;
}

const newestOf = (page: Page): number | undefined => page.signals[0]?.id;

test("what has not changed is asked for by its ETag, for each query apart, and is the same page", async () => {
  const argo = reader(at.url);
  const before = await at.requests(LATEST);
  const page = await argo.latest({ limit: 2 });
  expect(page).toMatchObject({ headId: 30, signals: [{ id: 30 }, { id: 29 }] });
  expect(await argo.latest({ limit: 2 })).toBe(page);
  expect(await argo.latest({ limit: 2, symbol: "S3" })).not.toBe(page);
  expect(await argo.latest({ symbol: undefined, limit: 2, min_id: 30 })).toBe(page);
  const after = await at.requests(LATEST);
  expect((after["200"] ?? 0) - (before["200"] ?? 0)).toBe(2);
  expect((after["304"] ?? 0) - (before["304"] ?? 0)).toBe(2);
});

test("a batch shares the pages of single polls, and tells what was refused in it", async () => {
  const argo = reader(at.url);
  const page = await argo.latest({ limit: 2 });
  const queries = [{ limit: 2 }, { symbol: "S3" }, { symbol: "NOTHING" }];
  const pages = await argo.batch(queries);
  expect(pages[0]).toBe(page);
  expect(new Set(pages[1]?.signals.map(({ symbol }) => symbol))).toEqual(new Set(["S3"]));
  expect(pages[2]).toMatchObject({ signals: [], headId: page.headId });
  expect(await argo.batch(queries)).toEqual(pages);
  expect(await argo.latest({ symbol: "S3" })).toBe(pages[1] as Page);
  expect(await refused(argo.batch([{ limit: 1 }, { limit: 0 }]))).toMatchObject({
    status: 400,
    errors: [{ field: "limit" }],
  });
  const many = Array.from({ length: 21 }, (_, i) => ({ limit: i + 1 }));
  expect(await refused(argo.batch(many))).toMatchObject({ status: 422 });
});

test("calls for the same that are under way at once are one request, whoever gives up", async () => {
  const argo = reader(at.url);
  const before = await at.requests(LATEST);
  const hasty = new AbortController();
  const given = errorOf(argo.latest({ limit: 7 }, { signal: hasty.signal }));
  const calls = Array.from({ length: 100 }, () => argo.latest({ limit: 7 }));
  hasty.abort(new Error("no longer wanted"));
  const pages = new Set(await Promise.all(calls));
  expect(await given).toEqual(new Error("no longer wanted"));
  expect([...pages].map((page) => page.signals.length)).toEqual([7]);
  const after = await at.requests(LATEST);
  expect((after["200"] ?? 0) - (before["200"] ?? 0)).toBe(1);
  expect(await errorOf(argo.latest({}, { signal: hasty.signal }))).toBe(hasty.signal.reason);
});

test("whoever has posted joins no poll that began before", async () => {
  const released = Promise.withResolvers<void>();
  let held = 0;
  using front = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch({ url, method, headers, body }) {
      const { pathname, search } = new URL(url);
      const text = method === "POST" ? await new Response(body).text() : null;
      const init = { method, headers, body: text, decompress: false };
      const answer = await fetch(at.url + pathname + search, init);
      if (method === "GET" && (held += 1) === 1) await released.promise;
      return answer;
    },
  });
  let secret = READ_TOKEN;
  const argo = reader(front.url.href, { token: () => secret });
  const early = argo.latest();
  await until(() => held === 1, "the answer to the early one");
  secret = WRITE_TOKEN;
  const [mine] = await argo.post(signals(1));
  secret = READ_TOKEN;
  expect((await argo.latest()).headId).toBe(mine?.id ?? 0);
  released.resolve();
  expect((await early).headId).toBeLessThan(mine?.id ?? 0);
});

test("who waits after a page that others have gone past is answered at once", async () => {
  const argo = reader(at.url);
  const page = await argo.latest({ limit: 1 });
  const [written] = await writer(at.url).post(signals(1, { timestamp: undefined }));
  const newer = await argo.latest({ limit: 1 });
  expect(await argo.wait(page, 20)).toMatchObject({ headId: written?.id, etag: newer.etag });
});

test("pollers of one client each see every change, and end quietly", async () => {
  const argo = reader(at.url);
  const stop = new AbortController();
  const seen: number[][] = [[], []];
  const polling = seen.map(async (heads, i) => {
    const options = { signal: stop.signal, waitSeconds: i === 0 ? 0 : 25, intervalMs: 20 };
    for await (const page of argo.poll({ limit: 1 }, options)) heads.push(page.headId);
  });
  await until(() => seen.every((heads) => heads.length === 1), "the first pages");
  for (let i = 0; i < 3; i += 1) {
    const [written] = await writer(at.url).post(signals(1, { timestamp: undefined }));
    await until(() => seen.every((heads) => heads.at(-1) === written?.id), "the change");
  }
  stop.abort();
  await Promise.all(polling);
  expect(seen.map((heads) => heads.length)).toEqual([4, 4]);
});

describe("errors", () => {
  test("name what was wrong, and what no waiting mends is asked once", async () => {
    const before = await at.requests(LATEST);
    const bad = await refused(reader(at.url).latest({ limit: 0 }));
    expect(bad).toMatchObject({ status: 400, code: "bad_request", errors: [{ field: "limit" }] });
    expect(bad.requestId).not.toBeNull();
    const stranger = await refused(reader(at.url, { token: "nobody" }).latest());
    expect(stranger).toMatchObject({ status: 401, code: "unauthorized" });
    expect(stranger.message).not.toContain("nobody");
    const after = await at.requests(LATEST);
    for (const status of ["400", "401"]) {
      expect([status, (after[status] ?? 0) - (before[status] ?? 0)]).toEqual([status, 1]);
    }
    const wrong = writer(at.url).post([...signals(1), ...signals(1, { confidence: 101 })]);
    expect(await refused(wrong)).toMatchObject({
      code: "unprocessable",
      errors: [{ field: "confidence", index: 1 }],
    });
  });

  test("are given by the typed routes as they are there", async () => {
    const { api } = reader(at.url);
    expect(unwrap(await api.GET("/api/stats")).total).toBeGreaterThanOrEqual(30);
    const missing = await api.GET("/api/signals/{id}", { params: { path: { id: 999_999 } } });
    expect(missing.error).toMatchObject({ status: 404 });
    expect(() => unwrap(missing)).toThrow(ArgoError);
  });

  test("a limit that ends too late is told at once, with when to come back", async () => {
    await using narrow = await serve({ RATE_LIMIT_PER_MINUTE: "2" });
    const argo = reader(narrow.url, { deadlineMs: 5_000 });
    await argo.latest();
    await argo.latest();
    const limited = await refused(argo.latest());
    expect(limited).toMatchObject({ status: 429, code: "rate_limited" });
    expect(limited.retryAfterSeconds).toBeGreaterThan(0);
  });
});

test("a post whose answer is lost is sent again and written once", async () => {
  let lost = 0;
  using front = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    development: false,
    async fetch(request) {
      const path = new URL(request.url).pathname;
      const init = { method: request.method, headers: request.headers, body: await request.text() };
      const answer = await fetch(at.url + path, init);
      lost += 1;
      return lost < 3 ? brokenOff((await answer.text()).slice(0, 10)) : answer;
    },
  });
  const { headId } = await reader(at.url).latest();
  // Without a timestamp nothing else makes the two the same.
  const rows = signals(2, { timestamp: undefined });
  const written = await writer(front.url.href).post(rows);
  expect(lost).toBe(3);
  expect(written.map(({ id }) => id)).toEqual([headId + 1, headId + 2]);
  expect((await reader(at.url).latest()).headId).toBe(headId + 2);
});

// These wait by the clock, side by side.
test.concurrent("a wait ends with what was written, or with the same page", async () => {
  const argo = reader(at.url);
  const page = await argo.latest({ limit: 1 });
  expect(await argo.wait(page, 1)).toBe(page);
  const waiting = argo.wait(page, 10);
  const [written] = await writer(at.url).post(signals(1, { timestamp: undefined }));
  expect(newestOf(await waiting)).toBe(written?.id ?? 0);
});

test.concurrent("a 429 and a 503 are waited out for as long as they say", async () => {
  const waited = [429, 503].map(async (status) => {
    using fake = fakeArgo(5);
    fake.next.push(() => new Response(null, { status, headers: { "Retry-After": "1" } }));
    expect((await reader(fake.url).latest()).headId).toBe(5);
    const [first = 0, second = 0] = fake.requests.map(({ atMs }) => atMs);
    return second - first;
  });
  for (const ms of await Promise.all(waited)) expect(ms).toBeGreaterThanOrEqual(995);
});

test.concurrent("who asks for a year is asked after a day, not at once", async () => {
  let asked = 0;
  using away = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: () => {
      asked += 1;
      return new Response("", { status: 503, headers: { "Retry-After": "31536000" } });
    },
  });
  const argo = reader(away.url.href);
  const stop = new AbortController();
  const polling = (async () => {
    for await (const _ of argo.poll({}, { signal: stop.signal }))
      throw new Error("no page is there");
  })();
  await until(() => asked === 1, "the first");
  await Bun.sleep(300);
  stop.abort();
  await polling;
  expect(asked).toBe(1);
});

test.concurrent(
  "pages whose ETag something took off are not asked for without a pause",
  async () => {
    let asked = 0;
    using bare = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: () => {
        asked += 1;
        return Response.json([]);
      },
    });
    const begun = performance.now();
    for await (const page of reader(bare.url.href).poll({}, { intervalMs: 200 })) {
      expect(page.etag).toBe("");
      if (asked === 3) break;
    }
    expect(performance.now() - begun).toBeGreaterThanOrEqual(395);
  },
);

test.concurrent(
  "faults are tried again, each after a longer wait at most, until the deadline",
  async () => {
    using fake = fakeArgo(5);
    const faults = [
      () => new Response("no", { status: 500 }),
      () => new Response("no", { status: 502 }),
      () => brokenOff('[{"id":'),
    ];
    fake.next.push(...faults);
    expect((await reader(fake.url, { random: () => 0 }).latest()).headId).toBe(5);
    expect(fake.requests).toHaveLength(4);
    expect(new Set(fake.requests.map(({ authorization }) => authorization))).toEqual(
      new Set([`Bearer ${READ_TOKEN}`]),
    );
    fake.next.push(...Array.from({ length: 50 }, () => () => new Response("no", { status: 503 })));
    const failed = await refused(reader(fake.url, { deadlineMs: 300 }).latest());
    expect(failed).toMatchObject({ status: 503, code: "http" });
    // 10, 20, 40, 80 ms and so on.
    expect(fake.requests.length).toBeLessThanOrEqual(4 + 6);
  },
);

test.concurrent("a token is sent to no other place than it is meant for", async () => {
  using other = fakeArgo(1);
  using front = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: ({ url }) => Response.redirect(other.url + new URL(url).pathname),
  });
  const argo = reader(front.url.href);
  // Told at once: no waiting mends a wrong address.
  const told = await refused(argo.latest());
  expect([told.status, told.message]).toEqual([302, `302 http: leads to ${other.url}${LATEST}`]);
  expect(await refused(argo.stream().events().next())).toMatchObject({ status: 302 });
  expect((await argo.api.GET("/api/stats")).response.status).toBe(302);
  // As browsers tell it.
  const fetch = () => Promise.resolve(Response.error());
  expect(await refused(reader(front.url.href, { fetch }).latest())).toMatchObject({ status: 0 });
  expect(other.requests).toEqual([]);
});

test.concurrent("what is no answer of this server's is told as that", async () => {
  using page = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("<html>") });
  const argo = reader(page.url.href);
  for (const call of [argo.latest(), argo.batch([{}]), argo.post([])]) {
    expect(String(await errorOf(call))).toContain("was answered by something else");
  }
  // It may be a proxy's, for a while.
  const { value: notice } = await argo.stream().events().next();
  expect(notice).toMatchObject({ type: "dropped", reason: expect.stringContaining("something") });
});

test.concurrent("an answer that does not come is given up in time", async () => {
  using silent = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: () => new Promise<Response>(() => undefined),
  });
  const argo = reader(silent.url.href, { timeoutMs: 50, deadlineMs: 200 });
  const begun = performance.now();
  expect(await errorOf(argo.latest())).toMatchObject({ name: "TimeoutError" });
  expect(performance.now() - begun).toBeLessThan(10_000);
  await silent.stop(true);
});
