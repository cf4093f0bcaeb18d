/** Webhooks from end to end: made, sent, tried again, stopped, replayed. */
import { afterAll, beforeAll, expect, spyOn, test } from "bun:test";
import { eq, sql } from "drizzle-orm";
import { users, webhookMessages, webhooks } from "../../../db/alpine/schema.ts";
import { openAccounts, type Accounts } from "../../harness/accounts.ts";
import { fieldsOf, problemOf } from "../../harness/app.ts";
import { WebhookSender } from "../../../src/alpine/webhooks/sender.ts";
import { alpineOf, person, until } from "../people.ts";
import { type Delivery, type Hook, receiver, signedBy, verified, World } from "./receiver.ts";

const DAY = 86_400;

let at: Accounts;
beforeAll(async () => {
  // The file notes by the real clock when a signal arrived.
  at = await openAccounts({ now: Date.now(), env: { WEBHOOKS_ALLOW_PRIVATE: "true" } });
});
afterAll(() => at[Symbol.asyncDispose]());

const refusing =
  (status: number, headers: Record<string, string> = {}) =>
  () =>
    new Response("no", { status, headers });

async function withTier(id: string, tier: "starter" | "pro" | "elite"): Promise<void> {
  await alpineOf(at).changes.write(async (tx, tell) => {
    await tx.update(users).set({ tier }).where(eq(users.id, id));
    tell({ kind: "user", id });
  });
}

/** A message that is to be sent now. */
function due(webhookId: string, nowMs: number): typeof webhookMessages.$inferInsert {
  const now = new Date(nowMs);
  return {
    id: crypto.randomUUID(),
    webhookId,
    type: "webhook.test",
    body: '{"data":{}}',
    status: "waiting",
    lane: 0,
    attempts: 0,
    nextAttemptAt: now,
    createdAt: now,
  };
}

test("signals are sent as they come, signed, each once, in the order of ids", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  await world.post();
  const hook = await world.hook(bot.url, { description: "a bot" });
  expect(hook.secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
  const first = await world.post();
  await world.send();
  // From now on it is told by itself.
  const second = await world.post({ symbol: "NDX" });
  await until(async () => bot.got.length === 2);
  await world.tasks.sender.idle();
  await world.send();
  expect(bot.ids()).toEqual([first, second]);
  for (const got of bot.got) {
    expect(verified(hook.secret, got, at.clock.ms)).toEqual(got.message);
    expect(() => verified(hook.secret, { ...got, body: `${got.body} ` }, at.clock.ms)).toThrow();
    expect(got.headers["content-type"]).toBe("application/json");
    expect(got.headers["webhook-timestamp"]).toBe(String(Math.floor(at.clock.ms / 1_000)));
  }
  const [one] = await at.app.json<object[]>("/api/signals/latest?limit=1&symbol=NDX");
  expect(bot.got[1]?.message).toMatchObject({ type: "signal.created", data: one as object });
  const shown = await at.app.json<object>(`/api/signals/${second}`);
  expect(bot.got[1]?.message.data).toEqual(shown as Record<string, unknown>);
  const log = await world.log(hook.id);
  expect(log.map(({ id }) => id).toSorted()).toEqual(bot.got.map(({ id }) => id).toSorted());
  const delivered = { status: "delivered", attempts: 1, last_status: 200, last_error: null };
  expect(log[0]).toMatchObject({ ...delivered, next_attempt_at: null });
  expect((await world.get(hook.id)).last_signal_id).toBe(second);
});

