import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { readdirSync } from "node:fs";
import { eq } from "drizzle-orm";
import { users } from "../../db/alpine/schema.ts";
import {
  JWT_SECRET,
  serveAccounts,
  type Member,
  type ServedAccounts,
} from "../harness/accounts.ts";
import { problemOf, READ_TOKEN, SERVICE_TOKEN, signal, WRITE_TOKEN } from "../harness/app.ts";
import { Events } from "../harness/events.ts";
import { Messages } from "../harness/messages.ts";
import { leastMs, startServer, tempDir, until } from "../harness/process.ts";
import { randomNumbers, SEED, tellSeed } from "../harness/seed.ts";
import { openSplit, type Split } from "./split.ts";
import { endsWell, lengthen } from "./stalled.ts";

/** An alpine that fetches its signals from an argo elsewhere answers as one process with both does. */

const LATEST = "/api/signals/latest";
const ORIGIN = "http://localhost:3000";
tellSeed();

let split: Split;
let whole: ServedAccounts;
/** Who asks, by their tokens at the two. */
const WHO = new Map<string, { there: string | null; here: string | null }>();

beforeAll(async () => {
  split = await openSplit("postgres+redis");
  whole = await serveAccounts("source", "postgres", {
    SIGNALS_DB: split.db,
    SIGNALS_ACCESS: "key",
  });
  WHO.set("the operator", { there: READ_TOKEN, here: READ_TOKEN });
  WHO.set("nobody", { there: null, here: null });
  for (const tier of ["starter", "pro", "elite"] as const) {
    const [there, here] = await Promise.all([split.alpine, whole].map((at) => keyOf(at, tier)));
    WHO.set(`a ${tier}`, { there: there ?? null, here: here ?? null });
  }
  const [there, here] = await Promise.all([split.alpine.admin(), whole.admin()]);
  WHO.set("an administrator", { there: there.access, here: here.access });
});
afterAll(async () => {
  await split?.[Symbol.asyncDispose]();
  await whole?.[Symbol.asyncDispose]();
});

type Tier = "starter" | "pro" | "elite";

async function memberOf(at: ServedAccounts, tier: Tier): Promise<Member> {
  const { id, email } = await at.member();
  await at.db().update(users).set({ tier }).where(eq(users.id, id));
  return at.login(email);
}

const keyOf = async (at: ServedAccounts, tier: Tier): Promise<string> =>
  at.key(await memberOf(at, tier));

