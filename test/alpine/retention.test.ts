import { expect, test } from "bun:test";
import { eq, sql } from "drizzle-orm";
import {
  auditLog,
  deliveries,
  notifications,
  oneTimeTokens,
  providerEvents,
  refreshTokens,
  revocations,
  sessions,
  usage,
  usageDays,
  users,
} from "../../db/alpine/schema.ts";
import { forgetDeliveries, forgetExpired } from "../../src/alpine/retention.ts";
import { openAccounts } from "../harness/accounts.ts";

const day = 86_400_000;

test("what has expired is deleted, what has not is kept", async () => {
  await using at = await openAccounts({ backend: "postgres" });
  const [ended, kept] = [await at.member(), await at.member()];
  await at.must(204, "POST", "/api/auth/logout", undefined, ended.access);
  const counts = async () =>
    Promise.all(
      [oneTimeTokens, refreshTokens, revocations, sessions].map(
        async (table) => (await at.db().select().from(table)).length,
      ),
    );
  await forgetExpired(at.db(), at.clock.ms);
  const [tokens, refreshes, revoked, open] = await counts();
  expect([tokens, refreshes, revoked, open]).toEqual([2, 2, 1, 2]);

  at.clock.ms += day + 1;
  await forgetExpired(at.db(), at.clock.ms);
  expect(await counts()).toEqual([0, 2, 0, 2]);

  // One of them comes back in time and goes on; the other's tokens expire.
  at.clock.ms += 20 * day;
  const renewed = await at.call("POST", "/api/auth/refresh", { refresh_token: kept.refresh });
  expect(renewed.status).toBe(200);
  at.clock.ms += 15 * day;
  await forgetExpired(at.db(), at.clock.ms);
  expect(await counts()).toEqual([0, 1, 0, 2]);
  at.clock.ms += 25 * day;
  await forgetExpired(at.db(), at.clock.ms);
  const rows = await at.db().select().from(sessions).where(eq(sessions.userId, kept.id));
  expect(rows).toHaveLength(1);
  expect(await at.db().select().from(sessions)).toHaveLength(1);
});

test("what happened is forgotten after 400 days, some of it at a time", async () => {
  await using at = await openAccounts({ backend: "postgres" });
  const event = (days: number) => ({
    at: new Date(at.clock.ms - days * day),
    event: "login",
    details: { days },
  });
  await at
    .db()
    .insert(auditLog)
    .values(Array.from({ length: 5_001 }, () => event(401)));
  await at
    .db()
    .insert(auditLog)
    .values([event(399), event(0)]);
  const left = async () =>
    (await at.db().select().from(auditLog)).map(({ details }) => details["days"]);
  await forgetExpired(at.db(), at.clock.ms);
  expect((await left()).toSorted()).toEqual([0, 399, 401]);
  await forgetExpired(at.db(), at.clock.ms);
  expect((await left()).toSorted()).toEqual([0, 399]);
});

test("notifications go 30 days after they were read, or after 90 days", async () => {
  await using at = await openAccounts({ backend: "postgres" });
  const { id: userId } = await at.member();
  await at.db().delete(notifications);
  const ago = (days: number) => new Date(at.clock.ms - days * day);
  const row = (reference: string, createdDays: number, readDays: number | null, inApp = true) => ({
    id: crypto.randomUUID(),
    userId,
    kind: "new_login" as const,
    reference,
    title: "T",
    body: "B",
    inApp,
    isRead: readDays !== null || !inApp,
    createdAt: ago(createdDays),
    readAt: readDays === null ? null : ago(readDays),
  });
  await at
    .db()
    .insert(notifications)
    .values([
      row("read long ago", 40, 31),
      row("read lately, of long ago", 100, 29),
      row("unread, old", 91, null),
      row("unread", 89, null),
      row("by mail alone, old", 91, null, false),
      row("by mail alone", 89, null, false),
    ]);
  await forgetExpired(at.db(), at.clock.ms);
  const left = (await at.db().select().from(notifications)).map(({ reference }) => reference);
  expect(left.toSorted()).toEqual(["by mail alone", "read lately, of long ago", "unread"]);
});