test("filters leave out what they leave out of a stream", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const filters = { symbol: "NDX", strategy: "mine", min_confidence: 60 };
  await world.hook(bot.url, filters);
  await using premium = receiver();
  await world.hook(premium.url, { premium_only: true });
  const of = { symbol: "NDX", strategy: "mine", confidence: 60 };
  const right = await world.post(of);
  await world.post({ ...of, symbol: "SPX" });
  await world.post({ ...of, strategy: "other" });
  await world.post({ ...of, confidence: 59.9 });
  const best = await world.post({ symbol: "DAX", confidence: 95 });
  // What an engine writes: no number, and a text that the database would not take.
  at.app.engine.run(
    "INSERT INTO signals (symbol, action, entry_price, confidence, strategy, timestamp) VALUES ('NDX', 'BUY', 1, 'high', 'mine', '2026-11-20T11:00:00Z'), ('N' || char(0) || 'X', 'BUY', 1, 99, 'a' || char(0), '2026-11-20T11:00:00Z')",
  );
  await world.send();
  expect(bot.ids()).toEqual([right]);
  expect(premium.ids()).toEqual([best, best + 2]);
  expect(premium.got[1]?.message.data["symbol"]).toBe("N\0X");
});

test("what fails is tried ten times over three days, with jitter, under the same id", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  // A redirect is a failure like another, and never followed.
  bot.answer = refusing(302, { Location: bot.url });
  await world.post();
  const began = at.clock.ms;
  const pauses: number[] = [];
  let before = began;
  await world.send();
  for (let attempts = 1; attempts < 10; attempts += 1) {
    const [waits] = await world.log(hook.id, "?status=waiting");
    expect(waits).toMatchObject({ attempts, last_status: 302 });
    const nextMs = Date.parse(waits?.next_attempt_at ?? "");
    pauses.push(Math.round((nextMs - before) / 1_000));
    // Not a moment before.
    at.clock.ms = nextMs - 1;
    await world.send();
    expect(bot.got).toHaveLength(attempts);
    at.clock.ms = before = nextMs;
    // The bounds of the jitter.
    world.random = attempts % 2 === 0 ? 0 : 0.999_999;
    await world.send();
    expect(bot.got).toHaveLength(attempts + 1);
  }
  const usual = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
  expect(pauses).toEqual(
    usual.map((s, i) => (i === 0 ? s : Math.round(s * (i % 2 === 0 ? 0.9 : 1.1)))),
  );
  expect(new Set(bot.got.map(({ id }) => id)).size).toBe(1);
  expect(new Set(bot.got.map(({ body }) => body)).size).toBe(1);
  const [failed] = await world.log(hook.id, "?status=failed");
  expect(failed).toMatchObject({ attempts: 10, last_status: 302, next_attempt_at: null });
  expect(await world.log(hook.id, "?status=waiting")).toEqual([]);
  // Nothing was delivered all the while: it is disabled, and its owner told.
  expect(await world.get(hook.id)).toMatchObject({ status: "disabled", reason: "failing" });
  const { notifications } = await at.must<{ notifications: { kind: string; body: string }[] }>(
    200,
    "GET",
    "/api/notifications?kind=webhook_disabled",
    undefined,
    await world.access(),
  );
  expect(notifications).toMatchObject([{ kind: "webhook_disabled" }]);
  expect(notifications[0]?.body).not.toContain("of=a-bot");
});

test("a receiver that takes nothing is disabled also while new signals keep old ones waiting", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const { id } = await world.hook(bot.url);
  bot.answer = refusing(500);
  await world.post();
  await world.send();
  await world.post();
  await world.later(84 * 3_600 - 1);
  // By then one of them has only been tried twice, and there are attempts left for both.
  expect(await world.get(id)).toMatchObject({ status: "enabled" });
  await world.post();
  await world.later(1);
  expect(await world.get(id)).toMatchObject({ status: "disabled", reason: "failing" });
});

test("a receiver that comes back is not disabled; what waited is sent behind what is new", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  bot.answer = refusing(500);
  const first = await world.post();
  await world.send();
  expect((await world.get(hook.id)).failing_since).toBe(new Date(at.clock.ms).toISOString());
  bot.answer = () => new Response(null, { status: 204 });
  const second = await world.post();
  await world.later(6);
  expect(bot.ids()).toEqual([first, second, first]);
  expect((await world.get(hook.id)).failing_since).toBeNull();
  // Once in ten times before it: else it would wait for as long as there is something new.
  bot.answer = refusing(500);
  const third = await world.post();
  await world.send();
  bot.answer = () => new Response();
  const fourth = await world.post();
  world.random = 0.09;
  await world.later(6);
  expect(bot.ids().slice(3)).toEqual([third, third, fourth]);
});