/** Posts to argo; the id, once it is committed. */
async function post(more: Record<string, unknown>): Promise<number> {
  const response = await fetch(`${split.argo.url}/api/signals`, {
    method: "POST",
    headers: { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" },
    body: JSON.stringify(signal(more)),
  });
  const { signals } = (await response.json()) as { signals: { id: number }[] };
  return signals[0]?.id ?? 0;
}

interface Seen {
  status: number;
  headers: Record<string, string>;
  body: string;
}

/** What differs from answer to answer, wherever it comes from. */
const OWN = /^(date|x-request-id|ratelimit|ratelimit-reset|x-ratelimit-(remaining|reset))$/;

async function ask(
  at: ServedAccounts,
  path: string,
  token: string | null,
  headers: Record<string, string> = {},
  method = "GET",
): Promise<Seen> {
  const response = await fetch(at.server.url + path, {
    method,
    headers: { ...headers, ...(token !== null && { Authorization: `Bearer ${token}` }) },
    decompress: false,
  });
  const bytes = new Uint8Array(await response.arrayBuffer());
  const packed = response.headers.get("content-encoding") === "gzip" && bytes.length > 0;
  return {
    status: response.status,
    headers: Object.fromEntries([...response.headers].filter(([name]) => !OWN.test(name))),
    body: new TextDecoder().decode(packed ? Bun.gunzipSync(bytes) : bytes),
  };
}

async function same(
  who: string,
  path: string,
  headers: Record<string, string> = {},
  method = "GET",
): Promise<Seen> {
  const tokens = WHO.get(who) ?? { there: null, here: null };
  const [there, here] = await Promise.all([
    ask(split.alpine, path, tokens.there, headers, method),
    ask(whole, path, tokens.here, headers, method),
  ]);
  const shown = (seen: Seen) => ({ who, method, path, ...seen });
  expect(shown(there)).toEqual(shown(here));
  return there;
}

const PATHS = [
  LATEST,
  `${LATEST}?limit=500`,
  `${LATEST}?limit=3&premium_only=true`,
  `${LATEST}?limit=3&symbol=SPX&min_confidence=80`,
  `${LATEST}?symbol=none%20such%2F..%2F`,
  `${LATEST}?limit=0`,
  `${LATEST}?limit=1&limit=2`,
  `${LATEST}?nonsense=1`,
  `${LATEST}?symbol=%ff`,
  "/api/signals/subscribed",
  "/api/signals/subscribed?limit=5&min_confidence=0.9&symbol=SPX",
  "/api/signals/subscribed?limit=0",
  "/api/signals",
  "/api/signals?limit=2&order=asc&action=SELL&since=2001&until=2002",
  "/api/signals?cursor=nonsense",
  "/api/signals?since=2002&until=2001",
  "/api/signals/1",
  "/api/signals/3489",
  "/api/signals/99999999",
  "/api/signals/0",
  "/api/signals/x",
  "/api/signals/1?limit=1",
  "/api/signals/..%2f..%2fhealth",
  "/api/signals/hash/4568898984fdd2a1833c82d5bb0723c4e79c16961b2c7f3b7f6a1e2d3c4b5a69",
  `/api/signals/hash/${"0".repeat(64)}`,
  "/api/signals/hash/nonsense",
  "/api/stats",
  "/api/stats?x=1",
  "/api/signals/export?since_id=3400",
  "/api/signals/export?since_id=x",
];

describe("it answers as one process does", () => {
  for (const who of [
    "nobody",
    "the operator",
    "a starter",
    "a pro",
    "an elite",
    "an administrator",
  ]) {
    test(`to ${who}`, async () => {
      // Fewer than a starter may ask in a minute.
      for (const [i, path] of PATHS.entries()) {
        expect((await same(who, path)).status).not.toBe(429);
        if (i % 4 === 1) await same(who, path, { "Accept-Encoding": "gzip", Origin: ORIGIN });
      }
      for (const path of [LATEST, "/api/signals?limit=1", "/api/signals/1", "/api/stats"]) {
        await same(who, path, {}, "HEAD");
      }
    });
  }

  test("with what the plan shows, and no more", async () => {
    const shown = async (who: string) => {
      const { body } = await same(who, `${LATEST}?limit=500`);
      return (JSON.parse(body) as { confidence: number }[]).map(({ confidence }) => confidence);
    };
    expect(Math.max(...(await shown("a starter")))).toBeLessThan(95);
    expect(Math.max(...(await shown("a pro")))).toBeGreaterThan(95);
  });

  test("by ETags that count on either side, in every encoding", async () => {
    for (const encoding of ["identity", "gzip"]) {
      const headers = { "Accept-Encoding": encoding };
      const { headers: full } = await same("a pro", `${LATEST}?limit=100`, headers);
      const etag = full["etag"] ?? "";
      for (const given of [etag, `W/${etag}`, `"x", ${etag}`, "*", etag.replace("-gzip", "")]) {
        const seen = await same("a pro", `${LATEST}?limit=100`, {
          ...headers,
          "If-None-Match": given,
        });
        expect(seen.status).toBe(304);
        expect(seen.body).toBe("");
      }
      const other = await same("a pro", `${LATEST}?limit=100`, {
        ...headers,
        "If-None-Match": '"x"',
      });
      expect(other.status).toBe(200);
    }
  });

  test("page by page, by cursors that are argo's own", async () => {
    let cursor = "";
    for (let page = 0; page < 5; page += 1) {
      const { body } = await same("a pro", `/api/signals?limit=7&symbol=SPX${cursor}`);
      const { next_cursor: next } = JSON.parse(body) as { next_cursor: string };
      cursor = `&cursor=${next}`;
    }
  });

  test("in a batch as well", async () => {
    const requests = PATHS.filter((path) => !path.includes("/export")).map((url) => ({ url }));
    for (const who of ["nobody", "a starter", "the operator"]) {
      const tokens = WHO.get(who);
      for (const some of [requests.slice(0, 20), requests.slice(20)]) {
        const body = { requests: some };
        const [there, here] = await Promise.all([
          split.alpine.call("POST", "/api/batch", body, tokens?.there ?? null),
          whole.call("POST", "/api/batch", body, tokens?.here ?? null),
        ]);
        expect([there.status, here.status]).toEqual([200, 200]);
        // What is left of the limit is another matter.
        const shown = (text: string) => text.replaceAll(/;r=\d+;t=\d+/g, "");
        expect(shown(await there.text())).toBe(shown(await here.text()));
      }
    }
  });

  test("no older than the id that a client knows of, by min_id", async () => {
    const { body } = await ask(split.alpine, "/api/signals/1", READ_TOKEN);
    const { sha256 } = JSON.parse(body) as { sha256: string };
    const paths = [LATEST, "/api/signals", "/api/stats", "/api/signals/export"];
    paths.push("/api/signals/1", `/api/signals/hash/${sha256}`);
    const askFor = (path: string, minId: number): Promise<Response> =>
      split.alpine.call("GET", `${path}?min_id=${minId}`, undefined, READ_TOKEN);
    for (const path of paths) {
      const here = await askFor(path, 1);
      await here.arrayBuffer();
      const { status } = await askFor(path, 999_999);
      expect(`${path} ${here.status} ${status}`).toBe(`${path} 200 503`);
    }
  });

  test("but nothing is posted to it, and it says where", async () => {
    const response = await split.alpine.call("POST", "/api/signals", signal(), WRITE_TOKEN);
    expect(response.status).toBe(405);
    expect(response.headers.get("allow")).toBe("GET, HEAD");
    expect((await problemOf(response)).detail).toContain("argo");
    const { paths } = await split.alpine.must<{ paths: Record<string, object> }>(
      200,
      "GET",
      "/openapi.json",
    );
    expect(Object.keys(paths["/api/signals"] ?? {})).toEqual(["get"]);
    const own = await whole.must<{ paths: Record<string, object> }>(200, "GET", "/openapi.json");
    const argoAlone = /^\/api\/(hooks\/\{key\}|signals\/ws|signals\/ws-ticket)$/;
    const shared = (of: object) => Object.keys(of).filter((path) => !argoAlone.test(path));
    expect(shared(paths)).toEqual(shared(own.paths));
    const alert = await split.alpine.call("POST", `/api/hooks/${WRITE_TOKEN}`, {}, null);
    expect(await problemOf(alert)).toMatchObject({ status: 404, instance: "/api/hooks/:key" });
  });

  test("a client's own request id is argo's as well, and is given back", async () => {
    const id = "a-request-of-the-tests";
    const response = await fetch(`${split.alpine.server.url}/api/signals/99999999`, {
      headers: { Authorization: `Bearer ${READ_TOKEN}`, "X-Request-Id": id },
    });
    expect(response.headers.get("x-request-id")).toBe(id);
    expect((await problemOf(response)).instance).toBe("/api/signals/99999999");
    await until(() => split.argo.logs().some((line) => line.includes(id)), "argo has logged it");
  });

  test("what its metrics and its health say", async () => {
    const health = await split.alpine.must<{ checks: object }>(200, "GET", "/health");
    expect(health.checks).toEqual({
      signals: "healthy",
      database: "healthy",
      redis: "healthy",
    });
    const text = await (await fetch(`${split.alpine.server.url}/metrics`)).text();
    for (const name of ["requests", "failures", "retries", "joined", "revalidated"]) {
      expect(text).toMatch(new RegExp(`^remote_${name}_total \\d+$`, "m"));
    }
    expect(text).toMatch(/^remote_circuit_open 0$/m);
    expect(text).not.toContain("argo_head_id");
  });
});

describe("what accounts are due", () => {
  test("what was delivered is counted here, for whom it was, and once", async () => {
    const { alpine } = split;
    const member = await memberOf(alpine, "elite");
    const key = await alpine.key(member);
    const poll = await ask(alpine, `${LATEST}?limit=3`, key);
    const etag = poll.headers["etag"] ?? "";
    await ask(alpine, `${LATEST}?limit=3`, key, { "If-None-Match": etag });
    await ask(alpine, `${LATEST}?limit=3`, key, { "Accept-Encoding": "gzip" });
    await ask(alpine, "/api/signals/subscribed?limit=2", key);
    await ask(alpine, "/api/signals?limit=4", key);
    await ask(alpine, "/api/signals/7", key);
    await ask(alpine, "/api/signals/99999999", key);
    await ask(alpine, "/api/signals/export?since_id=3480", key);
    await ask(alpine, LATEST, key, {}, "HEAD");
    const admin = await alpine.admin();
    await alpine.must(200, "GET", "/api/admin/analytics?fresh=1", undefined, admin.access);
    const { usage } = await alpine.must<{ usage: Record<string, unknown>[] }>(
      200,
      "GET",
      "/api/users/usage",
      undefined,
      member.access,
    );
    const signals = usage.find((row) => row["route_class"] === "signals");
    expect(signals).toMatchObject({ requests: 9, errors: 1, delivered: 3 + 3 + 2 + 4 + 1 + 9 });
  });

  test("a signal is there when it falls due for the plan, and a change of the plan is felt", async () => {
    const { alpine } = split;
    const admin = await alpine.admin();
    const change = (body: object) =>
      alpine.must(200, "PATCH", "/api/admin/plans/starter", body, admin.access);
    await change({ delay_seconds: 2, requests_per_minute: 100_000 });
    const key = await keyOf(alpine, "starter");
    const postedAt = Date.now();
    const id = await post({ confidence: 80, timestamp: "2026-02-01T00:00:00Z" });
    const secret = await post({ confidence: 99, timestamp: "2026-02-01T00:00:01Z" });
    const acceptedAt = Date.now();
    const sees = async (wanted: number) =>
      (await ask(alpine, `/api/signals/${wanted}`, key)).status === 200 &&
      (await ask(alpine, LATEST, key)).body.includes(`"id":${wanted},`);
    let [seenAt, missedAt] = [0, 0];
    while (seenAt === 0) {
      const askedAt = Date.now();
      if (await sees(id)) seenAt = Date.now();
      else missedAt = askedAt;
      if (askedAt > postedAt + 30_000) throw new Error("it never came");
    }
    expect(seenAt).toBeGreaterThanOrEqual(postedAt + 2_000);
    expect(missedAt).toBeLessThan(acceptedAt + 2_100);
    expect(await sees(secret)).toBe(false);
    await change({ premium: true, delay_seconds: 0 });
    await until(() => sees(secret), "what the plan shows now");
    await change({ premium: false, delay_seconds: 900, requests_per_minute: 60 });
  });

  test("new premium signals are told of", async () => {
    const { alpine } = split;
    const member = await memberOf(alpine, "elite");
    const told = async () =>
      JSON.stringify(await alpine.must(200, "GET", "/api/notifications", undefined, member.access));
    // The first look of all begins at the newest signal.
    await until(async () => {
      await post({ confidence: 99, symbol: "TOLD", timestamp: new Date().toISOString() });
      await Bun.sleep(300);
      return (await told()).includes("TOLD");
    }, "they are told of");
  });
});

const STREAM = "/api/signals/stream";
const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });
const streamOf = async (at: ServedAccounts, token: string, since?: number): Promise<Events> => {
  const query = since === undefined ? "" : `?since_id=${since}`;
  const headers = bearer(token);
  return new Events(await fetch(at.server.url + STREAM + query, { headers }));
};
const socketOf = (at: ServedAccounts, token: string): Promise<Messages> =>
  Messages.open(`${at.server.url}/api/signals/ws`, bearer(token));

