import { afterAll, beforeAll, expect, test } from "bun:test";
import { Writable } from "node:stream";
import { Redis as Client } from "ioredis";
import pino from "pino";
import { openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { signal } from "../harness/app.ts";
import { Events } from "../harness/events.ts";
import { Messages } from "../harness/messages.ts";
import { quantile } from "../faults/harness.ts";
import { alpineOf, person } from "./people.ts";

/** WebSockets of accounts: how long they go on, how many, and who is let in by a ticket. */

const PATH = "/api/signals/ws";
let logged = "";
const log = pino(
  { level: "trace" },
  new Writable({
    write(chunk: Buffer, _encoding, done) {
      logged += chunk.toString();
      done();
    },
  }),
);

let at: Accounts;
/** Another server of the same accounts and the same Redis, with signals of its own. */
let other: Accounts;
let boss: Member;
beforeAll(async () => {
  at = await openAccounts({ env: { SIGNALS_ACCESS: "key" }, now: Date.now(), log });
  other = await openAccounts({ env: { SIGNALS_ACCESS: "key" }, now: Date.now(), beside: at });
  boss = await person(at, { role: "admin" });
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  await at[Symbol.asyncDispose]();
});

async function socket(token: string | null, asked = {}, query = "", on = at): Promise<Messages> {
  const headers = token === null ? undefined : { Authorization: `Bearer ${token}` };
  const messages = await Messages.open(on.app.listen() + PATH + query, headers);
  await messages.subscribe(asked);
  return messages;
}

/** How long ends took to come. */
const endsMs: number[] = [];

/** The end, which must come. */
async function endOf(
  messages: Messages,
): Promise<[reason: unknown, cursor: unknown, code: number]> {
  const begun = performance.now();
  const { reason, id } = await messages.must("end");
  endsMs.push(performance.now() - begun);
  const { code, reason: said } = await messages.closed;
  expect(said).toBe(`${String(reason)} resume_from=${String(id)}`);
  return [reason, id, code];
}

async function post(): Promise<number> {
  const answer = await at.app.post(signal({ confidence: 60, entry_price: 96 + Math.random() }));
  const { signals } = (await answer.json()) as { signals: { id: number }[] };
  return signals[0]?.id ?? 0;
}

async function ticketOf(token: string, on = at): Promise<string> {
  const path = "/api/signals/ws-ticket";
  return (await on.must<{ ticket: string }>(201, "POST", path, undefined, token)).ticket;
}

const statusOf = async (ticket: string, on = at): Promise<number> => {
  const headers = {
    Upgrade: "websocket",
    Connection: "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
  };
  return (await fetch(`${on.app.listen()}${PATH}?ticket=${ticket}`, { headers })).status;
};

test("a key that is revoked and a session that ends are cut off within a second, also those let in by a ticket", async () => {
  const owner = await person(at, { tier: "pro" });
  const path = "/api/keys";
  const asked = { name: "bot", scopes: ["signals:read"] };
  const made = await at.must<{ id: string; key: string }>(201, "POST", path, asked, owner.access);
  await using byKey = await socket(made.key);
  await using byTicket = await socket(null, {}, `?ticket=${await ticketOf(owner.access)}`);
  const id = await post();
  for (const messages of [byKey, byTicket]) expect(await messages.ids(1)).toEqual([id]);
  await at.must(204, "DELETE", `/api/keys/${made.id}`, undefined, owner.access);
  expect(await endOf(byKey)).toEqual(["unauthorized", id, 4001]);
  const unused = await ticketOf(owner.access);
  await at.must(204, "POST", "/api/auth/logout", undefined, owner.access);
  expect(await endOf(byTicket)).toEqual(["unauthorized", id, 4001]);
  // Its owner has left meanwhile.
  expect(await statusOf(unused)).toBe(401);
});

test("another plan ends the socket, which is resumed under it", async () => {
  const member = await person(at, { tier: "starter" });
  const key = await at.key(member);
  const id = await post();
  await using late = await socket(key, { resume_from: 0 });
  expect(await late.isQuiet()).toBe(true);
  const path = `/api/admin/users/${member.id}`;
  await at.must(200, "PATCH", path, { tier: "pro" }, boss.access);
  const [reason, cursor, code] = await endOf(late);
  expect([reason, code]).toEqual(["plan", 4002]);
  await using prompt = await socket(key, { resume_from: cursor });
  expect((await prompt.ids(id - Number(cursor))).at(-1)).toBe(id);
});

test("sockets and streams count together, and the newest wins, subscribed or not", async () => {
  const member = await person(at, { tier: "starter" });
  const stream = async (): Promise<Events> => {
    const path = "/api/signals/stream";
    const events = new Events(await at.call("GET", path, undefined, member.access));
    await events.must("head");
    return events;
  };
  await using first = await stream();
  await using second = await socket(member.access);
  expect((await first.must("end")).data["reason"]).toBe("replaced");
  await using third = await stream();
  expect((await endOf(second))[2]).toBe(4003);
  const headers = { Authorization: `Bearer ${member.access}` };
  await using fourth = await Messages.open(at.app.listen() + PATH, headers);
  expect((await third.must("end")).data["reason"]).toBe("replaced");
  await fourth.subscribe();
});

test("a plan without streams is told so before the upgrade", async () => {
  const member = await person(at, { tier: "elite" });
  const change = (streams: number) =>
    at.must(200, "PATCH", "/api/admin/plans/elite", { streams_max: streams }, boss.access);
  await change(0);
  const headers = {
    Upgrade: "websocket",
    Connection: "Upgrade",
    Authorization: `Bearer ${member.access}`,
  };
  expect((await fetch(at.app.listen() + PATH, { headers })).status).toBe(403);
  await change(20);
});

test("what a socket carries is counted once for each and noted as delivered", async () => {
  const member = await person(at, { tier: "pro" });
  const key = await at.key(member);
  const from = (await post()) - 1;
  await using one = await socket(key, { resume_from: from });
  await using two = await socket(key);
  const ids = [...(await one.ids(1)), await post()];
  expect([await one.ids(1), await two.ids(1)]).toEqual([ids.slice(1), ids.slice(1)]);
  await alpineOf(at).usage.flush();
  const path = "/api/signals/delivered";
  type Page = { deliveries: { signal_id: number }[] };
  const page = await at.must<Page>(200, "GET", path, undefined, key);
  expect(page.deliveries.map((row) => row.signal_id).toSorted((a, b) => a - b)).toEqual(ids);
  type Usage = { usage: { delivered: number }[] };
  const usage = await at.must<Usage>(200, "GET", "/api/users/usage", undefined, member.access);
  expect(usage.usage.reduce((sum, day) => sum + day.delivered, 0)).toBe(3);
});

test("a ticket is good on any server of the same Redis, once, and shows nowhere", async () => {
  const member = await person(at, { tier: "pro" });
  const ticket = await ticketOf(member.access);
  if (at.redis) {
    const direct = new Client(at.redis.url);
    try {
      const keys = await direct.keys("argo:ticket:*");
      expect(keys).not.toBeEmpty();
      for (const key of keys) {
        const kept = key + String(await direct.get(key));
        expect(kept).not.toContain(ticket);
        expect(kept).not.toContain(member.access);
        expect(await direct.pttl(key)).toBeWithin(1, 60_001);
      }
    } finally {
      direct.disconnect();
    }
    await using there = await socket(null, {}, `?ticket=${ticket}`, other);
    expect(await statusOf(ticket, other)).toBe(401);
    expect(await there.isQuiet(1)).toBe(true);
  } else {
    await using here = await socket(null, {}, `?ticket=${ticket}`);
    expect(await here.isQuiet(1)).toBe(true);
  }
  expect(await statusOf(ticket)).toBe(401);
  const racing = await ticketOf(member.access);
  const statuses = await Promise.all(Array.from({ length: 10 }, () => statusOf(racing)));
  expect(statuses.filter((status) => status !== 401)).toEqual([101]);
  await Bun.sleep(0);
  expect(logged).toContain("/api/signals/ws");
  for (const secret of [ticket, racing, member.access]) expect(logged).not.toContain(secret);
  expect((await at.app.deps.metrics.expose()).text).not.toContain(ticket);
});

test("all of these ends came within a second, but for pauses of the machine", () => {
  expect(quantile(endsMs, 0.5)).toBeLessThan(1_000);
  expect(quantile(endsMs, 1)).toBeLessThan(10_000);
});