test("410 disables at once, gives up what waits and tells the owner; enabled, it goes on from now", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  bot.answer = refusing(410);
  const [first] = [await world.post(), await world.post()];
  await world.send();
  expect(bot.got).toHaveLength(1);
  expect(await world.get(hook.id)).toMatchObject({ status: "disabled", reason: "gone" });
  const log = await world.log(hook.id, "?status=failed");
  expect(log.map(({ last_status: status, last_error: error }) => status ?? error)).toEqual(
    expect.arrayContaining([410, "not sent: the receiver is gone"]),
  );
  const missed = await world.post();
  await world.send();
  expect(bot.got).toHaveLength(1);
  await world.ask("POST", `${hook.id}/replay`, { since_id: 0 }, 409);
  bot.answer = () => new Response();
  const enabled = { status: "enabled", reason: null, failing_since: null };
  expect(await world.ask("PATCH", hook.id, { status: "enabled" })).toMatchObject(enabled);
  const next = await world.post();
  await world.send();
  expect(bot.ids()).toEqual([first, next]);
  // What it missed is replayed: with their ids, those that were tried before.
  const replayed = { queued: 4, last_id: next, has_more: false };
  const since = { since_id: first - 1 };
  expect(await world.ask("POST", `${hook.id}/replay`, since, 202)).toEqual(replayed);
  await world.send();
  expect(bot.ids()).toEqual([first, next, first, first + 1, missed, next]);
  expect(bot.got[2]?.id).toBe(bot.got[0]?.id ?? "");
  expect(bot.got[5]?.id).toBe(bot.got[1]?.id ?? "");
  // One alone as well.
  const [last] = await world.log(hook.id);
  await world.ask("POST", `${hook.id}/deliveries/${last?.id}/replay`, undefined, 202);
  await world.send();
  expect(bot.got.at(-1)?.id).toBe(last?.id ?? "");
  expect(bot.got).toHaveLength(7);
});

test("Retry-After is honoured up to a day, and nothing else is sent there meanwhile", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  bot.answer = refusing(429, { "Retry-After": "600" });
  const first = await world.post();
  await world.send();
  const second = await world.post();
  bot.answer = () => new Response();
  await world.later(599);
  expect(bot.ids()).toEqual([first]);
  await world.later(1);
  expect(bot.ids()).toEqual([first, second, first]);
  for (const [text, seconds] of [
    ["999999999", DAY],
    ["in two hours", 7_200],
    ["Wed, 21 Oct 2015 07:28:00 GMT", 5],
    ["soon", 5],
    ["-1", 5],
  ] as const) {
    const inTwoHours = new Date(at.clock.ms + 7_200_999).toUTCString();
    bot.answer = refusing(503, { "Retry-After": text === "in two hours" ? inTwoHours : text });
    await world.post();
    await world.send();
    const [waits] = await world.log(hook.id, "?status=waiting");
    const inMs = Date.parse(waits?.next_attempt_at ?? "") - at.clock.ms;
    expect([text, Math.floor(inMs / 1_000)]).toEqual([text, seconds]);
    bot.answer = () => new Response();
    await world.later(seconds + 1);
    expect(await world.log(hook.id, "?status=waiting")).toEqual([]);
  }
});

