/** Whoever owns a mailbox owns the account, whoever signed up with its address first. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { eq, sql } from "drizzle-orm";
import { apiKeys, users } from "../../../db/alpine/schema.ts";
import { lockUser } from "../../../src/alpine/users/store.ts";
import { BACKEND, openAccounts, PASSWORD, type Accounts } from "../../harness/accounts.ts";
import { smtp, type SmtpSink } from "../../harness/smtp.ts";
import { alpineOf, person, until } from "../people.ts";

const THEIRS = "the password of somebody else";
const env = (sink: SmtpSink) => ({ REQUIRE_VERIFIED_EMAIL: "true", SMTP_URL: sink.url });

let sink: SmtpSink;
let at: Accounts;
beforeAll(async () => {
  sink = await smtp();
  at = await openAccounts({ env: env(sink) });
});
afterAll(async () => {
  await at[Symbol.asyncDispose]();
  await sink[Symbol.asyncDispose]();
});
beforeEach(async () => {
  await alpineOf(at).outbox.idle();
  await alpineOf(at).windows.signupAddress.forgive("127.0.0.1");
  await alpineOf(at).windows.loginAddress.forgive("127.0.0.1");
  await alpineOf(at).windows.tokenAddress.forgive("127.0.0.1");
  sink.clear();
});

const tokenIn = (text: string): string => /"token":"([^"]+)"/.exec(text)?.[1] ?? "";

/** Sends what makes a mail. @returns the token in it. */
async function mailed(email: string, path: string, body: object): Promise<string> {
  sink.clear();
  await at.must(202, "POST", `/api/auth${path}`, body);
  await alpineOf(at).outbox.idle();
  const mail = sink.mails().find(({ to }) => to[0] === email);
  return tokenIn(mail?.text ?? "");
}
const signUp = (email: string, password: string, fullName: string): Promise<string> =>
  mailed(email, "/signup", { email, password, full_name: fullName });
const login = async (email: string, password: string): Promise<number> =>
  (await at.call("POST", "/api/auth/login", { email, password })).status;
const verify = async (token: string): Promise<number> =>
  (await at.call("POST", "/api/auth/verify-email", { token })).status;
const poll = async (key: string): Promise<number> =>
  (await at.app.get("/api/signals/latest", { Authorization: `Bearer ${key}` })).status;
const rowOf = async (email: string) =>
  (await at.db().select().from(users).where(eq(users.email, email)))[0];

describe("signed up for twice, an account is made by the mail that is answered", () => {
  test.each(["the later", "the earlier"])("%s", async (which) => {
    const email = `${which.replace(" ", "-")}@example.com`;
    const [mine, theirs] =
      which === "the later"
        ? [
            await signUp(email, THEIRS, "Mallory"),
            await signUp(email, PASSWORD, "Owner"),
          ].toReversed()
        : [await signUp(email, PASSWORD, "Owner"), await signUp(email, THEIRS, "Mallory")];
    expect(mine).not.toBe(theirs);
    expect([await login(email, PASSWORD), await login(email, THEIRS)]).toEqual([401, 401]);
    expect(await verify(mine ?? "")).toBe(204);
    expect([await login(email, PASSWORD), await login(email, THEIRS)]).toEqual([200, 401]);
    expect(await rowOf(email)).toMatchObject({ fullName: "Owner", isVerified: true });
    // What is left of the other signup is void.
    expect(await verify(theirs ?? "")).toBe(422);
    expect(await login(email, THEIRS)).toBe(401);
  });

  test("and a mail that is sent again stands for the one signup there is", async () => {
    const email = "again@example.com";
    const lost = await signUp(email, PASSWORD, "Owner");
    const again = await mailed(email, "/verify-email/resend", { email });
    const newest = await mailed(email, "/verify-email/resend", { email });
    expect([await verify(lost), await verify(again)]).toEqual([422, 422]);
    expect(await verify(newest)).toBe(204);
    expect(await login(email, PASSWORD)).toBe(200);
  });

  test.each(["before", "after", "a day before"])(
    "or, when a stranger signed up %s, for a password that is chosen then",
    async (when) => {
      const email = `strangers-${when.replaceAll(" ", "-")}@example.com`;
      const signups = [
        () => signUp(email, THEIRS, "Mallory"),
        () => signUp(email, PASSWORD, "Owner"),
      ];
      const tokens: string[] = [];
      for (const ask of when === "after" ? signups.toReversed() : signups) {
        tokens.push(await ask());
        at.clock.ms += 1_000;
      }
      // By then nothing waits any more, and the password of the account is the stranger's.
      if (when === "a day before") at.clock.ms += 25 * 3_600_000;
      const again = await mailed(email, "/verify-email/resend", { email });
      expect(await verify(again)).toBe(422);
      expect([await login(email, PASSWORD), await login(email, THEIRS)]).toEqual([401, 401]);
      const body = { token: again, new_password: "chosen by the owner" };
      await at.must(204, "POST", "/api/auth/password/reset", body);
      expect([await login(email, "chosen by the owner"), await login(email, THEIRS)]).toEqual([
        200, 401,
      ]);
      for (const token of tokens) expect(await verify(token)).toBe(422);
    },
  );
});

