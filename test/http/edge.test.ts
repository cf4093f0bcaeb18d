import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import pino from "pino";
import { readConfig } from "../../src/config.ts";
import { SetupError } from "../../src/errors.ts";
import { acceptsGzip } from "../../src/http/policy.ts";
import {
  METRICS_TOKEN,
  openApp,
  problemOf,
  READ_TOKEN,
  signal,
  turn,
  unpacked,
  WRITE_TOKEN,
  type App,
} from "../harness/app.ts";
import { until } from "../harness/process.ts";

const PATHS = ["/api/signals/latest", "/api/signals", "/api/signals/1", "/livez", "/nothing"];

describe("other origins", () => {
  const ORIGIN = "https://app.example.com";
  let app: App;
  beforeAll(async () => {
    app = await openApp({ env: { FRONTEND_URL: ORIGIN, CORS_ORIGINS: "http://localhost:5173" } });
  });
  afterAll(() => app[Symbol.asyncDispose]());

  test.each(PATHS)("a listed one may read %s", async (path) => {
    for (const origin of [ORIGIN, "http://localhost:5173"]) {
      const { headers } = await app.get(path, { Origin: origin });
      expect(headers.get("access-control-allow-origin")).toBe(origin);
      expect(headers.get("vary")).toMatch(/\bOrigin\b/);
      expect(headers.get("access-control-allow-credentials")).toBeNull();
      const exposed = (headers.get("access-control-expose-headers") ?? "")
        .toLowerCase()
        .split(", ");
      for (const name of [
        "etag",
        "signal-head",
        "ratelimit",
        "ratelimit-policy",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "retry-after",
        "x-request-id",
        "idempotency-replayed",
        "content-disposition",
      ]) {
        expect(exposed).toContain(name);
      }
    }
  });

  test("what one origin was told is not told to the next", async () => {
    const path = "/api/signals/latest";
    await app.get(path, { Origin: ORIGIN });
    expect((await app.get(path)).headers.get("access-control-allow-origin")).toBeNull();
    const other = await app.get(path, { Origin: "http://localhost:5173" });
    expect(other.headers.get("access-control-allow-origin")).toBe("http://localhost:5173");
  });

  const others = [
    "null",
    "*",
    "http://app.example.com",
    "https://app.example.com:443",
    "https://app.example.com:8443",
    "https://app.example.com/",
    "https://app.example.com.evil.example",
    "https://evil-app.example.com",
    "https://evil.example/https://app.example.com",
    "https://APP.example.com",
    "https://sub.app.example.com",
    "app.example.com",
    "http://localhost:5174",
    "http://localhost",
    "http://127.0.0.1:5173",
    "",
  ];
  test.each(others)("%p may not, nor be told so by a preflight", async (origin) => {
    for (const path of PATHS) {
      const { headers } = await app.get(path, { Origin: origin });
      expect(headers.get("access-control-allow-origin")).toBeNull();
      const asked = await app.send(
        new Request(`http://argo.test${path}`, {
          method: "OPTIONS",
          headers: { Origin: origin, "Access-Control-Request-Method": "GET" },
        }),
      );
      for (const name of ["origin", "methods", "headers"]) {
        expect(asked.headers.get(`access-control-allow-${name}`)).toBeNull();
      }
    }
  });

  test("a preflight of a listed one says what it may send, and needs no token", async () => {
    await using closed = await openApp({ env: { FRONTEND_URL: ORIGIN, SIGNALS_ACCESS: "key" } });
    const response = await closed.send(
      new Request("http://argo.test/api/signals", {
        method: "OPTIONS",
        headers: {
          Origin: ORIGIN,
          "Access-Control-Request-Method": "POST",
          "Access-Control-Request-Headers": "authorization,content-type",
        },
      }),
    );
    expect(response.status).toBe(204);
    expect(response.headers.get("access-control-allow-origin")).toBe(ORIGIN);
    expect(response.headers.get("access-control-allow-methods")).toMatch(/\bPOST\b/);
    const allowed = (response.headers.get("access-control-allow-headers") ?? "").toLowerCase();
    for (const name of [
      "authorization",
      "content-type",
      "if-none-match",
      "idempotency-key",
      "last-event-id",
      "x-request-id",
      "x-requested-with",
    ]) {
      expect(allowed.split(", ")).toContain(name);
    }
    expect(response.headers.get("vary")).toMatch(/\bOrigin\b/);
  });

  test.each([
    "*",
    "null",
    "https://*.example.com",
    "app.example.com",
    "https://a.example/",
    "file://",
  ])("%s is no origin to allow", (origin) => {
    for (const name of ["FRONTEND_URL", "CORS_ORIGINS"]) {
      expect(() => readConfig({ [name]: origin })).toThrow(SetupError);
    }
  });
});