test("after a rotation the secrets before it sign for a day, however often it is rotated", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const { id, secret: old } = await world.hook(bot.url);
  const { secret: next } = await world.ask<{ secret: string }>("POST", `${id}/secret`, {}, 201);
  expect(next).not.toBe(old);
  const sentWith = async (): Promise<boolean[]> => {
    await world.post();
    await world.send();
    const [got] = bot.got.slice(-1);
    if (!got) throw new Error("nothing came");
    return [signedBy(old, got), signedBy(next, got)];
  };
  expect(await sentWith()).toEqual([true, true]);
  at.clock.ms += DAY * 1_000;
  expect(await sentWith()).toEqual([false, true]);
  // The new secret was lost, twice: the receiver still has the one before.
  const rotate = async (): Promise<string> =>
    (await world.ask<{ secret: string }>("POST", `${id}/secret`, {}, 201)).secret;
  const lost = await rotate();
  at.clock.ms += (DAY / 2) * 1_000;
  const newest = await rotate();
  const until = (await world.get(id)).old_secret_until ?? "";
  expect(Date.parse(until)).toBe(at.clock.ms + DAY * 1_000);
  expect(await sentWith()).toEqual([false, true]);
  const [got] = bot.got.slice(-1);
  if (!got) throw new Error("nothing came");
  expect([newest, lost, next].map((secret) => signedBy(secret, got))).toEqual([true, true, true]);
  expect(verified(newest, got, at.clock.ms)).toEqual(got.message);
  // Three go on; past that the oldest ends.
  await rotate();
  expect(await sentWith()).toEqual([false, true]);
  await rotate();
  expect(await sentWith()).toEqual([false, false]);
  at.clock.ms += DAY * 1_000;
  await world.post();
  await world.send();
  expect(bot.got.at(-1)?.headers["webhook-signature"]?.split(" ")).toHaveLength(1);
});

test("the test button answers what came back, also of one that is paused", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const { id, secret } = await world.hook(bot.url);
  await world.ask("PATCH", id, { status: "paused" });
  expect(await world.get(id)).toMatchObject({ status: "paused", reason: "owner" });
  const done = await world.ask("POST", `${id}/test`);
  expect(done).toMatchObject({ type: "webhook.test", status: "delivered", last_status: 200 });
  const [got] = bot.got;
  expect(got?.message).toMatchObject({ type: "webhook.test", data: { webhook_id: id } });
  expect(got && signedBy(secret, got)).toBeTrue();
  bot.answer = refusing(500);
  const failed = { status: "failed", attempts: 1, last_status: 500, next_attempt_at: null };
  expect(await world.ask("POST", `${id}/test`)).toMatchObject(failed);
  await bot[Symbol.asyncDispose]();
  const unreached = { status: "failed", last_error: "cannot be reached: ECONNREFUSED" };
  expect(await world.ask("POST", `${id}/test`)).toMatchObject(unreached);
  expect(await world.log(id)).toHaveLength(3);
});

test("nobody is sent what their plan does not show, or not yet", async () => {
  at.clock.ms = Date.now();
  const admin = await at.admin();
  const plan = { webhooks_max: 2 };
  await at.must(200, "PATCH", "/api/admin/plans/starter", plan, admin.access);
  await using bot = receiver();
  await using world = await World.open(at, "starter");
  await world.hook(bot.url);
  const low = await world.post({ confidence: 60 });
  await world.post({ confidence: 99 });
  const later = await world.post({ confidence: 70 });
  await world.send();
  // What was withheld when it was made is news as well.
  const own = () => bot.ids().filter((id) => id >= low);
  await world.later(890);
  expect(own()).toEqual([]);
  // The clock of the test stands still while the file's goes on. What falls due is seen at a look.
  await world.later(60);
  await until(async () => {
    await world.send();
    return own().length >= 2;
  });
  expect(own()).toEqual([low, later]);
});

