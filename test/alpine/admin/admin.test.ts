import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { and, eq } from "drizzle-orm";
import { auditLog, roles, sessions, tiers, users } from "../../../db/alpine/schema.ts";
import type { AuditRecord } from "../../../src/alpine/audit.ts";
import type { AdminUser, AdminUserDetails } from "../../../src/alpine/admin/schema.ts";
import { newUser } from "../../../src/alpine/users/store.ts";
import {
  BACKEND,
  openAccounts,
  PASSWORD,
  type Accounts,
  type Member,
} from "../../harness/accounts.ts";
import { fieldsOf, NOON, problemOf, READ_TOKEN } from "../../harness/app.ts";
import { randomNumbers, tellSeed } from "../../harness/seed.ts";
import { assignments, besides, people, person, together, until } from "../people.ts";

type Users = { users: AdminUser[]; next_cursor: string | null; has_more: boolean };
type Entries = { entries: AuditRecord[]; next_cursor: string | null; has_more: boolean };

const USERS = "/api/admin/users";
const AUDIT = "/api/admin/audit";
const NOBODY = "0190a7c0-0000-7000-8000-000000000000";

let at: Accounts;
let boss: Member;
beforeAll(async () => {
  at = await openAccounts();
  boss = await person(at, { role: "admin" });
});
afterAll(() => at[Symbol.asyncDispose]());

const patch = (id: string, change: unknown, by = boss, on = at) =>
  on.call("PATCH", `${USERS}/${id}`, change, by.access);
const changed = (id: string, change: unknown) =>
  at.must<AdminUserDetails>(200, "PATCH", `${USERS}/${id}`, change, boss.access);
const page = (query: Record<string, string> = {}, token = boss.access) =>
  at.must<Users>(200, "GET", `${USERS}?${new URLSearchParams(query)}`, undefined, token);
const log = (query: Record<string, string>, on: Accounts, by: Member) =>
  on.must<Entries>(200, "GET", `${AUDIT}?${new URLSearchParams(query)}`, undefined, by.access);
const me = async (token: string, on = at) =>
  (await on.call("GET", "/api/auth/me", undefined, token)).status;
const rowOf = async (id: string) => (await at.db().select().from(users).where(eq(users.id, id)))[0];
const entriesAbout = (id: string) =>
  at.db().select().from(auditLog).where(eq(auditLog.subjectId, id)).orderBy(auditLog.id);

/** Every row of a list, page by page. */
async function all<Row>(
  read: (cursor: Record<string, string>) => Promise<[rows: Row[], next: string | null]>,
): Promise<Row[]> {
  const rows: Row[] = [];
  for (let cursor: Record<string, string> = {}; ;) {
    const [more, next] = await read(cursor);
    rows.push(...more);
    if (next === null) return rows;
    cursor = { cursor: next };
  }
}
const allUsers = (query: Record<string, string>) =>
  all(async (cursor) => {
    const found = await page({ ...query, ...cursor });
    expect(found.has_more).toBe(found.next_cursor !== null);
    return [found.users, found.next_cursor];
  });

describe("who gets in", () => {
  test("administrators; their keys with admin:read may look and change nothing", async () => {
    const member = await person(at);
    const looking = await at.key(boss, ["admin:read"]);
    const other = await at.key(boss, ["signals:read", "signals:write"]);
    const routes: [string, string, unknown, number, number][] = [
      ["GET", USERS, undefined, 200, 200],
      ["GET", `${USERS}/${member.id}`, undefined, 200, 200],
      ["GET", AUDIT, undefined, 200, 200],
      ["PATCH", `${USERS}/${member.id}`, { is_active: true }, 200, 403],
      ["DELETE", `${USERS}/${NOBODY}/sessions`, undefined, 404, 403],
    ];
    for (const [method, path, body, status, byKey] of routes) {
      const asked: [string | undefined, number][] = [
        [boss.access, status],
        [looking, byKey],
        [other, 403],
        [member.access, 403],
        [READ_TOKEN, 403],
        ["nonsense", 401],
        [undefined, 401],
      ];
      for (const [token, right] of asked) {
        const response = await at.call(method, path, body, token);
        expect([method, path, response.status]).toEqual([method, path, right]);
        if (right !== 200) await problemOf(response);
      }
      const query = await at.call(method, `${path}?x=1`, body, boss.access);
      expect([query.status, await fieldsOf(query)]).toEqual([400, ["x"]]);
    }
  });

  test("nobody finds what is not there", async () => {
    const routes: [string, string, unknown][] = [
      ["GET", USERS, undefined],
      ["PATCH", USERS, { tier: "pro" }],
      ["DELETE", `${USERS}/:id/sessions`, undefined],
    ];
    for (const [method, path, body] of routes) {
      const idPath = (id: string) =>
        path.includes(":id") ? path.replace(":id", id) : `${path}/${id}`;
      const absent = await at.call(method, idPath(NOBODY), body, boss.access);
      expect([method, (await problemOf(absent)).status]).toEqual([method, 404]);
      const bad = await at.call(method, idPath("me"), body, boss.access);
      expect([method, bad.status, await fieldsOf(bad)]).toEqual([method, 400, ["id"]]);
    }
  });
});

