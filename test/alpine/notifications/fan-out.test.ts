/** A premium signal told to everybody who may see it: once, not before its time, however often. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { eq, sql } from "drizzle-orm";
import {
  jobPlaces,
  notificationPreferences,
  notifications,
  plans,
  type Tier,
  users,
} from "../../../db/alpine/schema.ts";
import { fanOut, type SignalNews } from "../../../src/alpine/notifications/fan-out.ts";
import { SignalWatch, singlesMax } from "../../../src/alpine/notifications/watch.ts";
import { type Accounts, openAccounts } from "../../harness/accounts.ts";
import { signal } from "../../harness/app.ts";
import { alpineOf } from "../people.ts";

let at: Accounts;
beforeAll(async () => {
  at = await openAccounts();
});
afterAll(() => at[Symbol.asyncDispose]());
beforeEach(async () => {
  await at.db().delete(users);
  await at.db().delete(jobPlaces);
  await setPlan("pro", { premium: true, delaySeconds: 0 });
  await setPlan("elite", { premium: true, delaySeconds: 0 });
});

async function setPlan(tier: Tier, change: Partial<typeof plans.$inferInsert>): Promise<void> {
  await alpineOf(at).changes.write(async (tx, tell) => {
    await tx.update(plans).set(change).where(eq(plans.tier, tier));
    tell({ kind: "plan", tier });
  });
}

/** So many accounts of each tier. */
async function fill(count: number): Promise<void> {
  await at.db().execute(sql`
    INSERT INTO users (id, email, full_name, password_hash, tier, is_active, created_at,
      updated_at, password_changed_at)
    SELECT gen_random_uuid(), tier || n || '@example.com', 'Somebody', 'none', tier, true, now(),
      now(), now()
    FROM generate_series(1, ${count}) AS n, unnest(ARRAY['starter', 'pro', 'elite']) AS tier`);
}

const news = (more: Partial<SignalNews> = {}): SignalNews => ({
  reference: "1",
  title: "BUY SPX",
  body: "BUY SPX, confidence 97",
  details: { signal_id: 1 },
  fromMs: at.clock.ms,
  ...more,
});

const run = (of: SignalNews, more: { signal?: AbortSignal; accountsAtOnce?: number } = {}) =>
  fanOut(
    {
      db: () => at.db(),
      plans: alpineOf(at).plans,
      now: () => at.clock.ms,
      signal: new AbortController().signal,
      ...more,
    },
    of,
  );

/** How often each tier was told. */
async function told(reference = "1"): Promise<Partial<Record<Tier, number>>> {
  const rows = await at
    .db()
    .select({ tier: users.tier, count: sql<number>`count(*)::int` })
    .from(notifications)
    .innerJoin(users, eq(users.id, notifications.userId))
    .where(eq(notifications.reference, reference))
    .groupBy(users.tier);
  return Object.fromEntries(rows.map(({ tier, count }) => [tier, count]));
}