test("after a downgrade the newest beyond the plan pause; what waits is shown no more, or later", async () => {
  at.clock.ms = Date.now();
  await using bot = receiver();
  await using world = await World.open(at, "elite");
  const { id: userId } = world.member;
  const hooks = [];
  for (let i = 0; i < 5; i += 1) {
    hooks.push(await world.hook(bot.url));
    at.clock.ms += 1_000;
  }
  bot.answer = refusing(500);
  await world.post({ confidence: 99 });
  await world.post({ confidence: 60 });
  await world.send();
  await withTier(userId, "starter");
  await world.send();
  const shown = await Promise.all(hooks.map(({ id }) => world.get(id)));
  expect(shown.map(({ status, reason }) => [status, reason])).toEqual([
    ["enabled", null],
    ["enabled", null],
    ["paused", "plan"],
    ["paused", "plan"],
    ["paused", "plan"],
  ]);
  bot.answer = () => new Response();
  bot.got.length = 0;
  await world.later(10);
  // The premium one is given up, the other waits until the plan shows it.
  expect(bot.got).toEqual([]);
  const [first] = hooks;
  const log = await world.log(first?.id ?? "");
  expect(log.find(({ status }) => status === "failed")).toMatchObject({
    last_error: "not sent: the plan shows it no more",
  });
  await world.later(900);
  expect(bot.got).toHaveLength(2);
  await at.must(
    409,
    "PATCH",
    `/api/webhooks/${hooks[4]?.id}`,
    { status: "enabled" },
    await world.access(),
  );
  // Who is shut out is sent nothing.
  const admin = await at.admin();
  await at.must(200, "PATCH", `/api/admin/users/${userId}`, { is_active: false }, admin.access);
  bot.got.length = 0;
  await world.post({ confidence: 60 });
  await world.later(900);
  expect(bot.got).toEqual([]);
  const rows = await at.db().select().from(webhooks).where(eq(webhooks.userId, userId));
  expect(rows.map(({ reason }) => reason).toSorted()).toEqual([
    "account",
    "account",
    "plan",
    "plan",
    "plan",
  ]);
});

test("what is refused at creation names its field; plans bound how many", async () => {
  const pro = await person(at, { tier: "pro" });
  const post = (body: unknown, who = pro) => at.call("POST", "/api/webhooks", body, who.access);
  await using bot = receiver();
  for (const [field, body] of [
    ["url", { url: "nonsense" }],
    ["url", { url: "ftp://127.0.0.1/" }],
    ["url", { url: "http://user:password@127.0.0.1/" }],
    ["url", { url: "https:///" }],
    ["url", { url: `http://127.0.0.1/${"a".repeat(2_048)}` }],
    ["url", {}],
    ["min_confidence", { url: bot.url, min_confidence: 101 }],
    ["symbol", { url: bot.url, symbol: "a\0b" }],
    ["secret", { url: bot.url, secret: "mine" }],
  ] as const) {
    const response = await post(body);
    expect([field, response.status]).toEqual([field, 422]);
    expect(await fieldsOf(response)).toEqual([field]);
  }
  for (let i = 0; i < 3; i += 1) expect((await post({ url: bot.url })).status).toBe(201);
  expect((await problemOf(await post({ url: bot.url }))).detail).toContain("allows 3 webhooks");
  await at.must(
    200,
    "PATCH",
    "/api/admin/plans/starter",
    { webhooks_max: 0 },
    (await at.admin()).access,
  );
  expect((await post({ url: bot.url }, await person(at))).status).toBe(403);
});

test("a webhook of somebody else is none", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  await world.post();
  await world.send();
  const [delivery] = await world.log(hook.id);
  const { access } = await person(at, { tier: "elite" });
  const own = await world.hook(bot.url, {}, { ...world.member, access });
  const path = `/api/webhooks/${hook.id}`;
  for (const [method, at_, body] of [
    ["GET", path],
    ["PATCH", path, { description: "mine" }],
    ["DELETE", path],
    ["POST", `${path}/secret`],
    ["POST", `${path}/test`],
    ["GET", `${path}/deliveries`],
    ["POST", `${path}/replay`, { since_id: 0 }],
    ["POST", `${path}/deliveries/${delivery?.id}/replay`],
    ["POST", `/api/webhooks/${own.id}/deliveries/${delivery?.id}/replay`],
  ] as const) {
    expect((await at.call(method, at_, body, access)).status).toBe(404);
  }
  const { webhooks: listed } = await at.must<{ webhooks: { id: string }[] }>(
    200,
    "GET",
    "/api/webhooks",
    undefined,
    access,
  );
  expect(listed.map(({ id }) => id)).toEqual([own.id]);
});

