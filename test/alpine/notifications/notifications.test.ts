/** What an account is told: listed, counted, read, and told as it wants to be. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { notifications, users } from "../../../db/alpine/schema.ts";
import { type News, notify } from "../../../src/alpine/notifications/notify.ts";
import type { AccountExport } from "../../../src/alpine/users/export.ts";
import { type Accounts, type Member, openAccounts } from "../../harness/accounts.ts";
import { fieldsOf } from "../../harness/app.ts";

type Shown = { id: string; kind: string; title: string; is_read: boolean; read_at: string | null };
type List = {
  notifications: Shown[];
  next_cursor: string | null;
  has_more: boolean;
  unread_count: number;
};

let at: Accounts;
beforeAll(async () => {
  at = await openAccounts();
});
afterAll(() => at[Symbol.asyncDispose]());

const list = (of: Member, query = ""): Promise<List> =>
  at.must(200, "GET", `/api/notifications${query}`, undefined, of.access);

async function tell(userId: string, more: Partial<News> = {}): Promise<boolean> {
  const news = { kind: "payment_failed", reference: crypto.randomUUID(), title: "Title" } as const;
  return at
    .db()
    .transaction((tx) =>
      notify(tx, at.clock.ms, { userId, ...news, body: "Body", details: { n: 1 }, ...more }),
    );
}

const rowsOf = (userId: string) =>
  at.db().select().from(notifications).where(eq(notifications.userId, userId));

describe("a notification", () => {
  test("is told once for each event and user, also by many at once", async () => {
    const [one, other] = [await at.member(), await at.member()];
    const reference = "the same event";
    const told = await Promise.all(
      Array.from({ length: 20 }, (_, n) => tell((n % 2 ? one : other).id, { reference })),
    );
    expect(told.filter(Boolean)).toHaveLength(2);
    expect(await tell(one.id, { reference, kind: "key_expiring" })).toBe(true);
    expect((await list(one)).unread_count).toBe(2);
    expect((await list(other)).unread_count).toBe(1);
  });

  test("is not there when its transaction is taken back", async () => {
    const one = await at.member();
    const failing = at.db().transaction(async (tx) => {
      const news = { userId: one.id, kind: "payment_failed", reference: "x" } as const;
      await notify(tx, at.clock.ms, { ...news, title: "T", body: "B", details: {} });
      throw new Error("on purpose");
    });
    await expect(failing).rejects.toThrow("on purpose");
    await failing.catch(() => undefined);
    expect(await rowsOf(one.id)).toEqual([]);
  });

  test("shows what it is about, and nothing of how it is sent", async () => {
    const one = await at.member();
    await tell(one.id, { title: "The payment failed", body: "Two\nlines", details: { a: [1] } });
    const [shown] = (await list(one)).notifications;
    expect(shown).toEqual({
      id: expect.any(String),
      kind: "payment_failed",
      title: "The payment failed",
      body: "Two\nlines",
      details: { a: [1] },
      is_read: false,
      created_at: new Date(at.clock.ms).toISOString(),
      read_at: null,
    } as never);
  });
});

describe("the list", () => {
  test("has the unread first, then the newest, page by page, none twice and none left out", async () => {
    const one = await at.member();
    for (let n = 0; n < 25; n += 1) {
      // Some at the very same moment.
      at.clock.ms += n % 3 === 0 ? 1 : 0;
      await tell(one.id, { title: `${n}` });
    }
    const all = (await list(one, "?limit=100")).notifications;
    expect(all).toHaveLength(25);
    for (const { id } of all.filter((_, n) => n % 2 === 0)) {
      await at.must(200, "POST", `/api/notifications/${id}/read`, undefined, one.access);
    }
    const expected = [...all.filter((_, n) => n % 2), ...all.filter((_, n) => n % 2 === 0)];
    const seen: Shown[] = [];
    for (let cursor: string | null = null; ;) {
      const page: List = await list(one, `?limit=4${cursor ? `&cursor=${cursor}` : ""}`);
      seen.push(...page.notifications);
      expect(page.has_more).toBe(page.next_cursor !== null);
      expect(page.unread_count).toBe(12);
      cursor = page.next_cursor;
      if (cursor === null) break;
    }
    expect(seen.map(({ id }) => id)).toEqual(expected.map(({ id }) => id));
    const ids = async (query: string) =>
      (await list(one, `${query}&limit=100`)).notifications.map(({ id }) => id);
    expect(await ids("?unread=true")).toEqual(expected.slice(0, 12).map(({ id }) => id));
    expect(await ids("?unread=false")).toEqual(expected.slice(12).map(({ id }) => id));
    await tell(one.id, { kind: "key_expiring" });
    expect(await ids("?kind=key_expiring")).toHaveLength(1);
    expect(await ids("?kind=key_expiring&unread=false")).toHaveLength(0);
  });

  test("takes no cursor of another account, another list or nobody, and no unknown field", async () => {
    const [one, other] = [await at.member(), await at.member()];
    for (let n = 0; n < 3; n += 1) await Promise.all([tell(one.id), tell(other.id)]);
    const { next_cursor: cursor } = await list(one, "?limit=1");
    const get = (query: string, by: Member) =>
      at.call("GET", `/api/notifications?${query}`, undefined, by.access);
    expect((await get(`cursor=${cursor}`, one)).status).toBe(200);
    for (const query of [`cursor=${cursor}`, "cursor=abc", "limit=0", "unread=maybe", "kind=x"]) {
      expect(`${query} ${(await get(query, other)).status}`).toBe(`${query} 400`);
    }
    expect((await get(`cursor=${cursor}&unread=true`, one)).status).toBe(400);
    expect((await get(`cursor=${cursor}&kind=new_login`, one)).status).toBe(400);
    expect((await get("offset=1", one)).status).toBe(400);
  });
});

describe("reading", () => {
  test("marks one, keeps when it was first read, and touches nobody else's", async () => {
    const [one, other] = [await at.member(), await at.member()];
    await tell(one.id);
    const [{ id }] = (await list(one)).notifications as [Shown];
    const read = (by: Member, which = id) =>
      at.call("POST", `/api/notifications/${which}/read`, undefined, by.access);
    expect((await read(other)).status).toBe(404);
    expect((await list(one)).unread_count).toBe(1);
    const first = new Date(at.clock.ms).toISOString();
    expect(await (await read(one)).json()).toMatchObject({ is_read: true, read_at: first });
    at.clock.ms += 60_000;
    expect(await (await read(one)).json()).toMatchObject({ is_read: true, read_at: first });
    expect((await read(one, crypto.randomUUID())).status).toBe(404);
    expect((await read(one, "1")).status).toBe(400);
  });

  test("marks all and says how many, once", async () => {
    const [one, other] = [await at.member(), await at.member()];
    for (let n = 0; n < 5; n += 1) await Promise.all([tell(one.id), tell(other.id)]);
    const count = (of: Member) =>
      at.must(200, "GET", "/api/notifications/unread-count", undefined, of.access);
    const all = () => at.must(200, "POST", "/api/notifications/read-all", undefined, one.access);
    expect(await count(one)).toEqual({ unread_count: 5 });
    expect(await all()).toEqual({ read: 5 });
    expect(await all()).toEqual({ read: 0 });
    expect(await count(one)).toEqual({ unread_count: 0 });
    expect(await count(other)).toEqual({ unread_count: 5 });
  });
});

describe("preferences", () => {
  const path = "/api/notifications/preferences";

  test("are what is usual until they are said, kind by kind", async () => {
    const one = await at.member();
    const usual = {
      premium_signal: { in_app: true, email: false },
      payment_failed: { in_app: true, email: true },
      key_expiring: { in_app: true, email: true },
      new_login: { in_app: true, email: true },
      webhook_disabled: { in_app: true, email: true },
    };
    expect(await at.must<unknown>(200, "GET", path, undefined, one.access)).toEqual(usual);
    const change = { payment_failed: { in_app: false, email: false } };
    const said = await at.must<unknown>(200, "PUT", path, change, one.access);
    expect(said).toEqual({ ...usual, ...change });
    const more = { premium_signal: { in_app: false, email: true } };
    await at.must(200, "PUT", path, more, one.access);
    expect(await at.must<unknown>(200, "GET", path, undefined, one.access)).toEqual({
      ...usual,
      ...change,
      ...more,
    });
  });

  test("decide what is told, and by what way", async () => {
    const one = await at.member();
    const say = (in_app: boolean, email: boolean) =>
      at.must(200, "PUT", path, { payment_failed: { in_app, email } }, one.access);
    await say(false, false);
    expect(await tell(one.id)).toBe(false);
    expect(await rowsOf(one.id)).toEqual([]);

    // By mail alone: kept, so that it is sent once, and shown nowhere.
    await say(false, true);
    expect(await tell(one.id, { reference: "by mail" })).toBe(true);
    expect(await tell(one.id, { reference: "by mail" })).toBe(false);
    const [row] = await rowsOf(one.id);
    expect(row).toMatchObject({ inApp: false, mailDueAt: new Date(at.clock.ms) });
    expect(await list(one)).toMatchObject({ notifications: [], unread_count: 0 });
    const hidden = await at.call(
      "POST",
      `/api/notifications/${row?.id}/read`,
      undefined,
      one.access,
    );
    expect(hidden.status).toBe(404);

    await say(true, false);
    await tell(one.id, { reference: "here" });
    const here = (await rowsOf(one.id)).find(({ reference }) => reference === "here");
    expect(here).toMatchObject({ inApp: true, mailDueAt: null, isRead: false });
  });

  test("are refused where they are none, and nothing changes", async () => {
    const one = await at.member();
    for (const [body, field] of [
      [{}, "body"],
      [{ premium_signal: { in_app: true } }, "premium_signal.email"],
      [{ premium_signal: { in_app: "yes", email: true } }, "premium_signal.in_app"],
      [{ premium_signal: { in_app: true, email: true, sms: true } }, "premium_signal.sms"],
      [{ weather: { in_app: true, email: true } }, "weather"],
      [{ premium_signal: null }, "premium_signal"],
    ] as const) {
      const answer = await at.call("PUT", path, body, one.access);
      expect(answer.status).toBe(422);
      expect(await fieldsOf(answer)).toContain(field);
    }
    expect(await at.must(200, "GET", path, undefined, one.access)).toMatchObject({
      premium_signal: { in_app: true, email: false },
    });
  });
});

describe("a login", () => {
  test("is told of, but for the first one; by mail only from somewhere new", async () => {
    const one = await at.member();
    expect((await list(one)).notifications).toEqual([]);
    const again = await at.login(one.email);
    const [told] = (await list(again)).notifications;
    expect(told).toMatchObject({ kind: "new_login", title: "New login" });
    const [row] = await rowsOf(one.id);
    expect(row?.details).toEqual({
      session_id: expect.any(String),
      address: expect.any(String),
      user_agent: null,
    } as never);
    expect(row?.mailDueAt).toBeNull();

    const elsewhere = await at.app.send(
      new Request("http://argo.test/api/auth/login", {
        method: "POST",
        headers: { "Content-Type": "application/json", "User-Agent": "Another/1.0" },
        body: JSON.stringify({ email: one.email, password: one.password }),
      }),
    );
    expect(elsewhere.status).toBe(200);
    const rows = await rowsOf(one.id);
    expect(rows).toHaveLength(2);
    const other = rows.find(({ details }) => details["user_agent"] === "Another/1.0");
    expect(other?.mailDueAt).toEqual(new Date(at.clock.ms));
    expect(other?.body).toContain("Another/1.0");
  });

  test("that is refused is not", async () => {
    const one = await at.member();
    await at.must(401, "POST", "/api/auth/login", { email: one.email, password: "not it at all" });
    expect(await rowsOf(one.id)).toEqual([]);
  });
});

test("an account's own export has its notifications and what it wants", async () => {
  const one = await at.member();
  await tell(one.id, { title: "to be exported" });
  const data = await at.must<AccountExport>(200, "GET", "/api/users/export", undefined, one.access);
  expect(data.notifications).toMatchObject([{ title: "to be exported", is_read: false }]);
  expect(data.notification_preferences.premium_signal).toEqual({ in_app: true, email: false });
});

test("notifications go with their account", async () => {
  const one = await at.member();
  await tell(one.id);
  await at.db().delete(users).where(eq(users.id, one.id));
  expect(await rowsOf(one.id)).toEqual([]);
});