describe("every answer", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp({ env: { METRICS_TOKEN, SIGNALS_ACCESS: "key" } });
  });
  afterAll(() => app[Symbol.asyncDispose]());
  const token = { Authorization: `Bearer ${READ_TOKEN}` };

  const asked: [name: string, path: string, headers: Record<string, string>][] = [
    ["a poll", "/api/signals/latest", token],
    ["a list", "/api/signals", token],
    ["an export", "/api/signals/export", token],
    ["a 401", "/api/signals/latest", {}],
    ["a 400", "/api/signals/latest?limit=x", token],
    ["a 404", "/api/nothing", {}],
    ["an operation", "/livez", {}],
    ["metrics", "/metrics", { Authorization: `Bearer ${METRICS_TOKEN}` }],
    ["the documentation", "/docs", {}],
    ["a file of it", "/docs/swagger-ui.css", {}],
    ["the OpenAPI document", "/openapi.json", {}],
  ];
  test.each(asked)("%s carries the secure headers", async (_name, path, headers) => {
    const got = (await app.get(path, headers)).headers;
    expect(got.get("x-content-type-options")).toBe("nosniff");
    expect(got.get("referrer-policy")).toBe("no-referrer");
    expect(got.get("content-security-policy")).toContain("default-src 'none'");
    expect(got.get("content-security-policy")).toContain("frame-ancestors 'none'");
    const age = /^max-age=(\d+)/.exec(got.get("strict-transport-security") ?? "")?.[1];
    expect(Number(age)).toBeGreaterThanOrEqual(31_536_000);
    expect(got.get("cache-control")).toMatch(/no-store|no-cache/);
    expect(got.get("vary")).toMatch(/accept-encoding/i);
    expect(got.get("server")).toBeNull();
    expect(got.get("x-powered-by")).toBeNull();
  });

  test.each(asked)(
    "%s has an id, the client's own where it is harmless",
    async (_name, path, headers) => {
      const id = async (given?: string): Promise<string | null> => {
        const own = given === undefined ? headers : { ...headers, "X-Request-Id": given };
        return (await app.get(path, own)).headers.get("x-request-id");
      };
      expect(await id()).toMatch(/^[\w-]{8,64}$/);
      expect(await id()).not.toBe(await id());
      for (const given of [
        "my-request_01",
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        "x".repeat(64),
      ]) {
        expect(await id(given)).toBe(given);
      }
      for (const given of [
        "short",
        "x".repeat(65),
        "a b c d e f",
        "<script>alert(1)",
        'quote"quote',
      ]) {
        expect(await id(given)).not.toBe(given);
      }
    },
  );

  test("a 304 and a preflight have one too", async () => {
    const { headers } = await app.get("/api/signals/latest", token);
    const etag = headers.get("etag") ?? "";
    const again = await app.get("/api/signals/latest", {
      ...token,
      "If-None-Match": etag,
      "X-Request-Id": "a-request-id",
    });
    expect([again.status, again.headers.get("x-request-id")]).toEqual([304, "a-request-id"]);
  });
});

