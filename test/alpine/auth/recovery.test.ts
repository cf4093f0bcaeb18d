/** Addresses verified, passwords changed and reset, and the mails for it. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { and, eq, sql } from "drizzle-orm";
import pino from "pino";
import { auditLog, oneTimeTokens, users } from "../../../db/alpine/schema.ts";
import { useToken } from "../../../src/alpine/auth/one-time.ts";
import { openAccounts, PASSWORD, type Accounts } from "../../harness/accounts.ts";
import { fieldsOf, problemOf } from "../../harness/app.ts";
import { smtp, type SmtpSink } from "../../harness/smtp.ts";

const OTHER = "another horse battery staple";
const hourMs = 3_600_000;

const lines: string[] = [];
let sink: SmtpSink;
let at: Accounts;
beforeAll(async () => {
  sink = await smtp();
  const log = pino({ level: "trace" }, { write: (line: string) => void lines.push(line) });
  const env = { SMTP_URL: sink.url, PUBLIC_URL: "https://argo.example.com/", TRUST_PROXY: "1" };
  at = await openAccounts({ log, env });
});
afterAll(async () => {
  await at[Symbol.asyncDispose]();
  await sink[Symbol.asyncDispose]();
});
beforeEach(async () => {
  sink.fail(null);
  await settled();
  await alpine().windows.signupAddress.forgive("127.0.0.1");
});

function alpine() {
  if (!at.app.deps.alpine) throw new Error("there are no accounts");
  return at.app.deps.alpine;
}
const settled = () => alpine().outbox.idle();

/** The token in the newest mail for an address. */
async function tokenFor(email: string): Promise<string> {
  await settled();
  const { text } = await sink.mailFor(email);
  const [, token] = /"token":"([^"]+)"/.exec(text) ?? [];
  if (!token) throw new Error(`no token in ${text}`);
  return token;
}

let senders = 0;
/** From an address of its own, unless one is given: limits by address are for their own tests. */
function post(path: string, body: unknown, token?: string, address?: string): Promise<Response> {
  senders += 1;
  const headers = {
    "Content-Type": "application/json",
    "X-Forwarded-For": address ?? `10.0.${senders >> 8}.${senders & 255}`,
    ...(token !== undefined && { Authorization: `Bearer ${token}` }),
  };
  const url = `http://argo.test/api/auth${path}`;
  return at.app.send(new Request(url, { method: "POST", headers, body: JSON.stringify(body) }));
}
const status = async (...request: Parameters<typeof post>): Promise<number> =>
  (await post(...request)).status;
const me = (access: string) => at.call("GET", "/api/auth/me", undefined, access);
const loginStatus = (email: string, password: string) => status("/login", { email, password });
const isVerified = async (access: string): Promise<boolean> =>
  ((await (await me(access)).json()) as { is_verified: boolean }).is_verified;
const events = async (id: string): Promise<string[]> =>
  (
    await at.db().select().from(auditLog).where(eq(auditLog.subjectId, id)).orderBy(auditLog.id)
  ).map((row) => row.event);

async function resetToken(email: string): Promise<string> {
  sink.clear();
  expect(await status("/password/forgot", { email })).toBe(202);
  return tokenFor(email);
}

/** How often each status came. */
const tally = (answers: Response[]): Record<number, number> =>
  Object.fromEntries(
    [...Map.groupBy(answers, (answer) => answer.status)].map(([key, all]) => [key, all.length]),
  );

