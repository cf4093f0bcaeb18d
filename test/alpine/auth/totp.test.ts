/** The second factor: codes of an authenticator, each good once, and recovery codes. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { Secret, TOTP } from "otpauth";
import pino from "pino";
import { auditLog, recoveryCodes, users } from "../../../db/alpine/schema.ts";
import { useCode } from "../../../src/alpine/auth/totp.ts";
import { userById } from "../../../src/alpine/users/store.ts";
import {
  JWT_SECRET,
  openAccounts,
  PASSWORD,
  type Accounts,
  type Member,
} from "../../harness/accounts.ts";
import { fieldsOf, problemOf } from "../../harness/app.ts";

const stepMs = 30_000;
const origin = { address: "192.0.2.1", requestId: "test", userAgent: null };

const lines: string[] = [];
let at: Accounts;
beforeAll(async () => {
  const log = pino({ level: "trace" }, { write: (line: string) => void lines.push(line) });
  at = await openAccounts({ log });
});
afterAll(() => at[Symbol.asyncDispose]());
beforeEach(() => alpine().windows.signupAddress.forgive("127.0.0.1"));

function alpine(of = at) {
  if (!of.app.deps.alpine) throw new Error("there are no accounts");
  return of.app.deps.alpine;
}

/** Somebody with a second factor, and their authenticator. */
type Holder = Member & { secret: string; codes: string[]; code: (aside?: number) => string };

const post = (path: string, body: unknown, access?: string, of = at) =>
  of.call("POST", `/api/auth${path}`, body, access);
const status = async (...request: Parameters<typeof post>): Promise<number> =>
  (await post(...request)).status;

const codeOf = (secret: string, of = at, aside = 0): string =>
  new TOTP({ secret: Secret.fromBase32(secret) }).generate({
    timestamp: of.clock.ms + aside * stepMs,
  });

async function setUp(access: string, of = at): Promise<{ secret: string; otpauth_url: string }> {
  return of.must(200, "POST", "/api/auth/totp/setup", { password: PASSWORD }, access);
}

async function holder(of = at): Promise<Holder> {
  const member = await of.member();
  const { secret } = await setUp(member.access, of);
  const code = (aside = 0): string => codeOf(secret, of, aside);
  const body = { code: code() };
  const { recovery_codes: codes } = await of.must<{ recovery_codes: string[] }>(
    200,
    "POST",
    "/api/auth/totp/enable",
    body,
    member.access,
  );
  // The code that turned it on is used up.
  of.clock.ms += stepMs;
  return { ...member, secret, codes, code };
}

const login = ({ email }: Member, totp?: string, of = at) =>
  post("/login", { email, password: PASSWORD, totp }, undefined, of);
const loginStatus = async (...given: Parameters<typeof login>): Promise<number> =>
  (await login(...given)).status;

const events = async (id: string): Promise<string[]> =>
  (
    await at.db().select().from(auditLog).where(eq(auditLog.subjectId, id)).orderBy(auditLog.id)
  ).map((row) => row.event);

const tally = (answers: Response[]): Record<number, number> =>
  Object.fromEntries(
    [...Map.groupBy(answers, (answer) => answer.status)].map(([key, all]) => [key, all.length]),
  );
const race = async (count: number, send: (i: number) => Promise<Response>) =>
  tally(await Promise.all(Array.from({ length: count }, (_, i) => send(i))));

const wrongCode = (right: string): string => (right === "000000" ? "111111" : "000000");

