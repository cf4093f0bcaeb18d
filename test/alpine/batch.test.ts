import { afterAll, beforeAll, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { usage, users } from "../../db/alpine/schema.ts";
import { openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { alpineOf } from "./people.ts";

type Part = { status: number; headers: Record<string, string>; body: unknown };

const LATEST = "/api/signals/latest";

let at: Accounts;
beforeAll(async () => {
  at = await openAccounts({ env: { MAX_PAGE_SIZE: "5000", SIGNALS_ACCESS: "key" } });
  at.app.engine.run(
    `WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000)
     INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
     SELECT 'S' || n, 'BUY', 1, 50 + n % 50, '2026-01-01T00:00:00Z' FROM n`,
  );
});
afterAll(() => at[Symbol.asyncDispose]());

async function batch(urls: string[], token: string): Promise<Part[]> {
  const body = { requests: urls.map((url) => ({ url })) };
  const { responses } = await at.must<{ responses: Part[] }>(
    200,
    "POST",
    "/api/batch",
    body,
    token,
  );
  return responses;
}

async function elite(): Promise<Member> {
  const member = await at.member();
  await at.db().update(users).set({ tier: "elite" }).where(eq(users.id, member.id));
  return at.login(member.email);
}

async function usageOf({ id }: Member) {
  await alpineOf(at).usage.flush();
  const rows = await at.db().select().from(usage).where(eq(usage.userId, id));
  const told = rows.map((row): [string, number[]] => {
    return [row.routeClass, [row.requests, row.errors, row.delivered]];
  });
  return Object.fromEntries(told);
}

test("whatever may be read is read in a batch as by itself, by whoever may", async () => {
  const member = await at.member();
  const admin = await at.admin();
  const key = await at.key(member);
  const urls = [
    "/api/auth/me",
    "/api/keys",
    "/api/users/profile",
    "/api/signals/subscribed?limit=2",
    "/api/plans",
    "/api/admin/users?limit=1",
    "/api/admin/users?format=csv",
    "/api/notifications/unread-count",
  ];
  for (const token of [member.access, admin.access, key]) {
    const parts = await batch(urls, token);
    for (const [i, url] of urls.entries()) {
      const alone = await at.call("GET", url, undefined, token);
      const isJson = /json/.test(alone.headers.get("content-type") ?? "");
      const { status, body } = parts[i] as Part;
      expect([url, status]).toEqual([url, isJson ? alone.status : 422]);
      const text = await alone.text();
      if (isJson) expect([url, body]).toEqual([url, JSON.parse(text)]);
    }
  }
});

test("each request in it is one of the account's, and what is sent in it is delivered", async () => {
  const member = await elite();
  const key = await at.key(member);
  const before = await usageOf(member);
  const parts = await batch([`${LATEST}?limit=3`, "/api/signals/7", "/api/signals/99999"], key);
  expect(parts.map(({ status }) => status)).toEqual([200, 200, 404]);
  const { signals, account } = await usageOf(member);
  expect(signals).toEqual([3, 1, 4]);
  expect(account).toEqual(before["account"]);
});

test("what did not fit was not delivered", async () => {
  const member = await elite();
  const key = await at.key(member);
  const urls = Array.from({ length: 10 }, () => "/api/signals?limit=5000");
  const parts = await batch(urls, key);
  const fit = parts.filter(({ status }) => status === 200).length;
  expect(parts.filter(({ status }) => status === 413)).toHaveLength(10 - fit);
  expect(fit).toBeWithin(1, 10);
  // Counted as a request that was answered, like any other.
  expect((await usageOf(member))["signals"]).toEqual([10, 0, fit * 5_000]);
});

test("the limit is the plan's: 20 in one are 20", async () => {
  const member = await at.member();
  const key = await at.key(member);
  const admin = await at.admin();
  const allow = (count: number) =>
    at.must(200, "PATCH", "/api/admin/plans/starter", { requests_per_minute: count }, admin.access);
  await allow(30);
  try {
    const twenty = Array.from({ length: 20 }, () => `${LATEST}?limit=1`);
    const statuses = (await batch(twenty, key)).map(({ status }) => status);
    expect(new Set(statuses)).toEqual(new Set([200]));
    const [last] = await batch(["/api/stats"], key);
    expect(last?.headers["RateLimit"]).toStartWith('"starter";r=9;');
    const more = (await batch(twenty, key)).map(({ status }) => status);
    expect(more).toEqual(twenty.map((_, i) => (i < 9 ? 200 : 429)));
  } finally {
    await allow(1_000_000_000);
  }
});
