import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { READ_TOKEN, signal } from "../harness/app.ts";
import { until } from "../harness/process.ts";
import { person } from "./people.ts";

/** What accounts see, by the plan that they have. */

interface Shown {
  id: number;
  confidence: number;
}

let at: Accounts;
let boss: Member;
const tokens = new Map<string, string | null>();
let plain = 0;
let premium = 0;

beforeAll(async () => {
  at = await openAccounts({ env: { SIGNALS_ACCESS: "open" }, now: Date.now() });
  boss = await person(at, { role: "admin" });
  tokens.set("admin", boss.access);
  for (const tier of ["starter", "pro", "elite"] as const) {
    const member = await person(at, { tier });
    tokens.set(tier, member.access);
    tokens.set(`${tier}'s key`, await at.key(member));
  }
  tokens.set("operator", READ_TOKEN);
  tokens.set("guest", null);
  const posted = await at.app.post([signal({ confidence: 60 }), signal({ confidence: 97 })]);
  const { signals } = (await posted.json()) as { signals: Shown[] };
  [plain = 0, premium = 0] = signals.map(({ id }) => id);
});
afterAll(() => at[Symbol.asyncDispose]());

const as = (who: string, path: string): Promise<Response> =>
  at.call("GET", path, undefined, tokens.get(who));
const idsOf = (signals: Shown[]): number[] => signals.map(({ id }) => id).toSorted((a, b) => a - b);

/** What each route shows somebody: all must agree, and a route that is not theirs says why. */
async function seen(who: string): Promise<number[]> {
  const latest = await as(who, "/api/signals/latest?limit=100");
  const ids = idsOf((await latest.json()) as Shown[]);
  expect(latest.headers.get("signal-head")).toBe(String(Math.max(0, ...ids)));
  const list = (await (await as(who, "/api/signals")).json()) as { signals: Shown[] };
  expect(idsOf(list.signals)).toEqual(ids);
  const own = await as(who, "/api/signals/subscribed");
  const known = who === "operator" ? 403 : who === "guest" ? 401 : 200;
  expect([who, own.status]).toEqual([who, known]);
  if (known === 200) {
    expect(idsOf(((await own.json()) as { signals: Shown[] }).signals)).toEqual(ids);
  }
  const exported = await as(who, "/api/signals/export");
  const text = await exported.text();
  expect([who, exported.status]).toEqual([who, /^(starter|pro)/.test(who) ? 403 : 200]);
  if (exported.status === 200) {
    const lines = text.split("\n").filter(Boolean);
    expect(idsOf(lines.map((line) => JSON.parse(line) as Shown))).toEqual(ids);
  }
  for (const id of [plain, premium]) {
    const { status } = await as(who, `/api/signals/${id}`);
    expect([who, id, status]).toEqual([who, id, ids.includes(id) ? 200 : 404]);
  }
  const stats = (await (await as(who, "/api/stats")).json()) as { total: number };
  expect(stats.total).toBe(ids.length);
  return ids;
}

describe("a signal that has just come", () => {
  test.each([
    ["starter", []],
    ["starter's key", []],
    ["pro", ["plain", "premium"]],
    ["pro's key", ["plain", "premium"]],
    ["elite", ["plain", "premium"]],
    ["elite's key", ["plain", "premium"]],
    ["admin", ["plain", "premium"]],
    ["operator", ["plain", "premium"]],
    ["guest", ["plain", "premium"]],
  ])("is seen by %s as the plan says, where everybody may read as well", async (who, what) => {
    const expected = what.map((name) => (name === "plain" ? plain : premium));
    expect(await seen(who)).toEqual(expected);
  });

  test("is seen by a starter when it is due, and the premium one never", async () => {
    const asked = at.clock.ms;
    at.clock.ms = Date.now() + 900_000;
    expect(await seen("starter's key")).toEqual([plain]);
    at.clock.ms = asked;
    expect(await seen("starter's key")).toEqual([]);
  });
});

test("a plan that is changed, and another plan, are seen by at once", async () => {
  const member = await person(at, { tier: "starter" });
  const key = await at.key(member);
  tokens.set("changing", key);
  const ids = async (): Promise<number[]> => {
    const list = await as("changing", "/api/signals/latest?limit=100");
    return idsOf((await list.json()) as Shown[]);
  };
  expect(await ids()).toEqual([]);
  const change = (path: string, body: unknown) => at.must(200, "PATCH", path, body, boss.access);
  await change(`/api/admin/users/${member.id}`, { tier: "elite" });
  await until(async () => (await ids()).length === 2, "the new plan is known");
  expect((await as("changing", "/api/signals/export")).status).toBe(200);
  await change(`/api/admin/users/${member.id}`, { tier: null });
  await until(async () => (await ids()).length === 0, "the old plan is known");
  await change("/api/admin/plans/starter", { delay_seconds: 0 });
  await until(async () => (await ids()).length === 1, "the plan is known as it is now");
  await change("/api/admin/plans/starter", { premium: true });
  await until(async () => (await ids()).length === 2, "the plan is known as it is now");
  await change("/api/admin/plans/starter", { premium: false, delay_seconds: 900 });
  await until(async () => (await ids()).length === 0, "the plan is known as it was");
});