describe("turning it on", () => {
  test("an authenticator can read what setup gives, and logins ask once a code came back", async () => {
    const member = await at.member();
    const { secret, otpauth_url: url } = await setUp(member.access);
    const asked = new URL(url);
    expect(asked.protocol).toBe("otpauth:");
    expect(decodeURIComponent(asked.pathname)).toContain(member.email);
    expect(Object.fromEntries(asked.searchParams)).toEqual({
      issuer: "argo-alpine",
      secret,
      algorithm: "SHA1",
      digits: "6",
      period: "30",
    });
    expect(Secret.fromBase32(secret).bytes.length).toBe(20);
    expect(await loginStatus(member)).toBe(200);
    const wrong = { code: wrongCode(codeOf(secret)) };
    const refused = await problemOf(await post("/totp/enable", wrong, member.access));
    expect(refused).toMatchObject({
      status: 422,
      errors: [{ field: "code", detail: "is not right" }],
    });
    const me = () => at.must(200, "GET", "/api/auth/me", undefined, member.access);
    expect(await me()).toMatchObject({ totp_enabled: false });
    const enabled = await post("/totp/enable", { code: codeOf(secret) }, member.access);
    expect(enabled.headers.get("cache-control")).toBe("no-store");
    const { recovery_codes: codes } = (await enabled.json()) as { recovery_codes: string[] };
    expect(new Set(codes).size).toBe(10);
    for (const code of codes)
      expect(code).toMatch(/^([0-9a-hjkmnp-tv-z]{4}-){3}[0-9a-hjkmnp-tv-z]{4}$/);
    expect(await me()).toMatchObject({ totp_enabled: true });
    expect(await problemOf(await login(member))).toMatchObject({
      status: 401,
      errors: [{ field: "totp", detail: "is needed" }],
    });
    expect((await events(member.id)).slice(-2)).toEqual(["confirmation_failed", "totp_enabled"]);
  });

  test("needs the password, a setup, and happens once", async () => {
    const { access } = await at.member();
    expect(await status("/totp/enable", { code: "123456" }, access)).toBe(409);
    const refused = await post("/totp/setup", { password: "wrong" }, access);
    expect(await fieldsOf(refused)).toEqual(["password"]);
    expect(refused.status).toBe(422);
    const { secret: old } = await setUp(access);
    const { secret } = await setUp(access);
    expect(await status("/totp/enable", { code: codeOf(old) }, access)).toBe(422);
    const answers = await race(5, () => post("/totp/enable", { code: codeOf(secret) }, access));
    // One attempt of the five is used up above.
    expect(answers[200]).toBe(1);
    expect((answers[409] ?? 0) + (answers[429] ?? 0)).toBe(4);
    expect(await status("/totp/setup", { password: PASSWORD }, access)).toBe(409);
  });
});

describe("logging in with it", () => {
  test("a code counts once, and none before it", async () => {
    const one = await holder();
    const [before, now, after] = [one.code(-1), one.code(), one.code(1)];
    expect(await loginStatus(one, now)).toBe(200);
    for (const [code, fault] of [
      [now, "was used already: wait for the next one"],
      [before, "was used already: wait for the next one"],
      [wrongCode(now), "is not right"],
    ] as const) {
      expect(await problemOf(await login(one, code))).toMatchObject({
        status: 401,
        detail: `The code of the second factor ${fault}.`,
        errors: [{ field: "totp", detail: fault }],
      });
    }
    expect(await loginStatus(one, after)).toBe(200);
    expect(await events(one.id)).toContain("login_failed");
  });

  test.each([
    [-2, 401],
    [-1, 401],
    [0, 200],
    [1, 200],
    [2, 401],
  ])(
    "a clock may be one step off, but the step that turned it on is used (%p: %p)",
    async (aside, expected) => {
      const one = await holder();
      expect(await loginStatus(one, one.code(aside))).toBe(expected);
    },
  );

  test("a clock that was a step behind when it was turned on may stay so", async () => {
    const one = await holder();
    at.clock.ms += stepMs;
    expect(await loginStatus(one, one.code(-1))).toBe(200);
  });

  test("the right code with a wrong password is not used up", async () => {
    const one = await holder();
    const body = { email: one.email, password: "wrong", totp: one.code() };
    expect(await status("/login", body)).toBe(401);
    expect(await loginStatus(one, one.code())).toBe(200);
  });

  test("five attempts (A9): the sixth is refused, the right one too", async () => {
    const one = await holder();
    const wrong = wrongCode(one.code());
    const answers = await race(8, () => login(one, wrong));
    // More than a few hashes at once are refused before a code is looked at.
    expect(answers[401]).toBe(5);
    expect((answers[429] ?? 0) + (answers[503] ?? 0)).toBe(3);
    const late = await login(one, one.code());
    expect(late.status).toBe(429);
    const wait = late.headers.get("retry-after");
    expect(Number(wait)).toBeGreaterThan(0);
    // Those of the limit on requests, which is far off, would contradict.
    expect([late.headers.get("ratelimit"), late.headers.get("x-ratelimit-remaining")]).toEqual([
      null,
      null,
    ]);
    const said = `Too many wrong codes: 5 in 15 minutes. Try again in ${wait} s.`;
    expect((await problemOf(late)).detail).toBe(said);
    expect(await loginStatus(one, one.codes[0])).toBe(429);
  });

  test("logins that are right are no attempts", async () => {
    const one = await holder();
    for (let i = 0; i < 7; i += 1) {
      expect(await loginStatus(one, one.code())).toBe(200);
      at.clock.ms += stepMs;
    }
  });

  test.each([[""], ["12345"], ["x".repeat(33)], [123456], [null]])(
    "%p is no code",
    async (totp) => {
      const response = await post("/login", { email: "a@example.com", password: "x", totp });
      expect(response.status).toBe(422);
      expect(await fieldsOf(response)).toEqual(["totp"]);
    },
  );
});