test("two processes hand each signal over once and send it once", async () => {
  await using bot = receiver();
  await using slow = receiver();
  slow.answer = async () => {
    await Bun.sleep(20);
    return new Response();
  };
  await using world = await World.open(at);
  const others = [world.another(), world.another()];
  const [one, two] = [await world.hook(bot.url), await world.hook(slow.url)];
  const ids: number[] = [];
  for (let i = 0; i < 30; i += 1) {
    ids.push(await world.post());
    if (i % 3 === 0) await Promise.all([world.tasks, ...others].map((tasks) => tasks.look()));
  }
  await until(async () => {
    await Promise.all([world.tasks, ...others].map((tasks) => tasks.look()));
    return bot.got.length >= 30 && slow.got.length >= 30;
  });
  for (const tasks of [world.tasks, ...others]) await tasks.sender.idle();
  for (const tasks of others) await tasks[Symbol.asyncDispose]();
  expect(bot.ids()).toEqual(ids);
  expect(slow.ids()).toEqual(ids);
  for (const { id } of [one, two]) expect(await world.log(id, "?limit=100")).toHaveLength(30);
});

test("what a killed process had claimed is sent by another, with the same id; none is lost", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  // As if it had died between the receiver's answer and writing that down.
  const id = await world.post();
  await world.send();
  await at
    .db()
    .update(webhookMessages)
    .set({ status: "waiting", attempts: 0, endedAt: null, nextAttemptAt: new Date(at.clock.ms) })
    .where(eq(webhookMessages.webhookId, hook.id));
  const lease = (text: string) =>
    at.db().execute(sql`UPDATE webhooks SET leased_until = ${sql.raw(text)} WHERE id = ${hook.id}`);
  await lease("now() + interval '30 seconds'");
  await world.send();
  expect(bot.got).toHaveLength(1);
  await lease("now() - interval '1 second'");
  await world.send();
  expect(bot.ids()).toEqual([id, id]);
  expect(bot.got[1]?.id).toBe(bot.got[0]?.id ?? "");
});

test("what failed for a process that had lost its claim is the same attempt still, and its next holder's", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const { id } = await world.hook(bot.url);
  const leasedUntil = async (): Promise<string | null> => {
    const { rows } = await at
      .db()
      .execute<{ at: string | null }>(
        sql`SELECT leased_until::text AS at FROM webhooks WHERE id = ${id}`,
      );
    return rows[0]?.at ?? null;
  };
  const asked = Promise.withResolvers<void>();
  const release = Promise.withResolvers<Response>();
  bot.answer = () => {
    asked.resolve();
    return release.promise;
  };
  const signalId = await world.post();
  const sent = world.send();
  await asked.promise;
  // It was held up for so long that another process has claimed it since.
  await at
    .db()
    .execute(
      sql`UPDATE webhooks SET leased_until = now() + interval '20 seconds' WHERE id = ${id}`,
    );
  const others = await leasedUntil();
  release.resolve(new Response("", { status: 500 }));
  await sent;
  expect(await leasedUntil()).toBe(others);
  const [waits] = await world.log(id, "?status=waiting");
  expect(waits).toMatchObject({ signal_id: signalId, attempts: 0, last_status: null });
  expect((await world.get(id)).failing_since).toBeNull();
  bot.answer = () => new Response();
  await at.db().update(webhooks).set({ leasedUntil: null }).where(eq(webhooks.id, id));
  await world.send();
  const [done] = await world.log(id);
  expect(done).toMatchObject({ signal_id: signalId, status: "delivered", attempts: 1 });
});

test("what one moment handed over is in the log in the order of ids, page by page", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const hooks = [await world.hook(bot.url), await world.hook(bot.url)];
  const ids: number[] = [];
  for (let i = 0; i < 20; i += 1) ids.push(await world.post());
  await world.send();
  for (const { id } of hooks) {
    const seen: (number | null)[] = [];
    for (let cursor = ""; ;) {
      const page = await world.ask<{ deliveries: Delivery[]; next_cursor: string | null }>(
        "GET",
        `${id}/deliveries?limit=7${cursor}`,
      );
      seen.push(...page.deliveries.map((one) => one.signal_id));
      if (page.next_cursor === null) break;
      cursor = `&cursor=${page.next_cursor}`;
    }
    expect(seen).toEqual(ids.toReversed());
  }
});

