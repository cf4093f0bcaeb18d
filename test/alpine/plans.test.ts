/** How Postgres goes about every query of the accounts, where there are a hundred thousand. */
import { afterAll, beforeAll, expect, spyOn, test } from "bun:test";
import { sql } from "drizzle-orm";
import { Secret, TOTP } from "otpauth";
import pg from "pg";
import { issueToken } from "../../src/alpine/auth/one-time.ts";
import { offerSetup } from "../../src/alpine/admin/setup.ts";
import { fanOut } from "../../src/alpine/notifications/fan-out.ts";
import { tellExpiring } from "../../src/alpine/notifications/key-expiring.ts";
import { sendDue } from "../../src/alpine/notifications/mailer.ts";
import { notify } from "../../src/alpine/notifications/notify.ts";
import { forgetAll, forgetDeliveries } from "../../src/alpine/retention.ts";
import { Usage } from "../../src/alpine/usage/usage.ts";
import { rewindPlaces } from "../../src/alpine/webhooks/enqueue.ts";
import { WebhookTasks } from "../../src/alpine/webhooks/tasks.ts";
import { Meters } from "../../src/http/meter.ts";
import { createLog } from "../../src/platform/log.ts";
import { openAccounts, PASSWORD, type Accounts } from "../harness/accounts.ts";
import { signal } from "../harness/app.ts";
import { alpineOf, person } from "./people.ts";
import { Customer, openShop, send } from "./stripe/world.ts";
import { receiver } from "./webhooks/receiver.ts";

const USERS = 100_000;
/** Rows of what is looked for by its own index alone. */
const OTHERS = 20_000;
/** What adds up all that was ever earned walks over it, once in five minutes. */
const SUMS = /FROM revenue_movements WHERE at <=/;
/** Tables that grow with the number of users. */
const TABLES =
  /^(users|sessions|refresh_tokens|api_keys|audit_log|one_time_tokens|usage|notifications|notification_preferences|deliveries|subscriptions|invoices|payments|provider_events|webhooks|webhook_messages)$/;

let at: Accounts;
beforeAll(async () => {
  at = await openShop({ backend: "postgres", env: { WEBHOOKS_ALLOW_PRIVATE: "true" } });
});
afterAll(() => at[Symbol.asyncDispose]());