describe("the list of users", () => {
  const random = randomNumbers();
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
  const beginnings = ["ann", "ANN", "Änne", "a_b", "a%b", "a\\b", "anna", "an", "%", "_", "zoë"];
  let rows: (typeof users.$inferSelect)[] = [];

  beforeAll(async () => {
    tellSeed();
    const made = Array.from({ length: 400 }, (_, i) =>
      newUser(NOON - Math.floor(random() * 20), {
        email: `${pick(beginnings)}.${i}@example.com`,
        fullName: `${pick(beginnings)} ${i}`,
        passwordHash: "none",
        tier: pick(tiers),
        role: random() < 0.05 ? "admin" : "user",
        isActive: random() < 0.8,
      }),
    );
    await at.db().insert(users).values(made);
    rows = (await at.db().select().from(users)).toSorted(
      (a, b) => b.createdAt.getTime() - a.createdAt.getTime() || (a.id < b.id ? 1 : -1),
    );
  });

  test("holds everybody once, newest first, and no hash", async () => {
    const found = await allUsers({ limit: "37" });
    expect(found.map(({ id }) => id)).toEqual(rows.map(({ id }) => id));
    expect(found.find(({ id }) => id === boss.id)).toEqual({
      id: boss.id,
      email: boss.email,
      full_name: expect.any(String) as never,
      tier: "starter",
      tier_grant: null,
      role: "admin",
      is_active: true,
      is_verified: false,
      totp_enabled: false,
      created_at: new Date(NOON).toISOString(),
      last_login_at: null,
    });
    expect((await page()).users.length).toBe(20);
  });

  test("is what a filter says, of any mixture", async () => {
    for (let round = 0; round < 60; round += 1) {
      const search =
        random() < 0.7 ? pick(beginnings).slice(0, 1 + Math.floor(random() * 4)) : null;
      const tier = random() < 0.4 ? pick(tiers) : null;
      const role = random() < 0.4 ? pick(roles) : null;
      const active = random() < 0.4 ? pick(["true", "false", "1", "no"]) : null;
      const query = {
        ...(search !== null && { search }),
        ...(tier && { tier }),
        ...(role && { role }),
        ...(active && { is_active: active }),
      };
      const begins = (text: string) => text.toLowerCase().startsWith((search ?? "").toLowerCase());
      const right = rows.filter(
        (row) =>
          (begins(row.email) || begins(row.fullName)) &&
          (tier === null || row.tier === tier) &&
          (role === null || row.role === role) &&
          (active === null || row.isActive === ["true", "1"].includes(active)),
      );
      const found = await allUsers({ ...query, limit: "50" });
      expect([query, found.map(({ id }) => id)]).toEqual([query, right.map(({ id }) => id)]);
    }
  });

  test.each([
    ["search=", "search"],
    [`search=${"x".repeat(255)}`, "search"],
    ["search=a%00", "search"],
    ["tier=gold", "tier"],
    ["role=root", "role"],
    ["is_active=2", "is_active"],
    ["limit=0", "limit"],
    ["limit=501", "limit"],
    ["cursor=x", "cursor"],
    ["order=email", "order"],
    ["search=a&search=b", "search"],
  ])("does not take %s", async (query, field) => {
    const response = await at.call("GET", `${USERS}?${query}`, undefined, boss.access);
    expect([response.status, await fieldsOf(response)]).toEqual([400, [field]]);
  });

  test("takes no cursor of another filter, list or administrator", async () => {
    const other = await person(at, { role: "admin" });
    const cursor = (await page({ tier: "pro", search: "a", limit: "1" })).next_cursor ?? "";
    const path = (query: string) => `${USERS}?${query}cursor=${cursor}`;
    await at.must(200, "GET", path("search=a&limit=3&tier=pro&"), undefined, boss.access);
    const wrong: [string, Member][] = [
      [path(""), boss],
      [path("search=a&tier=elite&"), boss],
      [path("search=A&tier=pro&"), boss],
      [path("search=a&tier=pro&role=user&"), boss],
      [path("search=a&tier=pro&is_active=true&"), boss],
      [path("search=a&tier=pro&"), other],
      [`${AUDIT}?cursor=${cursor}`, boss],
    ];
    for (const [path, who] of wrong) {
      const response = await at.call("GET", path, undefined, who.access);
      expect([path, response.status]).toEqual([path, 400]);
      expect(await fieldsOf(response)).toEqual(["cursor"]);
    }
  });
});

