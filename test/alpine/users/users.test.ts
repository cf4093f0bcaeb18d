import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { and, eq, or } from "drizzle-orm";
import * as schema from "../../../db/alpine/schema.ts";
import { issueToken } from "../../../src/alpine/auth/one-time.ts";
import type { AccountExport } from "../../../src/alpine/users/export.ts";
import {
  BACKEND,
  openAccounts,
  PASSWORD,
  type Accounts,
  type Member,
} from "../../harness/accounts.ts";
import { fieldsOf, problemOf, READ_TOKEN } from "../../harness/app.ts";
import { randomNumbers, tellSeed } from "../../harness/seed.ts";
import { alpineOf, assignments, besides, people, person, together, until } from "../people.ts";

type User = Record<string, unknown> & { id: string; email: string; full_name: string };
type Session = { id: string; current: boolean; created_at: string; user_agent: string | null };
type Page = { sessions: Session[]; next_cursor: string | null; has_more: boolean };

const PROFILE = "/api/users/profile";
const ACCOUNT = "/api/users/account";
const SESSIONS = "/api/users/sessions";
const EXPORT = "/api/users/export";
const NOBODY = "0190a7c0-0000-7000-8000-000000000000";
const { users, sessions, refreshTokens, apiKeys, auditLog, oneTimeTokens, recoveryCodes, usage } =
  schema;

let at: Accounts;
beforeAll(async () => {
  at = await openAccounts();
});
afterAll(() => at[Symbol.asyncDispose]());

const profile = (token: string, on = at) => on.call("GET", PROFILE, undefined, token);
const put = (of: Member, body: unknown) => at.call("PUT", PROFILE, body, of.access);
const remove = (of: Member, body: unknown = { password: of.password }, on = at) =>
  on.call("DELETE", ACCOUNT, body, of.access);
const userRow = async ({ id }: Member) =>
  (await at.db().select().from(users).where(eq(users.id, id)))[0];
const eventsOf = async ({ id }: Member) =>
  (
    await at.db().select().from(auditLog).where(eq(auditLog.subjectId, id)).orderBy(auditLog.id)
  ).map(({ event, actorId, details }) => ({ event, actorId, details }));

describe("who gets in", () => {
  const routes: [string, string, unknown][] = [
    ["GET", PROFILE, undefined],
    ["PUT", PROFILE, { full_name: "X" }],
    ["DELETE", ACCOUNT, { password: PASSWORD }],
    ["GET", EXPORT, undefined],
    ["GET", SESSIONS, undefined],
    ["DELETE", `${SESSIONS}/${NOBODY}`, undefined],
  ];

  test("a session alone", async () => {
    const admin = await person(at, { role: "admin" });
    const key = await at.key(admin, ["signals:read", "signals:write", "admin:read"]);
    for (const [method, path, body] of routes) {
      for (const [token, status] of [
        [key, 403],
        [READ_TOKEN, 403],
        [undefined, 401],
      ] as const) {
        const response = await at.call(method, path, body, token);
        expect([method, path, response.status]).toEqual([method, path, status]);
        await problemOf(response);
      }
      const query = await at.call(method, `${path}?x=1`, body, admin.access);
      expect([query.status, await fieldsOf(query)]).toEqual([400, ["x"]]);
    }
  });
});

