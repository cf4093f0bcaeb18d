import { expect, test } from "bun:test";
import {
  METRICS_TOKEN,
  openApp,
  problemOf,
  READ_TOKEN,
  rowsOf,
  signal,
  unpacked,
  WRITE_TOKEN,
  type App,
} from "../harness/app.ts";
import { randomNumbers, SEED, tellSeed } from "../harness/seed.ts";

const REQUESTS = Number(process.env["FUZZ_REQUESTS"] ?? 8_000);

const random = randomNumbers();
const below = (n: number): number => Math.floor(random() * n);
const pick = <T>(values: readonly T[]): T => values[below(values.length)] as T;
const chance = (part: number): boolean => random() < part;

const METHODS = [
  "GET",
  "GET",
  "GET",
  "GET",
  "POST",
  "POST",
  "PUT",
  "PATCH",
  "DELETE",
  "OPTIONS",
  "HEAD",
  "PROPFIND",
  "X",
];
const SEGMENTS = [
  "api",
  "signals",
  "latest",
  "subscribed",
  "export",
  "hash",
  "stats",
  "livez",
  "readyz",
  "health",
  "metrics",
  "version",
  "openapi.json",
  "docs",
  "swagger-ui.css",
  "1",
  "3489",
  "0",
  "-1",
  "x",
  "f".repeat(64),
  "%2e%2e",
  "..",
  ".",
  "",
  "%00",
  "%ff",
  "%",
  "%E2%82%AC",
  "a;b",
  "a=b",
  "*",
  "__proto__",
  "{id}",
  ":id",
  "latest%3f",
  "l%61test",
  "😀",
  "9".repeat(30),
  "x".repeat(3e3),
];
const PATHS = [
  "/api/signals/latest",
  "/api/signals/subscribed",
  "/api/signals",
  "/api/signals/1",
  "/api/signals/export",
  "/api/signals/stream",
  `/api/hooks/${WRITE_TOKEN}`,
  "/api/hooks/x",
  "/api/stats",
  `/api/signals/hash/${"a".repeat(64)}`,
  "/livez",
  "/readyz",
  "/health",
  "/version",
  "/metrics",
];
const NAMES = [
  "limit",
  "offset",
  "symbol",
  "strategy",
  "premium_only",
  "min_confidence",
  "cursor",
  "since",
  "until",
  "order",
  "action",
  "since_id",
  "template",
  "entry_price",
  "confidence",
  "dedupe_seconds",
  "x",
  "__proto__",
  "constructor",
  "toString",
  "%00",
  "%ff",
  "",
  "limit[]",
  "limit.x",
  "%6cimit",
  "hasOwnProperty",
];
const VALUES = [
  "1",
  "10",
  "500",
  "0",
  "-1",
  "1e9",
  "abc",
  "",
  "true",
  "YES",
  "maybe",
  "SPX",
  "95",
  "100.1",
  "NaN",
  "Infinity",
  "%00",
  "%0d%0aX: y",
  "%ED%A0%80",
  "%F0%9F%98%80",
  "%",
  "%zz",
  "+",
  "a+b",
  "2020-01-01",
  "2020-01-01T00:00:00+00:00",
  "asc",
  "desc",
  "BUY",
  "'",
  '"',
  "' OR 1=1--",
  "<a>",
  "%u0041",
  "null",
  "undefined",
  "[]",
  "{}",
  "1;2",
  "9".repeat(40),
  "x".repeat(2e3),
  "WyIyMDIwIiwxXQ",
  "signal",
  "tradingview",
  "/",
  "/symbol",
  "/0/confidence",
  "/~2",
];
const HEADERS: [string, readonly string[]][] = [
  [
    "Authorization",
    [`Bearer ${READ_TOKEN}`, `Bearer ${WRITE_TOKEN}`, "Bearer", "Bearer x", "Basic eDp5", ""],
  ],
  ["Accept-Encoding", ["gzip", "gzip;q=0", "*", "br", "gzip;q=nonsense", ",,,", "identity"]],
  [
    "If-None-Match",
    ["*", "*", "*", "*", "*", "*", '"x"', "W/", '"', ",", `"${"x".repeat(2_000)}"`, '"a", "b"'],
  ],
  ["Origin", ["null", "http://localhost:3000", "https://evil.example", "", "x"]],
  ["X-Request-Id", ["good-request-id", "x", "", "a b", "%0a", "x".repeat(500)]],
  ["X-Forwarded-For", ["1.2.3.4", "::1", ",,,", "x", "1.2.3.4, 5.6.7.8", "999.1.1.1"]],
  ["Forwarded", ["for=x"]],
  [
    "Content-Type",
    ["application/json", "text/plain", "application/json; charset=x", "", ";", "application/json;"],
  ],
  ["Content-Encoding", ["gzip", "br", "x"]],
  ["Idempotency-Key", ["key", "", "x".repeat(300), "a b", "ключ".slice(0, 0)]],
  ["Range", ["bytes=0-1", "x"]],
  ["Expect", ["100-continue"]],
  ["Cookie", ["a=b"]],
  ["Accept", ["text/html", "nothing/here"]],
  ["Host", ["evil.example", "x:1"]],
];