describe("streams", () => {
  test("are those of argo, replayed and live, for each plan", async () => {
    for (const tier of ["starter", "pro"] as const) {
      await using remote = await streamOf(split.alpine, await keyOf(split.alpine, tier), 3_400);
      await using own = await streamOf(whole, await keyOf(whole, tier), 3_400);
      const [head, same] = [await remote.must("head"), await own.must("head")];
      expect([head.id, head.data]).toEqual([same.id, same.data]);
      await post({ confidence: 60, entry_price: 97 + Math.random() });
      const id = await post({ confidence: 99, entry_price: 97 + Math.random() });
      const seen = Number(head.data["id"]) === 0 ? 0 : 20;
      expect(await remote.signals(seen)).toEqual(await own.signals(seen));
      if (tier === "starter") continue;
      let last = 0;
      while (last < id) {
        const [one] = await remote.signals(1);
        expect([one]).toEqual(await own.signals(1));
        last = one?.id ?? Infinity;
      }
    }
  });

  test("go over WebSockets as well, with filters, from where a poll left off", async () => {
    for (let i = 0; i < 10; i += 1) {
      const id = await post({ symbol: "WS", entry_price: 97 + Math.random() });
      await using messages = await socketOf(split.alpine, READ_TOKEN);
      // Argo's stream may not have told of it yet.
      const { resume_from: cursor } = await messages.subscribe({ symbol: "WS", resume_from: id });
      expect(cursor).toBe(id);
      await post({ symbol: "OTHER", entry_price: 97 + Math.random() });
      const next = await post({ symbol: "WS", entry_price: 97 + Math.random() });
      expect(await messages.ids(1)).toEqual([next]);
    }
  });

  test("a cursor ahead of the head is told so, and goes on live", async () => {
    await using events = await streamOf(split.alpine, READ_TOKEN, 1_000_000);
    const { id } = await events.must("ahead");
    expect(id).toBeLessThan(1_000_000);
    expect(await post({ entry_price: 97 + Math.random() })).toBe(id + 1);
    expect(await events.ids(1)).toEqual([id + 1]);
  });

  test("of many are one stream of argo for each view", async () => {
    await using first = await streamOf(split.alpine, READ_TOKEN);
    await first.must("head");
    const before = split.link.open();
    const streams = await Promise.all(
      Array.from({ length: 30 }, () => streamOf(split.alpine, READ_TOKEN)),
    );
    for (const events of streams) await events.must("head");
    expect(split.link.open()).toBeLessThanOrEqual(before + 16);
    const id = await post({ entry_price: 97 + Math.random() });
    for (const events of [first, ...streams]) expect(await events.ids(1)).toEqual([id]);
    for (const events of streams) await events[Symbol.asyncDispose]();
  });

  test("and polls wait for a change, also for one that no stream tells of", async () => {
    const url = `${split.alpine.server.url}${LATEST}?limit=2`;
    const headers = bearer(READ_TOKEN);
    const wait = async (seconds: number, etag: string): Promise<number> => {
      const conditional = { ...headers, "If-None-Match": etag };
      return (await fetch(`${url}&wait=${seconds}`, { headers: conditional })).status;
    };
    const etagOf = async () => (await fetch(url, { headers })).headers.get("etag") ?? "";
    // It looks every two seconds by itself: the stream is told of sooner, unless the machine pauses.
    const told = async (): Promise<void> => {
      const waiting = wait(20, await etagOf());
      await Bun.sleep(200);
      await post({ entry_price: 97 + Math.random(), timestamp: new Date().toISOString() });
      expect(await waiting).toBe(200);
    };
    expect(await leastMs(told, 3)).toBeLessThan(1_900);
    expect(await wait(1, await etagOf())).toBe(304);
    const changed = wait(20, await etagOf());
    await Bun.sleep(300);
    using engine = new Database(split.db);
    engine.run("PRAGMA busy_timeout = 5000");
    engine.run("UPDATE signals SET confidence = confidence - 1");
    expect(await changed).toBe(200);
  });
});