describe("a change of rights", () => {
  test("is answered with the user as they are, and written down with what was", async () => {
    const member = await person(at);
    const user = await changed(member.id.toUpperCase(), { tier: "elite", role: "admin" });
    expect(user).toMatchObject({ id: member.id, tier: "elite", role: "admin", is_active: true });
    const single = await at.must(200, "GET", `${USERS}/${member.id}`, undefined, boss.access);
    expect(single).toEqual(user);
    await changed(member.id, { tier: "elite", role: "admin", is_active: true });
    await changed(member.id, { is_active: false });
    const entries = (await entriesAbout(member.id)).map((entry) => [
      entry.event,
      entry.actorId,
      entry.details,
    ]);
    expect(entries).toEqual([
      ["tier_granted", boss.id, { from: null, to: "elite" }],
      ["role_changed", boss.id, { from: "user", to: "admin" }],
      ["tier_changed", boss.id, { from: "starter", to: "elite" }],
      ["activation_changed", boss.id, { from: true, to: false }],
    ]);
  });

  test.each([
    [{}, "body"],
    [{ tier: "gold" }, "tier"],
    [{ role: "root" }, "role"],
    [{ is_active: "false" }, "is_active"],
    [{ is_active: 0 }, "is_active"],
    [{ email: "x@example.com" }, "email"],
    [{ full_name: "X" }, "full_name"],
  ])("does not take %j", async (body, field) => {
    const member = await person(at);
    const before = await rowOf(member.id);
    const response = await patch(member.id, body);
    expect(response.status).toBe(422);
    expect(await fieldsOf(response)).toContain(field);
    expect(await rowOf(member.id)).toEqual(before);
  });

  test("sets nothing else (H2)", async () => {
    const member = await person(at);
    const before = await rowOf(member.id);
    for (const [field, fields] of assignments) {
      if (["tier", "role", "is_active"].includes(field)) continue;
      const response = await patch(member.id, besides({ tier: "pro" }, fields));
      expect([field, response.status]).toEqual([field, 422]);
      expect(await fieldsOf(response)).toEqual([field]);
    }
    expect(await rowOf(member.id)).toEqual(before);
    expect(Object.keys(Object.prototype)).toEqual([]);
    expect("role" in {}).toBe(false);
  });

  test("voids what tokens say, and the next refresh says it anew (A6)", async () => {
    const member = await person(at);
    expect(await me(member.access)).toBe(200);
    await changed(member.id, { tier: "pro" });
    expect(await me(member.access)).toBe(401);
    const body = { refresh_token: member.refresh };
    const tokens = await at.must<{ access_token: string; refresh_token: string }>(
      200,
      "POST",
      "/api/auth/refresh",
      body,
    );
    const user = await at.must(200, "GET", "/api/auth/me", undefined, tokens.access_token);
    expect(user).toMatchObject({ id: member.id, tier: "pro" });
    expect((await at.call("GET", USERS, undefined, tokens.access_token)).status).toBe(403);
    await changed(member.id, { role: "admin" });
    expect(await me(tokens.access_token)).toBe(401);
    const next = await at.must<{ access_token: string }>(200, "POST", "/api/auth/refresh", {
      refresh_token: tokens.refresh_token,
    });
    await at.must(200, "GET", USERS, undefined, next.access_token);
    await changed(member.id, { role: "user" });
    expect((await at.call("GET", USERS, undefined, next.access_token)).status).toBe(401);
  });

  test("that shuts somebody out ends everything of theirs (A6)", async () => {
    const member = await person(at);
    const second = await at.login(member.email);
    await changed(member.id, { is_active: false });
    for (const { access, refresh } of [member, second]) {
      expect(await me(access)).toBe(401);
      const body = { refresh_token: refresh };
      expect((await at.call("POST", "/api/auth/refresh", body)).status).toBe(401);
    }
    const login = { email: member.email, password: PASSWORD };
    expect((await at.call("POST", "/api/auth/login", login)).status).toBe(401);
    await changed(member.id, { is_active: true });
    for (const { access, refresh } of [member, second]) {
      expect(await me(access)).toBe(401);
      const body = { refresh_token: refresh };
      expect((await at.call("POST", "/api/auth/refresh", body)).status).toBe(401);
    }
    expect((await at.login(member.email)).id).toBe(member.id);
  });

  test.if(BACKEND !== "embedded")("is felt on another server within a second", async () => {
    await using other = await openAccounts({ beside: at });
    const took: number[] = [];
    for (const change of [{ tier: "pro" }, { role: "admin" }, { is_active: false }]) {
      const member = await person(at);
      expect(await me(member.access, other)).toBe(200);
      await changed(member.id, change);
      took.push(await until(async () => (await me(member.access, other)) === 401));
    }
    const member = await person(at);
    expect(await me(member.access, other)).toBe(200);
    await at.must(204, "DELETE", `${USERS}/${member.id}/sessions`, undefined, boss.access);
    took.push(await until(async () => (await me(member.access, other)) === 401));
    expect(Math.min(...took)).toBeLessThan(1_000);
  });

  test("at the same time as a login leaves no session with the rights of before", async () => {
    for (let round = 0; round < 5; round += 1) {
      const member = await person(at);
      const [, login] = await Promise.all([
        changed(member.id, { is_active: false }),
        at.call("POST", "/api/auth/login", { email: member.email, password: PASSWORD }),
      ]);
      if (login.status === 200) {
        const { access_token: access } = (await login.json()) as { access_token: string };
        expect(await me(access)).toBe(401);
      }
      const open = and(eq(sessions.userId, member.id), eq(sessions.generation, 0));
      const left = await at.db().select().from(sessions).where(open);
      expect(left.filter(({ endedAt }) => endedAt === null)).toEqual([]);
    }
  });
});