describe("verifying an address", () => {
  test("the mail of a signup holds what verifies it, once", async () => {
    const { access, email, id } = await at.member();
    expect(await isVerified(access)).toBe(false);
    const token = await tokenFor(email);
    const mail = await sink.mailFor(email);
    expect(mail).toMatchObject({ from: "argo-alpine@localhost", to: [email], html: "" });
    expect(mail.text).toContain(`https://argo.example.com/#verify-email=${token}\n`);
    expect(mail.text).toContain("POST https://argo.example.com/api/auth/verify-email\n");
    expect(await status("/verify-email", { token })).toBe(204);
    expect(await isVerified(access)).toBe(true);
    const again = await problemOf(await post("/verify-email", { token }));
    expect(again).toMatchObject({
      status: 422,
      errors: [{ field: "token", detail: "is used, expired or unknown" }],
    });
    expect(await events(id)).toEqual(["signup", "verification_sent", "login", "email_verified"]);
  });

  test("sent again, the new token counts and the old one no more", async () => {
    const { email } = await at.member();
    const old = await tokenFor(email);
    sink.clear();
    expect(await status("/verify-email/resend", { email: email.toUpperCase() })).toBe(202);
    const token = await tokenFor(email);
    expect(token).not.toBe(old);
    expect(await status("/verify-email", { token: old })).toBe(422);
    expect(await status("/verify-email", { token })).toBe(204);
    sink.clear();
    expect(await status("/verify-email/resend", { email })).toBe(202);
    await settled();
    expect(sink.mails()).toEqual([]);
  });

  test("a token is good for 24 hours", async () => {
    const [early, late] = [await at.member(), await at.member()];
    const [first, second] = [await tokenFor(early.email), await tokenFor(late.email)];
    at.clock.ms += 24 * hourMs - 1;
    expect(await status("/verify-email", { token: first })).toBe(204);
    at.clock.ms += 1;
    expect(await status("/verify-email", { token: second })).toBe(422);
  });

  test("of fifty at once one counts (A9)", async () => {
    const { email } = await at.member();
    const token = await tokenFor(email);
    const answers = await race(50, () => post("/verify-email", { token }));
    expect(answers).toEqual({ 204: 1, 422: 49 });
  });

  test("a token for one purpose is none for another", async () => {
    const { email } = await at.member();
    const token = await tokenFor(email);
    expect(await status("/password/reset", { token, new_password: OTHER })).toBe(422);
    const reset = await resetToken(email);
    expect(await status("/verify-email", { token: reset })).toBe(422);
    expect(await status("/verify-email", { token })).toBe(204);
  });
});

/** So many requests at once. */
const race = async (count: number, send: (i: number) => Promise<Response>) =>
  tally(await Promise.all(Array.from({ length: count }, (_, i) => send(i))));

describe("changing the password", () => {
  const change = (access: string, current: string, next: string) =>
    post("/password/change", { current_password: current, new_password: next }, access);

  test("this session goes on, the others end, and a token for a reset is void", async () => {
    const one = await at.member();
    const two = await at.login(one.email);
    const token = await resetToken(one.email);
    expect((await change(one.access, PASSWORD, OTHER)).status).toBe(204);
    expect((await me(one.access)).status).toBe(200);
    expect((await me(two.access)).status).toBe(401);
    expect(await status("/refresh", { refresh_token: two.refresh })).toBe(401);
    expect(await status("/refresh", { refresh_token: one.refresh })).toBe(200);
    expect(await status("/password/reset", { token, new_password: PASSWORD })).toBe(422);
    expect(await loginStatus(one.email, PASSWORD)).toBe(401);
    expect(await loginStatus(one.email, OTHER)).toBe(200);
    expect(await events(one.id)).toContain("password_changed");
  });

  test("a wrong password is 422, names the field, and ten of them are the last for a while", async () => {
    const { access, id } = await at.member();
    const refused = await problemOf(await change(access, "wrong", OTHER));
    expect(refused).toMatchObject({
      status: 422,
      errors: [{ field: "current_password", detail: "is not right" }],
    });
    let { 422: looked = 0 } = await race(20, (i) => change(access, `wrong ${i}`, OTHER));
    // What came while too many were hashed was not looked at, and may come again.
    while ((await change(access, "wrong again", OTHER)).status === 422) looked += 1;
    expect(looked).toBe(9);
    expect((await change(access, PASSWORD, OTHER)).status).toBe(429);
    expect(await events(id)).toContain("confirmation_failed");
  });

  test("of several at once one changes it, and its password is the one", async () => {
    const { access, email } = await at.member();
    const passwords = Array.from({ length: 5 }, (_, i) => `${OTHER} ${i}`);
    const answers = await Promise.all(passwords.map((next) => change(access, PASSWORD, next)));
    const winners = passwords.filter((_, i) => answers[i]?.status === 204);
    expect(winners.length).toBe(1);
    expect(await loginStatus(email, winners[0] ?? "")).toBe(200);
  });

  test("refuses what is no new password, and what is not asked for", async () => {
    const { access } = await at.member();
    for (const [body, fields] of [
      [{}, ["current_password", "new_password"]],
      [{ current_password: PASSWORD, new_password: "short" }, ["new_password"]],
      [{ current_password: PASSWORD, new_password: "x".repeat(257) }, ["new_password"]],
      [{ current_password: 7, new_password: OTHER }, ["current_password"]],
      [{ current_password: PASSWORD, new_password: OTHER, role: "admin" }, ["role"]],
    ] as const) {
      const response = await post("/password/change", body, access);
      expect(response.status).toBe(422);
      expect((await fieldsOf(response)).toSorted()).toEqual([...fields]);
    }
  });
});