describe("many at once (A9)", () => {
  /** Past the limit of attempts, which would let only five of them in. */
  async function outcomes(one: Holder, code: string): Promise<boolean[]> {
    const user = await userById(at.db(), one.id);
    if (!user) throw new Error("gone");
    const plane = { ...at.app.deps, alpine: alpine() };
    return Promise.all(
      Array.from({ length: 50 }, async () => (await useCode(plane, user, code, origin)) === null),
    );
  }

  test("of fifty uses of one code one succeeds", async () => {
    const one = await holder();
    const all = await outcomes(one, one.code());
    expect(all.filter(Boolean).length).toBe(1);
    const next = await outcomes(one, one.code(1));
    expect(next.filter(Boolean).length).toBe(1);
    expect((await outcomes(one, one.code())).filter(Boolean).length).toBe(0);
  });

  test("of fifty uses of one recovery code one succeeds", async () => {
    const one = await holder();
    const all = await outcomes(one, one.codes[3] ?? "");
    expect(all.filter(Boolean).length).toBe(1);
    expect((await events(one.id)).filter((event) => event === "recovery_code_used").length).toBe(1);
  });

  test("of logins with one code one opens a session", async () => {
    const one = await holder();
    const code = one.code();
    const answers = await race(10, () => login(one, code));
    expect(answers[200]).toBe(1);
  });
});

describe("recovery codes", () => {
  test("each counts once, however it is copied down", async () => {
    const one = await holder();
    const [first = "", second = "", third = ""] = one.codes;
    expect(await loginStatus(one, first)).toBe(200);
    expect(await loginStatus(one, first)).toBe(401);
    expect(await loginStatus(one, second.toUpperCase().replaceAll("-", " "))).toBe(200);
    const mistaken = third.replaceAll("-", "").replaceAll("0", "O").replaceAll("1", "l");
    expect(await loginStatus(one, mistaken)).toBe(200);
    expect(await events(one.id)).toContain("recovery_code_used");
  });

  test("new ones take the place of the old, and need both factors", async () => {
    const one = await holder();
    const ask = (body: unknown) => post("/totp/recovery-codes", body, one.access);
    const wrong = await ask({ password: PASSWORD, totp: wrongCode(one.code()) });
    expect([wrong.status, ...(await fieldsOf(wrong))]).toEqual([422, "totp"]);
    const unsaid = await ask({ password: "wrong", totp: one.code() });
    expect([unsaid.status, ...(await fieldsOf(unsaid))]).toEqual([422, "password"]);
    const answer = await ask({ password: PASSWORD, totp: one.code() });
    const { recovery_codes: codes } = (await answer.json()) as { recovery_codes: string[] };
    expect(new Set([...codes, ...one.codes]).size).toBe(20);
    expect(await loginStatus(one, one.codes[0])).toBe(401);
    expect(await loginStatus(one, codes[0])).toBe(200);
    const rows = await at.db().select().from(recoveryCodes).where(eq(recoveryCodes.userId, one.id));
    expect(rows.length).toBe(10);
    expect(await events(one.id)).toContain("recovery_codes_renewed");
  });

  test("renewed at once by two, one set is left", async () => {
    const one = await holder();
    const body = (totp: string | undefined) => ({ password: PASSWORD, totp });
    const answers = await Promise.all(
      one.codes.slice(0, 4).map((code) => post("/totp/recovery-codes", body(code), one.access)),
    );
    expect(answers.filter((answer) => answer.status === 200).length).toBeGreaterThan(0);
    const rows = await at.db().select().from(recoveryCodes).where(eq(recoveryCodes.userId, one.id));
    expect(rows.length).toBe(10);
  });
});

describe("turning it off", () => {
  test("needs both factors; then a password is enough, and recovery codes are gone", async () => {
    const one = await holder();
    const off = (body: unknown) => post("/totp/disable", body, one.access);
    expect((await off({ password: "wrong", totp: one.code() })).status).toBe(422);
    const wrong = await off({ password: PASSWORD, totp: wrongCode(one.code()) });
    expect(await fieldsOf(wrong)).toEqual(["totp"]);
    expect((await off({ password: PASSWORD, totp: one.code() })).status).toBe(204);
    expect(await loginStatus(one)).toBe(200);
    expect((await off({ password: PASSWORD, totp: one.code() })).status).toBe(409);
    const renewed = await post(
      "/totp/recovery-codes",
      { password: PASSWORD, totp: one.code() },
      one.access,
    );
    expect(renewed.status).toBe(409);
    expect(
      await at.db().select().from(recoveryCodes).where(eq(recoveryCodes.userId, one.id)),
    ).toEqual([]);
    expect(await at.must(200, "GET", "/api/auth/me", undefined, one.access)).toMatchObject({
      totp_enabled: false,
    });
    expect(await events(one.id)).toContain("totp_disabled");
    // And on again, with another secret.
    const { secret } = await setUp(one.access);
    expect(secret).not.toBe(one.secret);
    expect(await status("/totp/enable", { code: codeOf(secret) }, one.access)).toBe(200);
  });

  test("a recovery code will do, for whoever lost the phone", async () => {
    const one = await holder();
    const body = { password: PASSWORD, totp: one.codes[9] };
    expect(await status("/totp/disable", body, one.access)).toBe(204);
  });
});