describe("faults", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp();
  });
  afterAll(() => app[Symbol.asyncDispose]());

  const request = (method: string, path: string, body?: string): Request =>
    new Request(`http://argo.test${path}`, { method, body: body ?? null });

  test.each([
    ["GET", "/start"],
    ["GET", "/api"],
    ["GET", "/api/signals/"],
    ["GET", "/api/signals/latest/"],
    ["GET", "/api//signals"],
    ["GET", "/api/signals/1/2"],
    ["GET", "/API/signals"],
    ["GET", "/docs/../src/main.ts"],
    ["GET", "/docs/..%2f..%2fpackage.json"],
    ["GET", "/docs/package.json"],
    ["GET", "/.env"],
    ["DELETE", "/nothing"],
    ["OPTIONS", "/nothing"],
    ["GET", "/%00"],
    ["GET", "/%ff%fe"],
  ])("%s %s is 404", async (method, path) => {
    const response = await app.send(request(method, path));
    expect(response.status).toBe(404);
    expect((await problemOf(response)).code).toBe("not_found");
  });

  test.each([
    ["POST", "/api/signals/latest", "GET"],
    ["DELETE", "/api/signals/1", "GET"],
    ["PUT", "/api/signals/1", "GET"],
    ["PATCH", "/api/signals", "GET, POST"],
    ["POST", "/livez", "GET"],
    ["DELETE", "/docs", "GET"],
    ["OPTIONS", "/api/signals", "GET, POST"],
    ["PROPFIND", "/api/signals", "GET, POST"],
  ])("%s %s is 405 and says what is allowed", async (method, path, allowed) => {
    const response = await app.send(request(method, path));
    expect(response.status).toBe(405);
    const allow = (response.headers.get("allow") ?? "").split(", ");
    for (const name of allowed.split(", ")) expect(allow).toContain(name);
    expect(allow).not.toContain(method);
    expect((await problemOf(response)).code).toBe("method_not_allowed");
  });

  test("Allow names HEAD where it names GET", async () => {
    const response = await app.send(request("DELETE", "/api/signals"));
    expect((response.headers.get("allow") ?? "").split(", ")).toContain("HEAD");
  });

  const readable = [
    "/api/signals/latest",
    "/api/signals",
    "/api/signals/1",
    "/api/signals/export",
    "/api/stats",
    "/livez",
    "/docs",
    "/docs/swagger-ui.css",
    "/openapi.json",
  ];
  test.each(readable)("HEAD %s is GET without the body", async (path) => {
    // Over a socket: it is the listener that leaves the body out.
    const url = app.listen() + path;
    const got = await fetch(url);
    await got.body?.cancel();
    const head = await fetch(url, { method: "HEAD" });
    expect(head.status).toBe(200);
    expect(await head.text()).toBe("");
    for (const name of ["content-type", "cache-control", "etag"]) {
      expect(head.headers.get(name)).toBe(got.headers.get(name));
    }
    expect((await fetch(`${url}?nonsense=1`, { method: "HEAD" })).status).toBe(
      (await fetch(`${url}?nonsense=1`)).status,
    );
  });

  test("an unforeseen failure is a 500 that tells nothing, and is logged whole", async () => {
    const lines: string[] = [];
    const log = pino({ level: "trace" }, { write: (line: string) => void lines.push(line) });
    await using own = await openApp({ log });
    const { stats, far } = own.deps.argo;
    const broken = (): never => {
      throw new Error("canary-in-an-error", { cause: new Error("canary-in-a-cause") });
    };
    stats.current = broken;
    far.rows = broken;
    for (const path of ["/api/stats", "/api/signals/latest", "/api/signals"]) {
      lines.length = 0;
      const response = await own.get(path, { "X-Request-Id": "request-0001" });
      expect(response.status).toBe(500);
      expect(response.headers.get("x-request-id")).toBe("request-0001");
      const text = await response.clone().text();
      expect(text).not.toContain("canary");
      expect(await problemOf(response)).toMatchObject({
        code: "internal",
        detail: "Internal error",
        instance: path,
      });
      expect(lines.join("")).toContain("canary-in-an-error");
      expect(lines.join("")).toContain("request-0001");
    }
  });

  test("a body that is broken off is no fault of the server's", async () => {
    const lines: string[] = [];
    const log = pino({ level: "trace" }, { write: (line: string) => void lines.push(line) });
    await using own = await openApp({ log });
    const { port } = new URL(own.listen());
    for (const path of ["/api/signals", `/api/hooks/${WRITE_TOKEN}`, "/api/batch"]) {
      for (const length of ["Content-Length: 99", "Transfer-Encoding: chunked"]) {
        lines.length = 0;
        const socket = connect(Number(port), "127.0.0.1");
        const head = `Host: x\r\nAuthorization: Bearer ${WRITE_TOKEN}\r\nContent-Type: application/json`;
        socket.write(`POST ${path} HTTP/1.1\r\n${head}\r\n${length}\r\n\r\n9\r\n{"symbol`);
        await Bun.sleep(20);
        socket.destroy();
        await until(() => lines.some((line) => line.includes('"msg":"request"')), "its end");
        expect(lines.join("")).toContain('"status":400');
      }
    }
  });

  test("the same where what is thrown is no Error, or comes later", async () => {
    await using own = await openApp();
    const { stats, far } = own.deps.argo;
    // oxlint-disable-next-line no-throw-literal -- a library may
    stats.current = () => Promise.reject("canary") as never;
    far.rows = () => Promise.reject(new Error("canary"));
    for (const path of ["/api/signals/latest", "/api/signals", "/api/stats"]) {
      const response = await own.get(path);
      expect(response.status).toBe(500);
      expect(await response.clone().text()).not.toContain("canary");
      expect((await problemOf(response)).code).toBe("internal");
    }
  });
});