test("fifty transactions at once use a token up once (A9)", async () => {
  const { email } = await at.member();
  const token = await tokenFor(email);
  const uses = Array.from({ length: 50 }, () =>
    alpine().changes.write((tx) => useToken(tx, "verify_email", token, at.clock.ms)),
  );
  const outcomes = await Promise.allSettled(uses);
  expect(outcomes.filter((each) => each.status === "fulfilled").length).toBe(1);
});

describe("resetting the password", () => {
  test("every session ends, the second factor stays, the address is verified (A9)", async () => {
    const member = await at.member();
    await at
      .db()
      .update(users)
      .set({
        isVerified: true,
        totpSecret: new Uint8Array(40),
        totpEnabledAt: new Date(at.clock.ms),
      })
      .where(eq(users.id, member.id));
    const verification = await tokenFor(member.email);
    const token = await resetToken(member.email);
    const mail = await sink.mailFor(member.email);
    expect(mail.text).toContain(`https://argo.example.com/#reset-password=${token}\n`);
    expect(await status("/password/reset", { token, new_password: OTHER })).toBe(204);
    expect((await me(member.access)).status).toBe(401);
    expect(await status("/refresh", { refresh_token: member.refresh })).toBe(401);
    expect(await loginStatus(member.email, PASSWORD)).toBe(401);
    const half = await problemOf(await post("/login", { email: member.email, password: OTHER }));
    expect(half).toMatchObject({
      status: 401,
      errors: [{ field: "totp", detail: "is needed" }],
    });
    const [row] = await at.db().select().from(users).where(eq(users.id, member.id));
    expect(row).toMatchObject({ isVerified: true, passwordChangedAt: new Date(at.clock.ms) });
    expect(await status("/verify-email", { token: verification })).toBe(422);
    expect(await events(member.id)).toContain("password_reset");
  });

  test("the later of two tokens counts, and only once", async () => {
    const { email } = await at.member();
    const first = await resetToken(email);
    const second = await resetToken(email);
    expect(await status("/password/reset", { token: first, new_password: OTHER })).toBe(422);
    expect(await status("/password/reset", { token: second, new_password: OTHER })).toBe(204);
    expect(await status("/password/reset", { token: second, new_password: PASSWORD })).toBe(422);
    expect(await loginStatus(email, OTHER)).toBe(200);
  });

  test("a token is good for an hour", async () => {
    const [early, late] = [await at.member(), await at.member()];
    const [first, second] = [await resetToken(early.email), await resetToken(late.email)];
    at.clock.ms += hourMs - 1;
    expect(await status("/password/reset", { token: first, new_password: OTHER })).toBe(204);
    at.clock.ms += 1;
    expect(await status("/password/reset", { token: second, new_password: OTHER })).toBe(422);
  });

  test("of fifty at once one counts, and its password is the one (A9)", async () => {
    const { email } = await at.member();
    const token = await resetToken(email);
    const send = (i: number) => post("/password/reset", { token, new_password: `${OTHER} ${i}` });
    const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => send(i)));
    const winners = answers.flatMap((answer, i) => (answer.status === 204 ? [i] : []));
    expect(winners.length).toBe(1);
    const others = new Set(answers.map((answer) => answer.status));
    // More than a few hashes at once are refused.
    expect([204, 422, 503].filter((each) => others.has(each)).length).toBe(others.size);
    expect(await loginStatus(email, `${OTHER} ${winners[0]}`)).toBe(200);
  });

  test("asked for many times at once, one token is left", async () => {
    const { email, id } = await at.member();
    await settled();
    sink.clear();
    const answers = await race(5, () => post("/password/forgot", { email }));
    expect(answers).toEqual({ 202: 5 });
    await settled();
    const tokens = sink.mails().map(({ text }) => /"token":"([^"]+)"/.exec(text)?.[1] ?? "");
    expect(new Set(tokens).size).toBe(5);
    const outcomes = [];
    for (const token of tokens) {
      outcomes.push(await status("/password/reset", { token, new_password: OTHER }));
    }
    expect(outcomes.toSorted()).toEqual([204, 422, 422, 422, 422]);
    const live = await at
      .db()
      .select()
      .from(oneTimeTokens)
      .where(and(eq(oneTimeTokens.userId, id), eq(oneTimeTokens.purpose, "reset_password")));
    expect(live.every((row) => row.usedAt !== null)).toBe(true);
  });

  test("a refresh at the same time neither waits for ever nor survives", async () => {
    for (let i = 0; i < 4; i += 1) {
      const { email, refresh, access } = await at.member();
      const token = await resetToken(email);
      const [reset, ...refreshed] = await Promise.all([
        post("/password/reset", { token, new_password: OTHER }),
        ...Array.from({ length: 8 }, () => post("/refresh", { refresh_token: refresh })),
      ]);
      expect(reset?.status).toBe(204);
      for (const answer of refreshed) {
        expect([200, 401]).toContain(answer.status);
        if (answer.status !== 200) continue;
        const tokens = (await answer.json()) as { access_token: string };
        expect((await me(tokens.access_token)).status).toBe(401);
      }
      expect((await me(access)).status).toBe(401);
    }
  });

  test("nobody is told who has an account: one answer, and mail for those who have one", async () => {
    const [member, gone] = [await at.member(), await at.member()];
    await at.db().update(users).set({ isActive: false }).where(eq(users.id, gone.id));
    await settled();
    sink.clear();
    for (const path of ["/password/forgot", "/verify-email/resend"]) {
      const answers = [];
      for (const email of [member.email, gone.email, "unknown@example.com"]) {
        const response = await post(path, { email });
        const headers = [...response.headers.keys()].toSorted();
        answers.push(JSON.stringify([response.status, headers, await response.text()]));
      }
      expect(new Set(answers).size).toBe(1);
      expect(answers[0]).toContain("202");
    }
    await settled();
    expect(sink.mails().map((mail) => mail.to)).toEqual([[member.email], [member.email]]);
  });

  test("nothing is looked up before the answer: it comes while nobody can be", async () => {
    const { email } = await at.member();
    await settled();
    const [locked, release] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const locking = at.db().transaction(async (tx) => {
      await tx.execute(sql`LOCK TABLE users, one_time_tokens, audit_log`);
      locked.resolve();
      await release.promise;
    });
    await locked.promise;
    for (const path of ["/password/forgot", "/verify-email/resend"]) {
      for (const known of [email, "nobody@example.com"]) {
        expect(await status(path, { email: known })).toBe(202);
      }
    }
    release.resolve();
    await locking;
    await settled();
    expect((await sink.mailFor(email)).text).toContain("token");
  });

  test("a mailbox gets five mails an hour of a kind, whoever asks for them", async () => {
    const spellings = ["quiet@example.com", "Quiet@Example.com"];
    // Of one kind after the other: resets that somebody else asks for keep nobody from verifying.
    for (const path of ["/password/forgot", "/verify-email/resend"]) {
      const asked = [];
      for (let i = 0; i < 6; i += 1) asked.push(await status(path, { email: spellings[i % 2] }));
      expect(asked).toEqual([202, 202, 202, 202, 202, 429]);
    }
  });

  test("an address asks for thirty mails an hour", async () => {
    const email = (i: number) => ({ email: `a${i}@example.com` });
    const from = "192.0.2.7";
    const answers = await race(35, (i) => post("/password/forgot", email(i), undefined, from));
    expect(answers).toEqual({ 202: 30, 429: 5 });
    expect(await status("/verify-email/resend", email(99), undefined, from)).toBe(429);
  });

  test("an address tries thirty tokens in a quarter of an hour", async () => {
    const from = "192.0.2.8";
    const token = "nobody knows it";
    const answers = await race(31, () => post("/verify-email", { token }, undefined, from));
    expect(answers).toEqual({ 422: 30, 429: 1 });
    const body = { token, new_password: OTHER };
    expect(await status("/password/reset", body, undefined, from)).toBe(429);
  });

  test.each([
    ["/password/forgot", {}, ["email"]],
    ["/password/forgot", { email: "nobody" }, ["email"]],
    ["/password/forgot", { email: "a@example.com\r\nBcc: eve@example.com" }, ["email"]],
    ["/password/forgot", { email: ["a@example.com"] }, ["email"]],
    ["/verify-email/resend", { email: "a@example.com", role: "admin" }, ["role"]],
    ["/verify-email", {}, ["token"]],
    ["/verify-email", { token: "" }, ["token"]],
    ["/verify-email", { token: "x".repeat(129) }, ["token"]],
    ["/verify-email", { token: "nobody knows it" }, ["token"]],
    ["/password/reset", { token: "nobody knows it", new_password: OTHER }, ["token"]],
    ["/password/reset", { token: "x", new_password: "short" }, ["new_password"]],
    ["/password/reset", {}, ["new_password", "token"]],
  ])("%s refuses %p", async (path, body, fields) => {
    const response = await post(path, body);
    expect(response.status).toBe(422);
    expect((await fieldsOf(response)).toSorted()).toEqual(fields);
  });
});