describe("the profile", () => {
  test("is one's own, and nothing of the password", async () => {
    const member = await person(at);
    const response = await profile(member.access);
    expect(response.status).toBe(200);
    expect(response.headers.get("cache-control")).toBe("no-store");
    expect(await response.json()).toEqual({
      id: member.id,
      email: member.email,
      full_name: expect.stringMatching(/^Person/),
      tier: "starter",
      role: "user",
      is_active: true,
      is_verified: false,
      totp_enabled: false,
      created_at: new Date(at.clock.ms).toISOString(),
    });
  });

  test("comes from memory until it changes", async () => {
    const member = await person(at);
    const cached = async () => (await profile(member.access)).headers.get("x-cache");
    expect([await cached(), await cached(), await cached()]).toEqual(["miss", "hit", "hit"]);
    expect((await put(member, { full_name: "Another Name" })).status).toBe(200);
    const response = await profile(member.access);
    expect(response.headers.get("x-cache")).toBe("miss");
    expect(((await response.json()) as User).full_name).toBe("Another Name");
    // The change is heard of once more, from the table.
    await until(async () => (await cached()) === "hit");
  });

  test("is the same without a cache", async () => {
    await using plain = await openAccounts({ env: { ENABLE_CACHE: "false" }, backend: BACKEND });
    const member = await person(plain);
    for (let i = 0; i < 3; i += 1) {
      const response = await profile(member.access, plain);
      expect(response.headers.get("x-cache")).toBe("miss");
      expect(((await response.json()) as User).id).toBe(member.id);
    }
    await plain.must(200, "PUT", PROFILE, { full_name: "New" }, member.access);
    expect(((await (await profile(member.access, plain)).json()) as User).full_name).toBe("New");
  });

  test("takes a name, and says so in the log without it", async () => {
    const member = await person(at);
    const name = "Žofie O’Neill 🚀";
    const user = (await (await put(member, { full_name: name })).json()) as User;
    expect(user).toMatchObject({ id: member.id, full_name: name, email: member.email });
    expect((await userRow(member))?.fullName).toBe(name);
    expect((await put(member, { full_name: name })).status).toBe(200);
    expect(await eventsOf(member)).toEqual([
      { event: "profile_changed", actorId: member.id, details: { fields: ["full_name"] } },
    ]);
  });

  test.each([
    [{}, "body"],
    [{ password: PASSWORD }, "body"],
    [{ full_name: "" }, "full_name"],
    [{ full_name: null }, "full_name"],
    [{ full_name: "x".repeat(201) }, "full_name"],
    [{ full_name: "a\u2028b" }, "full_name"],
    [{ email: "nobody" }, "email"],
    [{ email: "" }, "email"],
    [{ email: ["a@example.com"] }, "email"],
    [{ email: "new@example.com" }, "password"],
    [{ email: "new@example.com", password: "" }, "password"],
    [{ email: "new@example.com", password: "x".repeat(257) }, "password"],
    [{ email: "new@example.com", password: "not the password" }, "password"],
  ])("does not take %j", async (body, field) => {
    const member = await person(at);
    const before = await userRow(member);
    const response = await put(member, body);
    expect([response.status, await fieldsOf(response)]).toEqual([422, [field]]);
    expect(await userRow(member)).toEqual(before);
  });

  test("gives nobody what nobody may set (H2)", async () => {
    const member = await person(at);
    const before = await userRow(member);
    for (const [field, fields] of assignments) {
      const response = await put(member, besides({ full_name: "X" }, fields));
      expect([field, response.status]).toEqual([field, 422]);
      expect(await fieldsOf(response)).toEqual([field]);
    }
    expect(await userRow(member)).toEqual(before);
    expect(Object.keys(Object.prototype)).toEqual([]);
    expect("role" in {}).toBe(false);
  });

  test("changed to another address is unverified, and what was sent to the old one is void", async () => {
    const member = await person(at, { isVerified: true });
    const nowMs = at.clock.ms;
    const tokens = await at.db().transaction(async (tx) => ({
      token: await issueToken(tx, "verify_email", member.id, nowMs),
      reset: await issueToken(tx, "reset_password", member.id, nowMs),
    }));
    const email = `moved-${member.email}`;
    const user = (await (await put(member, { email, password: PASSWORD })).json()) as User;
    expect(user).toMatchObject({ id: member.id, email, is_verified: false });
    const verify = await at.call("POST", "/api/auth/verify-email", { token: tokens.token });
    expect(verify.status).toBe(422);
    const reset = await at.call("POST", "/api/auth/password/reset", {
      token: tokens.reset,
      new_password: "another good password",
    });
    expect(reset.status).toBe(422);
    expect(((await (await profile(member.access)).json()) as User).is_verified).toBe(false);
    await until(async () => (await eventsOf(member)).some((e) => e.event === "verification_sent"));
    const events = (await eventsOf(member)).filter(({ event }) => event === "profile_changed");
    expect(events).toEqual([
      { event: "profile_changed", actorId: member.id, details: { fields: ["email"] } },
    ]);
    expect((await at.login(email)).id).toBe(member.id);
    const old = { email: member.email, password: PASSWORD };
    expect((await at.call("POST", "/api/auth/login", old)).status).toBe(401);
  });

  test("changed is not verified by what was sent before, though no mail can be sent now", async () => {
    const member = await person(at);
    const nowMs = at.clock.ms;
    const token = await at
      .db()
      .transaction((tx) => issueToken(tx, "verify_email", member.id, nowMs));
    const email = `moved-${member.email}`;
    for (let i = 0; i < 5; i += 1) {
      await at.must(202, "POST", "/api/auth/verify-email/resend", { email });
    }
    expect((await put(member, { email, password: PASSWORD })).status).toBe(200);
    expect((await at.call("POST", "/api/auth/verify-email", { token })).status).toBe(422);
    expect((await userRow(member))?.isVerified).toBe(false);
  });

  test("takes no address of somebody else, whatever its case, and of two at once one", async () => {
    const [one, two, other] = await people(at, 3);
    if (!one || !two || !other) throw new Error("nobody was made");
    const taken = await put(one, { email: other.email.toUpperCase(), password: PASSWORD });
    expect(await problemOf(taken)).toMatchObject({ status: 409, errors: [{ field: "email" }] });
    expect((await put(one, { email: one.email.toUpperCase(), password: PASSWORD })).status).toBe(
      200,
    );
    for (let round = 0; round < 3; round += 1) {
      const body = { email: `race-${round}-${one.email}`, password: PASSWORD };
      const answers = await Promise.all([put(one, body), put(two, body)]);
      const statuses = answers.map(({ status }) => status).toSorted();
      expect(statuses).toEqual([200, 409]);
    }
  });

  test("is not guessed at through a session that was stolen", async () => {
    const member = await person(at);
    for (let i = 0; i < 10; i += 1) {
      const body = { email: "thief@example.com", password: `guess ${i}` };
      expect((await put(member, body)).status).toBe(422);
    }
    const right = { email: "thief@example.com", password: PASSWORD };
    const refused = await put(member, right);
    expect(refused.status).toBe(429);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect((await remove(member)).status).toBe(429);
    expect((await userRow(member))?.email).toBe(member.email);
    expect((await put(member, { full_name: "Still Me" })).status).toBe(200);
  });

  test.if(BACKEND !== "embedded")("is current on another server within a second", async () => {
    await using other = await openAccounts({ beside: at });
    const member = await person(at);
    const nameThere = async () =>
      ((await (await profile(member.access, other)).json()) as User).full_name;
    const took: number[] = [];
    for (let round = 0; round < 10; round += 1) {
      await nameThere();
      const name = `Name ${round}`;
      expect((await put(member, { full_name: name })).status).toBe(200);
      took.push(await until(async () => (await nameThere()) === name));
    }
    // A pause of the machine makes some later, what they wait for all.
    expect(Math.min(...took)).toBeLessThan(1_000);
  });

  test("is never somebody else's, of a thousand at once (H10)", async () => {
    tellSeed();
    const random = randomNumbers();
    const members = await people(at, 1_000);
    const wrong: unknown[] = [];
    const hits = { hit: 0, miss: 0 };
    const ask = async (member: Member): Promise<void> => {
      const path = random() < 0.5 ? PROFILE : "/api/auth/me";
      const response = await at.call("GET", path, undefined, member.access);
      const user = (await response.json()) as User;
      hits[response.headers.get("x-cache") as "hit" | "miss"] += 1;
      if (user.id !== member.id || user.email !== member.email) wrong.push([member, user]);
    };
    const change = async (member: Member): Promise<void> => {
      const name = `Person ${random()}`;
      await at.must(200, "PUT", PROFILE, { full_name: name }, member.access);
      const user = (await (await profile(member.access)).json()) as User;
      if (user.full_name !== name) wrong.push([member, name, user]);
    };
    // Nobody's name is changed twice: of two at once either may be the later.
    const numbers = new Map(members.map((one, i) => [one, i]));
    const jobs = [0, 1, 2].flatMap((round) =>
      members
        .toSorted(() => random() - 0.5)
        .flatMap((one) => {
          const changes = (numbers.get(one) ?? 0) % 30 === round;
          return changes ? [() => ask(one), () => change(one)] : [() => ask(one)];
        }),
    );
    const work = async (): Promise<void> => {
      for (let job = jobs.shift(); job; job = jobs.shift()) await job();
    };
    await Promise.all(Array.from({ length: 50 }, work));
    expect(wrong).toEqual([]);
    expect(hits.hit + hits.miss).toBe(3_000);
    expect(hits.hit).toBeGreaterThan(1_500);
  });
});