test("a receiver that hangs or pours out a flood costs only itself", async () => {
  await using hanging = receiver();
  const release = Promise.withResolvers<Response>();
  hanging.answer = () => release.promise;
  await using flooding = receiver();
  let poured = 0;
  flooding.answer = () =>
    new Response(
      new ReadableStream({
        pull(controller) {
          poured += 65_536;
          if (poured > 100 * 1024 * 1024) return controller.close();
          controller.enqueue(new Uint8Array(65_536));
        },
      }),
    );
  await using bot = receiver();
  await using world = await World.open(at);
  await world.hook(hanging.url);
  const flooded = await world.hook(flooding.url);
  await world.hook(bot.url);
  const ids = [await world.post(), await world.post(), await world.post()];
  world.tasks.outbox?.doubt();
  await world.tasks.look();
  await until(async () => bot.got.length === 3 && flooding.got.length === 3);
  expect(bot.ids()).toEqual(ids);
  expect(hanging.got).toHaveLength(1);
  await until(async () => (await world.log(flooded.id, "?status=delivered")).length === 3);
  // What sockets hold, of 300 MiB.
  expect(poured).toBeLessThan(64 * 1024 * 1024);
  release.resolve(new Response());
  await world.tasks.sender.idle();
});

test("receivers that fail, however many, keep nobody waiting who does not", async () => {
  await using failing = receiver();
  const release = Promise.withResolvers<Response>();
  failing.answer = () => release.promise;
  await using bot = receiver();
  await using world = await World.open(at);
  const down = [];
  for (let i = 0; i < 3; i += 1) down.push(await world.hook(failing.url));
  const up = await world.hook(bot.url);
  const now = new Date(at.clock.ms);
  for (const { id } of down) {
    await at.db().update(webhooks).set({ failingSince: now }).where(eq(webhooks.id, id));
  }
  for (const { id: webhookId } of [...down, up]) {
    await at.db().insert(webhookMessages).values(due(webhookId, at.clock.ms));
  }
  const { metrics, log } = at.app.deps;
  const alpine = alpineOf(at);
  const sender = new WebhookSender({ alpine, now: () => at.clock.ms, log, metrics, turnsMax: 2 });
  await sender.look();
  await until(async () => bot.got.length === 1 && failing.got.length > 0);
  expect(failing.got).toHaveLength(1);
  release.resolve(new Response());
  await sender.idle();
  // As there is room, all have their turn.
  expect(failing.got).toHaveLength(3);
  await sender[Symbol.asyncDispose]();
});

test("receivers that never took anything, however many, leave room for those who did", async () => {
  await using hanging = receiver();
  const release = Promise.withResolvers<Response>();
  hanging.answer = () => release.promise;
  await using bot = receiver();
  await using world = await World.open(at);
  const fresh = [];
  for (let i = 0; i < 5; i += 1) fresh.push(await world.hook(hanging.url));
  const known = await world.hook(bot.url);
  const { metrics, log } = at.app.deps;
  const alpine = alpineOf(at);
  const now = () => at.clock.ms;
  await using sender = new WebhookSender({ alpine, now, log, metrics, turnsMax: 4 });
  const wait = (hooks: Hook[]) =>
    Promise.all(hooks.map(({ id }) => at.db().insert(webhookMessages).values(due(id, now()))));
  await wait([known]);
  await sender.look();
  await sender.idle();
  expect(bot.got).toHaveLength(1);
  await wait([...fresh, known]);
  await sender.look();
  await until(async () => bot.got.length === 2 && hanging.got.length > 0);
  // Half of four.
  expect(hanging.got).toHaveLength(2);
  // Changed, it has still to show that it takes anything.
  at.clock.ms += 1;
  await world.ask("PATCH", known.id, { description: "somewhere else" });
  await wait([known]);
  await sender.look();
  expect(bot.got).toHaveLength(2);
  release.resolve(new Response());
  await sender.idle();
  expect([hanging.got.length, bot.got.length]).toEqual([5, 3]);
});