test("counts and events of nobody go after 400 days; sums, events that wait and those of customers do not", async () => {
  await using at = await openAccounts({ backend: "postgres" });
  const { id: userId } = await at.member();
  const ago = (days: number) => new Date(at.clock.ms - days * day);
  const on = (days: number) => ago(days).toISOString().slice(0, 10);
  const old = [401, 400, 0];
  await at
    .db()
    .insert(usage)
    .values(old.map((days) => ({ userId, day: on(days), requests: days })));
  await at
    .db()
    .insert(usageDays)
    .values(old.map((days) => ({ day: on(days), routeClass: "signals" as const, requests: 1 })));
  const event = { provider: "stripe", type: "invoice.paid", body: {} } as const;
  const told = (
    id: string,
    receivedDays: number,
    appliedDays: number | null,
    subject?: string,
  ) => ({
    ...event,
    id,
    subject: subject ?? null,
    createdAt: ago(receivedDays),
    receivedAt: ago(receivedDays),
    appliedAt: appliedDays === null ? null : ago(appliedDays),
  });
  await at
    .db()
    .insert(providerEvents)
    .values([
      told("applied long ago", 401, 401),
      told("applied", 500, 399),
      told("waits", 500, null),
      told("of a customer", 500, 500, "cus_1"),
    ]);
  await forgetExpired(at.db(), at.clock.ms);
  const counted = (await at.db().select().from(usage)).map(({ requests }) => requests);
  expect(counted.filter((requests) => requests > 300)).toEqual([400]);
  expect(
    (await at.db().select().from(usageDays)).filter(({ requests }) => requests === 1),
  ).toHaveLength(3);
  const events = (await at.db().select().from(providerEvents)).map(({ id }) => id);
  expect(events.toSorted()).toEqual(["applied", "of a customer", "waits"]);
});

test("what was delivered is kept as long as the plan says, by each account's plan", async () => {
  await using at = await openAccounts({ backend: "postgres" });
  const tiers = ["starter", "pro", "elite"] as const;
  const members = await Promise.all([...tiers, "starter" as const].map(() => at.member()));
  for (const [n, tier] of tiers.entries()) {
    await at
      .db()
      .update(users)
      .set({ tier })
      .where(eq(users.id, members[n]?.id ?? ""));
  }
  const boss = members[3]?.id ?? "";
  await at.db().update(users).set({ role: "admin" }).where(eq(users.id, boss));
  const daysAgo = [1, 29, 31, 364, 366, 4_000];
  for (const { id: userId } of members) {
    await at.db().execute(sql`
      INSERT INTO deliveries (user_id, signal_id, delivered_at)
      SELECT ${userId}::uuid, days * 100000 + n,
        ${new Date(at.clock.ms).toISOString()}::timestamptz - days * interval '1 day'
      FROM unnest(${sql.param(daysAgo)}::int[]) AS days, generate_series(1, 2000) AS n`);
  }
  const { plans } = at.app.deps.alpine ?? {};
  if (!plans) throw new Error("there are no accounts");
  await forgetDeliveries(() => at.db(), plans, at.clock.ms, new AbortController().signal);
  const left: number[][] = [];
  for (const { id } of members) {
    const rows = await at.db().select().from(deliveries).where(eq(deliveries.userId, id));
    expect(rows.length % 2_000).toBe(0);
    left.push([...new Set(rows.map(({ signalId }) => Math.floor(signalId / 100_000)))]);
  }
  const kept = left.map((days) => days.toSorted((a, b) => a - b));
  expect(kept).toEqual([[1, 29], [1, 29, 31, 364], daysAgo, daysAgo]);
});