/** So many users, the first of them with one of each of what users have. */
async function fill(): Promise<void> {
  const now = new Date(at.clock.ms).toISOString();
  const later = new Date(at.clock.ms + 86_400_000).toISOString();
  const id = sql.raw("('0190a7c0-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid");
  const hash = sql.raw("sha256(n::text::bytea)");
  const many = sql.raw(`generate_series(1, ${USERS}) AS n`);
  const some = sql.raw(`generate_series(1, ${OTHERS}) AS n`);
  const before = sql`${now}::timestamptz - n * interval '1 minute'`;
  const db = at.db();
  await db.execute(sql`
    INSERT INTO users (id, email, full_name, password_hash, tier, role, is_active, created_at,
      updated_at, password_changed_at)
    SELECT ${id}, 'User' || n || '@example.com', 'Name ' || md5(n::text), 'none',
      (ARRAY['starter', 'starter', 'pro', 'elite'])[1 + n % 4], 'user', n % 50 <> 0, ${before},
      ${before}, ${before}
    FROM ${many}`);
  await db.execute(sql`
    INSERT INTO sessions (id, user_id, created_at, last_used_at, expires_at)
    SELECT ${id}, ${id}, ${before}, ${before}, ${later} FROM ${some}`);
  await db.execute(sql`
    INSERT INTO refresh_tokens (hash, session_id, created_at, expires_at)
    SELECT ${hash}, ${id}, ${before}, ${later} FROM ${some}`);
  await db.execute(sql`
    INSERT INTO api_keys (id, user_id, name, prefix, hash, scopes, created_at)
    SELECT ${id}, ${id}, 'a key', 'argo_live_000000', ${hash}, '{signals:read}', ${before}
    FROM ${many}`);
  await db.execute(sql`
    INSERT INTO audit_log (at, event, actor_id, subject_id)
    SELECT ${before}, (ARRAY['login', 'login', 'login_failed', 'key_created'])[1 + n % 4], ${id},
      ${id}
    FROM ${some}`);
  await db.execute(sql`
    INSERT INTO one_time_tokens (hash, purpose, user_id, created_at, expires_at)
    SELECT ${hash}, 'verify_email', ${id}, ${before}, ${later} FROM ${some}`);
  await db.execute(sql`
    INSERT INTO subscriptions (id, user_id, tier, provider, status, price_minor, currency,
      "interval", created_at, updated_at, period_start, period_end, anchor_at)
    SELECT ${id}, ${id}, 'pro', 'manual', (ARRAY['ended', 'active'])[1 + n % 2], 14900, 'USD',
      'month', ${before}, ${before}, ${before}, ${later}, ${before} FROM ${some}`);
  await db.execute(sql`
    INSERT INTO invoices (id, subscription_id, user_id, reason, tier, price_minor, amount_minor,
      currency, period_start, period_end, status, created_at)
    SELECT ${id}, ${id}, ${id}, 'renewal', 'pro', 14900, 14900, 'USD', ${before}, ${later},
      'paid', ${before} FROM ${some}`);
  await db.execute(sql`
    INSERT INTO payments (id, kind, user_id, subscription_id, invoice_id, provider, reference,
      amount_minor, currency, at)
    SELECT ${id}, 'charge', ${id}, ${id}, ${id}, 'manual', n::text, 14900, 'USD', ${before}
    FROM ${some}`);
  await db.execute(sql`
    INSERT INTO provider_events (provider, id, type, subject, created_at, received_at, applied_at,
      body)
    SELECT 'stripe', n::text, 'invoice.paid', 'cus ' || n, ${before}, ${before}, ${before}, '{}'
    FROM ${some}`);
  await db.execute(sql`
    INSERT INTO revenue_movements (id, at, user_id, subscription_id, kind, tier, delta_minor,
      currency)
    SELECT ${id}, ${before}, ${id}, ${id}, 'new', 'pro', 14900, 'USD' FROM ${some}`);
  await db.execute(sql`
    INSERT INTO usage (user_id, day, requests) SELECT ${id}, ${now}::date, n FROM ${some}`);
  await db.execute(sql`
    INSERT INTO notifications (id, user_id, kind, reference, title, body, is_read, created_at)
    SELECT ${id}, ${id}, 'new_login', 'a login', 'New login', 'A login', n % 2 = 0, ${before}
    FROM ${some}`);
  await db.execute(sql`
    INSERT INTO notification_preferences (user_id, kind, in_app, email)
    SELECT ${id}, 'premium_signal', true, n % 3 = 0 FROM ${some}`);
  await db.execute(sql`
    INSERT INTO deliveries (user_id, signal_id, delivered_at) SELECT ${id}, n, ${before} FROM ${some}`);
  await db.execute(sql`
    INSERT INTO webhooks (id, user_id, url, premium_only, secret, status, place, created_at,
      updated_at)
    SELECT ${id}, ${id}, 'https://example.com/', false, ${hash},
      CASE WHEN n % 4 >= 2 AND n % 50 <> 0 THEN 'enabled' ELSE 'paused' END, 1000000000, ${before}, ${before} FROM ${some}`);
  await db.execute(sql`
    INSERT INTO webhook_messages (id, webhook_id, type, signal_id, body, status, lane, attempts,
      next_attempt_at, created_at, ended_at)
    SELECT ${id}, ${id}, 'signal.created', n, '{}',
      (ARRAY['delivered', 'failed', 'waiting'])[1 + n % 3], 1, 1,
      CASE WHEN n % 3 = 2 THEN ${later}::timestamptz END, ${before},
      CASE WHEN n % 3 < 2 THEN ${before} END FROM ${some}`);
  await db.execute(sql`VACUUM ANALYZE`);
}