describe("the last administrator", () => {
  const active = and(eq(users.role, "admin"), eq(users.isActive, true));

  test("cannot stop being one", async () => {
    await using alone = await openAccounts({ backend: BACKEND });
    const only = await person(alone, { role: "admin" });
    await person(alone, { role: "admin", isActive: false });
    for (const change of [
      { role: "user" },
      { is_active: false },
      { tier: "pro", role: "user", is_active: false },
    ]) {
      expect((await patch(only.id, change, only, alone)).status).toBe(409);
    }
    expect((await patch(only.id, { tier: "pro" }, only, alone)).status).toBe(200);
    expect(await alone.db().$count(users, active)).toBe(1);
  });

  test.if(BACKEND !== "embedded")("is left of two who stop at once", async () => {
    await using alone = await openAccounts({ backend: BACKEND });
    for (const change of [{ role: "user" }, { is_active: false }]) {
      await alone.db().update(users).set({ role: "user" });
      const two = await people(alone, 2, { role: "admin" });
      const works = two.map((one) => () => patch(one.id, change, one, alone));
      const statuses = (await together(alone, works)).map(({ status }) => status);
      expect(statuses.toSorted()).toEqual([200, 409]);
      expect(await alone.db().$count(users, active)).toBe(1);
    }
  });

  test("is there whoever demotes whom at once, and nobody who was demoted comes back", async () => {
    await using alone = await openAccounts({ backend: BACKEND });
    for (let round = 0; round < 10; round += 1) {
      await alone.db().update(users).set({ role: "user" });
      const admins = await people(alone, 4, { role: "admin" });
      await Promise.all(
        admins.flatMap((by, i) => {
          const next = admins[(i + 1) % admins.length] ?? by;
          const leave = round % 2 === 0 ? { role: "user" } : { is_active: false };
          return [
            patch(next.id, leave, by, alone),
            patch(by.id, leave, by, alone),
            // A request of somebody who is demoted while it waits.
            patch(by.id, { role: "admin", is_active: true }, by, alone),
          ];
        }),
      );
      expect(await alone.db().$count(users, active)).toBeGreaterThanOrEqual(1);
      for (const { id } of admins) {
        const entries = await alone
          .db()
          .select()
          .from(auditLog)
          .where(eq(auditLog.subjectId, id))
          .orderBy(auditLog.id);
        expect(entries.filter(({ details }) => details["to"] === "admin")).toEqual([]);
        expect(entries.filter(({ details }) => details["to"] === true)).toEqual([]);
      }
    }
  });
});

