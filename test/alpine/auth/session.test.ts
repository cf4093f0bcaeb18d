import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { auditLog, refreshTokens, sessions, users } from "../../../db/alpine/schema.ts";
import { BACKEND, openAccounts, PASSWORD, type Accounts } from "../../harness/accounts.ts";
import { fieldsOf, problemOf } from "../../harness/app.ts";
import { until } from "../../harness/process.ts";

let at: Accounts;
beforeAll(async () => {
  at = await openAccounts();
});
afterAll(() => at[Symbol.asyncDispose]());

type Tokens = { access_token: string; refresh_token: string };
const me = (token: string, on = at) => on.call("GET", "/api/auth/me", undefined, token);
const refresh = (token: string, on = at) =>
  on.call("POST", "/api/auth/refresh", { refresh_token: token });

describe("signup", () => {
  test("makes an account of the lowest tier", async () => {
    const email = "Ada.Lovelace@Example.com";
    const body = { email, password: PASSWORD, full_name: "Ada Lovelace" };
    const user = await at.must<Record<string, unknown>>(201, "POST", "/api/auth/signup", body);
    expect(user).toEqual({
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      email,
      full_name: "Ada Lovelace",
      tier: "starter",
      role: "user",
      is_active: true,
      is_verified: false,
      totp_enabled: false,
      created_at: new Date(at.clock.ms).toISOString(),
    });
    const other = { ...body, email: "ada.lovelace@EXAMPLE.COM" };
    const taken = await problemOf(await at.call("POST", "/api/auth/signup", other));
    expect(taken).toMatchObject({ status: 409, code: "conflict", errors: [{ field: "email" }] });
    const member = await at.login("ADA.lovelace@example.com");
    expect(member.id).toBe(user["id"] as string);
  });

  test.each([
    [{}, ["email", "full_name", "password"]],
    [{ email: "nobody" }, ["email"]],
    [{ email: `${"a".repeat(250)}@example.com` }, ["email"]],
    [{ email: 7 }, ["email"]],
    [{ password: "short" }, ["password"]],
    [{ password: "x".repeat(257) }, ["password"]],
    [{ full_name: "" }, ["full_name"]],
    [{ full_name: "a\nb" }, ["full_name"]],
    [{ tier: "elite" }, ["tier"]],
    [{ role: "admin" }, ["role"]],
    [{ id: "0190a7c0-0000-7000-8000-000000000000" }, ["id"]],
    [{ is_active: true }, ["is_active"]],
    [{ constructor: {} }, ["constructor"]],
  ])("refuses %p and names the field", async (wrong, fields) => {
    const right = { email: "right@example.com", password: PASSWORD, full_name: "Right" };
    const body = Object.keys(wrong).length === 0 ? {} : { ...right, ...wrong };
    const response = await at.call("POST", "/api/auth/signup", body);
    expect(response.status).toBe(422);
    expect((await fieldsOf(response)).toSorted()).toEqual(fields);
  });

  test.each([
    ['{"email":"a@example.com","email":"b@example.com"}', 400],
    ['{"email":', 400],
    ["", 400],
    ['{"__proto__":{"role":"admin"}}', 422],
    [`{"email":"${"x".repeat(70_000)}"}`, 413],
  ])("refuses the body no. %#", async (body, status) => {
    expect((await at.call("POST", "/api/auth/signup", body)).status).toBe(status);
    expect(Object.keys(Object.prototype)).toEqual([]);
  });

  test("fifty at once make one account", async () => {
    await at.app.deps.alpine?.windows.signupAddress.forgive("127.0.0.1");
    const body = { email: "race@example.com", password: PASSWORD, full_name: "Race" };
    const answers = await Promise.all(
      Array.from({ length: 25 }, () => at.call("POST", "/api/auth/signup", body)),
    );
    const counts = Map.groupBy(answers, (answer) => answer.status);
    expect(counts.get(201)?.length ?? 0).toBeLessThanOrEqual(1);
    expect([...counts.keys()].every((status) => [201, 409, 503].includes(status))).toBe(true);
    const rows = await at.db().select().from(users).where(eq(users.email, body.email));
    expect(rows.length).toBe(counts.get(201)?.length ?? 0);
  });
});

