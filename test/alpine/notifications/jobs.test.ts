/** Background jobs as they run by themselves: where accounts live, by mail, when due, or not at all. */
import { describe, expect, test } from "bun:test";
import { eq, sql } from "drizzle-orm";
import { notifications, plans, users } from "../../../db/alpine/schema.ts";
import {
  type Accounts,
  type Backend,
  backends,
  type Member,
  openAccounts,
} from "../../harness/accounts.ts";
import { signal } from "../../harness/app.ts";
import { until } from "../../harness/process.ts";
import { smtp } from "../../harness/smtp.ts";
import { alpineOf } from "../people.ts";

const env = { BACKGROUND_TASKS: "true" };

const watches = async (at: Accounts): Promise<boolean> =>
  (await at.db().execute(sql`SELECT 1 FROM job_places WHERE name = 'premium_signals'`)).rows
    .length === 1;
const told = async (at: Accounts): Promise<string[]> =>
  (await at.db().select().from(notifications).where(eq(notifications.kind, "premium_signal"))).map(
    ({ userId }) => userId,
  );

describe.each(backends.filter((backend) => backend !== "postgres+redis"))(
  "on %s",
  (backend: Backend) => {
    test("a premium signal is told, here and by mail, and the end waits for little", async () => {
      await using sink = await smtp();
      const at = await openAccounts({ backend, env: { ...env, SMTP_URL: sink.url } });
      await using stack = new AsyncDisposableStack();
      stack.use(at);
      const [pro, starter] = [await at.member(), await at.member()];
      await at
        .db()
        .update(users)
        .set({ tier: "pro", isVerified: true })
        .where(eq(users.id, pro.id));
      const wanted = { premium_signal: { in_app: true, email: true } };
      for (const { access } of [pro, starter]) {
        await at.must(200, "PUT", "/api/notifications/preferences", wanted, access);
      }
      await until(() => watches(at), "signals are watched");
      sink.clear();
      expect((await at.app.post(signal())).status).toBe(201);
      const mail = await sink.mailFor(pro.email);
      expect(mail.subject).toBe("BUY SPX at 100");
      expect(mail.text).toContain("confidence 97.5");
      expect(await told(at)).toEqual([pro.id]);
      expect(sink.mails()).toHaveLength(1);
      const begun = performance.now();
      await stack.disposeAsync();
      expect(performance.now() - begun).toBeLessThan(10_000);
    });
  },
);

test("a plan that sees later is told when it may, by a job that waits for it", async () => {
  await using at = await openAccounts({ backend: "postgres", env });
  const { changes } = alpineOf(at);
  const [pro, elite] = [await at.member(), await at.member()];
  await changes.write(async (tx, tell) => {
    await tx.update(users).set({ tier: "pro" }).where(eq(users.id, pro.id));
    await tx.update(users).set({ tier: "elite" }).where(eq(users.id, elite.id));
    await tx.update(plans).set({ delaySeconds: 2 }).where(eq(plans.tier, "pro"));
    tell({ kind: "plan", tier: "pro" });
  });
  await until(() => watches(at), "signals are watched");
  // What a file notes of arrivals is by the real clock, which the test's then follows.
  const apartMs = Date.now() - at.clock.ms;
  const ticking = setInterval(() => (at.clock.ms = Date.now()), 10);
  using _stopped = { [Symbol.dispose]: () => clearInterval(ticking) };
  expect(Math.abs(apartMs)).toBeGreaterThan(0);
  await Bun.sleep(20);
  await at.app.post(signal());
  await until(async () => (await told(at)).length === 2, "both are told");
  const rows = await at.db().select().from(notifications);
  const toldMs = (of: Member): number =>
    rows
      .find(({ userId, kind }) => userId === of.id && kind === "premium_signal")
      ?.createdAt.getTime() ?? NaN;
  const [{ at: arrived }] = at.app.engine
    .query("SELECT received_at AS at FROM argo_received")
    .all() as [{ at: string }];
  expect(toldMs(pro)).toBeGreaterThanOrEqual(Date.parse(arrived) + 2_000);
  expect(toldMs(elite)).toBeLessThanOrEqual(toldMs(pro));
});

test("BACKGROUND_TASKS=false: nothing is done, nothing is made", async () => {
  await using at = await openAccounts({ backend: "postgres", env: { BACKGROUND_TASKS: "false" } });
  const pro = await at.member();
  await at.db().update(users).set({ tier: "pro" }).where(eq(users.id, pro.id));
  await at.app.post(signal());
  await Bun.sleep(2_500);
  const { rows } = await at
    .db()
    .execute<{ there: boolean }>(sql`SELECT to_regnamespace('pgboss') IS NOT NULL AS there`);
  expect(rows).toEqual([{ there: false }]);
  expect(await watches(at)).toBe(false);
  expect(await told(at)).toEqual([]);
  // What requests do themselves is done all the same.
  await at.login(pro.email);
  expect(await at.db().select().from(notifications)).toHaveLength(1);
});

test("what is done by the clock is on the clock, once however many processes there are", async () => {
  await using at = await openAccounts({ backend: "postgres", env });
  await using other = await openAccounts({ beside: at, env });
  const scheduled = async (): Promise<string[]> => {
    const there = sql`SELECT to_regclass('pgboss.schedule') IS NOT NULL AS there`;
    if (!(await at.db().execute<{ there: boolean }>(there)).rows[0]?.there) return [];
    const names = sql`SELECT name FROM pgboss.schedule ORDER BY name`;
    return (await other.db().execute<{ name: string }>(names)).rows.map(({ name }) => name);
  };
  await until(async () => (await scheduled()).length >= 3, "schedules");
  expect(await scheduled()).toEqual(
    expect.arrayContaining(["history", "key_expiring", "retention"]),
  );
});