describe("ending sessions", () => {
  test("logs a user out everywhere, and their keys stay", async () => {
    const member = await person(at);
    const second = await at.login(member.email);
    const key = await at.key(member);
    const path = `${USERS}/${member.id}/sessions`;
    await at.must(204, "DELETE", path, undefined, boss.access);
    for (const { access, refresh } of [member, second]) {
      expect(await me(access)).toBe(401);
      const body = { refresh_token: refresh };
      expect((await at.call("POST", "/api/auth/refresh", body)).status).toBe(401);
    }
    expect((await at.call("GET", "/api/signals/latest", undefined, key)).status).toBe(200);
    const entry = (await entriesAbout(member.id)).at(-1);
    expect(entry).toMatchObject({
      event: "session_revoked",
      actorId: boss.id,
      details: { sessions: 2 },
    });
    expect(await me((await at.login(member.email)).access)).toBe(200);
  });
});

describe("the log", () => {
  test("is whole, newest first, and what a filter says", async () => {
    await using alone = await openAccounts({ backend: BACKEND });
    const [one, two] = await people(alone, 2, { role: "admin" });
    if (!one || !two) throw new Error("nobody was made");
    const change = (id: string, tier: string, by: Member) =>
      alone.must(200, "PATCH", `${USERS}/${id}`, { tier }, by.access);
    const member = await person(alone);
    for (const tier of ["pro", "elite", "starter", "pro", "elite"]) {
      await change(member.id, tier, one);
      await change(member.id, "starter", two);
    }
    await alone.login(member.email);
    await alone.must(204, "DELETE", `${USERS}/${member.id}/sessions`, undefined, two.access);
    const wrong = { email: member.email, password: "not the password" };
    await alone.call("POST", "/api/auth/login", wrong);
    const rows = (await alone.db().select().from(auditLog)).toSorted((a, b) => b.id - a.id);
    expect(rows.length).toBeGreaterThan(9);
    const filters: [Record<string, string>, (row: (typeof rows)[number]) => boolean][] = [
      [{}, () => true],
      [{ event: "tier_changed" }, (row) => row.event === "tier_changed"],
      [{ user_id: member.id }, (row) => row.subjectId === member.id],
      [{ user_id: one.id.toUpperCase() }, (row) => row.actorId === one.id],
      [
        { user_id: two.id, event: "session_revoked" },
        (row) => row.actorId === two.id && row.event === "session_revoked",
      ],
      [{ user_id: NOBODY }, () => false],
    ];
    for (const [query, right] of filters) {
      const found = await all(async (cursor) => {
        const { entries, next_cursor } = await log({ ...query, ...cursor, limit: "4" }, alone, one);
        return [entries, next_cursor];
      });
      const ids = rows.filter((row) => right(row)).map(({ id }) => id);
      expect([query, found.map(({ id }) => id)]).toEqual([query, ids]);
    }
    const [entry] = (await log({ event: "session_revoked" }, alone, one)).entries;
    expect(entry).toEqual({
      id: expect.any(Number) as never,
      at: new Date(alone.clock.ms).toISOString(),
      event: "session_revoked",
      actor_id: two.id,
      subject_id: member.id,
      address: "127.0.0.1",
      request_id: expect.stringMatching(/./) as never,
      details: { sessions: 2 },
    });
    const cursor = (await log({ event: "tier_changed", limit: "1" }, alone, one)).next_cursor ?? "";
    for (const query of ["", "event=login&", `event=tier_changed&user_id=${one.id}&`]) {
      const path = `${AUDIT}?${query}cursor=${cursor}`;
      const response = await alone.call("GET", path, undefined, one.access);
      expect([query, response.status]).toEqual([query, 400]);
    }
    const path = `${AUDIT}?event=tier_changed&cursor=${cursor}`;
    expect((await alone.call("GET", path, undefined, two.access)).status).toBe(400);
    for (const [query, field] of [
      ["event=unknown", "event"],
      ["user_id=1", "user_id"],
    ] as const) {
      const response = await alone.call("GET", `${AUDIT}?${query}`, undefined, one.access);
      expect([response.status, await fieldsOf(response)]).toEqual([400, [field]]);
    }
  });
});

test("who cannot log in is no administrator that is left", async () => {
  await using strict = await openAccounts({
    env: { REQUIRE_VERIFIED_EMAIL: "true", SMTP_URL: "smtp://127.0.0.1:1" },
  });
  const boss = await person(strict, { role: "admin", isVerified: true });
  await person(strict, { role: "admin" });
  const step = { role: "user" };
  const path = `/api/admin/users/${boss.id}`;
  expect((await strict.call("PATCH", path, step, boss.access)).status).toBe(409);
  const body = { password: boss.password };
  expect((await strict.call("DELETE", "/api/users/account", body, boss.access)).status).toBe(409);
  await person(strict, { role: "admin", isVerified: true });
  expect((await strict.call("PATCH", path, step, boss.access)).status).toBe(200);
});
