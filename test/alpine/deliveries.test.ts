import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { deliveries, usage } from "../../db/alpine/schema.ts";
import type { Database } from "../../src/alpine/database.ts";
import { Usage } from "../../src/alpine/usage/usage.ts";
import { AppError } from "../../src/errors.ts";
import { Meters } from "../../src/http/meter.ts";
import { createLog } from "../../src/platform/log.ts";
import { BACKEND, openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { NOON, READ_TOKEN, signal } from "../harness/app.ts";
import { randomNumbers, tellSeed } from "../harness/seed.ts";
import { alpineOf, people, person } from "./people.ts";

const PATH = "/api/signals/delivered";
const dayMs = 86_400_000;

let at: Accounts;
/** Ids and hashes of what everybody may see. */
let ids: number[];
let hashes: string[];
beforeAll(async () => {
  tellSeed();
  at = await openAccounts();
  ({ ids, hashes } = await post(3));
});
afterAll(() => at[Symbol.asyncDispose]());

let posted = 0;
async function post(count: number, more: Record<string, unknown> = {}) {
  const bodies = Array.from({ length: count }, () => {
    posted += 1;
    return signal({ entry_price: 100 + posted / 100, confidence: 60, ...more });
  });
  const response = await at.app.post(bodies);
  expect(response.status).toBe(201);
  // SQLite has a clock of its own.
  at.app.engine.run("UPDATE argo_received SET received_at = ?", [new Date(NOON).toISOString()]);
  const made = ((await response.json()) as { signals: { id: number; sha256: string }[] }).signals;
  return { ids: made.map(({ id }) => id), hashes: made.map(({ sha256 }) => sha256) };
}

type Delivered = { signal_id: number; delivered_at: string; signal: { id: number } | null };
type Page = { deliveries: Delivered[]; next_cursor: string | null; has_more: boolean };

const flush = (on = at) => alpineOf(on).usage.flushCounts();
const journal = async (member: Member, query = "") => {
  await flush();
  return at.must<Page>(200, "GET", PATH + query, undefined, member.access);
};
const rowsOf = async ({ id }: Pick<Member, "id">) =>
  (await at.db().select().from(deliveries).where(eq(deliveries.userId, id)))
    .map(({ signalId, deliveredAt }) => [signalId, deliveredAt.getTime()] as const)
    .toSorted(([a], [b]) => a - b);
const countOf = async ({ id }: Member) => {
  await flush();
  const rows = await at.db().select().from(usage).where(eq(usage.userId, id));
  return rows.reduce((sum, { delivered }) => sum + delivered, 0);
};
const pro = () => person(at, { tier: "pro" });

describe("what is counted as delivered", () => {
  test("is each signal of each answer of status 200, by whichever route, and nothing else", async () => {
    const member = await pro();
    let due = 0;
    const is = async (more: number, path: string, status = 200, headers = {}, method = "GET") => {
      const request = new Request(`http://argo.test${path}`, {
        method,
        headers: { Authorization: `Bearer ${member.access}`, ...headers },
      });
      const response = await at.app.send(request);
      await response.text();
      expect([path, response.status]).toEqual([path, status]);
      due += more;
      expect([path, await countOf(member)]).toEqual([path, due]);
      return response;
    };
    const { headers } = await is(3, "/api/signals/latest");
    await is(3, "/api/signals/latest");
    await is(2, "/api/signals/latest?limit=2");
    const tag = headers.get("etag") ?? "";
    await is(0, "/api/signals/latest", 304, { "If-None-Match": tag });
    await is(0, "/api/signals/latest", 200, {}, "HEAD");
    await is(0, "/api/signals/latest?limit=0", 400);
    await is(0, "/api/signals/latest?symbol=NONE");
    await is(3, "/api/signals/subscribed");
    await is(2, "/api/signals?limit=2");
    await is(0, "/api/signals?limit=2", 200, {}, "HEAD");
    await is(1, `/api/signals/${ids[0]}`);
    await is(0, "/api/signals/999999", 404);
    await is(1, `/api/signals/hash/${hashes[1]}`);
    await is(0, "/api/stats");
    await is(0, "/api/signals/export?since_id=0", 403);
    await is(0, PATH);
    const elite = await person(at, { tier: "elite" });
    const lines = await at.call("GET", "/api/signals/export?since_id=0", undefined, elite.access);
    expect((await lines.text()).trim().split("\n").length).toBe(await countOf(elite));
    expect((await rowsOf(elite)).map(([id]) => id)).toEqual(ids);
  });

  test("is in the journal once, with the time of the first", async () => {
    const member = await pro();
    const key = await at.key(member);
    const get = (path: string) => at.must(200, "GET", path, undefined, key);
    await get(`/api/signals/${ids[1]}`);
    at.clock.ms = NOON + 1_000;
    await get("/api/signals/latest?limit=2");
    at.clock.ms = NOON + 2_000;
    await get("/api/signals/latest");
    await get("/api/signals/subscribed");
    await flush();
    at.clock.ms = NOON + 3_000;
    await get("/api/signals");
    const newest = (await post(1)).ids;
    await get("/api/signals/latest");
    const order = (
      await at.app.json<{ id: number }[]>("/api/signals/latest?limit=3", as(READ_TOKEN))
    )
      .map(({ id }) => id)
      .filter((id) => id !== newest[0]);
    expect(order.length).toBe(2);
    await flush();
    const rows = Object.fromEntries(await rowsOf(member));
    expect(rows[ids[1] ?? 0]).toBe(NOON);
    expect(rows[newest[0] ?? 0]).toBe(NOON + 3_000);
    for (const id of ids) expect(rows[id]).toBeLessThanOrEqual(NOON + 2_000);
    expect(Object.keys(rows).length).toBe(4);
    at.clock.ms = NOON;
    ids = [...ids, ...newest];
  });
});

const as = (token: string) => ({ Authorization: `Bearer ${token}` });

describe("the journal", () => {
  test("is read last delivery first, page by page, each entry with the signal", async () => {
    const member = await pro();
    const meter = alpineOf(at).meters.of(member.id);
    for (const [i, id] of ids.entries()) {
      at.clock.ms = NOON + i * 1_000;
      meter.deliver([id]);
    }
    const all = await journal(member);
    expect(all.deliveries.map(({ signal_id: id }) => id)).toEqual(ids.toReversed());
    expect(all.deliveries.map(({ signal: found }) => found?.id)).toEqual(ids.toReversed());
    expect(all.deliveries[0]?.delivered_at).toBe(new Date(at.clock.ms).toISOString());
    expect(all.deliveries[0]?.signal).toEqual(
      await at.must(200, "GET", `/api/signals/${ids.at(-1)}`, undefined, member.access),
    );
    const found: Delivered[] = [];
    for (let cursor = ""; ;) {
      const page = await journal(member, `?limit=1${cursor}`);
      found.push(...page.deliveries);
      if (!page.has_more) break;
      cursor = `&cursor=${page.next_cursor}`;
    }
    expect(found.map(({ signal_id: id }) => id)).toEqual(ids.toReversed());
    // Nobody goes on with somebody else's.
    const { next_cursor: cursor } = await journal(member, "?limit=1");
    const other = await pro();
    const stolen = await at.call("GET", `${PATH}?cursor=${cursor}`, undefined, other.access);
    expect(stolen.status).toBe(400);
    expect((await journal(other)).deliveries).toEqual([]);
    at.clock.ms = NOON;
  });

  test("shows no signal that is gone, or that the plan does not see", async () => {
    const { ids: premium } = await post(1, { confidence: 99 });
    const member = await person(at);
    alpineOf(at)
      .meters.of(member.id)
      .deliver([999_999, ...premium, ...ids]);
    const { deliveries: shown } = await journal(member);
    // A starter's signals come 900 s late.
    expect(shown.map((entry) => entry.signal)).toEqual([null, null, ...ids.map(() => null)]);
    at.clock.ms = NOON + 910_000;
    const later = await at.login(member.email).catch(() => null);
    expect(later).toBeTruthy();
    const { deliveries: due } = await journal(later ?? member);
    const seen = new Map(due.map((entry) => [entry.signal_id, entry.signal?.id ?? null]));
    expect(seen.get(999_999)).toBeNull();
    expect(seen.get(premium[0] ?? 0)).toBeNull();
    for (const id of ids) expect(seen.get(id)).toBe(id);
    at.clock.ms = NOON;
  });

  test("reaches as far back as the plan says, and without end for an administrator", async () => {
    for (const [given, seen] of [
      [{ tier: "starter" }, 1],
      [{ tier: "pro" }, 2],
      [{ tier: "elite" }, 3],
      [{ role: "admin" }, 3],
    ] as const) {
      const member = await person(at, given);
      const entries = [29, 364, 3_000].map((days, i) => ({
        userId: member.id,
        signalId: i + 1,
        deliveredAt: new Date(NOON - days * dayMs),
      }));
      await at.db().insert(deliveries).values(entries);
      const { deliveries: found } = await journal(member);
      expect([given, found.map((one) => one.signal_id)]).toEqual([given, [1, 2, 3].slice(0, seen)]);
    }
  });
});

/** A writer of its own. */
function writer(db: () => Database, clock: { ms: number }, deliveriesMax = 1_000_000) {
  const meters = new Meters({ now: () => clock.ms, deliveriesMax });
  const credentials = { takeUsed: () => new Map<string, number>() };
  return { meters, usage: new Usage({ credentials, meters, log: createLog("silent"), db }) };
}

describe("writing", () => {
  test("keeps the earliest time, whatever is asked how often, in however many processes", async () => {
    const random = randomNumbers();
    const below = (n: number) => Math.floor(random() * n);
    const members = await people(at, 5);
    const clock = { ms: NOON };
    const writers = Array.from({ length: 3 }, () => writer(() => at.db(), clock));
    const model = new Map<string, number>();
    const shown = Array.from({ length: 12 }, () =>
      Object.freeze(Array.from({ length: 1 + below(60) }, () => 1 + below(200))),
    );
    for (let step = 0; step < 2_000; step += 1) {
      clock.ms += below(50) - 10;
      const { id } = members[below(members.length)] ?? { id: "" };
      const one = writers[below(writers.length)];
      // Now the answer that everybody is given, now one that nobody else gets.
      const given = random() < 0.8 ? shown[below(shown.length)] : [1 + below(300)];
      for (const signalId of given ?? []) {
        const key = `${id} ${signalId}`;
        const before = model.get(key);
        if (before === undefined || before > clock.ms) model.set(key, clock.ms);
      }
      one?.meters.of(id).deliver(given ?? []);
      if (random() < 0.01) await one?.usage.flushCounts();
    }
    await Promise.all(writers.map((one) => one.usage.flushCounts()));
    const found = new Map<string, number>();
    for (const member of members) {
      for (const [signalId, ms] of await rowsOf(member)) found.set(`${member.id} ${signalId}`, ms);
    }
    // A clock that goes back within one process finds what was told later already told.
    expect([...found.keys()].toSorted()).toEqual([...model.keys()].toSorted());
    for (const [key, ms] of model) expect(found.get(key) ?? 0).toBeGreaterThanOrEqual(ms);
    const late = [...model].filter(([key, ms]) => (found.get(key) ?? 0) - ms > 2_000);
    expect(late).toEqual([]);
  });

  test.if(BACKEND !== "embedded")("an earlier time than what another one wrote", async () => {
    const member = await pro();
    await using other = await openAccounts({ beside: at, now: NOON - 5_000 });
    alpineOf(other).meters.of(member.id).deliver([1]);
    alpineOf(at).meters.of(member.id).deliver([1]);
    await flush(at);
    expect(await rowsOf(member)).toEqual([[1, NOON]]);
    await flush(other);
    expect(await rowsOf(member)).toEqual([[1, NOON - 5_000]]);
    await flush(at);
    expect(await rowsOf(member)).toEqual([[1, NOON - 5_000]]);
  });

  test("waits for a database that is away, and lets go of the oldest when that is too long", async () => {
    const [member, gone] = await people(at, 2);
    if (!member || !gone) throw new Error("nobody was made");
    const clock = { ms: NOON };
    let up = false;
    const db = () => {
      if (up) return at.db();
      throw new AppError("unavailable", "away");
    };
    const { meters, usage: writes } = writer(db, clock, 1_000);
    for (let id = 1; id <= 500; id += 1) {
      clock.ms = NOON + id;
      meters.of(member.id).deliver([id]);
      if (id % 100 === 0) await expect(writes.flushCounts()).rejects.toThrow("away");
    }
    expect([meters.waiting, meters.deliveriesDropped]).toEqual([500, 0]);
    for (let id = 501; id <= 1_200; id += 1) {
      clock.ms = NOON + id;
      meters.of(member.id).deliver([id]);
    }
    await expect(writes.flushCounts()).rejects.toThrow("away");
    const dropped = meters.deliveriesDropped;
    expect(dropped).toBeGreaterThanOrEqual(200);
    expect(dropped).toBeLessThan(400);
    expect(meters.waiting).toBe(1_200 - dropped);
    meters.of(gone.id).deliver([1]);
    const body = { password: gone.password };
    await at.must(204, "DELETE", "/api/users/account", body, gone.access);
    up = true;
    await writes.flushCounts();
    const rows = await rowsOf(member);
    expect(rows.length).toBe(1_200 - dropped);
    expect(rows.every(([id, ms]) => ms === NOON + id)).toBe(true);
    expect(rows.at(0)?.[0]).toBe(dropped + 1);
    expect(await rowsOf(gone)).toEqual([]);
    expect(meters.waiting).toBe(0);
  });

  test("nothing of ids that are no whole numbers here", async () => {
    const member = await pro();
    alpineOf(at)
      .meters.of(member.id)
      .deliver([1, 2 ** 60, Number.NaN, -7, 1.5]);
    await flush();
    expect((await rowsOf(member)).map(([id]) => id)).toEqual([-7, 1]);
  });
});