test("what waits is sent while nothing is known of signals", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  await world.hook(bot.url);
  bot.answer = refusing(500);
  await world.post();
  await world.send();
  const { webhookSource: source } = at.app.deps;
  if (!source) throw new Error("no signals here");
  const away = spyOn(source, "maxId").mockImplementation(() => {
    throw new Error("away");
  });
  try {
    bot.answer = () => new Response();
    at.clock.ms += 10_000;
    await expect(world.tasks.look()).rejects.toThrow("away");
    await world.tasks.sender.idle();
    expect(bot.got).toHaveLength(2);
  } finally {
    away.mockRestore();
  }
});

test("what is to be sent again while it is on its way is sent again", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  for (const status of [200, 500]) {
    bot.got.length = 0;
    const asked = Promise.withResolvers<void>();
    const release = Promise.withResolvers<Response>();
    bot.answer = () => {
      asked.resolve();
      return release.promise;
    };
    await world.post();
    const sent = world.send();
    await asked.promise;
    const [delivery] = await world.log(hook.id, "?status=waiting");
    at.clock.ms += 1_000;
    await world.ask("POST", `${hook.id}/deliveries/${delivery?.id}/replay`, undefined, 202);
    release.resolve(new Response("", { status }));
    await sent;
    bot.answer = () => new Response();
    await world.send();
    expect(bot.got.map(({ id }) => id)).toEqual([delivery?.id ?? "", delivery?.id ?? ""]);
  }
});

test("another address is not held to what the one before had said, or says yet", async () => {
  await using bot = receiver();
  await using other = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  bot.answer = refusing(503, { "Retry-After": "86400" });
  await world.post();
  await world.send();
  expect((await world.get(hook.id)).failing_since).not.toBeNull();
  const moved = await world.ask<Hook>("PATCH", hook.id, { url: other.url });
  expect(moved.failing_since).toBeNull();
  const second = await world.post();
  await world.send();
  expect(other.ids()).toEqual([second]);
  // What was on its way when it changed says 410 of an address that is none of it any more.
  const asked = Promise.withResolvers<void>();
  const release = Promise.withResolvers<Response>();
  other.answer = () => {
    asked.resolve();
    return release.promise;
  };
  await world.post();
  const sent = world.send();
  await asked.promise;
  await world.ask("PATCH", hook.id, { url: bot.url });
  release.resolve(new Response("", { status: 410 }));
  await sent;
  expect(await world.get(hook.id)).toMatchObject({ status: "enabled", failing_since: null });
});

test("an export of one's own data holds webhooks without their secrets; with the account they go", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const { id, secret } = await world.hook(bot.url);
  await world.post();
  await world.send();
  const { access } = world.member;
  const response = await at.call("GET", "/api/users/export", undefined, access);
  const text = await response.text();
  expect(JSON.parse(text)).toMatchObject({
    webhooks: [{ id, url: bot.url }],
    webhook_deliveries: [{ webhook_id: id, status: "delivered" }],
  });
  expect(text).not.toContain(secret.slice(6));
  await at.must(204, "DELETE", "/api/users/account", { password: world.member.password }, access);
  expect(
    await at.db().select().from(webhookMessages).where(eq(webhookMessages.webhookId, id)),
  ).toEqual([]);
});

test("ids that count from the beginning again are sent like any other", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  const id = await world.post();
  await world.send();
  const { rewindPlaces } = await import("../../../src/alpine/webhooks/enqueue.ts");
  await rewindPlaces(at.db(), id - 1);
  await world.send();
  expect(bot.ids()).toEqual([id, id]);
  expect(bot.got[1]?.id).not.toBe(bot.got[0]?.id);
  expect((await world.log(hook.id)).map(({ signal_id: of }) => of).toSorted()).toEqual([id, null]);
});