describe("what is secret", () => {
  test("stays out of logs, answers and metrics", async () => {
    const lines: string[] = [];
    const log = pino({ level: "trace" }, { write: (line: string) => void lines.push(line) });
    await using app = await openApp({ log, env: { METRICS_TOKEN } });
    const canary = "canary-4711-in-every-place";
    const answers: string[] = [];
    const keep = async (response: Response): Promise<void> => {
      answers.push(JSON.stringify([...response.headers]), await response.text());
    };
    const bearer = { Authorization: `Bearer ${canary}` };
    for (const path of [...PATHS, `/api/signals?cursor=${canary}`, "/api/stats", "/metrics"]) {
      await keep(await app.get(path, bearer));
      await keep(await app.get(path, { Authorization: `Bearer ${READ_TOKEN}`, Cookie: canary }));
      await keep(await app.get(path, { Authorization: `Basic ${canary}` }));
    }
    await keep(await app.post(signal({ strategy: canary })));
    await keep(await app.post(signal({ confidence: -1, symbol: canary })));
    await keep(await app.post(`{"symbol":"${canary}"`, { "Idempotency-Key": canary }));
    await keep(await app.post(signal(), { "Idempotency-Key": canary }));
    await keep(await app.post(signal(), bearer));
    await keep(await app.get("/metrics", { Authorization: `Bearer ${METRICS_TOKEN}` }));
    const all = [...lines, ...answers].join("\n");
    expect(lines.length).toBeGreaterThan(20);
    for (const secret of [canary, READ_TOKEN, WRITE_TOKEN, METRICS_TOKEN]) {
      expect(all).not.toContain(secret);
    }
  });
});

describe("compression", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp();
  });
  afterAll(() => app[Symbol.asyncDispose]());

  test.each([
    "/api/signals/latest",
    "/api/signals",
    "/api/stats",
    "/openapi.json",
    "/docs/swagger-ui.css",
    "/api/signals/export",
  ])("%s comes packed where that is wanted, with the same bytes in it", async (path) => {
    const plain = await app.get(path);
    expect(plain.headers.get("content-encoding")).toBeNull();
    const text = await plain.text();
    expect(text.length).toBeGreaterThan(1_024);
    const packed = await app.get(path, { "Accept-Encoding": "gzip" });
    expect(packed.headers.get("content-encoding")).toBe("gzip");
    const length = packed.headers.get("content-length");
    const bytes = (await packed.clone().bytes()).length;
    if (length !== null) expect(Number(length)).toBe(bytes);
    expect(bytes).toBeLessThan(text.length / 2);
    expect(await unpacked(packed)).toBe(text);
    const refused = await app.get(path, { "Accept-Encoding": "gzip;q=0" });
    expect(refused.headers.get("content-encoding")).toBeNull();
  });

  test.each(["/livez", "/version", "/nothing", "/api/signals/1", "/api/signals?limit=1"])(
    "%s is too small for it",
    async (path) => {
      const response = await app.get(path, { "Accept-Encoding": "gzip" });
      expect(response.headers.get("content-encoding")).toBeNull();
      expect((await response.text()).length).toBeLessThan(1_024);
    },
  );

  test("is not done where it is switched off", async () => {
    await using off = await openApp({ env: { ENABLE_COMPRESSION: "off" } });
    for (const path of ["/api/signals/latest", "/api/signals", "/api/signals/export"]) {
      const response = await off.get(path, { "Accept-Encoding": "gzip" });
      expect(response.headers.get("content-encoding")).toBeNull();
      await response.body?.cancel();
    }
  });

  test.each([
    [null, false],
    ["", false],
    ["gzip", true],
    ["GZip", true],
    ["not-gzip", false],
    ["gzipped", false],
    ["deflate, gzip;q=1.0, *;q=0.5", true],
    ["gzip;q=0", false],
    ["gzip ; q=0.0", false],
    ["gzip;q=0.001", true],
    ["*", true],
    ["*;q=0", false],
    ["gzip, *;q=0", true],
    ["*, gzip;q=0", false],
    ["gzip;q=0, *;q=1", false],
    ["identity;q=1, *;q=0", false],
    ["br, deflate", false],
  ])("Accept-Encoding %p: %p", (header, wanted) => {
    expect(acceptsGzip(header)).toBe(wanted);
  });
});

