import { afterAll, beforeAll, expect, test } from "bun:test";
import { openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { problemOf, signal } from "../harness/app.ts";
import { Events } from "../harness/events.ts";
import { quantile } from "../faults/harness.ts";
import { alpineOf, person, until } from "./people.ts";

/** Streams of accounts: how long they go on, and how many. */

let at: Accounts;
let boss: Member;
beforeAll(async () => {
  at = await openAccounts({ env: { SIGNALS_ACCESS: "key" }, now: Date.now() });
  boss = await person(at, { role: "admin" });
});
afterAll(() => at[Symbol.asyncDispose]());

const ask = (token: string, query = "") =>
  at.call("GET", `/api/signals/stream${query}`, undefined, token);

/** A stream that has begun. */
async function stream(token: string, query = ""): Promise<Events> {
  const events = new Events(await ask(token, query));
  await events.must("head");
  return events;
}

/** How long ends took to come. */
const endsMs: number[] = [];

/** The end, which must come. */
async function endOf(events: Events): Promise<[reason: unknown, cursor: number]> {
  const begun = performance.now();
  const { data, id } = await events.must("end");
  endsMs.push(performance.now() - begun);
  expect(await events.next()).toBeNull();
  expect(data["id"]).toBe(id);
  return [data["reason"], id];
}

async function post(): Promise<number> {
  const answer = await at.app.post(signal({ confidence: 60, entry_price: 96 + Math.random() }));
  const { signals } = (await answer.json()) as { signals: { id: number }[] };
  return signals[0]?.id ?? 0;
}

test("a key that is revoked, a session that ends and a holder who is shut out are cut off within a second", async () => {
  const owner = await person(at, { tier: "pro" });
  const made = await at.must<{ id: string; key: string }>(
    201,
    "POST",
    "/api/keys",
    { name: "bot", scopes: ["signals:read"] },
    owner.access,
  );
  const other = await person(at, { tier: "pro" });
  await using byKey = await stream(made.key);
  await using bySession = await stream(owner.access);
  await using byOther = await stream(other.access);
  const id = await post();
  for (const events of [byKey, bySession, byOther]) expect(await events.ids(1)).toEqual([id]);
  await at.must(204, "DELETE", `/api/keys/${made.id}`, undefined, owner.access);
  expect(await endOf(byKey)).toEqual(["unauthorized", id]);
  expect((await ask(made.key)).status).toBe(401);
  await at.must(204, "POST", "/api/auth/logout", undefined, owner.access);
  expect(await endOf(bySession)).toEqual(["unauthorized", id]);
  const path = `/api/admin/users/${other.id}`;
  await at.must(200, "PATCH", path, { is_active: false }, boss.access);
  expect(await endOf(byOther)).toEqual(["unauthorized", id]);
});

test("another plan ends the stream, which is resumed under it", async () => {
  const member = await person(at, { tier: "starter" });
  const key = await at.key(member);
  const id = await post();
  await using late = await stream(key, `?since_id=0`);
  expect(await late.isQuiet()).toBe(true);
  const path = `/api/admin/users/${member.id}`;
  await at.must(200, "PATCH", path, { tier: "pro" }, boss.access);
  const [reason, cursor] = await endOf(late);
  expect(reason).toBe("plan");
  await using prompt = await stream(key, `?since_id=${cursor}`);
  expect((await prompt.ids(id - cursor)).at(-1)).toBe(id);
  await at.must(200, "PATCH", path, { tier: null }, boss.access);
  expect(await endOf(prompt)).toEqual(["plan", id]);
  // What was seen under the other plan is above the head of this one.
  const again = new Events(await ask(key, `?since_id=${id}`));
  expect((await again.must("ahead")).data).toEqual({ id: 0 });
  await again[Symbol.asyncDispose]();
});

test("a poll that waits shows nothing to whom it may no longer be shown", async () => {
  const [revoked, lesser] = [await person(at, { tier: "pro" }), await person(at, { tier: "pro" })];
  const made = await at.must<{ id: string; key: string }>(
    201,
    "POST",
    "/api/keys",
    { name: "bot", scopes: ["signals:read"] },
    revoked.access,
  );
  const poll = async (token: string) => {
    const headers = { Authorization: `Bearer ${token}` };
    const known = await at.app.get("/api/signals/latest", headers);
    const etag = known.headers.get("etag") ?? "";
    return at.app.get("/api/signals/latest?wait=30", { ...headers, "If-None-Match": etag });
  };
  const { feed } = at.app.deps.argo;
  await post();
  const polls = [poll(made.key), poll(await at.key(lesser))];
  await until(() => Promise.resolve(feed.watchers === 2));
  await at.must(204, "DELETE", `/api/keys/${made.id}`, undefined, revoked.access);
  const path = `/api/admin/users/${lesser.id}`;
  await at.must(200, "PATCH", path, { tier: "starter" }, boss.access);
  const id = await post();
  const [refused, shown] = await Promise.all(polls);
  expect(refused?.status).toBe(401);
  expect(shown?.status).toBe(200);
  expect(await shown?.json()).not.toContainEqual(expect.objectContaining({ id }));
});

test("polls of one account that wait leave room for those of others: more are answered at once", async () => {
  const greedy = await at.key(await person(at, { tier: "elite" }));
  const other = await at.key(await person(at, { tier: "pro" }));
  const { feed } = at.app.deps.argo;
  const cut = new AbortController();
  const wait = (token: string): Promise<Response> => {
    const headers = { Authorization: `Bearer ${token}`, "If-None-Match": "*" };
    const url = "http://argo.test/api/signals/latest?wait=60";
    return at.app.send(new Request(url, { headers, signal: cut.signal }));
  };
  const polls = Array.from({ length: 1_000 }, () => wait(greedy));
  await until(() => Promise.resolve(feed.watchers === 1_000));
  expect((await wait(greedy)).status).toBe(304);
  expect(feed.watchers).toBe(1_000);
  polls.push(wait(other));
  await until(() => Promise.resolve(feed.watchers === 1_001));
  cut.abort();
  const statuses = (await Promise.all(polls)).map(({ status }) => status);
  expect(new Set(statuses)).toEqual(new Set([304]));
  expect(feed.watchers).toBe(0);
});

test("one more than the plan allows ends the oldest, whichever of the account's keys they use", async () => {
  const member = await person(at, { tier: "pro" });
  const tokens = [member.access, await at.key(member), await at.key(member)];
  const open: Events[] = [];
  for (let i = 0; i < 5; i += 1) open.push(await stream(tokens[i % 3] ?? ""));
  const id = await post();
  for (const events of open) expect(await events.ids(1)).toEqual([id]);
  open.push(await stream(tokens[0] ?? ""));
  const [oldest, ...others] = open;
  expect(oldest && (await endOf(oldest))).toEqual(["replaced", id]);
  expect(oldest?.retryMs).toBe(60_000);
  const next = await post();
  for (const events of others) expect(await events.ids(1)).toEqual([next]);
  // Somebody else's are not counted with them.
  await using own = await stream((await person(at, { tier: "pro" })).access);
  expect(await own.isQuiet(600)).toBe(true);
  for (const events of others) expect(await events.isQuiet(1)).toBe(true);
  for (const events of others) await events[Symbol.asyncDispose]();
});

test("a plan that allows fewer ends the oldest, and one without streams is told so", async () => {
  const member = await person(at, { tier: "elite" });
  const [first, second, third] = [
    await stream(member.access),
    await stream(member.access),
    await stream(member.access),
  ];
  const change = (streams: number) =>
    at.must(200, "PATCH", "/api/admin/plans/elite", { streams_max: streams }, boss.access);
  await change(1);
  expect((await endOf(first))[0]).toBe("replaced");
  expect((await endOf(second))[0]).toBe("replaced");
  expect(await third.isQuiet(600)).toBe(true);
  await change(0);
  expect((await endOf(third))[0]).toBe("replaced");
  const refused = await ask(member.access);
  expect(refused.status).toBe(403);
  expect((await problemOf(refused)).detail).toContain("does not include streams");
  await change(20);
  await using again = await stream(member.access);
  expect(await again.isQuiet(1)).toBe(true);
});

test("what a stream carries is counted and noted as delivered", async () => {
  const member = await person(at, { tier: "pro" });
  const key = await at.key(member);
  const from = (await post()) - 1;
  await using events = await stream(key, `?since_id=${from}`);
  const ids = [...(await events.ids(1))];
  for (let i = 0; i < 3; i += 1) {
    ids.push(await post());
    expect(await events.ids(1)).toEqual(ids.slice(-1));
  }
  const { usage } = alpineOf(at);
  await usage.flush();
  let delivered: number[] = [];
  await until(async () => {
    const path = "/api/signals/delivered";
    const page = await at.must<{ deliveries: { signal_id: number }[] }>(
      200,
      "GET",
      path,
      undefined,
      key,
    );
    delivered = page.deliveries.map((one) => one.signal_id);
    return delivered.length >= ids.length;
  });
  expect(delivered.toSorted((a, b) => a - b)).toEqual(ids);
});

test("all of these ends came within a second, but for pauses of the machine", () => {
  expect(quantile(endsMs, 0.5)).toBeLessThan(1_000);
  expect(quantile(endsMs, 1)).toBeLessThan(10_000);
});
