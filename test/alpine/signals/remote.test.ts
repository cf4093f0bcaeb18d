import { afterEach, describe, expect, test } from "bun:test";
import { RemoteSignals } from "../../../src/alpine/signals/remote.ts";
import { AppError } from "../../../src/errors.ts";
import { fullView, type View, viewHeader, viewOf } from "../../../src/http/entitlement.ts";
import { until } from "../../harness/process.ts";

/** What an argo elsewhere may answer, and what becomes of it. */

const TOKEN = "canary-token-0123456789";
const STARTER = viewOf(false, 900);
const PATH = "/api/signals/latest?limit=1";
let scope = new AsyncDisposableStack();

afterEach(async () => {
  await scope.disposeAsync();
  scope = new AsyncDisposableStack();
});

type Asked = { path: string; view: string | null; ifNoneMatch: string | null; id: string | null };

/** An argo that does as it is told. */
function fake(answer: (asked: Asked, n: number) => Response | Promise<Response>) {
  const seen: Asked[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    development: false,
    fetch(request) {
      const { pathname, search } = new URL(request.url);
      if (pathname === "/livez") return new Response("live");
      const { headers } = request;
      seen.push({
        path: pathname + search,
        view: headers.get(viewHeader),
        ifNoneMatch: headers.get("if-none-match"),
        id: headers.get("x-request-id"),
      });
      return answer(seen.at(-1) as Asked, seen.length);
    },
  });
  scope.defer(() => server.stop(true));
  const url = `http://127.0.0.1:${server.port}`;
  const remote = scope.use(new RemoteSignals({ url, token: TOKEN, cache: true }));
  return { seen, remote };
}

/** As argo answers: with the view that it was asked with. */
const as = (asked: Asked, body: string | null, more: ResponseInit = {}): Response =>
  new Response(body, {
    ...more,
    headers: {
      "Content-Type": "application/json",
      [viewHeader]: asked.view ?? "",
      ETag: '"e"',
      "Signal-Head": "1",
      ...(more.headers as Record<string, string>),
    },
  });

const latest = (remote: RemoteSignals, view: View = fullView, path = PATH) =>
  remote.variant({ path, view, requestId: "a-request", reader: null }, false);
const json = (remote: RemoteSignals, path: string, reader: string | null = null) =>
  remote.json({ path, view: STARTER, requestId: "a-request", reader });

const textOf = ({ body }: { body: string | Uint8Array }): string =>
  typeof body === "string" ? body : new TextDecoder().decode(body);

async function refused(work: Promise<unknown>): Promise<AppError> {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof AppError)) throw new Error(`not refused: ${String(error)}`);
  for (const text of [error.detail, JSON.stringify(error.errors ?? ""), String(error.cause)]) {
    expect(text).not.toContain(TOKEN);
  }
  return error;
}

test("each view is asked for by itself, and kept by itself", async () => {
  const { remote, seen } = fake((asked) => as(asked, JSON.stringify(asked.view)));
  expect(textOf(await latest(remote, STARTER))).toBe('"premium=false, delay_seconds=900"');
  expect(textOf(await latest(remote))).toBe('"premium=true, delay_seconds=0"');
  expect(textOf(await latest(remote, STARTER))).toBe('"premium=false, delay_seconds=900"');
  expect(seen.map(({ ifNoneMatch }) => ifNoneMatch)).toEqual([null, null, '"e"']);
  expect(seen[0]?.id).toBe("a-request");
});

test("what is kept is asked after each time, and answered under the head of now", async () => {
  let head = 1;
  const { remote, seen } = fake((asked) => {
    const headers = { "Signal-Head": String(head) };
    return as(asked, asked.ifNoneMatch ? null : "[1]", {
      status: asked.ifNoneMatch ? 304 : 200,
      headers,
    });
  });
  for (const now of [1, 1, 5, 5]) {
    head = now;
    const variant = await latest(remote);
    expect([textOf(variant), variant.etag, variant.head]).toEqual(["[1]", '"e"', now]);
  }
  expect(seen.length).toBe(4);
  expect(remote.revalidated).toBe(3);
});

test("a hundred who ask at once cost two requests, and nobody is given an older answer", async () => {
  const { remote, seen } = fake(async (asked, n) => {
    const body = `[${n}]`;
    await Bun.sleep(50);
    return as(asked, body);
  });
  const first = latest(remote);
  await Bun.sleep(20);
  // The first request is under way: what it was asked may be older than these questions.
  const others = await Promise.all(Array.from({ length: 100 }, () => latest(remote)));
  expect(textOf(await first)).toBe("[1]");
  expect(new Set(others.map(textOf))).toEqual(new Set(["[2]"]));
  expect(seen.length).toBe(2);
  expect(remote.joined).toBe(99);
});

test("one reader who asks for much keeps nobody from asking", async () => {
  let slow = 0;
  const over = Promise.withResolvers<void>();
  const { remote, seen } = fake(async (asked) => {
    if (asked.path.includes("slow")) {
      slow += 1;
      await over.promise;
    }
    return as(asked, "[]");
  });
  const greedy = Array.from({ length: 300 }, (_, i) => json(remote, `/slow?${i}`, "greedy"));
  await until(() => slow === 6, "as many as they may have are under way");
  // None of them is answered before these are.
  await json(remote, "/api/stats", "another");
  await latest(remote);
  expect(seen.length).toBe(8);
  over.resolve();
  // Gone before it is awaited: what waits is refused at its deadline, or answered before.
  await scope.disposeAsync();
  await Promise.allSettled(greedy);
});

