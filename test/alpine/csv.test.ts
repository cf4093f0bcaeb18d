import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { parse } from "csv-parse/sync";
import fc from "fast-check";
import { auditLog, usage } from "../../db/alpine/schema.ts";
import { openAccounts, PASSWORD, type Accounts, type Member } from "../harness/accounts.ts";
import { NOON } from "../harness/app.ts";
import { seeded } from "../harness/seed.ts";
import { Shop } from "./money.ts";
import { alpineOf, people, person } from "./people.ts";

let at: Accounts;
let boss: Member;
beforeAll(async () => {
  at = await openAccounts();
  boss = await person(at, { role: "admin", fullName: "Boss" });
});
afterAll(() => at[Symbol.asyncDispose]());

type Row = Record<string, string>;
const csvOf = async (path: string, by = boss.access) => {
  const response = await at.call("GET", path, undefined, by);
  const text = await response.text();
  expect([path, response.status]).toEqual([path, 200]);
  expect(response.headers.get("content-type")).toBe("text/csv; charset=utf-8");
  expect(response.headers.get("content-disposition")).toMatch(
    /^attachment; filename="[\w-]+\.csv"$/,
  );
  expect(response.headers.get("cache-control")).toBe("no-store");
  return { text, rows: parse(text, { columns: true, bom: false }) as Row[] };
};
const json = <T>(path: string, by = boss.access) => at.must<T>(200, "GET", path, undefined, by);
/** As a spreadsheet is given it. */
const shown = (value: unknown): string =>
  value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);

describe("a list as CSV", () => {
  test("holds every row, as JSON has them, from the cursor on", async () => {
    await people(at, 1_203);
    const all: Record<string, unknown>[] = [];
    const pages: (string | null)[] = [];
    for (let cursor: string | null = ""; cursor !== null;) {
      const page: { users: Record<string, unknown>[]; next_cursor: string | null } = await json(
        `/api/admin/users?limit=500${cursor && `&cursor=${cursor}`}`,
      );
      all.push(...page.users);
      pages.push((cursor = page.next_cursor));
    }
    const { rows } = await csvOf("/api/admin/users?format=csv");
    expect(rows.length).toBe(all.length);
    expect(rows.length).toBeGreaterThan(1_200);
    const asText = (user: Record<string, unknown>) =>
      Object.fromEntries(Object.entries(user).map(([name, value]) => [name, shown(value)]));
    expect(rows).toEqual(all.map(asText));
    const rest = await csvOf(`/api/admin/users?format=csv&cursor=${pages[0]}&limit=1`);
    expect(rest.rows).toEqual(rows.slice(500));
    const none = await csvOf("/api/admin/users?format=csv&search=nobody+of+this+name");
    expect(none.text).toBe(
      "id,email,full_name,tier,role,is_active,is_verified,totp_enabled,created_at,tier_grant,last_login_at\r\n",
    );
  });

  test("of the log of events, of usage and of addresses", async () => {
    const member = await person(at);
    const rows = ["2026-11-18", "2026-11-19", "2026-11-20"].map((day) => ({
      userId: member.id,
      day,
      routeClass: "account" as const,
      requests: 3,
      errors: 1,
      delivered: 0,
    }));
    await at.db().insert(usage).values(rows);
    for (const [path, by] of [
      [`/api/admin/usage?user_id=${member.id}&until=2026-11-19`, boss.access],
      ["/api/users/usage?until=2026-11-19", member.access],
    ] as const) {
      const { rows: found } = await csvOf(`${path}&format=csv`, by);
      expect(found.map(({ day, requests }) => [day, requests])).toEqual([
        ["2026-11-19", "3"],
        ["2026-11-18", "3"],
      ]);
      const { usage: same } = await json<{ usage: object[] }>(path, by);
      expect(same.length).toBe(2);
    }
    const since = await json<{ usage: { day: string }[] }>(
      "/api/users/usage?since=2026-11-20&limit=1",
      member.access,
    );
    expect(since.usage.map(({ day }) => day)).toEqual(["2026-11-20"]);
    await alpineOf(at).usage.flush();
    const everybody = await csvOf("/api/admin/usage?format=csv");
    expect(everybody.rows.length).toBeGreaterThan(0);
    const log = await csvOf(`/api/admin/audit?format=csv&user_id=${member.id}`);
    expect(log.text.split("\r\n")[0]).toBe(
      "id,at,event,actor_id,subject_id,address,request_id,details",
    );
    await csvOf("/api/admin/security?format=csv&fresh=1");
  });

  test("of subscriptions, invoices and payments, by the addresses of those who pay", async () => {
    const shop = new Shop(at);
    const [gone, ...others] = await people(at, 4);
    for (const who of [gone, ...others] as Member[]) {
      await shop.subscribe(who, "pro");
      await shop.pay(who);
      at.clock.ms += 1_000;
    }
    const leaves = { password: PASSWORD };
    await shop.ask(204, gone as Member, "DELETE", "/api/users/account", leaves);
    for (const name of ["subscriptions", "invoices", "payments"]) {
      const path = `/api/admin/${name}`;
      const token = await shop.boss();
      type Page = Record<string, Record<string, unknown>[]> & { next_cursor: string };
      const all = await json<Page>(`${path}?limit=100`, token);
      const { rows } = await csvOf(`${path}?format=csv&limit=1`, token);
      const asText = (row: Record<string, unknown>) =>
        Object.fromEntries(Object.entries(row).map(([key, value]) => [key, shown(value)]));
      expect(rows).toEqual((all[name] ?? []).map(asText));
      const addresses = [...others.map(({ email }) => email).toReversed(), ""];
      expect(rows.map(({ email }) => email)).toEqual(addresses);
      const first = await json<Page>(`${path}?limit=1`, token);
      const rest = await csvOf(`${path}?format=csv&cursor=${first.next_cursor}`, token);
      expect(rest.rows).toEqual(rows.slice(1));
    }
  });

  test("is for those whom the list is for, and refuses what it does not know", async () => {
    const member = await person(at);
    for (const path of [
      "users",
      "audit",
      "security",
      "usage",
      "subscriptions",
      "invoices",
      "payments",
    ]) {
      const call = (query: string, by: string) =>
        at.call("GET", `/api/admin/${path}?${query}`, undefined, by);
      expect((await call("format=csv", member.access)).status).toBe(403);
      expect((await call("format=xls", boss.access)).status).toBe(400);
      expect((await call("format=csv&format=json", boss.access)).status).toBe(400);
    }
    for (const query of ["since=2026-02-30", "until=yesterday", "since=0000-01-01", "user_id=1"]) {
      const response = await at.call("GET", `/api/admin/usage?${query}`, undefined, boss.access);
      expect([query, response.status]).toEqual([query, 400]);
    }
    const cursor = "&cursor=AAAA";
    const bad = await at.call(
      "GET",
      `/api/admin/users?format=csv${cursor}`,
      undefined,
      boss.access,
    );
    expect(bad.status).toBe(400);
    expect(bad.headers.get("content-type")).toBe("application/problem+json");
  });
});