describe("/metrics", () => {
  test("is for direct requests of this machine, or for who holds the token", async () => {
    await using app = await openApp({ env: { METRICS_TOKEN } });
    const url = `${app.listen()}/metrics`;
    const ask = async (headers: Record<string, string>): Promise<number> =>
      (await fetch(url, { headers })).status;
    expect(await ask({})).toBe(200);
    const good = { Authorization: `Bearer ${METRICS_TOKEN}` };
    for (const through of ["X-Forwarded-For", "Forwarded", "Via", "X-Forwarded-Anything"]) {
      expect(await ask({ [through]: "x" })).toBe(401);
      expect(await ask({ [through]: "x", ...good })).toBe(200);
      expect(await ask({ [through]: "x", Authorization: `Bearer ${READ_TOKEN}` })).toBe(401);
    }
    // Who is no peer of this machine.
    expect((await app.get("/metrics")).status).toBe(401);
    expect((await app.get("/metrics", good)).status).toBe(200);
    const text = await (await fetch(url)).text();
    for (const name of [
      "api_request_duration_seconds",
      "api_requests_total",
      "db_query_duration_seconds",
      "rate_limit_requests_total",
      "rate_limit_exceeded_total",
      "argo_head_id",
    ]) {
      expect(text).toContain(`# TYPE ${name} `);
    }
  });

  test("labels routes by their pattern, whatever was asked for", async () => {
    await using app = await openApp({ env: { METRICS_TOKEN } });
    for (let i = 1; i <= 50; i += 1) {
      await app.get(`/api/signals/${i}`);
      await app.get(`/nothing/${i}`);
      await app.send(new Request(`http://argo.test/x${i}`, { method: `WEIRD${i}` }));
      await app.get(`/api/signals/hash/${`${i}`.padStart(64, "0")}`);
    }
    await app.get("/api/signals/latest");
    const headers = { Authorization: `Bearer ${METRICS_TOKEN}` };
    const text = await (await app.get("/metrics", headers)).text();
    const series = text.split("\n").filter((line) => line.startsWith("api_requests_total{"));
    expect(series.length).toBeLessThan(10);
    const of = (route: string, status: number): string | undefined =>
      series.find(
        (line) => line.includes(`route="${route}"`) && line.includes(`status="${status}"`),
      );
    expect(of("/api/signals/:id", 200)).toMatch(/ 50$/);
    expect(of("/api/signals/latest", 200)).toMatch(/ 1$/);
  });
});

interface Operation {
  responses: Record<
    string,
    { description?: string; content?: Record<string, { schema?: unknown }> }
  >;
  parameters?: { name: string; in: string; required?: boolean; schema?: unknown }[];
  security?: Record<string, string[]>[];
  requestBody?: { content: Record<string, { schema?: unknown }> };
}
interface OpenApi {
  openapi: string;
  info: { title: string; version: string };
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, unknown>; securitySchemes: Record<string, unknown> };
}