test.each([
  ["/totp/setup", {}, ["password"]],
  ["/totp/setup", { password: PASSWORD, secret: "mine" }, ["secret"]],
  ["/totp/enable", { code: "12345" }, ["code"]],
  ["/totp/enable", { code: 123456 }, ["code"]],
  ["/totp/enable", { code: "12345a" }, ["code"]],
  ["/totp/disable", { password: PASSWORD }, ["totp"]],
  ["/totp/disable", { totp: "123456" }, ["password"]],
  ["/totp/recovery-codes", {}, ["password", "totp"]],
])("%s refuses %p", async (path, body, fields) => {
  const { access } = (shared ??= await at.member());
  const response = await post(path, body, access);
  expect(response.status).toBe(422);
  expect((await fieldsOf(response)).toSorted()).toEqual(fields);
});
let shared: Member | undefined;

describe("at rest", () => {
  test("no secret and no code is in the database or a log", async () => {
    const one = await holder();
    await login(one, one.code());
    await login(one, one.codes[0]);
    const hidden = [one.secret, ...one.codes, ...one.codes.map((code) => code.replaceAll("-", ""))];
    const [row] = await at.db().select().from(users).where(eq(users.id, one.id));
    const sealed = Buffer.from(row?.totpSecret ?? []);
    expect(sealed.length).toBeGreaterThan(32);
    const rows = JSON.stringify([
      row,
      await at.db().select().from(recoveryCodes).where(eq(recoveryCodes.userId, one.id)),
      await at.db().select().from(auditLog),
    ]);
    const raw = Buffer.from(Secret.fromBase32(one.secret).bytes);
    expect(sealed.includes(raw) || sealed.includes(one.secret)).toBe(false);
    for (const text of [rows, lines.join("\n")]) {
      for (const secret of hidden) expect(text).not.toContain(secret);
    }
    expect(lines.length).toBeGreaterThan(5);
  });

  test("a secret that was replaced is still good; one that is gone leaves recovery codes", async () => {
    // Several on one database, which the embedded one is not for.
    await using first = await openAccounts({ backend: "postgres" });
    const one = await holder(first);
    const now = first.clock.ms;
    {
      const env = { JWT_SECRET: `${"n".repeat(40)},${JWT_SECRET}` };
      await using rotated = await openAccounts({ beside: first, env, now });
      expect(await loginStatus(one, codeOf(one.secret, first), rotated)).toBe(200);
    }
    const seen: string[] = [];
    const log = pino({ level: "trace" }, { write: (line: string) => void seen.push(line) });
    const env = { JWT_SECRET: "n".repeat(40) };
    await using bare = await openAccounts({ beside: first, env, log, now });
    const refused = await problemOf(await login(one, codeOf(one.secret, first, 1), bare));
    expect(refused).toMatchObject({ status: 503, code: "unavailable" });
    expect(seen.join("\n")).toContain("JWT_SECRET must list the secret that sealed it");
    expect(await loginStatus(one, one.codes[0], bare)).toBe(200);
  });

  test("another row's secret does not open", async () => {
    const [one, two] = [await holder(), await holder()];
    const [row] = await at.db().select().from(users).where(eq(users.id, two.id));
    await at
      .db()
      .update(users)
      .set({ totpSecret: row?.totpSecret ?? null })
      .where(eq(users.id, one.id));
    expect(await loginStatus(one, two.code())).toBe(503);
  });
});

test("the right password without the code is half a login, and locks nobody out", async () => {
  const member = await holder();
  await alpine().windows.loginAddress.forgive("127.0.0.1");
  for (let i = 0; i < 12; i += 1) {
    at.clock.ms += 2 * stepMs;
    expect([await loginStatus(member), await loginStatus(member, member.code())]).toEqual([
      401, 200,
    ]);
  }
  // Yet it is bounded, by a window of its own.
  const answers = [];
  for (let i = 0; i < 60; i += 1) answers.push(await loginStatus(member));
  expect(answers).toContain(429);
  at.clock.ms += 2 * stepMs;
  expect(await loginStatus(member, member.code())).toBe(200);
});