describe("what a spreadsheet would run", () => {
  test.each(["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("x","y")', "＝1", "－1"])(
    "%j is text",
    async (name) => {
      const { id } = await person(at, { fullName: name, tier: "pro" });
      const { rows, text } = await csvOf("/api/admin/users?format=csv&tier=pro");
      const row = rows.find((one) => one["id"] === id);
      expect(row?.["full_name"]).toBe(`'${name}`);
      expect(text).not.toContain(`,${name}`);
    },
  );

  test("in a column that holds JSON as well, and in none is a number changed", async () => {
    const { id } = await person(at);
    const details = { note: "=1", "=2": -3 };
    await at
      .db()
      .insert(auditLog)
      .values({ at: new Date(NOON), event: "login", actorId: id, address: "=cmd", details });
    const { rows } = await csvOf(`/api/admin/audit?format=csv&user_id=${id}`);
    expect(rows[0]?.["address"]).toBe("'=cmd");
    expect(JSON.parse(rows[0]?.["details"] ?? "")).toEqual(details);
  });

  test("whatever is in a name, it comes back as it was, and begins no formula", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(..."=+-@\t\r\n\",;' a1＝😀"), { minLength: 1, maxLength: 12 }),
        async (letters) => {
          const name = letters.join("");
          const { id } = await person(at, { fullName: name, tier: "elite" });
          const path = "/api/admin/users?format=csv&tier=elite";
          const row = (await csvOf(path)).rows.find((one) => one["id"] === id);
          const found = row?.["full_name"] ?? "";
          expect([name, `'${name}`]).toContain(found);
          expect(found).not.toMatch(/^[=+\-@\t\r＝]/);
        },
      ),
      seeded(25),
    );
  });
});