describe("deletion", () => {
  test("needs the password", async () => {
    const member = await person(at);
    for (const [body, status] of [
      [{}, 422],
      [{ password: "" }, 422],
      [{ password: "not the password" }, 422],
      [{ password: PASSWORD, id: NOBODY }, 422],
    ] as const) {
      expect([body, (await remove(member, body)).status]).toEqual([body, status]);
    }
    const nothing = await at.call("DELETE", ACCOUNT, undefined, member.access);
    expect(nothing.status).toBe(415);
    expect((await profile(member.access)).status).toBe(200);
  });

  test("takes everything that is the user's, and leaves what was written down", async () => {
    const member = await at.member();
    const second = await at.login(member.email);
    const key = await at.key(member);
    await alpineOf(at).usage.flush();
    await at.db().transaction((tx) => issueToken(tx, "reset_password", member.id, at.clock.ms));
    await at
      .db()
      .insert(recoveryCodes)
      .values({ userId: member.id, hash: new Uint8Array(32) });
    const owned = await Promise.all(
      [sessions, apiKeys, oneTimeTokens, recoveryCodes, usage].map((table) =>
        at.db().$count(table, eq(table.userId, member.id)),
      ),
    );
    expect(owned.every((count) => count > 0)).toBe(true);
    const tokensBefore = await at.db().$count(refreshTokens);

    const response = await remove(member);
    expect([response.status, await response.text()]).toEqual([204, ""]);
    for (const { access, refresh } of [member, second]) {
      expect((await profile(access)).status).toBe(401);
      const again = await at.call("POST", "/api/auth/refresh", { refresh_token: refresh });
      expect(again.status).toBe(401);
    }
    expect((await at.call("GET", "/api/signals/latest", undefined, key)).status).toBe(401);
    const body = { email: member.email, password: PASSWORD };
    expect((await at.call("POST", "/api/auth/login", body)).status).toBe(401);

    expect(await userRow(member)).toBeUndefined();
    for (const table of [sessions, apiKeys, oneTimeTokens, recoveryCodes, usage]) {
      expect(await at.db().$count(table, eq(table.userId, member.id))).toBe(0);
    }
    expect(await at.db().$count(refreshTokens)).toBe(tokensBefore - 2);
    const events = (await eventsOf(member)).map(({ event }) => event);
    expect(events).toContain("signup");
    expect(events.at(-1)).toBe("account_deleted");
    const entries = await at
      .db()
      .select()
      .from(auditLog)
      .where(or(eq(auditLog.actorId, member.id), eq(auditLog.subjectId, member.id)));
    expect(JSON.stringify(entries)).not.toContain(member.email);

    const anew = await at.member({ email: member.email });
    expect(anew.id).not.toBe(member.id);
    expect((await profile(member.access)).status).toBe(401);
  });

  test("happens once, of ten at once", async () => {
    const member = await person(at);
    const answers = await Promise.all(Array.from({ length: 8 }, () => remove(member)));
    const statuses = answers.map(({ status }) => status);
    expect(statuses.filter((status) => status === 204).length).toBe(1);
    expect(statuses.every((status) => [204, 401, 404, 503].includes(status))).toBe(true);
    expect((await eventsOf(member)).filter((e) => e.event === "account_deleted").length).toBe(1);
  });

  test("of the last administrator is refused, and of two at once one stays", async () => {
    await using alone = await openAccounts({ backend: BACKEND });
    const only = await person(alone, { role: "admin" });
    await person(alone, { role: "admin", isActive: false });
    expect((await remove(only, undefined, alone)).status).toBe(409);
    expect((await profile(only.access, alone)).status).toBe(200);
    const other = await person(alone, { role: "admin" });
    const works = [only, other].map((who) => () => remove(who, undefined, alone));
    // Of an embedded database there is one connection: there nothing happens at once.
    const answers = await (BACKEND === "embedded"
      ? Promise.all(works.map((work) => work()))
      : together(alone, works));
    expect(answers.map(({ status }) => status).toSorted()).toEqual([204, 409]);
    const left = and(eq(users.role, "admin"), eq(users.isActive, true));
    expect(await alone.db().$count(users, left)).toBe(1);
  });

  test.if(BACKEND !== "embedded")("is felt by another server", async () => {
    await using other = await openAccounts({ beside: at });
    const member = await person(at);
    const key = await at.key(member);
    const there = async () => [
      (await profile(member.access, other)).status,
      (await other.call("GET", "/api/signals/latest", undefined, key)).status,
    ];
    await until(async () => (await there()).every((status) => status === 200));
    expect((await remove(member)).status).toBe(204);
    await until(async () => (await there()).every((status) => status === 401));
  });
});