describe("login", () => {
  test("gives tokens that say who holds them", async () => {
    const { id, access } = await at.member();
    const response = await me(access);
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({ id, tier: "starter", role: "user" });
    expect(response.headers.get("cache-control")).toBe("no-store");
  });

  test("a wrong password, somebody unknown and somebody shut out are one answer", async () => {
    const { email, id } = await at.member();
    const gone = await at.member();
    await at.db().update(users).set({ isActive: false }).where(eq(users.id, gone.id));
    const answers = await Promise.all(
      [
        { email, password: "not the password" },
        { email: "unknown@example.com", password: PASSWORD },
        { email: gone.email, password: PASSWORD },
      ].map(async (body) => {
        const response = await at.call("POST", "/api/auth/login", body);
        const headers = [...response.headers.keys()].toSorted();
        return JSON.stringify([response.status, headers, await response.text()]);
      }),
    );
    expect(new Set(answers).size).toBe(1);
    expect(answers[0]).toContain("401");
    const [entry] = await at
      .db()
      .select()
      .from(auditLog)
      .where(eq(auditLog.subjectId, id))
      .orderBy(auditLog.id)
      .limit(10)
      .then((rows) => rows.filter((row) => row.event === "login_failed"));
    expect(entry).toMatchObject({ event: "login_failed", actorId: null });
  });

  test("a hundred guesses at once: ten are looked at (A3)", async () => {
    const { email } = await at.member();
    const guess = (password: string) => at.call("POST", "/api/auth/login", { email, password });
    const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => guess(`guess ${i}`)));
    // What came while too many were hashed was not looked at, and may come again.
    for (let i = 0; answers.at(-1)?.status !== 429 || i === 0; i += 1) {
      answers.push(await guess(`again ${i}`));
    }
    const looked = answers.filter((answer) => answer.status === 401).length;
    expect(looked).toBeGreaterThan(0);
    expect(looked).toBeLessThanOrEqual(10);
    const refused = answers.find((answer) => answer.status === 429);
    expect(Number(refused?.headers.get("retry-after"))).toBeGreaterThan(0);
    const right = await at.call("POST", "/api/auth/login", { email, password: PASSWORD });
    expect(right.status).toBe(429);
  });
});

describe("refresh", () => {
  test("rotates, and the access token before it stays good", async () => {
    const member = await at.member();
    const next = (await (await refresh(member.refresh)).json()) as Tokens;
    expect(next.refresh_token).not.toBe(member.refresh);
    expect((await me(next.access_token)).status).toBe(200);
    expect((await me(member.access)).status).toBe(200);
  });

  test("twenty at once: one child (A7)", async () => {
    const member = await at.member();
    const answers = await Promise.all(Array.from({ length: 20 }, () => refresh(member.refresh)));
    const tokens = (await Promise.all(answers.map((a) => a.json()))) as Tokens[];
    expect(answers.every((answer) => answer.status === 200)).toBe(true);
    expect(new Set(tokens.map((t) => t.refresh_token)).size).toBe(1);
    const rows = await at
      .db()
      .select()
      .from(refreshTokens)
      .innerJoin(sessions, eq(sessions.id, refreshTokens.sessionId))
      .where(eq(sessions.userId, member.id));
    expect(rows.length).toBe(2);
  });

  test("used again after the grace, the whole family is dead (A7)", async () => {
    const member = await at.member();
    const next = (await (await refresh(member.refresh)).json()) as Tokens;
    at.clock.ms += 10_001;
    expect((await refresh(member.refresh)).status).toBe(401);
    expect((await refresh(next.refresh_token)).status).toBe(401);
    expect((await me(next.access_token)).status).toBe(401);
    const events = await at.db().select().from(auditLog).where(eq(auditLog.subjectId, member.id));
    expect(events.map((row) => row.event)).toContain("refresh_reused");
  });

  test("what was never given is refused", async () => {
    expect((await refresh("x".repeat(43))).status).toBe(401);
    expect((await refresh("")).status).toBe(422);
  });

  test("a session that nobody refreshes for thirty days is over", async () => {
    const member = await at.member();
    at.clock.ms += 30 * 86_400_000;
    expect((await refresh(member.refresh)).status).toBe(401);
  });
});

describe("logout", () => {
  test("is felt at once, by every spelling of the token (A5)", async () => {
    const member = await at.member();
    expect((await me(member.access)).status).toBe(200);
    expect((await at.call("POST", "/api/auth/logout", undefined, member.access)).status).toBe(204);
    const last = member.access.at(-1) ?? "";
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const spellings = [member.access, ...[...alphabet].map((c) => member.access.slice(0, -1) + c)];
    for (const spelling of [...spellings, `${member.access}=`, `${member.access}.`]) {
      expect((await me(spelling)).status).toBe(401);
    }
    expect(spellings.some((spelling) => spelling.endsWith(last))).toBe(true);
    expect((await refresh(member.refresh)).status).toBe(401);
    const poll = await at.call("GET", "/api/signals/latest", undefined, member.access);
    expect(poll.status).toBe(401);
  });

  test("logout-all ends the others too", async () => {
    const one = await at.member();
    const two = await at.login(one.email);
    expect((await at.call("POST", "/api/auth/logout-all", undefined, one.access)).status).toBe(204);
    expect((await me(one.access)).status).toBe(401);
    expect((await me(two.access)).status).toBe(401);
    const three = await at.login(one.email);
    expect((await me(three.access)).status).toBe(200);
  });

  test.if(BACKEND !== "embedded")("is felt by another server", async () => {
    await using other = await openAccounts({ beside: at, now: at.clock.ms });
    const member = await at.member();
    expect((await me(member.access, other)).status).toBe(200);
    await at.must(204, "POST", "/api/auth/logout", undefined, member.access);
    await until(async () => (await me(member.access, other)).status === 401, "the end there");
  });
});