test("a poll that begins after a commit shows it, however many ask for the same", async () => {
  const random = randomNumbers(SEED);
  const { alpine } = split;
  const token = WHO.get("the operator")?.there ?? "";
  const state = { polling: true };
  let polls = 0;
  const pollers = Array.from({ length: 6 }, async () => {
    while (state.polling) {
      const { status } = await ask(alpine, `${LATEST}?limit=1`, token);
      if (status === 200) polls += 1;
    }
  });
  let etag = "";
  const stale: string[] = [];
  for (let i = 0; i < 150; i += 1) {
    const timestamp = `2026-01-01T00:00:${10 + (i % 50)}Z`;
    const id = await post({ entry_price: 100 + i / 100, timestamp });
    const path = random() < 0.5 ? `${LATEST}?limit=1` : `${LATEST}?limit=${2 + (i % 3)}`;
    const conditional: Record<string, string> = random() < 0.5 ? { "If-None-Match": etag } : {};
    const seen = await ask(alpine, path, token, conditional);
    if (seen.status === 200) etag = seen.headers["etag"] ?? "";
    if (Number(seen.headers["signal-head"]) < id) stale.push(`${id} ${JSON.stringify(seen)}`);
    const listed = await ask(alpine, `/api/signals/${id}`, token);
    if (listed.status !== 200) stale.push(`${id} is not there`);
  }
  state.polling = false;
  await Promise.all(pollers);
  expect(stale).toEqual([]);
  expect(polls).toBeGreaterThan(100);
});