describe("what was made before ends when the owner is known", () => {
  /** Somebody with a session, a key and a second factor, for an address that is not theirs. */
  async function squatter() {
    const member = await person(at, { fullName: "Mallory" });
    const key = await at.key(member);
    await at
      .db()
      .update(users)
      .set({ totpSecret: new Uint8Array(40), totpEnabledAt: new Date(at.clock.ms) })
      .where(eq(users.id, member.id));
    expect(await poll(key)).toBe(200);
    return { ...member, key };
  }

  async function mustBeOut(mallory: Awaited<ReturnType<typeof squatter>>): Promise<void> {
    const me = await at.call("GET", "/api/auth/me", undefined, mallory.access);
    const refresh = { refresh_token: mallory.refresh };
    const refreshed = await at.call("POST", "/api/auth/refresh", refresh);
    expect([me.status, refreshed.status, await poll(mallory.key)]).toEqual([401, 401, 401]);
    expect(await rowOf(mallory.email)).toMatchObject({ totpSecret: null, totpEnabledAt: null });
  }

  test("by a signup", async () => {
    const mallory = await squatter();
    const token = await signUp(mallory.email, "an owner's password", "Owner");
    // Nothing ends because somebody asks: the owner may be the first of the two.
    expect(await poll(mallory.key)).toBe(200);
    expect(await verify(token)).toBe(204);
    await mustBeOut(mallory);
    expect(await login(mallory.email, "an owner's password")).toBe(200);
  });

  test("by a reset", async () => {
    const mallory = await squatter();
    const token = await mailed(mallory.email, "/password/forgot", { email: mallory.email });
    const body = { token, new_password: "an owner's password" };
    await at.must(204, "POST", "/api/auth/password/reset", body);
    await mustBeOut(mallory);
    expect(await login(mallory.email, "an owner's password")).toBe(200);
  });

  test("a reset of an account whose owner was known leaves keys and the second factor", async () => {
    const owner = await squatter();
    await at.db().update(users).set({ isVerified: true }).where(eq(users.id, owner.id));
    const token = await mailed(owner.email, "/password/forgot", { email: owner.email });
    const body = { token, new_password: "an owner's password" };
    await at.must(204, "POST", "/api/auth/password/reset", body);
    expect(await poll(owner.key)).toBe(200);
    expect((await rowOf(owner.email))?.totpEnabledAt).not.toBeNull();
  });
});