describe("a fan-out", () => {
  test("reaches active accounts whose plan shows premium signals, whatever the size of a step", async () => {
    await fill(25);
    await at.db().update(users).set({ isActive: false }).where(eq(users.email, "pro1@example.com"));
    for (const [n, accountsAtOnce] of [1, 7, 24, 49, 50, 1_000].entries()) {
      expect(await run(news({ reference: `${n}` }), { accountsAtOnce })).toBeNull();
      expect(await told(`${n}`)).toEqual({ pro: 24, elite: 25 });
    }
  });

  test("tells nobody twice: repeated, beside itself, and after it was ended half-way", async () => {
    await fill(30);
    const half = new AbortController();
    const ended = run(news(), { accountsAtOnce: 5, signal: half.signal });
    setTimeout(() => half.abort(), 15);
    await ended.catch(() => undefined);
    await Promise.all([run(news(), { accountsAtOnce: 7 }), run(news(), { accountsAtOnce: 4 })]);
    await run(news());
    expect(await told()).toEqual({ pro: 30, elite: 30 });
    expect(await at.db().select().from(notifications)).toHaveLength(60);
  });

  test("tells each plan when it may see the signal, and not before", async () => {
    await fill(3);
    await setPlan("pro", { delaySeconds: 900 });
    const of = news();
    expect(await run(of)).toBe(at.clock.ms + 900_000);
    expect(await told()).toEqual({ elite: 3 });
    at.clock.ms += 899_999;
    expect(await run(of)).toBe(at.clock.ms + 1);
    expect(await told()).toEqual({ elite: 3 });
    at.clock.ms += 1;
    expect(await run(of)).toBeNull();
    expect(await told()).toEqual({ elite: 3, pro: 3 });
  });

  test("goes by the plans as they are when it runs", async () => {
    await fill(2);
    await setPlan("elite", { premium: false });
    await setPlan("pro", { delaySeconds: 60 });
    const of = news();
    const dueMs = await run(of);
    expect(await told()).toEqual({});
    await setPlan("pro", { delaySeconds: 120 });
    at.clock.ms = dueMs ?? 0;
    expect(await run(of)).toBe(of.fromMs + 120_000);
    expect(await told()).toEqual({});
    await setPlan("pro", { premium: false });
    at.clock.ms += 60_000;
    expect(await run(of)).toBeNull();
    expect(await told()).toEqual({});
  });

  test("is told where each account wants to be told", async () => {
    await fill(1);
    await fill(0);
    const [one] = await at.db().select().from(users).where(eq(users.tier, "pro"));
    const [other] = await at.db().select().from(users).where(eq(users.tier, "elite"));
    const kind = "premium_signal" as const;
    await at
      .db()
      .insert(notificationPreferences)
      .values([
        { userId: one?.id ?? "", kind, inApp: false, email: false },
        { userId: other?.id ?? "", kind, inApp: false, email: true },
      ]);
    await run(news());
    const rows = await at.db().select().from(notifications);
    expect(rows).toMatchObject([
      { userId: other?.id, inApp: false, isRead: true, mailDueAt: new Date(at.clock.ms) },
    ]);
  });

  test("passes by accounts that are deleted meanwhile", async () => {
    await fill(200);
    const deleting = (async () => {
      for (let n = 1; n <= 100; n += 1) {
        await at
          .db()
          .delete(users)
          .where(eq(users.email, `pro${n}@example.com`));
      }
    })();
    await run(news(), { accountsAtOnce: 20 });
    await deleting;
    expect(await told()).toEqual({ pro: 100, elite: 200 });
  });
});

