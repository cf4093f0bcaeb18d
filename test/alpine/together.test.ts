import { afterAll, beforeAll, expect, test } from "bun:test";
import { Redis as Client } from "ioredis";
import { openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { openApp, signal } from "../harness/app.ts";
import { Events } from "../harness/events.ts";
import { Messages } from "../harness/messages.ts";
import { person, until } from "./people.ts";

/** How many streams an account has, over servers that share a Redis. */

let one: Accounts;
let two: Accounts;
let direct: Client;
let boss: Member;
beforeAll(async () => {
  const options = { env: { SIGNALS_ACCESS: "key" }, now: Date.now() };
  one = await openAccounts({ ...options, backend: "postgres+redis" });
  two = await openAccounts({ ...options, beside: one });
  direct = new Client(one.redis?.url ?? "");
  boss = await person(one, { role: "admin" });
});
afterAll(async () => {
  direct.disconnect();
  await two[Symbol.asyncDispose]();
  await one[Symbol.asyncDispose]();
});

async function stream(at: Accounts, token: string): Promise<Events> {
  const events = new Events(await at.call("GET", "/api/signals/stream", undefined, token));
  await events.must("head");
  return events;
}

async function socket(at: Accounts, token: string): Promise<Messages> {
  const headers = { Authorization: `Bearer ${token}` };
  const messages = await Messages.open(`${at.app.listen()}/api/signals/ws`, headers);
  await messages.subscribe();
  return messages;
}

/** How many Redis knows of. */
const counted = (member: Member): Promise<number> => direct.zcard(`argo:streams:${member.id}`);
const isCounted = (member: Member, count: number) =>
  until(async () => (await counted(member)) === count);

test("the newest wins, wherever it is, over whatever it is sent; the oldest is told where to resume", async () => {
  const member = await person(one, { tier: "starter" });
  await using first = await stream(one, member.access);
  const answer = await one.app.post(signal({ confidence: 60 }));
  expect(answer.status).toBe(201);
  await using second = await socket(two, member.access);
  const end = await first.must("end");
  expect(end.data).toEqual({ reason: "replaced", id: end.id });
  await using third = await stream(one, member.access);
  expect((await second.must("end"))["reason"]).toBe("replaced");
  expect((await second.closed).code).toBe(4003);
  await using fourth = await stream(two, member.access);
  expect((await third.must("end")).data["reason"]).toBe("replaced");
  expect(await fourth.isQuiet(300)).toBe(true);
  await isCounted(member, 1);
});

test("those of one account alone, and one that goes makes room", async () => {
  const member = await person(one, { tier: "pro" });
  const another = await person(one, { tier: "pro" });
  await using theirs = await stream(two, another.access);
  const open: Events[] = [];
  for (let i = 0; i < 5; i += 1) open.push(await stream(i % 2 === 0 ? one : two, member.access));
  await isCounted(member, 5);
  await open[4]?.[Symbol.asyncDispose]();
  await isCounted(member, 4);
  open[4] = await stream(two, member.access);
  await isCounted(member, 5);
  for (const events of [...open, theirs]) expect(await events.isQuiet(60)).toBe(true);
  // The plan allows fewer: the oldest go, wherever they are.
  const path = `/api/admin/users/${member.id}`;
  await one.must(200, "PATCH", path, { tier: "starter" }, boss.access);
  await isCounted(member, 0);
  for (const events of open) await events[Symbol.asyncDispose]();
});

test("those of an address without a credential are one count, too", async () => {
  const env = { SIGNALS_ACCESS: "open", TRUST_PROXY: "1", REDIS_URL: one.redis?.url ?? "" };
  await using here = await openApp({ env });
  await using there = await openApp({ env });
  const open = async (app: typeof here): Promise<Events> => {
    const from = { "X-Forwarded-For": "2001:db8::1" };
    const events = new Events(await app.get("/api/signals/stream", from));
    await events.must("head");
    return events;
  };
  const first = await open(here);
  const others: Events[] = [];
  for (let i = 1; i < 50; i += 1) others.push(await open(there));
  await until(async () => (await direct.zcard("argo:streams:address:2001:db8:0:0::/64")) === 50);
  others.push(await open(there));
  expect((await first.must("end", 1_000)).data["reason"]).toBe("replaced");
  for (const events of others) expect(await events.isQuiet(1)).toBe(true);
  for (const events of others) await events[Symbol.asyncDispose]();
});

test("what a process told that is no more counts no longer", async () => {
  const member = await person(one, { tier: "pro" });
  const key = `argo:streams:${member.id}`;
  const later = Date.now() + 60_000;
  const dead = ["dead/1:x", "dead/2:x", "dead/3:x", "dead/4:x"];
  for (const place of dead) await direct.zadd(key, later, place);
  const open: Events[] = [];
  for (let i = 0; i < 5; i += 1) open.push(await stream(one, member.access));
  await isCounted(member, 5);
  for (const events of open) expect(await events.isQuiet(60)).toBe(true);
  // Had it still been known to live, they would have counted.
  for (const place of dead) await direct.zadd(key, later, place);
  await direct.set("argo:streams-of:dead", "1", "PX", 10_000);
  open.push(await stream(one, member.access));
  for (const events of open.slice(0, 5)) {
    expect((await events.must("end")).data["reason"]).toBe("replaced");
  }
  for (const events of open) await events[Symbol.asyncDispose]();
});

test("a Redis that has forgotten everything is told anew", async () => {
  const member = await person(one, { tier: "starter" });
  await using first = await stream(one, member.access);
  await isCounted(member, 1);
  await direct.del(`argo:streams:${member.id}`, ...(await direct.keys("argo:streams-of:*")));
  await using second = await stream(two, member.access);
  expect((await first.must("end")).data["reason"]).toBe("replaced");
  expect(await second.isQuiet(60)).toBe(true);
});