test("new premium signals are seen, and all others passed by", async () => {
  const lines = [1, 96, 94.9, 99, null, 95].map((confidence, i) =>
    JSON.stringify({ id: 10 + i, confidence }),
  );
  const { remote, seen } = fake((asked) =>
    asked.path.includes("export")
      ? as(asked, lines.map((line) => `${line}\n`).join(""), { headers: { "Signal-Head": "15" } })
      : as(asked, "[]", { headers: { "Signal-Head": "15" } }),
  );
  expect(await remote.premium.headId()).toBe(15);
  const { count, shown, untilId } = await remote.premium.after(9, 2);
  expect([count, shown.map(({ id }) => id), untilId]).toEqual([3, [11, 13], 15]);
  expect(seen.at(-1)).toMatchObject({
    path: "/api/signals/export?since_id=9",
    view: "premium=true, delay_seconds=0",
  });
});

test("memory is bounded, by entries and by bytes", async () => {
  const large = JSON.stringify("x".repeat(100_000));
  const { remote } = fake((asked) => as(asked, asked.path.includes("large") ? large : "[]"));
  for (let i = 0; i < 400; i += 1) await latest(remote, fullView, `${PATH}&large=${i}`);
  expect(remote.bytes).toBeLessThanOrEqual(16 * 1024 * 1024);
  expect(remote.bytes).toBeGreaterThan(8 * 1024 * 1024);
  for (let i = 0; i < 2_000; i += 1) await latest(remote, fullView, `${PATH}&small=${i}`);
  // All that is left is small.
  expect(remote.bytes).toBeLessThan(1_024 * 6_000);
  const huge = fake((asked) => as(asked, JSON.stringify("x".repeat(2_000_000))));
  await latest(huge.remote);
  expect(huge.remote.bytes).toBe(0);
});

describe("what is no answer of an argo is none of ours", () => {
  const problem = (code: string, status: number, detail = "Detail.") =>
    JSON.stringify({ type: `urn:argo-alpine:problem:${code}`, code, status, detail, title: "T" });
  const cases: [what: string, answer: (asked: Asked) => Response][] = [
    ["another server", () => new Response("<html>", { headers: { "Content-Type": "text/html" } })],
    ["a release that knows no views", () => Response.json([], { headers: { ETag: '"e"' } })],
    ["another view", (asked) => as({ ...asked, view: "premium=true, delay_seconds=1" }, "[]")],
    ["the token refused", () => new Response(problem("unauthorized", 401), { status: 401 })],
    ["the token without the right", () => new Response(problem("forbidden", 403), { status: 403 })],
    ["304 to nothing", (asked) => as(asked, null, { status: 304 })],
    ["a redirection", () => Response.redirect("https://example.com/")],
    ["a status that argo has not", (asked) => as(asked, "", { status: 418 })],
    ["a failure", (asked) => as(asked, "", { status: 500 })],
    ["half an answer", (asked) => as(asked, '[{"id":1')],
    [
      "no ETag",
      (asked) => new Response("[]", { headers: { [viewHeader]: asked.view ?? "", ETag: "" } }),
    ],
  ];
  for (const [what, answer] of cases) {
    test(what, async () => {
      const { remote } = fake(answer);
      const work = [latest(remote), json(remote, "/api/stats")];
      if (what === "no ETag") work.pop();
      for (const one of work) {
        const error = await refused(one);
        expect(error.code).toBe("unavailable");
        expect(error.detail).toBe("Signals are not available at the moment. Try again.");
        expect(error.retryAfterSeconds).toBeGreaterThanOrEqual(1);
      }
      expect((await remote.fault())?.code).toBe("unavailable");
    });
  }

  test("its own refusals are passed on, those of the asker alone", async () => {
    const given: [code: string, status: number, becomes: string, retryAfter?: string][] = [
      ["bad_request", 400, "bad_request"],
      ["not_found", 404, "not_found"],
      ["unavailable", 503, "unavailable", "5"],
      ["rate_limited", 429, "unavailable", "40"],
    ];
    for (const [code, status, becomes, retryAfter = ""] of given) {
      const headers: Record<string, string> = retryAfter ? { "Retry-After": retryAfter } : {};
      const { remote, seen } = fake((asked) =>
        as(asked, problem(code, status), { status, headers }),
      );
      const error = await refused(json(remote, "/api/signals/1"));
      expect(error.code as string).toBe(becomes);
      if (code === becomes) expect(error.detail).toBe("Detail.");
      if (retryAfter) expect(error.retryAfterSeconds).toBe(Number(retryAfter));
      expect(seen.length).toBe(1);
    }
  });
});

test("an argo that is a node and misses something says nothing of what is gone", async () => {
  let checks: object = {};
  await using server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: () => Response.json({ status: "degraded", checks }),
  });
  const url = `http://127.0.0.1:${server.port}`;
  using remote = new RemoteSignals({ url, token: "t", cache: true });
  for (const [origin, isLate] of [
    ["unhealthy", true],
    // It is back, and has much to copy.
    ["starting", true],
    ["healthy", false],
    [undefined, false],
  ]) {
    checks = { signals: "healthy", ...(origin !== undefined && { origin }) };
    expect(await remote.source.isLate()).toBe(isLate === true);
    expect((await remote.premium.lateMs()) === Infinity).toBe(isLate === true);
  }
});