type Plan = { "Node Type": string; "Relation Name"?: string; Plans?: Plan[] };

/** Tables of ours that a plan reads from their beginning to their end. */
const scanned = (plan: Plan): string[] => [
  ...(plan["Node Type"] === "Seq Scan" ? [plan["Relation Name"] ?? ""] : []),
  ...(plan.Plans ?? []).flatMap(scanned),
];

test("no query of any route reads a table from end to end", async () => {
  await fill();
  const alpine = alpineOf(at);
  const queries = new Map<string, { text: string; values: unknown[] }>();
  const original = pg.Client.prototype.query;
  const spy = spyOn(pg.Client.prototype, "query").mockImplementation(function query(
    this: pg.Client,
    ...given: unknown[]
  ) {
    const [config, values = []] = given as [string | { text: string }, unknown[]?];
    const text = typeof config === "string" ? config : config.text;
    if (/^\s*(select|insert|update|delete|with|\()/i.test(text)) {
      queries.set(JSON.stringify([text, values]), { text, values });
    }
    return Reflect.apply(original, this, given) as never;
  });
  const driven = new Set<string>();
  const call = async (
    status: number,
    method: string,
    path: string,
    body?: unknown,
    by?: string,
  ) => {
    const route = path
      .replace(/\?.*/, "")
      .replace(/[0-9a-f]{8}-[0-9a-f-]{27}/, ":id")
      .replace(/[0-9a-f]{8}-[0-9a-f-]{27}/, ":delivery")
      .replace(/plans\/\w+$/, "plans/:tier");
    driven.add(`${method} ${route}`);
    return at.must<Record<string, string>>(status, method, path, body, by);
  };
  try {
    await driveAll(call);
    await flushMany();
    await alpine.changes.look();
    await alpine.changes.forget();
    await alpine.outbox.idle();
    await inBackground();
    // Everything that a server reads when it starts.
    await using other = await openAccounts({ beside: at });
    expect(alpineOf(other).credentials.keyCount).toBeGreaterThan(USERS * 0.9);
  } finally {
    spy.mockRestore();
  }

  const there = at.app.routes
    .filter(({ path }) => /^\/api\/(?!signals|stats|batch|hooks)/.test(path))
    .map(({ method, path }) => `${method} ${path}`);
  expect([...driven].toSorted()).toEqual([...new Set(there)].toSorted());

  expect(queries.size).toBeGreaterThan(60);
  const wrong: string[] = [];
  const client = new pg.Client({ connectionString: at.database?.url });
  await client.connect();
  try {
    const tablesOf = async (text: string, values: unknown[]): Promise<string[]> => {
      const explain = `EXPLAIN (FORMAT JSON) ${text}`;
      const { rows } = await client.query<{ "QUERY PLAN": [{ Plan: Plan }] }>(explain, values);
      return rows.flatMap((row) => scanned(row["QUERY PLAN"][0].Plan));
    };
    // What would be found wrong.
    const bad = "SELECT * FROM users WHERE full_name = $1 ORDER BY created_at";
    expect(await tablesOf(bad, ["x"])).toEqual(["users"]);
    for (const { text, values } of queries.values()) {
      if (SUMS.test(text)) continue;
      for (const table of await tablesOf(text, values)) {
        if (TABLES.test(table)) wrong.push(`${table}: ${text}`);
      }
    }
  } finally {
    await client.end();
  }
  expect(wrong).toEqual([]);
});

/** Everything that is done behind the requests. */
async function inBackground(): Promise<void> {
  const { plans, outbox } = alpineOf(at);
  const { config, now } = at.app.deps;
  const { signal } = new AbortController();
  const db = () => at.db();
  const common = { db, now, signal };
  const news = { reference: "a signal", title: "T", body: "B", details: {}, fromMs: 0 };
  await fanOut({ ...common, plans, accountsAtOnce: 20_000 }, news);
  await tellExpiring(db, now(), signal);
  await sendDue({ config, db, outbox, now });
  await forgetAll(db, now(), signal);
  await forgetDeliveries(db, plans, now(), signal);
}

/** As many users and keys at once as a busy server has seen. */
async function flushMany(): Promise<void> {
  const keys = new Map<string, number>();
  const meters = new Meters({ now: () => at.clock.ms });
  for (let n = 1; n <= 1_000; n += 1) keys.set(idOf(n * 97), at.clock.ms);
  for (let n = 1; n <= 5_000; n += 1) {
    meters.of(idOf(n * 19)).answered("signals", 200);
    meters.of(idOf(n * 19)).deliver([1, 2, 3]);
  }
  const credentials = { takeUsed: () => keys };
  const log = createLog("silent");
  await new Usage({ credentials, meters, log, db: () => at.db() }).flush();
}

/** Some notifications of a user, among those of many others. */
async function tellMany(userId: string): Promise<void> {
  for (let n = 0; n < 5; n += 1) {
    const news = { kind: "payment_failed", reference: `${n}`, title: "T", body: "B" } as const;
    await at.db().transaction((tx) => notify(tx, at.clock.ms, { userId, ...news, details: {} }));
  }
}

const idOf = (n: number): string => `0190a7c0-0000-7000-8000-${n.toString(16).padStart(12, "0")}`;

type Call = (
  status: number,
  method: string,
  path: string,
  body?: unknown,
  by?: string,
) => Promise<Record<string, string>>;

/** Buys, pays, is given back, changes, and leaves it. */
async function driveMoney(call: Call, email: string, boss: string): Promise<void> {
  const token = async () => (await at.login(email)).access;
  const list = async (path: string, by: string) => {
    const { next_cursor: cursor } = await call(200, "GET", path, undefined, by);
    if (cursor) await call(200, "GET", `${path}&cursor=${cursor}`, undefined, by);
  };
  const owed = async () => {
    const { open_invoice: open } = await call(
      200,
      "GET",
      "/api/subscriptions",
      undefined,
      await token(),
    );
    const { id, amount_minor, currency } = open as unknown as Record<string, string>;
    return { invoice_id: id, amount_minor, currency, reference: crypto.randomUUID() };
  };
  await call(409, "POST", "/api/subscriptions/portal", undefined, await token());
  await call(201, "POST", "/api/subscriptions", { tier: "starter" }, await token());
  const { invoice_id, reference } = await owed();
  await call(201, "POST", "/api/admin/payments/failure", { invoice_id, reference }, boss);
  const start = await owed();
  const { id: paymentId } = await call(201, "POST", "/api/admin/payments", start, boss);
  await call(201, "POST", "/api/admin/payments", start, boss);
  await call(200, "POST", "/api/subscriptions/change", { tier: "pro" }, await token());
  await call(201, "POST", "/api/admin/payments", await owed(), boss);
  const path = `/api/admin/payments/${paymentId}/refund`;
  await call(201, "POST", path, { amount_minor: 100, reference }, boss);
  await call(200, "POST", "/api/subscriptions/cancel", undefined, await token());
  await call(200, "POST", "/api/subscriptions/resume", undefined, await token());
  const { id: userId = "" } = await call(200, "GET", "/api/auth/me", undefined, await token());
  for (const path of ["/api/invoices?limit=1", "/api/payments?limit=1"]) {
    await list(path, await token());
  }
  for (const filter of ["", "&kind=refund", `&user_id=${userId}`]) {
    await list(`/api/admin/payments?limit=1${filter}`, boss);
  }
  for (const filter of ["", "&status=open", `&user_id=${userId}&status=paid`]) {
    await list(`/api/admin/invoices?limit=1${filter}`, boss);
  }
  const kinds = ["status=past_due", "status=ended&tier=pro", "provider=stripe", "tier=elite"];
  for (const filter of ["", `user_id=${userId}`, ...kinds]) {
    await list(`/api/admin/subscriptions?limit=1&${filter}`, boss);
  }
  for (const name of ["subscriptions", "invoices", "payments"]) {
    const file = `/api/admin/${name}?format=csv`;
    expect((await at.call("GET", file, undefined, boss)).status).toBe(200);
  }
  await call(200, "GET", "/api/admin/revenue?fresh=1", undefined, boss);
  await call(400, "POST", "/api/webhooks/stripe", {});
  const customer = new Customer((await person(at)).id);
  customer.buy("pro", Math.floor(at.clock.ms / 1000));
  customer.fail(Math.floor(at.clock.ms / 1000), null);
  customer.refund(Math.floor(at.clock.ms / 1000), "a", 100);
  for (const event of customer.events) expect((await send(at, event)).status).toBe(200);
  await alpineOf(at).settle();
}

/** Makes a webhook and does with it what can be done. */
async function driveWebhooks(call: Call, email: string): Promise<void> {
  await using bot = receiver();
  const { log, metrics, now, webhookSource: source } = at.app.deps;
  const alpine = alpineOf(at);
  await using tasks = new WebhookTasks({ alpine, source, embedded: false, now, log, metrics });
  const { id: userId = "", access: by } = await at.login(email);
  await alpine.changes.write(async (tx, tell) => {
    await tx.execute(sql`UPDATE users SET tier = 'elite' WHERE id = ${userId}::uuid`);
    tell({ kind: "user", id: userId });
  });
  const { id } = await call(
    201,
    "POST",
    "/api/webhooks",
    { url: bot.url },
    (await at.login(email)).access,
  );
  const path = `/api/webhooks/${id}`;
  for (const status of [200, 500]) {
    bot.answer = () => new Response(null, { status });
    await at.app.post(signal({ entry_price: status }));
    await tasks.look();
    await tasks.sender.idle();
  }
  await call(200, "POST", `${path}/test`, undefined, by);
  for (const status of ["", "&status=failed"]) {
    const log = `${path}/deliveries?limit=1${status}`;
    const { next_cursor: cursor } = await call(200, "GET", log, undefined, by);
    if (cursor) await call(200, "GET", `${log}&cursor=${cursor}`, undefined, by);
  }
  const { deliveries } = await call(200, "GET", `${path}/deliveries`, undefined, by);
  const [delivery] = deliveries as unknown as { id: string }[];
  await call(202, "POST", `${path}/deliveries/${delivery?.id}/replay`, undefined, by);
  await call(202, "POST", `${path}/replay`, { since_id: 0 }, by);
  await call(201, "POST", `${path}/secret`, undefined, by);
  await call(200, "GET", "/api/webhooks?limit=1", undefined, by);
  await call(200, "GET", path, undefined, by);
  await call(200, "PATCH", path, { status: "paused" }, by);
  await call(200, "PATCH", path, { status: "enabled" }, by);
  bot.answer = () => new Response(null, { status: 410 });
  await call(202, "POST", `${path}/replay`, { since_id: 0 }, by);
  await tasks.look();
  await tasks.sender.idle();
  await rewindPlaces(at.db(), 2_000_000_000);
  expect((await at.call("GET", "/api/users/export", undefined, by)).status).toBe(200);
  await call(204, "DELETE", path, undefined, by);
}

async function driveAll(call: Call): Promise<void> {
  const { alpine, config, log, metrics, now, admission } = at.app.deps;
  if (!alpine) throw new Error("there are no accounts");
  const plane = { alpine, config, log, metrics, now, admission };
  const setup = await offerSetup(plane);
  if (setup === null) throw new Error("there is an administrator already");
  const chief = { email: "chief@example.com", password: PASSWORD, full_name: "Chief" };
  await call(201, "POST", "/api/auth/setup", { ...chief, token: setup });
  const boss = (await at.login(chief.email)).access;

  const email = "somebody@example.com";
  const account = { email, password: PASSWORD, full_name: "Somebody" };
  await call(201, "POST", "/api/auth/signup", account);
  await call(409, "POST", "/api/auth/signup", account);
  await call(401, "POST", "/api/auth/login", { email, password: "not the password" });
  await call(401, "POST", "/api/auth/login", { email: "nobody@example.com", password: PASSWORD });
  const tokens = await call(200, "POST", "/api/auth/login", { email, password: PASSWORD });
  const next = { refresh_token: tokens["refresh_token"] };
  let token = (await call(200, "POST", "/api/auth/refresh", next))["access_token"];
  const { id: userId = "" } = await call(200, "GET", "/api/auth/me", undefined, token);
  await call(422, "POST", "/api/auth/verify-email", { token: "not a token" });
  await call(202, "POST", "/api/auth/verify-email/resend", { email });
  await alpine.outbox.idle();
  const issued = (purpose: "verify_email" | "reset_password") =>
    at.db().transaction((tx) => issueToken(tx, purpose, userId, at.clock.ms));
  await call(204, "POST", "/api/auth/verify-email", { token: await issued("verify_email") });
  const password = "another good password";
  const change = { current_password: PASSWORD, new_password: password };
  await call(204, "POST", "/api/auth/password/change", change, token);
  await call(202, "POST", "/api/auth/password/forgot", { email });
  await alpine.outbox.idle();
  const reset = { token: await issued("reset_password"), new_password: PASSWORD };
  await call(204, "POST", "/api/auth/password/reset", reset);
  token = (await at.login(email)).access;

  const begun = await call(200, "POST", "/api/auth/totp/setup", { password: PASSWORD }, token);
  const totp = new TOTP({ secret: Secret.fromBase32(begun["secret"] ?? "") });
  const code = () => totp.generate({ timestamp: (at.clock.ms += 30_000) });
  const enabled = await call(200, "POST", "/api/auth/totp/enable", { code: code() }, token);
  const [recovery = ""] = enabled["recovery_codes"] as unknown as string[];
  await call(200, "POST", "/api/auth/login", { email, password: PASSWORD, totp: code() });
  await call(200, "POST", "/api/auth/login", { email, password: PASSWORD, totp: recovery });
  const both = () => ({ password: PASSWORD, totp: code() });
  await call(200, "POST", "/api/auth/totp/recovery-codes", both(), token);
  await call(204, "POST", "/api/auth/totp/disable", both(), token);

  const bot = { name: "a bot", scopes: ["signals:read"] };
  const { id: keyId } = await call(201, "POST", "/api/keys", bot, token);
  await call(201, "POST", `/api/keys/${keyId}/rotate`, {}, token);
  const { next_cursor: keyCursor } = await call(200, "GET", "/api/keys?limit=1", undefined, token);
  await call(200, "GET", `/api/keys?limit=1&cursor=${keyCursor}`, undefined, token);
  await call(200, "GET", `/api/keys/${keyId}`, undefined, token);
  await call(204, "DELETE", `/api/keys/${keyId}`, undefined, token);

  await tellMany(userId);
  const notices = "/api/notifications";
  const told = await call(200, "GET", `${notices}?limit=1`, undefined, token);
  for (const filter of ["", "unread=true&", "unread=false&", "kind=payment_failed&"]) {
    await call(200, "GET", `${notices}?${filter}limit=2`, undefined, token);
  }
  await call(200, "GET", `${notices}?limit=1&cursor=${told["next_cursor"]}`, undefined, token);
  await call(200, "GET", `${notices}/unread-count`, undefined, token);
  const [{ id: noticeId }] = told["notifications"] as unknown as [{ id: string }];
  await call(200, "POST", `${notices}/${noticeId}/read`, undefined, token);
  await call(200, "POST", `${notices}/read-all`, undefined, token);
  await call(200, "GET", `${notices}/preferences`, undefined, token);
  const wanted = { key_expiring: { in_app: true, email: true } };
  await call(200, "PUT", `${notices}/preferences`, wanted, token);

  await call(200, "GET", "/api/users/profile", undefined, token);
  const moved = "elsewhere@example.com";
  const profile = { full_name: "Else", email: moved, password: PASSWORD };
  await call(200, "PUT", "/api/users/profile", profile, token);
  await call(200, "GET", "/api/users/export", undefined, token);
  const page = await call(200, "GET", "/api/users/sessions?limit=1", undefined, token);
  const path = `/api/users/sessions?limit=1&cursor=${page["next_cursor"]}`;
  const open = await call(200, "GET", path, undefined, token);
  const [{ id: sessionId }] = open["sessions"] as unknown as [{ id: string }];
  await call(204, "DELETE", `/api/users/sessions/${sessionId}`, undefined, token);
  token = (await at.login(moved)).access;

  const filters = [
    "search=user12",
    "search=a",
    "search=name+0f",
    "tier=pro",
    "role=admin",
    "role=user",
  ];
  filters.push("is_active=false", "is_active=true", "search=user9&tier=elite&role=user", "");
  filters.push("search=chief&role=admin", "tier=elite&is_active=false", "search=nobody+at+all");
  for (const filter of filters) {
    const list = await call(200, "GET", `/api/admin/users?limit=1&${filter}`, undefined, boss);
    const cursor = list["next_cursor"];
    if (cursor === null) continue;
    const next = `/api/admin/users?limit=1&${filter}&cursor=${cursor}`;
    await call(200, "GET", next, undefined, boss);
    await call(200, "GET", `/api/admin/users?${filter}`, undefined, boss);
  }
  await call(200, "GET", `/api/admin/users/${userId}`, undefined, boss);
  for (const change of [
    { tier: "pro" },
    { role: "admin" },
    { role: "user" },
    { is_active: false },
  ]) {
    await call(200, "PATCH", `/api/admin/users/${userId}`, change, boss);
  }
  await call(200, "PATCH", `/api/admin/users/${userId}`, { is_active: true }, boss);
  await call(204, "DELETE", `/api/admin/users/${userId}/sessions`, undefined, boss);
  for (const filter of ["", "event=login", `user_id=${userId}`, `user_id=${userId}&event=login`]) {
    const list = await call(200, "GET", `/api/admin/audit?limit=1&${filter}`, undefined, boss);
    const cursor = list["next_cursor"];
    await call(200, "GET", `/api/admin/audit?limit=1&${filter}&cursor=${cursor}`, undefined, boss);
  }

  await call(200, "GET", "/api/plans");
  await call(200, "GET", "/api/admin/plans", undefined, boss);
  await call(200, "PATCH", "/api/admin/plans/pro", { premium: true, streams_max: 6 }, boss);
  await driveMoney(call, moved, boss);
  await driveWebhooks(call, moved);

  token = (await at.login(moved)).access;
  await at.must(200, "GET", "/api/signals/latest", undefined, token);
  alpine.meters.of(userId).deliver([1, 2]);
  await alpine.usage.flush();
  for (const path of ["/api/users/usage", `/api/admin/usage?user_id=${userId}`]) {
    const by = path.includes("admin") ? boss : token;
    const and = path.includes("?") ? "&" : "?";
    const list = await call(200, "GET", `${path}${and}limit=1`, undefined, by);
    const next = `${path}${and}limit=1&cursor=${list["next_cursor"]}`;
    await call(200, "GET", next, undefined, by);
    const days = "since=2026-01-01&until=2026-12-31";
    await call(200, "GET", `${path}${and}${days}`, undefined, by);
  }
  const journal = "/api/signals/delivered?limit=1";
  const first = await at.must<{ next_cursor: string }>(200, "GET", journal, undefined, token);
  await at.must(200, "GET", `${journal}&cursor=${first.next_cursor}`, undefined, token);
  await call(200, "GET", "/api/admin/usage?limit=1", undefined, boss);
  await call(200, "GET", "/api/admin/analytics?fresh=1", undefined, boss);
  await call(200, "GET", "/api/admin/security?fresh=1", undefined, boss);
  await call(204, "POST", "/api/auth/logout", undefined, token);
  token = (await at.login(moved)).access;
  await call(204, "POST", "/api/auth/logout-all", undefined, token);
  token = (await at.login(moved)).access;
  await call(204, "DELETE", "/api/users/account", { password: PASSWORD }, token);
}