const SCALARS = [
  "null",
  "true",
  "0",
  "-0",
  "1",
  "-1",
  "97.5",
  "1e999",
  "1e-999",
  "NaN",
  "Infinity",
  "0x1",
  '""',
  '"SPX"',
  '"\\ud800"',
  '"\\u0000"',
  '"x\\n"',
  '"😀"',
  "[]",
  "{}",
  "[[]]",
  '{"a":1}',
  '"BUY"',
  '"HOLD"',
  '"2026-11-20T11:00:00Z"',
  '"2026-02-30T00:00:00Z"',
  '"2099-01-01T00:00:00Z"',
  "12345678901234567890",
];
const FIELDS = [
  "symbol",
  "action",
  "confidence",
  "entry_price",
  "stop_price",
  "target_price",
  "timestamp",
  "strategy",
  "sha256",
  "supersedes",
  "id",
  "tier",
  "__proto__",
  "constructor",
  "",
  "toString",
];

/** A signal with some fields changed, added, doubled or left out. */
function object(): string {
  const good = Object.entries(signal({ entry_price: 96 + below(1_000) / 100 })).map(
    ([name, value]): [string, string] => [name, JSON.stringify(value)],
  );
  for (let i = below(3); i > 0; i -= 1) {
    const at = below(good.length + 1);
    if (chance(0.3)) good.splice(at, 1);
    else good.splice(at, chance(0.5) ? 1 : 0, [pick(FIELDS), pick(SCALARS)]);
  }
  return `{${good.map(([name, value]) => `${JSON.stringify(name)}:${value}`).join(",")}}`;
}

function body(): string | Uint8Array<ArrayBuffer> {
  const kind = below(20);
  if (kind < 8) return object();
  if (kind < 12) return `[${Array.from({ length: below(6) }, object).join(",")}]`;
  if (kind === 12) return pick(SCALARS);
  if (kind === 13) return "[".repeat(below(3_000));
  if (kind === 14) return `${'{"a":'.repeat(below(500))}1${"}".repeat(below(500))}`;
  if (kind === 15) return new Uint8Array(Array.from({ length: below(200) }, () => below(256)));
  if (kind === 16) return "";
  const text = kind === 17 ? object() : `[${object()},${object()}]`;
  const at = below(text.length);
  // One character cut, doubled or changed.
  return (
    text.slice(0, at) +
    pick(["", text[at] ?? "", ",", "}", '"', "\\", "\u0000"]) +
    text.slice(at + 1)
  );
}

/** Some reads in one, of which some may not be. */
function batch(): string {
  const parts = Array.from({ length: below(23) }, () => {
    const url = JSON.stringify(`${pick(PATHS)}?${pick(NAMES)}=${pick(VALUES)}`);
    const more = chance(0.95) ? "" : `,${JSON.stringify(pick(FIELDS))}:${pick(SCALARS)}`;
    return chance(0.98) ? `{"url":${url}${more}}` : pick(SCALARS);
  });
  return `{"requests":[${parts.join(",")}]}`;
}

