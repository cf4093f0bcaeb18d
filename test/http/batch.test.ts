import type { Server } from "bun";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { batchRoutes } from "../../src/http/batch.ts";
import type { Exchange } from "../../src/http/exchange.ts";
import { viewOf, viewText } from "../../src/http/entitlement.ts";
import {
  type App,
  LEGACY_ROWS,
  openApp,
  problemOf,
  READ_TOKEN,
  SERVICE_TOKEN,
  WRITE_TOKEN,
} from "../harness/app.ts";
import { until } from "../harness/process.ts";

type Part = { status: number; headers: Record<string, string>; body: unknown };
type Asked = string | { url: string; headers?: Record<string, string>; method?: string };
type Headers = Record<string, string>;

const LATEST = "/api/signals/latest";
const reader = { Authorization: `Bearer ${READ_TOKEN}` };

const requestOf = (body: unknown, headers: Headers = reader): Request =>
  new Request("http://argo.test/api/batch", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

const bodyOf = (asked: Asked[]) => ({
  requests: asked.map((one) => (typeof one === "string" ? { url: one } : one)),
});

async function batch(app: App, asked: Asked[], headers?: Headers): Promise<Part[]> {
  const response = await app.send(requestOf(bodyOf(asked), headers));
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${response.status} ${text}`);
  expect(response.headers.get("content-type")).toBe("application/json");
  expect(response.headers.get("cache-control")).toBe("no-store");
  const body = JSON.parse(text) as { responses: Part[] };
  expect(Object.keys(body)).toEqual(["responses"]);
  return body.responses;
}

let app: App;
beforeAll(async () => {
  app = await openApp({ env: { SIGNALS_ACCESS: "key" } });
});
afterAll(() => app[Symbol.asyncDispose]());

describe("each answer is the one that it would be by itself", () => {
  test("in order, with its status, the headers that matter and its body", async () => {
    const urls = [
      `${LATEST}?limit=2`,
      "/api/signals?limit=3&order=asc",
      "/api/signals/7",
      "/api/signals/99999999",
      `${LATEST}?limit=0`,
      "/api/stats",
      "/api/nothing",
      "/api/signals/subscribed",
      `${LATEST}?symbol=Gr%C3%B6%C3%9Fe`,
      `${LATEST}?symbol=Größe`,
      "/api/signals/l%61test?limit=1",
      "/api/signals?cursor=nonsense",
      `/api/signals/hash/${"0".repeat(64)}`,
      "/api/signals/7?min_id=7",
      "/api/signals/7?min_id=99999999",
    ];
    const parts = await batch(app, urls);
    expect(parts.map(({ status }) => status)).toEqual([
      200, 200, 200, 404, 400, 200, 404, 403, 200, 200, 200, 400, 404, 200, 503,
    ]);
    for (const [i, url] of urls.entries()) {
      const alone = await app.get(url, reader);
      const { status, headers, body } = parts[i] as Part;
      expect([url, status]).toEqual([url, alone.status]);
      for (const name of ["Content-Type", "ETag", "Signal-Head", "RateLimit-Policy"]) {
        expect([url, name, headers[name] ?? null]).toEqual([url, name, alone.headers.get(name)]);
      }
      expect([url, body]).toEqual([url, await alone.json()]);
    }
  });

  test("what is unmodified is 304 without a body", async () => {
    const [first] = await batch(app, [LATEST]);
    const etag = first?.headers["ETag"] ?? "";
    const conditional = (url: string) => ({ url, headers: { "If-None-Match": etag } });
    // The header of the batch is of none of them.
    const given = { ...reader, "If-None-Match": etag };
    const parts = await batch(app, [conditional(LATEST), LATEST, conditional("/api/stats")], given);
    expect(parts.map(({ status }) => status)).toEqual([304, 200, 200]);
    expect(parts[0]?.body).toBeNull();
    expect(parts[0]?.headers["ETag"]).toBe(etag);
  });

  test("as it was when the batch came, or newer, whoever has committed", async () => {
    for (let i = 0; i < 20; i += 1) {
      const { lastInsertRowid } = app.engine.run(
        `INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
         VALUES ('NOW', 'BUY', 1, 50, '2999-01-01T00:00:00Z')`,
      );
      const id = Number(lastInsertRowid);
      const parts = await batch(app, [LATEST, `/api/signals/${id}`, "/api/signals?limit=1"]);
      expect(parts.map(({ status }) => status)).toEqual([200, 200, 200]);
      expect(parts[0]?.headers["Signal-Head"]).toBe(String(id));
      expect(JSON.stringify(parts[2]?.body)).toContain(`"id":${id},`);
    }
    app.engine.run("DELETE FROM signals WHERE symbol = 'NOW'");
  });

  test("packed as a whole for who takes it, and open to the pages that may read it", async () => {
    const { listen } = app;
    const response = await fetch(`${listen()}/api/batch`, {
      method: "POST",
      headers: {
        ...reader,
        "Content-Type": "application/json",
        "Accept-Encoding": "gzip",
        Origin: "http://localhost:3000",
      },
      body: JSON.stringify(bodyOf([`${LATEST}?limit=50`])),
    });
    expect(response.headers.get("content-encoding")).toBe("gzip");
    expect(response.headers.get("access-control-allow-origin")).toBe("http://localhost:3000");
    const { responses } = (await response.json()) as { responses: Part[] };
    expect(responses[0]?.headers["ETag"]).not.toContain("gzip");
    expect(responses[0]?.body).toHaveLength(50);
  });

  test("what does not fit any more is told, and what still fits is there", async () => {
    await using large = await openApp({
      fixture: null,
      env: { SIGNALS_ACCESS: "open", MAX_PAGE_SIZE: "5000" },
    });
    large.engine.run(
      `WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000)
       INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
       SELECT 'S' || n, 'BUY', 1, 50, '2026-01-01T00:00:00Z' FROM n`,
    );
    const list = "/api/signals?limit=5000";
    const bytes = Buffer.byteLength(await (await large.get(list)).text());
    const fit = Math.floor((8 * 1024 * 1024) / bytes);
    expect(fit).toBeWithin(2, 18);
    const asked = [...Array.from({ length: fit + 1 }, () => list), `${LATEST}?limit=1`];
    const parts = await batch(large, asked, {});
    expect(parts.map(({ status }) => status)).toEqual([
      ...Array.from({ length: fit }, () => 200),
      413,
      200,
    ]);
    expect(parts[fit]?.headers["Content-Type"]).toBe("application/problem+json");
    expect(parts[fit]?.body).toMatchObject({ code: "payload_too_large", instance: "/api/signals" });
  });
});

describe("who asks", () => {
  const ask = (headers: Headers) =>
    batch(app, [`${LATEST}?limit=1`, "/api/stats", "/api/signals/1"], headers);
  const statusesOf = async (headers: Headers) => (await ask(headers)).map(({ status }) => status);

  test("is who asked for the batch", async () => {
    expect(await statusesOf({})).toEqual([401, 401, 401]);
    expect(await statusesOf({ Authorization: "Bearer nobody-knows-this" })).toEqual([
      401, 401, 401,
    ]);
    expect(await statusesOf({ Authorization: `Bearer ${WRITE_TOKEN}` })).toEqual([403, 403, 403]);
    expect(await statusesOf(reader)).toEqual([200, 200, 200]);
  });

  test("with the eyes that they have", async () => {
    const view = viewText(viewOf(false, 0));
    const [latest] = await ask({ Authorization: `Bearer ${SERVICE_TOKEN}`, "Argo-View": view });
    const shown = latest?.body as { confidence: number }[];
    expect(shown.length).toBeGreaterThan(0);
    expect(shown.filter(({ confidence }) => confidence >= 95)).toEqual([]);
    // Of anybody else the header is not looked at.
    const [all] = await ask({ ...reader, "Argo-View": view });
    expect(all?.body).toMatchObject([{ id: LEGACY_ROWS }]);
  });

  test.each<[string, Headers]>([
    ["through a proxy", { "X-Forwarded-For": "192.0.2.1" }],
    ["through another", { Via: "1.1 proxy" }],
    ["under another name", { Host: "evil.example" }],
  ])("%s nothing is open that is open to this machine alone", async (_name, headers) => {
    await using local = await openApp({ fixture: null });
    const near = await batch(local, [LATEST], { Host: "localhost:3000" });
    expect(near[0]?.status).toBe(200);
    const far = await batch(local, [LATEST, "/api/stats"], { Host: "localhost:3000", ...headers });
    expect(far.map(({ status }) => status)).toEqual([401, 401]);
  });

  test("each takes a share of the limit, and one that finds none is 429", async () => {
    await using limited = await openApp({ env: { RATE_LIMIT_PER_MINUTE: "25" } });
    const twenty = Array.from({ length: 20 }, () => `${LATEST}?limit=1`);
    const parts = await batch(limited, twenty);
    expect(parts.map(({ headers }) => headers["RateLimit"])).toEqual(
      twenty.map((_, i) => `"default";r=${24 - i};t=60`),
    );
    // The batch itself is none: five are left.
    const more = await batch(limited, [...twenty.slice(0, 4), "/api/stats", "/api/signals/1"]);
    expect(more.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 429]);
    expect(Number(more[5]?.headers["Retry-After"])).toBeGreaterThan(0);
    expect(more[5]?.body).toMatchObject({ code: "rate_limited" });
    expect((await limited.get(LATEST, reader)).status).toBe(429);
  });

  test("guests are limited by the address of the batch, and so is guessing", async () => {
    await using limited = await openApp({
      env: { RATE_LIMIT_PER_MINUTE: "3", SIGNALS_ACCESS: "open", TRUST_PROXY: "1" },
    });
    const from = async (address: string, token?: string): Promise<number[]> => {
      const headers: Headers = { "X-Forwarded-For": address };
      if (token) headers["Authorization"] = `Bearer ${token}`;
      const parts = await batch(limited, [LATEST, LATEST], headers);
      return parts.map(({ status }) => status);
    };
    expect(await from("192.0.2.1")).toEqual([200, 200]);
    expect(await from("192.0.2.1", "not-a-token-of-ours")).toEqual([401, 429]);
    expect(await from("192.0.2.2")).toEqual([200, 200]);
    // Without a proxy it is the socket's, which only the batch has.
    await using direct = await openApp({
      env: { RATE_LIMIT_PER_MINUTE: "1", SIGNALS_ACCESS: "open" },
    });
    const addresses = new Map<Request, string>();
    const server = {
      requestIP: (request: Request) => {
        const address = addresses.get(request);
        return address === undefined ? null : { address, family: "IPv4", port: 1 };
      },
    } as unknown as Server<unknown>;
    const statuses: number[] = [];
    for (const address of ["192.0.2.1", "192.0.2.1", "192.0.2.2"]) {
      const request = requestOf(bodyOf([LATEST]), {});
      addresses.set(request, address);
      const response = await direct.fetch(request, server);
      const { responses } = (await response.json()) as { responses: Part[] };
      statuses.push(responses[0]?.status ?? 0);
    }
    expect(statuses).toEqual([200, 429, 200]);
  });
});

test("of batches that come at once one begins in each turn of the event loop, so that polls come in between", async () => {
  let turn = 0;
  let counting = true;
  const count = (): void => {
    turn += 1;
    if (counting) setImmediate(count);
  };
  const begun: number[] = [];
  const routes = batchRoutes(() => {
    begun.push(turn);
    return Response.json([]);
  });
  const env = { requestId: "r", server: null, deliver: () => undefined };
  setImmediate(count);
  const answers = Array.from({ length: 10 }, () => {
    const request = requestOf(bodyOf([LATEST, LATEST]));
    return routes.fetch(request, { ...env, request, carrier: request } as unknown as Exchange);
  });
  for (const { status } of await Promise.all(answers)) expect(status).toBe(200);
  counting = false;
  expect(begun).toHaveLength(20);
  expect(new Set(begun).size).toBe(10);
});

describe("what batches hold in memory is bounded", () => {
  const PARTS = 20;
  const text = JSON.stringify("x".repeat(400_000));
  let asked = 0;
  const routes = batchRoutes(() => {
    asked += 1;
    return new Response(text, { headers: { "Content-Type": "application/json" } });
  });
  const body = JSON.stringify(bodyOf(Array.from({ length: PARTS }, () => LATEST)));
  const serve = (request: Request) => {
    const env = {
      request,
      carrier: request,
      requestId: "r",
      server: null,
      deliver: () => undefined,
    };
    return routes.fetch(request, env as unknown as Exchange);
  };
  /** How many parts the next batch asks for before anything of it is read. */
  async function askedByNext(): Promise<number> {
    const before = asked;
    const response = await serve(requestOf(body));
    const count = asked - before;
    await response.body?.cancel();
    return count;
  }

  test("of those that are not read a part each is asked for, and all parts of who reads come", async () => {
    expect(await askedByNext()).toBe(PARTS);
    asked = 0;
    const unread = await Promise.all(Array.from({ length: 60 }, () => serve(requestOf(body))));
    // 42 fill the 16 MiB; how many of those under way come to more is not known before.
    expect(asked).toBeWithin(60, 60 + 42 + 2 * PARTS);
    expect(await askedByNext()).toBe(1);
    const whole = (await unread.pop()?.json()) as { responses: Part[] };
    expect(whole.responses).toEqual(
      Array.from({ length: PARTS }, () => ({
        status: 200,
        headers: { "Content-Type": "application/json" },
        body: JSON.parse(text),
      })),
    );
    for (const response of unread) await response.body?.cancel();
    expect(await askedByNext()).toBe(PARTS);
  });

  test("what was held for those who hang up is given back", async () => {
    using server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: serve });
    const head = `POST /api/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`;
    let begun = 0;
    const connect = () =>
      Bun.connect({
        hostname: "127.0.0.1",
        port: server.port ?? 0,
        socket: {
          open: (socket) => void socket.write(head + body),
          data: (socket) => {
            socket.pause();
            begun += 1;
          },
        },
      });
    const sockets = await Promise.all(Array.from({ length: 50 }, connect));
    await until(() => begun === sockets.length, "all have begun");
    await until(async () => (await askedByNext()) === 1, "nobody takes anything any more");
    for (const socket of sockets) socket.terminate();
    await until(async () => (await askedByNext()) === PARTS, "the room is given back");
  });
});

describe("what a batch cannot hold is 422 and names the request", () => {
  const APART = "cannot be in a batch: ask for it by itself";
  const BELOW = "must be a path below /api/ with its query";
  test.each<[string, string]>([
    ["/api/signals/stream", APART],
    ["/api/signals/str%65am", APART],
    ["/api/signals/stream?since_id=1", APART],
    ["/api/signals/ws", APART],
    ["/api/signals/export?since_id=0", APART],
    ["/api/users/export", APART],
    ["/api/hooks/some-key", APART],
    ["/api/x/../hooks/some-key", APART],
    ["/api/batch", APART],
    ["/api/batch/", APART],
    [`${LATEST}?wait=25`, "must be without wait"],
    [`${LATEST}?limit=1&wait=0`, "must be without wait"],
    [`${LATEST}?wait`, "must be without wait"],
    ["/metrics", BELOW],
    ["/livez", BELOW],
    ["/api/../metrics", BELOW],
    ["/api/%2e%2e/metrics", BELOW],
    ["/api/x/../../metrics", BELOW],
    ["/api\\..\\metrics", BELOW],
    ["//evil.example/api/stats", BELOW],
    ["http://evil.example/api/stats", BELOW],
    ["api/stats", BELOW],
    ["/api/stats#x", BELOW],
    ["/api/a b", BELOW],
    ["/api/a\r\nX: y", BELOW],
    ["/api", BELOW],
    ["", BELOW],
  ])("%s", async (url, detail) => {
    const response = await app.send(requestOf(bodyOf(["/api/stats", "/api/stats", { url }])));
    const { status, errors } = await problemOf(response);
    expect([status, errors]).toEqual([422, [{ field: "requests[2].url", detail }]]);
  });

  test.each<[string, unknown, string[]]>([
    ["21 requests", bodyOf(Array.from({ length: 21 }, () => LATEST)), ["requests"]],
    ["none", { requests: [] }, ["requests"]],
    ["no list", {}, ["requests"]],
    ["another method", bodyOf([LATEST, { url: LATEST, method: "POST" }]), ["requests[1].method"]],
    ["HEAD", bodyOf([{ url: LATEST, method: "HEAD" }]), ["requests[0].method"]],
    ["a body", { requests: [{ url: LATEST, body: {} }] }, ["requests[0].body"]],
    [
      "another header",
      bodyOf([{ url: LATEST, headers: { Authorization: `Bearer ${READ_TOKEN}` } }]),
      ["requests[0].headers.Authorization"],
    ],
    [
      "a header that ends the line",
      bodyOf([{ url: LATEST, headers: { "If-None-Match": 'a"\r\nHost: x' } }]),
      ["requests[0].headers.If-None-Match"],
    ],
    ["a field of its own", { requests: [{ url: LATEST }], parallel: true }, ["parallel"]],
    ["a list of texts", { requests: [LATEST] }, ["requests[0]"]],
  ])("%s", async (_name, body, fields) => {
    const { status, errors } = await problemOf(await app.send(requestOf(body)));
    expect([status, errors?.map(({ field }) => field)]).toEqual([422, fields]);
  });

  test("GET may be said, or left out", async () => {
    const [part] = await batch(app, [{ url: "/api/stats", method: "GET" }]);
    expect(part?.status).toBe(200);
  });

  test("what is no JSON in one", async () => {
    expect((await app.send(requestOf("{"))).status).toBe(400);
    expect((await app.send(requestOf('{"requests":[],"requests":[]}'))).status).toBe(400);
    const text = await app.send(requestOf("{}", { ...reader, "Content-Type": "text/plain" }));
    expect(text.status).toBe(415);
    const large = bodyOf([`${LATEST}?symbol=${"x".repeat(70_000)}`]);
    expect((await app.send(requestOf(large))).status).toBe(413);
    expect((await app.get("/api/batch", reader)).status).toBe(405);
    const query = new Request("http://argo.test/api/batch?x=1", requestOf(bodyOf([LATEST])));
    expect((await app.send(query)).status).toBe(400);
  });
});