describe("the export", () => {
  const take = async (of: Member) => {
    const response = await at.call("GET", EXPORT, undefined, of.access);
    expect(response.status).toBe(200);
    const text = await response.text();
    return { response, text, data: JSON.parse(text) as AccountExport };
  };

  test("is all that is kept about somebody, but for secrets", async () => {
    const [member, boss] = [await at.member(), await person(at, { role: "admin" })];
    const other = await at.member();
    const key = await at.key(member);
    await at.key(other);
    await at.must(200, "PATCH", `/api/admin/users/${member.id}`, { tier: "pro" }, boss.access);
    const { access } = await at.login(member.email);
    alpineOf(at).meters.of(member.id).deliver([7]);
    await alpineOf(at).usage.flush();
    const { response, text, data } = await take({ ...member, access });
    expect(response.headers.get("content-type")).toBe("application/json");
    expect(response.headers.get("content-disposition")).toMatch(/^attachment; filename="/);
    expect(response.headers.get("cache-control")).toBe("no-store");
    expect(Object.keys(data)).toEqual([
      "exported_at",
      "profile",
      "notification_preferences",
      "sessions",
      "keys",
      "usage",
      "deliveries",
      "notifications",
      "subscriptions",
      "invoices",
      "payments",
      "webhooks",
      "webhook_deliveries",
      "audit",
    ]);
    expect(data.profile).toMatchObject({ id: member.id, email: member.email, tier: "pro" });
    expect(data.sessions.length).toBe(2);
    expect(data.keys.map(({ prefix }) => prefix)).toEqual([key.slice(0, 16)]);
    expect(data.usage).toEqual([
      { day: "2026-11-20", route_class: "signals", requests: 0, errors: 0, delivered: 1 },
      { day: "2026-11-20", route_class: "account", requests: 3, errors: 0, delivered: 0 },
    ]);
    expect(data.deliveries).toEqual([
      { signal_id: 7, delivered_at: new Date(at.clock.ms).toISOString() },
    ]);
    const events = data.audit.map(({ event }) => event);
    for (const event of ["signup", "login", "key_created", "tier_changed", "data_exported"]) {
      expect(events).toContain(event);
    }
    // Who the administrator is and where they sit is nobody's business.
    const tierChange = data.audit.find(({ event }) => event === "tier_changed");
    expect(tierChange).toMatchObject({ actor_id: null, address: null, subject_id: member.id });
    expect(text).not.toContain(boss.id);
    expect(text).not.toContain(other.id);
    expect(text).not.toContain(key.slice(16));
    const row = await userRow(member);
    expect(text).not.toContain(row?.passwordHash ?? "none");
    expect(text).not.toMatch(/hash|argon2/);
  });

  test("is whole however much there is", async () => {
    const member = await person(at);
    const { id } = member;
    const when = new Date(at.clock.ms);
    const entry = { at: when, event: "login", actorId: id, subjectId: id };
    await at
      .db()
      .insert(auditLog)
      .values(Array.from({ length: 1_700 }, () => entry));
    const session = { userId: id, createdAt: when, lastUsedAt: when, expiresAt: when };
    const many = Array.from({ length: 1_200 }, () => ({ ...session, id: Bun.randomUUIDv7() }));
    await at.db().insert(sessions).values(many);
    const days = Array.from({ length: 600 }, (_, i) => ({
      userId: id,
      day: new Date(at.clock.ms - (i + 1) * 86_400_000).toISOString().slice(0, 10),
      requests: i,
    }));
    await at.db().insert(usage).values(days);
    const { data } = await take(member);
    expect(data.audit.length).toBe(1_701);
    expect(new Set(data.audit.map((entry) => entry.id)).size).toBe(1_701);
    expect(new Set(data.sessions.map((one) => one.id)).size).toBe(1_201);
    expect(data.usage.length).toBe(600);
    expect(data.keys).toEqual([]);
  });

  test("that nobody reads to its end holds nothing up", async () => {
    const member = await person(at);
    for (let i = 0; i < 40; i += 1) {
      const response = await at.call("GET", EXPORT, undefined, member.access);
      await response.body?.cancel();
    }
    expect((await take(member)).data.profile.id).toBe(member.id);
  });
});

describe("sessions", () => {
  const list = (of: Member, query = "") =>
    at.must<Page>(200, "GET", `${SESSIONS}${query}`, undefined, of.access);
  const end = (of: Member, id: string) =>
    at.call("DELETE", `${SESSIONS}/${id}`, undefined, of.access);

  test("are listed, the asking one marked, those that ended left out", async () => {
    const member = await person(at);
    const second = await at.login(member.email);
    const third = await at.login(member.email);
    await at.must(204, "POST", "/api/auth/logout", undefined, third.access);
    const page = await list(second);
    expect(page).toMatchObject({ next_cursor: null, has_more: false });
    expect(page.sessions.map(({ current }) => current).toSorted()).toEqual([false, true]);
    expect(page.sessions[0]).toEqual({
      id: expect.any(String),
      created_at: new Date(at.clock.ms).toISOString(),
      last_used_at: new Date(at.clock.ms).toISOString(),
      expires_at: new Date(at.clock.ms + 30 * 86_400_000).toISOString(),
      user_agent: null,
      address: "127.0.0.1",
      current: expect.any(Boolean),
    } as never);
    const mine = page.sessions.find(({ current }) => current);
    const theirs = (await list(member)).sessions.find(({ current }) => current);
    expect(mine?.id).not.toBe(theirs?.id);
  });

  test("come page by page, with cursors that are nobody else's", async () => {
    const [member, other] = await people(at, 2);
    if (!member || !other) throw new Error("nobody was made");
    const when = new Date(at.clock.ms);
    const session = { createdAt: when, lastUsedAt: when, expiresAt: new Date(at.clock.ms + 1) };
    for (const { id: userId } of [member, other]) {
      const rows = Array.from({ length: 12 }, () => ({
        ...session,
        userId,
        id: Bun.randomUUIDv7(),
      }));
      await at.db().insert(sessions).values(rows);
    }
    const ids = new Set<string>();
    let cursor: string | null = null;
    do {
      const page: Page = await list(member, `?limit=5${cursor ? `&cursor=${cursor}` : ""}`);
      for (const { id } of page.sessions) ids.add(id);
      cursor = page.next_cursor;
      if (cursor === null) break;
      const refused = await at.call("GET", `${SESSIONS}?cursor=${cursor}`, undefined, other.access);
      expect([refused.status, await fieldsOf(refused)]).toEqual([400, ["cursor"]]);
    } while (ids.size < 100);
    expect(ids.size).toBe(13);
  });

  test("end one by one, their tokens with them", async () => {
    const member = await person(at);
    const second = await at.login(member.email);
    const { sessions: before } = await list(member);
    const other = before.find(({ current }) => !current)?.id ?? "";
    expect((await end(member, other.toUpperCase())).status).toBe(204);
    expect((await profile(second.access)).status).toBe(401);
    const body = { refresh_token: second.refresh };
    expect((await at.call("POST", "/api/auth/refresh", body)).status).toBe(401);
    expect((await end(member, other)).status).toBe(404);
    const own = (await list(member)).sessions;
    expect(own.length).toBe(1);
    expect((await end(member, own[0]?.id ?? "")).status).toBe(204);
    expect((await profile(member.access)).status).toBe(401);
    const events = (await eventsOf(member)).filter(({ event }) => event === "session_revoked");
    expect(events.map(({ details }) => details["session_id"])).toEqual([other, own[0]?.id]);
  });

  test("of others are not there", async () => {
    const [member, other] = [await person(at), await person(at, { role: "admin" })];
    const id = (await list(member)).sessions[0]?.id ?? "";
    for (const theirs of [id, NOBODY]) {
      expect((await problemOf(await end(other, theirs))).status).toBe(404);
    }
    const bad = await end(member, "1");
    expect([bad.status, await fieldsOf(bad)]).toEqual([400, ["id"]]);
    expect((await profile(member.access)).status).toBe(200);
    expect((await eventsOf(member)).length).toBe(0);
  });
});

test("what is written down of one account is bounded, and ending a key is not", async () => {
  const member = await person(at);
  const { id } = await at.must<{ id: string }>(
    201,
    "POST",
    "/api/keys",
    { name: "a key", scopes: ["signals:read"] },
    member.access,
  );
  for (let i = 0; i < 59; i += 1) {
    expect((await put(member, { full_name: `Name ${i}` })).status).toBe(200);
  }
  const refused = [
    await put(member, { full_name: "One More" }),
    await at.call("GET", EXPORT, undefined, member.access),
    await at.call("POST", `/api/keys/${id}/rotate`, {}, member.access),
    await at.call("POST", "/api/keys", { name: "b", scopes: ["signals:read"] }, member.access),
  ];
  expect(refused.map(({ status }) => status)).toEqual([429, 429, 429, 429]);
  expect((await at.call("DELETE", `/api/keys/${id}`, undefined, member.access)).status).toBe(204);
  expect((await put(await person(at), { full_name: "Somebody Else" })).status).toBe(200);
  at.clock.ms += 3_600_001;
  expect((await at.call("GET", EXPORT, undefined, member.access)).status).not.toBe(429);
});
