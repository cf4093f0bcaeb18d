import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { apiKeys, usage } from "../../db/alpine/schema.ts";
import { hashOf } from "../../src/alpine/auth/tokens.ts";
import type { Credentials } from "../../src/alpine/credentials.ts";
import { makeKey } from "../../src/alpine/keys/format.ts";
import { Usage } from "../../src/alpine/usage.ts";
import { AppError } from "../../src/errors.ts";
import { BACKEND, openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { NOON } from "../harness/app.ts";
import { alpineOf, people, person } from "./people.ts";

let at: Accounts;
beforeAll(async () => {
  at = await openAccounts();
});
afterAll(() => at[Symbol.asyncDispose]());

const LATEST = "/api/signals/latest";
const dayMs = 86_400_000;

async function poll(key: string, times: number, on = at): Promise<void> {
  for (let i = 0; i < times; i += 1) await on.must(200, "GET", LATEST, undefined, key);
}

const flush = (on = at) => alpineOf(on).usage.flush();
const usedAt = async ({ id }: Member) =>
  (await at.db().select().from(apiKeys).where(eq(apiKeys.userId, id))).map(
    ({ lastUsedAt }) => lastUsedAt?.getTime() ?? null,
  );
const usageOf = async ({ id }: Member) =>
  (await at.db().select().from(usage).where(eq(usage.userId, id)).orderBy(usage.day)).map(
    ({ day, requests }) => [day, requests],
  );

describe("what is written down", () => {
  test("every request of an account by day, and when its keys were used", async () => {
    const member = await person(at);
    const key = await at.key(member);
    await flush();
    expect(await usageOf(member)).toEqual([["2026-11-20", 1]]);
    expect(await usedAt(member)).toEqual([null]);
    await poll(key, 5);
    at.clock.ms = NOON + 7;
    await poll(key, 1);
    await poll(member.access, 3);
    expect(await usedAt(member)).toEqual([null]);
    await flush();
    expect(await usedAt(member)).toEqual([NOON + 7]);
    expect(await usageOf(member)).toEqual([["2026-11-20", 10]]);
    await flush();
    expect(await usageOf(member)).toEqual([["2026-11-20", 10]]);
    at.clock.ms = NOON + 12 * 3_600_000;
    await poll(key, 2);
    await flush();
    expect(await usageOf(member)).toEqual([
      ["2026-11-20", 10],
      ["2026-11-21", 2],
    ]);
    expect(await usedAt(member)).toEqual([at.clock.ms]);
    at.clock.ms = NOON;
  });

  test("also of many, in order, and none twice where it is written twice at once", async () => {
    const members = await people(at, 450);
    const twice = members.filter((_, i) => i % 2 === 0);
    for (const { access } of [...members, ...twice]) await poll(access, 1);
    await Promise.all([flush(), flush(), flush()]);
    for (const [i, member] of members.entries()) {
      expect(await usageOf(member)).toEqual([["2026-11-20", i % 2 === 0 ? 2 : 1]]);
    }
  });

  test("of a key that has a new place in memory as well", async () => {
    const member = await person(at);
    const key = await at.key(member);
    const before = at.clock.ms;
    await poll(key, 2);
    // Something of the user has changed: their keys are read anew.
    await alpineOf(at).changes.write(async (_tx, tell) => tell({ kind: "user", id: member.id }));
    at.clock.ms += 500;
    await poll(key, 3);
    await flush();
    expect(await usageOf(member)).toEqual([["2026-11-20", 6]]);
    expect(await usedAt(member)).toEqual([before + 500]);
    at.clock.ms = before;
  });

  test("nothing of who is gone, and that keeps nobody else's from it", async () => {
    const [gone, there] = [await person(at), await person(at)];
    const key = await at.key(gone);
    await poll(key, 3);
    await poll(there.access, 3);
    const body = { password: gone.password };
    await at.must(204, "DELETE", "/api/users/account", body, gone.access);
    await flush();
    expect(await usageOf(gone)).toEqual([]);
    expect(await usageOf(there)).toEqual([["2026-11-20", 3]]);
  });

  test("by two at once of the same keys, without one holding up the other for good", async () => {
    const members = await people(at, 300);
    const keys = await Promise.all(
      members.map(async ({ id: userId }) => {
        const id = Bun.randomUUIDv7();
        const common = { name: "a key", prefix: "argo_live_000000", scopes: ["signals:read"] };
        const createdAt = new Date(NOON);
        const hash = hashOf(makeKey());
        await at
          .db()
          .insert(apiKeys)
          .values({ id, userId, hash, createdAt, ...common });
        return id;
      }),
    );
    const writer = (reversed: boolean) => {
      const inOrder = <T>(values: T[]): T[] => (reversed ? values.toReversed() : values);
      const taken = () => ({
        keys: new Map(inOrder(keys).map((id) => [id, NOON + Math.floor(performance.now())])),
        requests: new Map(inOrder(members).map(({ id }) => [id, 1])),
      });
      const credentials = { takeUsed: taken } as Credentials;
      return new Usage({ credentials, db: () => at.db(), now: () => NOON });
    };
    const writers = [writer(false), writer(true)];
    for (let round = 0; round < 10; round += 1) {
      await Promise.all(writers.map((one) => one.flush()));
    }
    for (const member of members) expect(await usageOf(member)).toEqual([["2026-11-20", 20]]);
  });

  test.if(BACKEND !== "embedded")("adds up from every server, at its end too", async () => {
    const member = await person(at);
    const key = await at.key(member);
    {
      await using other = await openAccounts({ beside: at, now: NOON + 9 });
      await poll(key, 4, other);
      await poll(key, 2);
    }
    expect(await usedAt(member)).toEqual([NOON + 9]);
    await flush();
    expect(await usageOf(member)).toEqual([["2026-11-20", 7]]);
    // What another one wrote of later stays.
    expect(await usedAt(member)).toEqual([NOON + 9]);
  });
});

describe("while the database is away", () => {
  test("what was counted is kept for its day, and written when it is back", async () => {
    const [one, two] = await people(at, 2);
    if (!one || !two) throw new Error("nobody was made");
    let taken = new Map<string, number>();
    let up = false;
    const clock = { ms: NOON };
    const credentials = {
      takeUsed: () => ({ keys: new Map<string, number>(), requests: taken }),
    } as Credentials;
    const writer = new Usage({
      credentials,
      now: () => clock.ms,
      db: () => {
        if (up) return at.db();
        throw new AppError("unavailable", "away");
      },
    });
    taken = new Map([[one.id, 5]]);
    await expect(writer.flush()).rejects.toThrow("away");
    taken = new Map([
      [one.id, 2],
      [two.id, 1],
    ]);
    await expect(writer.flush()).rejects.toThrow("away");
    clock.ms += dayMs;
    taken = new Map([[one.id, 1]]);
    up = true;
    await writer.flush();
    taken = new Map();
    await writer.flush();
    expect(await usageOf(one)).toEqual([
      ["2026-11-20", 7],
      ["2026-11-21", 1],
    ]);
    expect(await usageOf(two)).toEqual([["2026-11-20", 1]]);
  });
});
