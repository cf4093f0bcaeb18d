/** Every event is written by a route, with who did it, whom it concerns, from where, by what (H11). */
import { expect, test } from "bun:test";
import { asc } from "drizzle-orm";
import { Secret, TOTP } from "otpauth";
import { auditLog } from "../../db/alpine/schema.ts";
import { offerSetup } from "../../src/alpine/admin/setup.ts";
import { type AuditEvent, auditEvents } from "../../src/alpine/audit.ts";
import { openAccounts, PASSWORD, type Member } from "../harness/accounts.ts";
import { smtp } from "../harness/smtp.ts";
import { alpineOf, person } from "./people.ts";
import { receiver } from "./webhooks/receiver.ts";

type Tokens = { access_token: string; refresh_token: string };
type Who = Pick<Member, "id"> | null;

test("each event is driven through its route, and written with all that it must have", async () => {
  await using sink = await smtp();
  const env = { SMTP_URL: sink.url, TRUST_PROXY: "1", WEBHOOKS_ALLOW_PRIVATE: "true" };
  await using at = await openAccounts({ env });
  const alpine = alpineOf(at);
  const expected = new Map<AuditEvent, { actor: Who; subject: Who; address: string }>();
  let sent = 0;

  /** Sends a request that is to write this event; the answer has this status. */
  async function drive<T = unknown>(
    event: AuditEvent | null,
    [actor, subject]: [actor: Who, subject: Who],
    status: number,
    [method, path, body, token]: [string, string, unknown?, (string | null)?],
  ): Promise<T> {
    sent += 1;
    const address = `192.0.2.${sent}`;
    const headers = new Headers({
      "X-Forwarded-For": address,
      "X-Request-Id": event === null ? `other-${sent}-request` : `the-request-of-${event}`,
    });
    if (token) headers.set("Authorization", `Bearer ${token}`);
    if (body !== undefined) headers.set("Content-Type", "application/json");
    const init = { method, headers, body: body === undefined ? null : JSON.stringify(body) };
    const response = await at.app.send(new Request(`http://argo.test${path}`, init));
    const text = await response.text();
    expect(`${method} ${path} ${response.status}: ${text}`).toStartWith(
      `${method} ${path} ${status}: `,
    );
    // What is written after the answer is written by then.
    await alpine.outbox.idle();
    if (event !== null) expected.set(event, { actor, subject, address });
    return (text === "" ? null : JSON.parse(text)) as T;
  }
  const mailed = async (email: string): Promise<string> =>
    /"token":"([^"]+)"/.exec((await sink.mailFor(email)).text)?.[1] ?? "";
  const login = (email: string, more = {}): [string, string, unknown] => [
    "POST",
    "/api/auth/login",
    { email, password: PASSWORD, ...more },
  ];

  // The first administrator.
  const token = await offerSetup({ alpine, now: () => at.clock.ms });
  const named = { email: "admin@example.com", password: PASSWORD, full_name: "An Admin" };
  const made = { id: "" };
  const admin = await drive<{ id: string }>("admin_created", [made, made], 201, [
    "POST",
    "/api/auth/setup",
    { ...named, token },
  ]);
  made.id = admin.id;
  const { access_token: adminAccess } = await drive<Tokens>(
    null,
    [null, null],
    200,
    login(named.email),
  );

  // An account begins, and somebody tries to have it.
  const one = { id: "" };
  const email = "one@example.com";
  const signup: [string, string, unknown] = [
    "POST",
    "/api/auth/signup",
    { email, password: PASSWORD, full_name: "One" },
  ];
  one.id = (await drive<{ id: string }>("signup", [one, one], 201, signup)).id;
  await drive("signup_refused", [null, null], 409, signup);
  sink.clear();
  await drive("verification_sent", [null, one], 202, [
    "POST",
    "/api/auth/verify-email/resend",
    { email },
  ]);
  const verification = { token: await mailed(email) };
  await drive("email_verified", [one, one], 204, ["POST", "/api/auth/verify-email", verification]);
  await drive("login_failed", [null, one], 401, login(email, { password: "a guess" }));
  let session = await drive<Tokens>("login", [one, one], 200, login(email));
  const { refresh_token: stolen } = session;
  const refresh = (event: AuditEvent, actor: Who, status: number): Promise<Tokens> =>
    drive(event, [actor, one], status, ["POST", "/api/auth/refresh", { refresh_token: stolen }]);
  at.clock.ms += 60_000;
  await refresh("refreshed", one, 200);
  at.clock.ms += 60_000;
  await refresh("refresh_reused", null, 401);
  const again = async (more = {}): Promise<string> => {
    session = await drive<Tokens>(null, [null, null], 200, login(email, more));
    return session.access_token;
  };
  await drive("logout", [one, one], 204, ["POST", "/api/auth/logout", undefined, await again()]);
  await drive("logout_all", [one, one], 204, [
    "POST",
    "/api/auth/logout-all",
    undefined,
    await again(),
  ]);

  // Keys, the profile, the second factor.
  let access = await again();
  // At most one a minute of a session is written.
  for (let i = 0; i < 3; i += 1) {
    const body = { refresh_token: session.refresh_token };
    session = await drive<Tokens>(null, [null, null], 200, ["POST", "/api/auth/refresh", body]);
  }
  type Key = { id: string };
  const { id: keyId } = await drive<Key>("key_created", [one, one], 201, [
    "POST",
    "/api/keys",
    { name: "a bot", scopes: ["signals:read"] },
    access,
  ]);
  await drive("key_rotated", [one, one], 201, ["POST", `/api/keys/${keyId}/rotate`, {}, access]);
  await drive("key_revoked", [one, one], 204, ["DELETE", `/api/keys/${keyId}`, undefined, access]);
  const renamed = { full_name: "Another Name" };
  await drive("profile_changed", [one, one], 200, ["PUT", "/api/users/profile", renamed, access]);
  await drive("data_exported", [one, one], 200, ["GET", "/api/users/export", undefined, access]);
  await drive("confirmation_failed", [one, one], 422, [
    "POST",
    "/api/auth/totp/setup",
    { password: "a guess" },
    access,
  ]);
  const { secret } = await drive<{ secret: string }>("totp_begun", [one, one], 200, [
    "POST",
    "/api/auth/totp/setup",
    { password: PASSWORD },
    access,
  ]);
  const code = (): string => {
    at.clock.ms += 30_000;
    return new TOTP({ secret: Secret.fromBase32(secret) }).generate({ timestamp: at.clock.ms });
  };
  const enabled = await drive<{ recovery_codes: string[] }>("totp_enabled", [one, one], 200, [
    "POST",
    "/api/auth/totp/enable",
    { code: code() },
    access,
  ]);
  const [recoveryCode] = enabled.recovery_codes;
  await drive("recovery_code_used", [one, one], 200, login(email, { totp: recoveryCode }));
  const both = () => ({ password: PASSWORD, totp: code() });
  await drive("recovery_codes_renewed", [one, one], 200, [
    "POST",
    "/api/auth/totp/recovery-codes",
    both(),
    access,
  ]);
  const off = ["POST", "/api/auth/totp/disable", both(), access] as [
    string,
    string,
    unknown,
    string,
  ];
  await drive("totp_disabled", [one, one], 204, off);

  // Sessions and passwords.
  access = await again();
  const { sessions } = await drive<{ sessions: { id: string; current: boolean }[] }>(
    null,
    [null, null],
    200,
    ["GET", "/api/users/sessions", undefined, access],
  );
  const other = sessions.find(({ current }) => !current)?.id;
  await drive("session_revoked", [one, one], 204, [
    "DELETE",
    `/api/users/sessions/${other}`,
    undefined,
    access,
  ]);
  const change = { current_password: PASSWORD, new_password: PASSWORD };
  await drive("password_changed", [one, one], 204, [
    "POST",
    "/api/auth/password/change",
    change,
    access,
  ]);
  sink.clear();
  await drive("password_reset_requested", [null, one], 202, [
    "POST",
    "/api/auth/password/forgot",
    { email },
  ]);
  const reset = { token: await mailed(email), new_password: PASSWORD };
  await drive("password_reset", [one, one], 204, ["POST", "/api/auth/password/reset", reset]);

  // What administrators do, and nobody else.
  const listUsers = ["GET", "/api/admin/users", undefined, await again()] as [
    string,
    string,
    unknown,
    string,
  ];
  await drive("admin_refused", [one, one], 403, listUsers);
  for (let i = 0; i < 3; i += 1) await drive(null, [null, null], 403, listUsers);
  const fresh = await drive<Tokens>(null, [null, null], 200, login(named.email));
  await moneyGoesAround();
  const patch = (event: AuditEvent, given: unknown) =>
    drive(event, [admin, one], 200, [
      "PATCH",
      `/api/admin/users/${one.id}`,
      given,
      fresh.access_token,
    ]);
  await patch("tier_granted", { tier: "pro" });
  await patch("tier_changed", { tier: null });
  await patch("role_changed", { role: "admin" });
  await patch("activation_changed", { is_active: false });
  expect(adminAccess).not.toBe(fresh.access_token);

  async function moneyGoesAround(): Promise<void> {
    type Started = { open_invoice: { id: string; amount_minor: number; currency: string } };
    const post = <T = unknown>(
      event: AuditEvent,
      who: [actor: Who, subject: Who],
      status: number,
      path: string,
      body: unknown,
      by: string,
    ) => drive<T>(event, who, status, ["POST", path, body, by]);
    const mine: [Who, Who] = [one, one];
    const theirs: [Who, Who] = [admin, one];
    const boss = fresh.access_token;
    await drive("plan_changed", [admin, admin], 200, [
      "PATCH",
      "/api/admin/plans/pro",
      { price_minor: 15_000 },
      boss,
    ]);
    let own = await again();
    const wanted = { tier: "pro" };
    const started = await post<Started>(
      "subscription_started",
      mine,
      201,
      "/api/subscriptions",
      wanted,
      own,
    );
    const { id: invoice_id, amount_minor, currency } = started.open_invoice;
    const failed = { invoice_id, reference: "card 1" };
    await post("payment_failed", theirs, 201, "/api/admin/payments/failure", failed, boss);
    const paid = { invoice_id, amount_minor, currency, reference: "bank 1" };
    const payment = await post<{ id: string }>(
      "payment_recorded",
      theirs,
      201,
      "/api/admin/payments",
      paid,
      boss,
    );
    own = await again();
    const [cheaper, change] = [{ tier: "starter" }, "/api/subscriptions/change"];
    await post("subscription_changed", mine, 200, change, cheaper, own);
    await post("subscription_cancelled", mine, 200, "/api/subscriptions/cancel", undefined, own);
    await post("subscription_resumed", mine, 200, "/api/subscriptions/resume", undefined, own);
    const refund = `/api/admin/payments/${payment.id}/refund`;
    const part = { amount_minor: 1, reference: "back 1" };
    await post("payment_refunded", theirs, 201, refund, part, boss);
    const rest = { amount_minor: amount_minor - 1, reference: "back 2", end: true };
    await post("subscription_ended", theirs, 201, refund, rest, boss);
  }

  // Webhooks: made, changed, given another secret, gone, deleted.
  {
    const owner = await person(at, { tier: "elite" });
    await using bot = receiver();
    bot.answer = () => new Response("no", { status: 410 });
    const hook = (
      event: AuditEvent,
      status: number,
      method: string,
      path: string,
      body?: unknown,
    ) =>
      drive<{ id: string }>(event, [owner, owner], status, [
        method,
        `/api/webhooks${path}`,
        body,
        owner.access,
      ]);
    const { id } = await hook("webhook_created", 201, "POST", "", { url: bot.url });
    await hook("webhook_changed", 200, "PATCH", `/${id}`, { description: "a bot" });
    await hook("webhook_secret_rotated", 201, "POST", `/${id}/secret`);
    await hook("webhook_stopped", 200, "POST", `/${id}/test`);
    await hook("webhook_deleted", 204, "DELETE", `/${id}`);
  }

  // Limits, and the end.
  const leaver = await person(at);
  const guess = (event: AuditEvent | null, status: number) =>
    drive(event, [null, leaver], status, [
      "DELETE",
      "/api/users/account",
      { password: "a guess" },
      leaver.access,
    ]);
  for (let i = 0; i < 10; i += 1) await guess(null, 422);
  await guess("limit_exceeded", 429);
  const gone = await person(at);
  await drive("account_deleted", [gone, gone], 204, [
    "DELETE",
    "/api/users/account",
    { password: PASSWORD },
    gone.access,
  ]);

  const rows = await at.db().select().from(auditLog).orderBy(asc(auditLog.id));
  expect(rows.filter(({ event }) => event === "refreshed")).toHaveLength(1);
  // Those who try again and again are written down once a minute.
  expect(rows.filter(({ event }) => event === "admin_refused")).toMatchObject([
    { details: { method: "GET", route: "/api/admin/users" } },
  ]);
  const written = Object.fromEntries(
    auditEvents.map((event) => {
      // One request may write several: a grant, and the tier that comes of it.
      const row = rows.find(
        (each) => each.requestId === `the-request-of-${event}` && each.event === event,
      );
      return [event, row && [row.event, row.actorId, row.subjectId, row.address]];
    }),
  );
  const must = Object.fromEntries(
    auditEvents.map((event) => {
      const { actor, subject, address } = expected.get(event) ?? {};
      return [event, [event, actor?.id ?? null, subject?.id ?? null, address]];
    }),
  );
  expect(written).toEqual(must as typeof written);
  // Nothing is written without a place and a request, and none but the known.
  for (const { event, address, requestId, at: when } of rows) {
    expect(auditEvents as readonly string[]).toContain(event);
    expect([event, address?.startsWith("192.0.2."), requestId === null]).toEqual([
      event,
      true,
      false,
    ]);
    expect(when.getTime()).toBeWithin(at.clock.ms - 3_600_000, at.clock.ms + 1);
  }
});