test("connections are kept: at most 20 are opened for 1,000 fetches", async () => {
  const { alpine, link } = split;
  const before = link.accepted();
  for (let i = 0; i < 100; i += 1) {
    const paths = Array.from({ length: 10 }, (_, n) => `${LATEST}?limit=${1 + n}&offset=${i}`);
    const seen = await Promise.all(paths.map((path) => ask(alpine, path, READ_TOKEN)));
    expect(seen.every(({ status }) => status === 200)).toBe(true);
  }
  const opened = link.accepted() - before;
  console.log(`connections opened for 1,000 fetches: ${opened}`);
  expect(opened).toBeLessThanOrEqual(20);
});

describe("when argo is away", () => {
  const away = async (withinMs: number): Promise<void> => {
    const begun = performance.now();
    const response = await fetch(`${split.alpine.server.url}${LATEST}`, {
      headers: { Authorization: `Bearer ${READ_TOKEN}` },
    });
    const tookMs = performance.now() - begun;
    expect(response.status).toBe(503);
    expect(Number(response.headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
    const text = await response.text();
    expect(text).not.toContain(String(split.link.port));
    expect(text).not.toContain("127.0.0.1");
    expect(tookMs).toBeLessThan(withinMs);
  };
  const back = (): Promise<void> =>
    until(
      async () => (await ask(split.alpine, LATEST, READ_TOKEN)).status === 200,
      "signals are back",
    );
  const health = async () => {
    const response = await fetch(`${split.alpine.server.url}/health`);
    return { code: response.status, ...((await response.json()) as { checks: object }) };
  };

  test("cut off for a moment: streams go on without gap or duplicate", async () => {
    await using events = await streamOf(split.alpine, READ_TOKEN);
    await using messages = await socketOf(split.alpine, READ_TOKEN);
    const from = (await events.must("head")).id;
    await messages.subscribe();
    const posted: number[] = [];
    for (let i = 0; i < 5; i += 1) {
      split.link.cut();
      for (let n = 0; n < 10; n += 1) posted.push(await post({ entry_price: 98 + Math.random() }));
      await Bun.sleep(100);
      split.link.restore();
      for (let n = 0; n < 10; n += 1) posted.push(await post({ entry_price: 98 + Math.random() }));
      await Bun.sleep(200);
    }
    expect(posted[0]).toBe(from + 1);
    expect(await events.ids(100)).toEqual(posted);
    expect(await messages.ids(100)).toEqual(posted);
    await back();
  });

  test("killed: refused at once, never invented; back without a restart", async () => {
    await split.killArgo();
    for (let i = 0; i < 20; i += 1) await away(7_500);
    // By then the circuit is open.
    expect(await leastMs(() => away(7_500))).toBeLessThan(500);
    const seen = await health();
    expect(seen).toMatchObject({ code: 200, status: "degraded" });
    expect(seen.checks).toMatchObject({ signals: "unhealthy", database: "healthy" });
    expect((await fetch(`${split.alpine.server.url}/readyz`)).status).toBe(200);
    // Accounts are not argo's business.
    const member = await split.alpine.member();
    await split.alpine.must(200, "GET", "/api/auth/me", undefined, member.access);
    await split.startArgo();
    await back();
    expect((await health()).checks).toMatchObject({ signals: "healthy" });
  });

  test("stopped in its tracks: refused once it does not say that it lives", async () => {
    process.kill(split.argo.pid, "SIGSTOP");
    try {
      await Promise.all(Array.from({ length: 20 }, () => away(20_000)));
      await away(7_500);
    } finally {
      process.kill(split.argo.pid, "SIGCONT");
    }
    await back();
  });

  test("cut off: refused, then back", async () => {
    split.link.cut();
    await away(7_500);
    split.link.restore();
    await back();
  });

  test("slow: it is waited for", async () => {
    split.link.delay(520);
    const seen = await ask(split.alpine, `${LATEST}?limit=4`, READ_TOKEN);
    expect(seen.status).toBe(200);
    split.link.restore();
  });

  test("an export that breaks off breaks off here too", async () => {
    split.link.stall(100_000);
    const response = await fetch(`${split.alpine.server.url}/api/signals/export`, {
      headers: { Authorization: `Bearer ${READ_TOKEN}`, "Accept-Encoding": "identity" },
    });
    const reader = response.body?.getReader();
    await reader?.read();
    split.link.cut();
    const rest = (async () => {
      for (;;) if ((await reader?.read())?.done !== false) return "whole";
    })();
    expect(await rest.catch(() => "cut")).toBe("cut");
    split.link.restore();
    await back();
  });

  test("none of it told a secret", () => {
    const logs = [...split.alpine.server.logs(), ...split.argo.logs()].join("\n");
    expect(logs).not.toContain(READ_TOKEN);
    expect(logs).not.toContain(SERVICE_TOKEN);
    expect(logs).toContain("requests refused");
  });
});

test("an export whose reader is shut out meanwhile breaks off", async () => {
  lengthen(split.db);
  const { alpine } = split;
  const [owner, other] = [await memberOf(alpine, "elite"), await memberOf(alpine, "elite")];
  const leave = async (): Promise<void> => {
    await alpine.must(204, "POST", "/api/auth/logout", undefined, owner.access);
    await until(
      async () => (await ask(alpine, LATEST, owner.access)).status === 401,
      "it is known",
    );
  };
  expect(await endsWell(alpine.server.url, owner.access, leave)).toBe(false);
  expect(await endsWell(alpine.server.url, other.access, () => Bun.sleep(1))).toBe(true);
});

describe("what it starts with", () => {
  const env = { DATABASE_URL: "postgres://nobody@127.0.0.1:1/none", JWT_SECRET };
  const start = (given: Record<string, string>) =>
    startServer({ role: "alpine", env: { ...env, ...given } });

  test("not without an address, or without a token: it says which", async () => {
    for (const [given, name] of [
      [{ ARGO_SERVICE_TOKEN: SERVICE_TOKEN }, "ARGO_URL"],
      [{ ARGO_URL: "http://127.0.0.1:1" }, "ARGO_SERVICE_TOKEN"],
    ] as const) {
      await expect(start(given)).rejects.toThrow(new RegExp(`ended with exit code 1[^]*${name}`));
    }
  });

  test("without an argo that answers, Postgres or Redis: found once they are there", async () => {
    await using apart = await openSplit("postgres");
    await apart.killArgo();
    const at = apart.alpine;
    expect((await ask(at, LATEST, READ_TOKEN)).status).toBe(503);
    await at.member();
    await apart.startArgo();
    const back = async () => (await ask(at, LATEST, READ_TOKEN)).status === 200;
    await until(back, "signals are back");
    using dir = tempDir();
    await using alone = await startServer({
      role: "alpine",
      cwd: dir.path,
      env: {
        ...env,
        ARGO_URL: "http://127.0.0.1:1",
        ARGO_SERVICE_TOKEN: SERVICE_TOKEN,
        ARGO_READ_TOKEN: READ_TOKEN,
      },
    });
    expect((await fetch(`${alone.url}/livez`)).status).toBe(200);
    expect((await fetch(`${alone.url}/readyz`)).status).toBe(503);
    // No signal file is made, and none is looked for.
    expect(readdirSync(dir.path, { recursive: true }).join()).not.toContain("signals.db");
  });

  test("a token that argo does not know: refused here, and told to the operator alone", async () => {
    const other = "another-token-0123456789";
    await using apart = await openSplit("postgres", { ARGO_SERVICE_TOKEN: other });
    const seen = await ask(apart.alpine, LATEST, other);
    expect(seen.status).toBe(503);
    expect(seen.body).not.toContain("TOKEN");
    const logs = () => apart.alpine.server.logs().join("\n");
    await until(() => logs().includes("refuses ARGO_SERVICE_TOKEN"), "it is told");
    expect(logs()).not.toContain(other);
    const health = await fetch(`${apart.alpine.server.url}/health`);
    expect(await health.json()).toMatchObject({
      status: "degraded",
      checks: { signals: "unhealthy" },
    });
  });
});