function request(): Request {
  const path = chance(0.7)
    ? pick(PATHS)
    : `/${Array.from({ length: 1 + below(5) }, () => pick(SEGMENTS)).join("/")}`;
  const pairs = Array.from({ length: chance(0.6) ? below(5) : 0 }, () =>
    chance(0.9) ? `${pick(NAMES)}=${pick(VALUES)}` : pick(NAMES),
  );
  const post = chance(0.3);
  const method = post ? "POST" : pick(METHODS);
  const hook = post && chance(0.2);
  const many = post && !hook && chance(0.2);
  if (hook && chance(0.9)) pairs.push("template=signal");
  const search =
    pairs.length > 0 || chance(0.05) ? `?${pairs.join(pick(["&", "&", "&", ";", "&&"]))}` : "";
  const alert = `/api/hooks/${WRITE_TOKEN}`;
  const target = hook ? alert : many ? "/api/batch" : "/api/signals";
  const url = `http://argo.test${post && chance(0.9) ? target : path}${search}`;
  const headers = new Headers();
  if (post && chance(0.85)) {
    headers.set("Authorization", `Bearer ${WRITE_TOKEN}`);
    headers.set("Content-Type", "application/json");
  }
  for (let i = below(4); i > 0; i -= 1) {
    const [name, values] = pick(HEADERS);
    headers.set(name, pick(values));
  }
  const bodied = method !== "GET" && method !== "HEAD" && chance(0.9);
  return new Request(url, { method, headers, body: bodied ? (many ? batch() : body()) : null });
}

async function check(app: App, sent: Request): Promise<number> {
  const response = await app.fetch(sent, null);
  const { status } = response;
  expect(response.headers.get("x-request-id")).toMatch(/^[\w-]{8,64}$/);
  if (status >= 500) throw new Error(`${status}: ${await response.text()}`);
  const endless = response.headers.get("content-type") === "text/event-stream";
  if (sent.method === "HEAD" || endless) {
    await response.body?.cancel();
    return status;
  }
  if (status >= 400) {
    // A packed answer is unpacked by clients, not here.
    const packed = response.headers.get("content-encoding") === "gzip";
    const text = packed ? await unpacked(response) : await response.text();
    await problemOf(new Response(text, { status, headers: response.headers }));
  } else await response.bytes();
  return status;
}

test(`${REQUESTS} random requests: no 5xx, and every refusal is a problem document`, async () => {
  tellSeed();
  await using app = await openApp({
    env: { METRICS_TOKEN, TRUST_PROXY: "1", SIGNALS_ACCESS: "open" },
  });
  const statuses = new Map<number, number>();
  /** What the generator is meant to reach. Some of it is rare: it goes on until all has come. */
  const meant = [200, 201, 204, 304, 400, 401, 403, 404, 405, 415, 422];
  const reached = () => meant.every((status) => statuses.has(status));
  for (let i = 0; i < REQUESTS || (!reached() && i < 100_000); i += 1) {
    const sent = request();
    const shown = `${sent.method} ${sent.url} ${JSON.stringify([...sent.headers])}`;
    const copy = sent.clone();
    try {
      const status = await check(app, sent);
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
    } catch (error) {
      const text = (await copy.text().catch(() => "")).slice(0, 2_000);
      throw new Error(
        `TEST_SEED=${SEED}, request ${i}: ${shown.slice(0, 2_000)} ${text}\n${error}`,
        { cause: error },
      );
    }
  }
  expect(meant.filter((status) => !statuses.has(status))).toEqual([]);
  expect((await app.get("/readyz")).status).toBe(200);
  // Whatever was taken in is what may be taken in.
  for (const row of rowsOf(app.engine)) {
    expect(["BUY", "SELL", "HOLD"]).toContain(String(row["action"]));
    expect(Number(row["confidence"])).toBeWithin(0, 100.0001);
    expect(Number(row["entry_price"])).toBeGreaterThan(0);
  }
  expect(app.engine.query("PRAGMA integrity_check").get()).toEqual({ integrity_check: "ok" });
  expect(Object.keys(Object.prototype)).toEqual([]);
});
