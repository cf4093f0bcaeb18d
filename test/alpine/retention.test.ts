import { expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import {
  auditLog,
  oneTimeTokens,
  refreshTokens,
  revocations,
  sessions,
} from "../../db/alpine/schema.ts";
import { forgetExpired } from "../../src/alpine/retention.ts";
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