describe("/openapi.json", () => {
  let app: App;
  let document: OpenApi;
  beforeAll(async () => {
    app = await openApp({ fixture: null, env: { MAX_PAGE_SIZE: "77" } });
    document = await app.json<OpenApi>("/openapi.json");
  });
  afterAll(() => app[Symbol.asyncDispose]());

  test("is a whole OpenAPI 3.1 document", () => {
    expect(document.openapi).toMatch(/^3\.1\.\d+$/);
    expect(document.info).toMatchObject({ title: "argo-alpine", version: expect.any(String) });
    const refs: string[] = [];
    const walk = (value: unknown): void => {
      if (typeof value !== "object" || value === null) return;
      for (const [key, inner] of Object.entries(value)) {
        if (key === "$ref" && typeof inner === "string") refs.push(inner);
        else walk(inner);
      }
    };
    walk(document);
    expect(refs.length).toBeGreaterThan(10);
    for (const ref of refs) {
      let at: unknown = document;
      for (const part of ref.replace(/^#\//, "").split("/")) {
        at = (at as Record<string, unknown> | undefined)?.[part];
      }
      expect(`${ref} ${typeof at}`).toBe(`${ref} object`);
    }
    for (const [path, methods] of Object.entries(document.paths)) {
      expect(path).toMatch(/^\//);
      expect(path).not.toContain(":");
      for (const [method, operation] of Object.entries(methods)) {
        expect(["get", "post", "put", "patch", "delete"]).toContain(method);
        const { responses, parameters = [], security = [] } = operation;
        expect(Object.keys(responses).length).toBeGreaterThan(0);
        for (const [status, response] of Object.entries(responses)) {
          expect(status).toMatch(/^[1-5]\d\d$/);
          expect(response.description).toBeTruthy();
          for (const media of Object.values(response.content ?? {})) {
            expect(media.schema).toBeDefined();
          }
        }
        const inPath = [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? "");
        const declared = parameters.filter((p) => p.in === "path");
        expect(declared.map((p) => p.name).toSorted()).toEqual(inPath.toSorted());
        for (const parameter of declared) expect(parameter.required).toBe(true);
        for (const parameter of parameters) {
          expect(["path", "query", "header"]).toContain(parameter.in);
          expect(parameter.schema).toBeDefined();
        }
        const names = parameters.map((p) => `${p.in} ${p.name}`);
        expect(new Set(names).size).toBe(names.length);
        for (const scheme of security.flatMap((s) => Object.keys(s))) {
          expect(Object.keys(document.components.securitySchemes)).toContain(scheme);
        }
      }
    }
  });

  test("holds every route but its own, the pages' and no other", () => {
    const there = app.routes
      .filter(({ method, path }) => method !== "ALL" && !/^\/(docs|openapi|start|$)/.test(path))
      .map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, "{$1}")}`);
    const told = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(told.toSorted()).toEqual([...new Set(there)].toSorted());
  });

  test("names the parameters that are taken, with their bounds", () => {
    const latest = document.paths["/api/signals/latest"]?.["get"];
    const names = latest?.parameters?.filter((p) => p.in === "query").map((p) => p.name);
    expect(names?.toSorted()).toEqual([
      "limit",
      "min_confidence",
      "min_id",
      "offset",
      "premium_only",
      "strategy",
      "symbol",
      "wait",
    ]);
    const limit = latest?.parameters?.find((p) => p.name === "limit");
    expect(limit?.schema).toMatchObject({ type: "integer", minimum: 1, maximum: 77 });
    const premium = latest?.parameters?.find((p) => p.name === "premium_only");
    expect(premium?.schema).toMatchObject({ type: "boolean" });
  });

  test("says of each fault that it is a problem document", () => {
    for (const methods of Object.values(document.paths)) {
      for (const { responses } of Object.values(methods)) {
        for (const [status, response] of Object.entries(responses)) {
          if (!status.startsWith("4")) continue;
          expect(Object.keys(response.content ?? {})).toEqual(["application/problem+json"]);
        }
      }
    }
  });

  test("does not leave out what a route answers", () => {
    const told = (path: string, method: string): string[] =>
      Object.keys(document.paths[path]?.[method]?.responses ?? {});
    expect(told("/api/signals/latest", "get")).toEqual(
      expect.arrayContaining(["200", "304", "400", "401", "403", "429", "503"]),
    );
    expect(told("/api/signals", "post")).toEqual(
      expect.arrayContaining([
        "201",
        "400",
        "401",
        "403",
        "409",
        "413",
        "415",
        "422",
        "429",
        "503",
      ]),
    );
    expect(told("/metrics", "get")).toEqual(expect.arrayContaining(["200", "401"]));
  });
});

describe("/docs", () => {
  test("serves its own files alone, under a policy that allows no other", async () => {
    await using app = await openApp({ fixture: null });
    const page = await app.get("/docs");
    const html = await page.text();
    expect(page.headers.get("content-type")).toMatch(/^text\/html/);
    const policy = page.headers.get("content-security-policy") ?? "";
    expect(policy).toContain("script-src 'self';");
    expect(policy).not.toMatch(/script-src[^;]*unsafe|https?:|\*/);
    expect(html).not.toMatch(/https?:\/\//);
    expect(html).not.toMatch(/<script(?![^>]*\bsrc=)/);
    const links = [...html.matchAll(/(?:src|href)="(?!data:,")([^"]+)"/g)].map(
      (match) => match[1] ?? "",
    );
    expect(links.length).toBeGreaterThanOrEqual(3);
    for (const link of links) {
      // Relative: the server may be below a path.
      expect(link).toMatch(/^docs\//);
      const file = await app.get(`/${link}`);
      expect(file.status).toBe(200);
      const type = link.endsWith(".css") ? "text/css" : "text/javascript";
      expect(file.headers.get("content-type")).toStartWith(type);
      expect((await file.text()).length).toBeGreaterThan(10);
    }
    const start = await (await app.get("/docs/start.js")).text();
    expect(start).toContain('"openapi.json"');
    expect(start).not.toMatch(/https?:\/\//);
  });
});

describe("HEAD", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp();
  });
  afterAll(() => app[Symbol.asyncDispose]());

  test.each([
    "/api/signals/latest?limit=1",
    "/api/signals",
    "/api/signals/1",
    "/api/signals/0",
    `/api/signals/hash/${"0".repeat(64)}`,
    "/api/signals/export",
    "/api/stats",
    "/livez",
    "/version",
    "/docs",
    "/docs/swagger-ui.css",
    "/openapi.json",
    "/nothing",
    // For direct requests of this machine alone: HEAD comes from there too.
    "/metrics",
  ])("of %s tells the length of GET, or none", async (path) => {
    for (const encoding of ["identity", "gzip"]) {
      const ask = (method: string): Promise<Response> =>
        fetch(app.listen() + path, {
          method,
          headers: { "Accept-Encoding": encoding, "X-Request-Id": "request-of-head" },
        });
      const got = await ask("GET");
      await got.arrayBuffer();
      const head = await ask("HEAD");
      expect(await head.text()).toBe("");
      expect(head.status).toBe(got.status);
      expect(head.headers.get("content-type")).toBe(got.headers.get("content-type"));
      expect(head.headers.get("content-encoding")).toBe(got.headers.get("content-encoding"));
      // The metrics and the times in them move between two requests.
      if (path === "/metrics") expect(head.headers.get("content-length")).not.toBe("0");
      else expect(head.headers.get("content-length")).toBe(got.headers.get("content-length"));
    }
  });
});

describe("a server that drains", () => {
  test("goes on answering, says so, and lets connections go", async () => {
    await using app = await openApp();
    app.deps.state.draining = true;
    for (const path of ["/api/signals/latest", "/api/signals", "/livez"]) {
      const response = await app.get(path);
      expect(response.status).toBe(200);
      expect(response.headers.get("connection")).toBe("close");
    }
    const ready = await app.get("/readyz");
    expect(ready.status).toBe(503);
    expect(ready.headers.get("retry-after")).not.toBeNull();
    await turn();
    app.deps.state.draining = false;
    expect((await app.get("/api/signals/latest")).headers.get("connection")).toBeNull();
    expect((await app.get("/readyz")).status).toBe(200);
  });

  test("one that has not started yet is not ready", async () => {
    await using app = await openApp();
    app.deps.state.started = false;
    expect((await app.get("/readyz")).status).toBe(503);
    expect((await app.get("/livez")).status).toBe(200);
    const health = await app.json<Record<string, unknown>>("/health");
    expect(health).toMatchObject({ checks: { signals: "healthy" }, version: expect.any(String) });
    app.deps.state.started = true;
    expect(await app.json<Record<string, unknown>>("/health")).toEqual({
      status: "healthy",
      checks: { signals: "healthy", database: "disabled", redis: "disabled" },
      timestamp: "2026-11-20T12:00:00.000Z",
      version: expect.any(String),
    });
  });
});