describe("another address", () => {
  const ask = (access: string, email: string, more = {}) =>
    at.call("PUT", "/api/users/profile", { email, password: PASSWORD, ...more }, access);

  test("is answered alike whether somebody has it, and theirs once they have said so", async () => {
    const [member, other] = [
      await person(at, { isVerified: true }),
      await person(at, { isVerified: true }),
    ];
    const answers = [];
    for (const email of [other.email, "free@example.com"]) {
      const response = await ask(member.access, email);
      answers.push([response.status, await response.text()]);
      await alpineOf(at).outbox.idle();
    }
    expect(answers[0]).toEqual(answers[1] ?? []);
    expect(JSON.parse(String(answers[1]?.[1]))).toMatchObject({
      email: member.email,
      is_verified: true,
    });
    const [told, asked] = sink.mails();
    expect(told).toMatchObject({ to: [other.email], subject: "You have an account already" });
    expect(asked?.to).toEqual(["free@example.com"]);
    // Until then the old address is the one, and a mail that is asked for again goes nowhere else.
    expect(await login(member.email, PASSWORD)).toBe(200);
    expect(await login("free@example.com", PASSWORD)).toBe(401);
    const reset = await mailed(member.email, "/password/forgot", { email: member.email });
    expect(await verify(tokenIn(asked?.text ?? ""))).toBe(204);
    expect(await login("free@example.com", PASSWORD)).toBe(200);
    expect(await login(member.email, PASSWORD)).toBe(401);
    const body = { token: reset, new_password: THEIRS };
    await at.must(422, "POST", "/api/auth/password/reset", body);
  });

  test("leaves no trace of whether somebody has it, in what is exported or what becomes void", async () => {
    const other = await person(at, { isVerified: true });
    const traces = [];
    for (const email of [other.email, "traceless@example.com"]) {
      const { access } = await person(at, { isVerified: true });
      const mine = `mine-of-${email}`;
      for (const asked of [mine, email]) {
        await ask(access, asked);
        await alpineOf(at).outbox.idle();
      }
      const { audit } = await at.must<{ audit: { event: string }[] }>(
        200,
        "GET",
        "/api/users/export",
        undefined,
        access,
      );
      const before = await verify(tokenIn((await sink.mailFor(mine)).text));
      traces.push([before, ...audit.map(({ event }) => event)]);
    }
    expect(traces[0]?.[0]).toBe(422);
    expect(traces[0]).toEqual(traces[1]);
  });

  test("is not verified through the old one", async () => {
    const member = await person(at);
    await ask(member.access, "not-mine@example.com");
    await alpineOf(at).outbox.idle();
    const token = await mailed(member.email, "/verify-email/resend", { email: member.email });
    const body = { token, new_password: "an owner's password" };
    await at.must(204, "POST", "/api/auth/password/reset", body);
    expect(await rowOf(member.email)).toMatchObject({ isVerified: true });
    expect(await rowOf("not-mine@example.com")).toBeUndefined();
  });

  test.each(["a password that was changed since", "somebody who was shut out since"])(
    "is nobody's by a mail of before: %s",
    async (since) => {
      const member = await person(at, { isVerified: true });
      const email = `thief-${since.length}@example.com`;
      await ask(member.access, email);
      await alpineOf(at).outbox.idle();
      const token = tokenIn((await sink.mailFor(email)).text);
      if (since.startsWith("a password")) {
        const change = { current_password: PASSWORD, new_password: "only the owner's" };
        await at.must(204, "POST", "/api/auth/password/change", change, member.access);
      } else {
        const { access } = await person(at, { role: "admin", isVerified: true });
        for (const isActive of [false, true]) {
          const path = `/api/admin/users/${member.id}`;
          await at.must(200, "PATCH", path, { is_active: isActive }, access);
        }
      }
      expect(await verify(token)).toBe(422);
      expect(await rowOf(member.email)).toMatchObject({ isVerified: true });
    },
  );

  test("that somebody took meanwhile is a conflict, which its owner may know", async () => {
    const member = await person(at, { isVerified: true });
    await ask(member.access, "contested@example.com");
    await alpineOf(at).outbox.idle();
    const token = tokenIn((await sink.mailFor("contested@example.com")).text);
    await person(at, { email: "Contested@example.com" });
    expect(await verify(token)).toBe(409);
    expect(await login(member.email, PASSWORD)).toBe(200);
  });
});

test("a signup whose mail will not be sent is told so, whoever has the address", async () => {
  const { email: known } = await person(at, { isVerified: true });
  for (const email of [known, "crowded@example.com"]) {
    const statuses = [];
    for (let i = 0; i < 6; i += 1) {
      const body = { email, password: THEIRS, full_name: "Mallory" };
      statuses.push((await at.call("POST", "/api/auth/signup", body)).status);
    }
    expect(statuses).toEqual([202, 202, 202, 202, 202, 429]);
  }
});

test("resets that others ask for leave the mails of a signup alone", async () => {
  const email = "flooded@example.com";
  const statuses = [];
  for (let i = 0; i < 6; i += 1) {
    statuses.push((await at.call("POST", "/api/auth/password/forgot", { email })).status);
  }
  expect(statuses).toEqual([202, 202, 202, 202, 202, 429]);
  expect(await signUp(email, PASSWORD, "Owner")).not.toBe("");
});

// Embedded there is one connection, so that nothing waits for a row.
test.if(BACKEND !== "embedded")(
  "what waited while its session was ended is not done: no key outlives a reset",
  async () => {
    const mallory = await person(at);
    const token = await mailed(mallory.email, "/password/forgot", { email: mallory.email });
    const held = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const lock = at.db().transaction(async (tx) => {
      await lockUser(tx, mallory.id);
      held.resolve();
      await go.promise;
    });
    await held.promise;
    const waiting = (count: number) =>
      until(async () => {
        const { rows } = await at.db().execute(sql`SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'
              AND query LIKE '%password_hash%'`);
        return rows.length >= count;
      });
    const body = { token, new_password: "an owner's password" };
    const reset = at.call("POST", "/api/auth/password/reset", body);
    await waiting(1);
    const asked = [
      at.call("POST", "/api/keys", { name: "left", scopes: ["signals:read"] }, mallory.access),
      at.call("PUT", "/api/users/profile", { full_name: "Left" }, mallory.access),
    ];
    await waiting(3);
    go.resolve();
    await lock;
    expect((await reset).status).toBe(204);
    const statuses = (await Promise.all(asked)).map(({ status }) => status);
    expect(statuses).toEqual([401, 401]);
    const keys = await at.db().select().from(apiKeys).where(eq(apiKeys.userId, mallory.id));
    expect(keys).toEqual([]);
  },
);