describe("a mail server that fails", () => {
  test.each([550, "hangup"] as const)("(%p) changes no answer", async (fault) => {
    sink.fail(fault);
    const { email } = await at.member();
    await settled();
    expect(await status("/password/forgot", { email })).toBe(202);
    await settled();
    sink.fail(null);
    const token = await resetToken(email);
    expect(await status("/password/reset", { token, new_password: OTHER })).toBe(204);
  });
});

test("where addresses must be verified, a signup tells nothing, and mails say the rest", async () => {
  await using strict = await openAccounts({
    env: { SMTP_URL: sink.url, REQUIRE_VERIFIED_EMAIL: "true" },
  });
  const outbox = strict.app.deps.alpine?.outbox;
  const email = "strict@example.com";
  const signup = async (given: string) => {
    const body = { email: given, password: PASSWORD, full_name: "Strict" };
    const response = await strict.call("POST", "/api/auth/signup", body);
    await outbox?.idle();
    return [response.status, await response.text()];
  };
  sink.clear();
  const first = await signup(email);
  expect(first[0]).toBe(202);
  const login = () => strict.call("POST", "/api/auth/login", { email, password: PASSWORD });
  expect((await login()).status).toBe(401);
  const [mail] = sink.mails();
  expect(mail?.text).toContain("http://127.0.0.1:3000/#verify-email=");
  const [, token] = /"token":"([^"]+)"/.exec(mail?.text ?? "") ?? [];
  await strict.must(204, "POST", "/api/auth/verify-email", { token });
  expect((await login()).status).toBe(200);
  sink.clear();
  expect(await signup("STRICT@example.com")).toEqual(first);
  expect(sink.mails()).toMatchObject([{ to: [email], subject: "You have an account already" }]);
  expect(sink.mails()[0]?.text).not.toContain("token");
});

test("no token, password or address is in a log, an error or the database", async () => {
  const canary = `CANARY${crypto.randomUUID()}`;
  const { email, access } = await at.member({ email: `${canary}@example.com` });
  sink.fail(550);
  expect(await status("/verify-email/resend", { email })).toBe(202);
  await settled();
  sink.fail(null);
  const token = await resetToken(email);
  const bodies = [];
  for (const [path, body] of [
    ["/password/change", { current_password: `${canary} wrong`, new_password: OTHER }],
    ["/password/reset", { token: `${canary} wrong`, new_password: OTHER }],
    ["/password/reset", { token, new_password: `${canary} new` }],
    ["/verify-email", { token: `${canary} wrong` }],
    ["/verify-email", { token, [`x`]: canary }],
  ] as const) {
    bodies.push(await (await post(path, body, access)).text());
  }
  const rows = JSON.stringify([
    await at.db().select().from(oneTimeTokens),
    await at.db().select().from(auditLog),
  ]);
  expect(lines.length).toBeGreaterThan(50);
  for (const text of [lines.join("\n"), bodies.join("\n"), rows]) {
    expect(text).not.toContain(canary);
    expect(text).not.toContain(token);
  }
});