describe("the watch", () => {
  const watching = () => {
    const sent: SignalNews[] = [];
    const { argo } = at.app.deps;
    const watch = new SignalWatch({
      db: () => at.db(),
      source: {
        headId: () => argo.reader.look().maxId,
        after: (id, shownMax) => argo.far.premiumAfter(id, shownMax),
        lateMs: () => 0,
      },
      send: (_, of) => Promise.resolve(void sent.push(of)),
      now: () => at.clock.ms,
    });
    return { watch, sent };
  };
  let posted = 0;
  const post = async (count: number, confidence = 97): Promise<number[]> => {
    const batch = Array.from({ length: count }, () =>
      signal({ confidence, entry_price: 100 + (posted += 1) / 1_000 }),
    );
    const response = await at.app.post(batch);
    expect(response.status).toBe(201);
    const { signals } = (await response.json()) as { signals: { id: number }[] };
    return signals.map(({ id }) => id);
  };
  const ids = (sent: SignalNews[]) => sent.map(({ details }) => details["signal_id"]);

  test("begins at the newest signal, and hands over each premium one after it once", async () => {
    await post(3);
    const { watch, sent } = watching();
    expect(await watch.look()).toBe(false);
    expect(sent).toEqual([]);
    await post(2, 94.9);
    const [first = 0, second = 0] = await post(2, 95);
    expect(await watch.look()).toBe(true);
    expect(ids(sent)).toEqual([first, second]);
    expect(await watch.look()).toBe(false);
    // Another process, and one that is started later.
    const other = watching();
    expect(await other.watch.look()).toBe(false);
    const [third] = await post(1);
    await Promise.all([watch.look(), other.watch.look()]);
    expect([...ids(sent), ...ids(other.sent)].toSorted()).toEqual(
      [first, second, third].toSorted(),
    );
  });

  test("hands over nothing where handing over fails, and all of it the next time", async () => {
    const { watch, sent } = watching();
    await watch.look();
    const made = await post(2);
    const { argo } = at.app.deps;
    let failures = 0;
    const failing = new SignalWatch({
      db: () => at.db(),
      source: {
        headId: () => argo.reader.look().maxId,
        after: (id, shownMax) => argo.far.premiumAfter(id, shownMax),
        lateMs: () => 0,
      },
      send: () => Promise.reject(new Error(`failure ${(failures += 1)}`)),
      now: () => at.clock.ms,
    });
    await expect(failing.look()).rejects.toThrow("failure 1");
    await Bun.sleep(20);
    expect(failures).toBe(1);
    await watch.look();
    expect(ids(sent)).toEqual(made);
  });

  test("takes nothing back where a copy is behind, until its ids stay lower and nothing is missing", async () => {
    const { watch, sent } = watching();
    await post(1);
    await watch.look();
    const made = await post(3);
    const behind = at.app.deps.argo.reader.look().maxId - 3;
    await watch.look();
    let lateMs = Infinity;
    const { argo } = at.app.deps;
    const late = new SignalWatch({
      db: () => at.db(),
      source: {
        headId: () => behind,
        after: (id, shownMax) => argo.far.premiumAfter(id, shownMax),
        lateMs: () => lateMs,
      },
      send: () => Promise.reject(new Error("handed over again")),
      now: () => at.clock.ms,
    });
    await late.look();
    await Bun.sleep(20);
    await late.look();
    expect(await watch.look()).toBe(false);
    expect(ids(sent).slice(-3)).toEqual(made);
    // As one whose server was put back to an older state.
    lateMs = 10;
    await late.look();
    expect(await watch.look()).toBe(false);
    await Bun.sleep(20);
    await late.look();
    const [place] = await at.db().select().from(jobPlaces);
    expect(place?.place).toBe(behind);
    await at
      .db()
      .update(jobPlaces)
      .set({ place: behind + 3 });
  });

  test("takes nothing back where one of several is behind now and then", async () => {
    await watching().watch.look();
    await post(3);
    const { argo } = at.app.deps;
    const all = argo.reader.look().maxId;
    let headId = all;
    const turns = new SignalWatch({
      db: () => at.db(),
      source: {
        headId: () => headId,
        after: (id, shownMax) => argo.far.premiumAfter(id, shownMax),
        lateMs: () => 10,
      },
      send: () => Promise.resolve(),
      now: () => at.clock.ms,
    });
    await turns.look();
    headId = all - 3;
    await turns.look();
    headId = all;
    await turns.look();
    await Bun.sleep(20);
    headId = all - 3;
    await turns.look();
    const [place] = await at.db().select().from(jobPlaces);
    expect(place?.place).toBe(all);
  });

  test("counts delays from the arrival, and what says no time as old", async () => {
    const { watch, sent } = watching();
    await watch.look();
    const [id] = await post(1);
    at.app.engine.run("UPDATE argo_received SET received_at = ? WHERE id = ?", [
      new Date(at.clock.ms - 60_000).toISOString(),
      id ?? 0,
    ]);
    const [old] = await post(1);
    at.app.engine.run("DELETE FROM argo_received WHERE id = ?", [old ?? 0]);
    at.app.engine.run("UPDATE signals SET timestamp = 'yesterday' WHERE id = ?", [old ?? 0]);
    await watch.look();
    expect(sent.map(({ fromMs }) => fromMs)).toEqual([at.clock.ms - 60_000, 0]);
  });

  test("hands over many at once as one, and no more than one such a minute", async () => {
    const { watch, sent } = watching();
    await watch.look();
    const first = await post(singlesMax + 1);
    await watch.look();
    expect(sent).toMatchObject([
      { title: `${singlesMax + 1} new premium signals`, details: { first_id: first[0] } },
    ]);
    await post(singlesMax + 5);
    await watch.look();
    at.clock.ms += 59_999;
    await watch.look();
    expect(sent).toHaveLength(1);
    await post(1);
    at.clock.ms += 1;
    await watch.look();
    expect(sent[1]).toMatchObject({ title: `${singlesMax + 6} new premium signals` });
    // One by one again, up to so many a minute.
    at.clock.ms += 60_000;
    const some = await post(singlesMax - 1);
    await watch.look();
    const [one] = await post(1);
    await watch.look();
    expect(ids(sent.slice(2))).toEqual([...some, one]);
    const [late] = await post(1);
    await watch.look();
    expect(sent).toHaveLength(2 + singlesMax);
    at.clock.ms += 60_000;
    await watch.look();
    expect(ids(sent.slice(-1))).toEqual([late]);
  });

  test("reads a long stretch to its end", async () => {
    const { watch, sent } = watching();
    await watch.look();
    for (let n = 0; n < 6; n += 1) await post(1_000, n < 5 ? 60 : 99);
    await post(1, 60);
    at.clock.ms += 60_000;
    await watch.look();
    expect(sent).toMatchObject([{ title: "1000 new premium signals" }]);
  });

  test("begins anew where the engine has made its table anew", async () => {
    const { watch, sent } = watching();
    await watch.look();
    await post(2);
    at.clock.ms += 60_000;
    await watch.look();
    expect(sent).toHaveLength(2);
    at.app.engine.run("DELETE FROM signals");
    at.app.engine.run("DELETE FROM sqlite_sequence");
    await post(1, 60);
    await watch.look();
    const [next] = await post(1);
    at.clock.ms += 60_000;
    await watch.look();
    expect(ids(sent.slice(2))).toEqual([next]);
  });
});
