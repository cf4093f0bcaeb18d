import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { and, eq } from "drizzle-orm";
import { apiKeys, auditLog, users } from "../../../db/alpine/schema.ts";
import { isWellFormed, makeKey } from "../../../src/alpine/keys/format.ts";
import { hashOf } from "../../../src/alpine/auth/tokens.ts";
import { BACKEND, openAccounts, type Accounts, type Member } from "../../harness/accounts.ts";
import { fieldsOf, problemOf, READ_TOKEN, signal, WRITE_TOKEN } from "../../harness/app.ts";
import { quantile } from "../../faults/harness.ts";
import { alpineOf, assignments, besides, person, until } from "../people.ts";

type Key = {
  id: string;
  key: string;
  prefix: string;
  name: string;
  scopes: string[];
  created_at: string;
  expires_at: string | null;
  last_used_at: string | null;
  revoked_at: string | null;
  successor_id: string | null;
};
type Page = { keys: Omit<Key, "key">[]; next_cursor: string | null; has_more: boolean };

const hourMs = 3_600_000;
const BODY = { name: "a bot", scopes: ["signals:read"] };
const NOBODY = "0190a7c0-0000-7000-8000-000000000000";
const LATEST = "/api/signals/latest";

let at: Accounts;
beforeAll(async () => {
  at = await openAccounts();
});
afterAll(() => at[Symbol.asyncDispose]());

const make = (of: Member, body: object = BODY) =>
  at.must<Key>(201, "POST", "/api/keys", body, of.access);
const list = (of: Member, query = "") =>
  at.must<Page>(200, "GET", `/api/keys${query}`, undefined, of.access);
const statusOf = async (path: string, key: string, on = at, method = "GET", body?: unknown) =>
  (await on.call(method, path, body, key)).status;
const isGood = async (key: string, on = at) => (await statusOf(LATEST, key, on)) === 200;
const time = (ms: number) => new Date(ms).toISOString();

/** Rows put there as if they had been made before. */
async function insertKeys(of: Member, count: number, given: Partial<typeof apiKeys.$inferInsert>) {
  const rows = Array.from({ length: count }, (_, i) => ({
    id: Bun.randomUUIDv7(),
    userId: of.id,
    name: `old ${i}`,
    prefix: "argo_live_000000",
    hash: hashOf(makeKey()),
    scopes: ["signals:read"],
    createdAt: new Date(at.clock.ms - hourMs + i),
    ...given,
  }));
  await at.db().insert(apiKeys).values(rows);
  return rows;
}

const rowsOf = ({ id }: Member) => at.db().select().from(apiKeys).where(eq(apiKeys.userId, id));

describe("a key", () => {
  test("is shown once and kept as a hash", async () => {
    const member = await person(at);
    const made = await make(member);
    expect(made).toEqual({
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      key: expect.stringMatching(/^argo_live_[0-9A-Za-z]{38}$/),
      prefix: made.key.slice(0, 16),
      name: "a bot",
      scopes: ["signals:read"],
      created_at: time(at.clock.ms),
      expires_at: null,
      last_used_at: null,
      revoked_at: null,
      successor_id: null,
    });
    expect(isWellFormed(made.key)).toBe(true);
    const { key, ...shown } = made;
    expect(await list(member)).toEqual({ keys: [shown], next_cursor: null, has_more: false });
    const single = await at.call("GET", `/api/keys/${made.id}`, undefined, member.access);
    expect(await single.json()).toEqual(shown);
    expect(single.headers.get("cache-control")).toBe("no-store");
    const [row] = await rowsOf(member);
    expect(row?.hash).toEqual(hashOf(key));
    const entries = await at.db().select().from(auditLog).where(eq(auditLog.actorId, member.id));
    expect(entries.map(({ event }) => event)).toEqual(["key_created"]);
    const kept = JSON.stringify([row, entries]);
    expect(kept).toContain(made.prefix);
    expect(kept).not.toContain(key.slice(16));
  });

  test.each([
    [{}, ["name", "scopes"]],
    [{ ...BODY, name: "" }, ["name"]],
    [{ ...BODY, name: "x".repeat(101) }, ["name"]],
    [{ ...BODY, name: "a\u0000b" }, ["name"]],
    [{ ...BODY, name: "\ud800" }, ["name"]],
    [{ ...BODY, name: 7 }, ["name"]],
    [{ ...BODY, scopes: [] }, ["scopes"]],
    [{ ...BODY, scopes: "signals:read" }, ["scopes"]],
    [{ ...BODY, scopes: ["signals:read", "signals:read"] }, ["scopes"]],
    [{ ...BODY, scopes: ["admin:write"] }, ["scopes.0"]],
    [{ ...BODY, scopes: ["account"] }, ["scopes.0"]],
    [{ ...BODY, expires_at: "tomorrow" }, ["expires_at"]],
    [{ ...BODY, expires_at: "2027-01-01" }, ["expires_at"]],
    [{ ...BODY, expires_at: "2027-02-30T00:00:00Z" }, ["expires_at"]],
    [{ ...BODY, expires_at: "2027-01-01T00:00:00" }, ["expires_at"]],
    [{ ...BODY, expires_at: "2026-11-20T12:00:00Z" }, ["expires_at"]],
    [{ ...BODY, expires_at: "2026-11-20T13:59:59+02:00" }, ["expires_at"]],
    [{ ...BODY, expires_at: "9999-12-31T23:59:59-23:59" }, ["expires_at"]],
    [{ ...BODY, expires_at: 1_900_000_000 }, ["expires_at"]],
  ])("is not made of %j", async (body, fields) => {
    const member = await person(at);
    const response = await at.call("POST", "/api/keys", body, member.access);
    expect(response.status).toBe(422);
    expect((await fieldsOf(response)).toSorted()).toEqual(fields);
    expect(await rowsOf(member)).toEqual([]);
  });

  test("is not made of fields that nobody may set", async () => {
    const member = await person(at);
    const more = [...assignments, ["key", '{"key":"x"}'], ["hash", '{"hash":"x"}']] as const;
    for (const [field, fields] of more) {
      const response = await at.call("POST", "/api/keys", besides(BODY, fields), member.access);
      expect([field, response.status]).toEqual([field, 422]);
      expect(await fieldsOf(response)).toEqual([field]);
    }
    expect(await rowsOf(member)).toEqual([]);
    expect(Object.keys(Object.prototype)).toEqual([]);
    expect("role" in {}).toBe(false);
  });

  test("ends when it says, by the clock alone", async () => {
    const member = await person(at);
    const body = { ...BODY, expires_at: "2026-11-20T14:00:00.5+01:00" };
    const { key, expires_at } = await make(member, body);
    expect(expires_at).toBe("2026-11-20T13:00:00.500Z");
    const begun = at.clock.ms;
    try {
      expect(await isGood(key)).toBe(true);
      at.clock.ms = Date.parse("2026-11-20T13:00:00.499Z");
      expect(await isGood(key)).toBe(true);
      at.clock.ms += 1;
      expect(await isGood(key)).toBe(false);
      at.clock.ms += 365 * 24 * hourMs;
      expect(await isGood(key)).toBe(false);
    } finally {
      at.clock.ms = begun;
    }
  });

  test("of more than a user may give is for administrators", async () => {
    const [member, admin] = [await person(at), await person(at, { role: "admin" })];
    for (const scope of ["signals:write", "admin:read"]) {
      const body = { ...BODY, scopes: ["signals:read", scope] };
      const response = await at.call("POST", "/api/keys", body, member.access);
      const problem = await problemOf(response);
      expect(problem).toMatchObject({ status: 403, errors: [{ field: "scopes" }] });
      expect(problem.detail).toContain(scope);
      expect((await make(admin, body)).scopes).toEqual(["signals:read", scope]);
    }
    expect(await rowsOf(member)).toEqual([]);
  });

  test("is not given by an administrator of a moment ago", async () => {
    const admin = await person(at, { role: "admin" });
    await at.db().update(users).set({ role: "user" }).where(eq(users.id, admin.id));
    const body = { ...BODY, scopes: ["signals:write"] };
    expect((await at.call("POST", "/api/keys", body, admin.access)).status).toBe(403);
    await at.db().update(users).set({ isActive: false }).where(eq(users.id, admin.id));
    expect((await at.call("POST", "/api/keys", BODY, admin.access)).status).toBe(401);
  });

  test("is one of fifty, even where many are made at once", async () => {
    const member = await person(at);
    await insertKeys(member, 45, {});
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => at.call("POST", "/api/keys", BODY, member.access)),
    );
    const statuses = answers.map(({ status }) => status).toSorted();
    expect(statuses).toEqual([...Array(5).fill(201), ...Array(15).fill(409)]);
    const [first] = await rowsOf(member);
    await at.must(204, "DELETE", `/api/keys/${first?.id}`, undefined, member.access);
    await make(member);
    expect((await at.call("POST", "/api/keys", BODY, member.access)).status).toBe(409);
  });

  test("that is good no more takes no room, and the oldest of them are let go", async () => {
    const member = await person(at);
    const dead = await insertKeys(member, 130, { expiresAt: new Date(at.clock.ms) });
    await insertKeys(member, 20, { revokedAt: new Date(at.clock.ms) });
    const live = await insertKeys(member, 1, { createdAt: new Date(0) });
    const { id } = await make(member);
    const ids = new Set((await rowsOf(member)).map((row) => row.id));
    expect(ids.size).toBe(102);
    expect(ids.has(id)).toBe(true);
    expect(ids.has(live[0]?.id ?? "")).toBe(true);
    expect(ids.has(dead[0]?.id ?? "")).toBe(false);
    expect(ids.has(dead.at(-1)?.id ?? "")).toBe(true);
  });
});

describe("only a session manages keys", () => {
  const routes: [string, string, unknown][] = [
    ["POST", "/api/keys", BODY],
    ["GET", "/api/keys", undefined],
    ["GET", `/api/keys/${NOBODY}`, undefined],
    ["POST", `/api/keys/${NOBODY}/rotate`, {}],
    ["DELETE", `/api/keys/${NOBODY}`, undefined],
  ];

  test("no key, no token of the operator, nobody unknown", async () => {
    const admin = await person(at, { role: "admin" });
    const scopes = ["signals:read", "signals:write", "admin:read"];
    const { key, id } = await make(admin, { ...BODY, scopes });
    for (const [method, path, body] of routes) {
      const own = path.replace(NOBODY, id);
      for (const [token, status] of [
        [key, 403],
        [READ_TOKEN, 403],
        [WRITE_TOKEN, 403],
        [makeKey(), 401],
        [undefined, 401],
      ] as const) {
        const got = await at.call(method, own, body, token);
        expect([method, own, token, got.status]).toEqual([method, own, token, status]);
      }
    }
    expect((await rowsOf(admin)).length).toBe(1);
  });

  test("keys of others are not there", async () => {
    const [member, other] = [await person(at), await person(at, { role: "admin" })];
    const { id, key } = await make(member);
    for (const [method, path, body] of routes) {
      if (!path.includes(NOBODY)) continue;
      for (const theirs of [path, path.replace(NOBODY, id)]) {
        const response = await at.call(method, theirs, body, other.access);
        expect([method, theirs, (await problemOf(response)).status]).toEqual([method, theirs, 404]);
      }
      const bad = await at.call(method, path.replace(NOBODY, "1"), body, member.access);
      expect([bad.status, await fieldsOf(bad)]).toEqual([400, ["id"]]);
      const query = await at.call(method, `${path}?x=1`, body, member.access);
      expect([query.status, await fieldsOf(query)]).toEqual([400, ["x"]]);
    }
    expect((await list(other)).keys).toEqual([]);
    expect(await isGood(key)).toBe(true);
  });
});

describe("the list", () => {
  test("goes on where a page ended, newest first, also among keys of one moment", async () => {
    const member = await person(at);
    await insertKeys(member, 25, { createdAt: new Date(at.clock.ms) });
    await insertKeys(member, 10, { revokedAt: new Date(at.clock.ms) });
    const rows = (await rowsOf(member)).toSorted(
      (a, b) => b.createdAt.getTime() - a.createdAt.getTime() || (a.id < b.id ? 1 : -1),
    );
    const ids: string[] = [];
    for (let query = "?limit=7"; ;) {
      const page = await list(member, query);
      ids.push(...page.keys.map(({ id }) => id));
      expect(page.has_more).toBe(page.next_cursor !== null);
      if (page.next_cursor === null) break;
      expect(page.keys.length).toBe(7);
      query = `?limit=7&cursor=${page.next_cursor}`;
    }
    expect(ids).toEqual(rows.map(({ id }) => id));
    expect((await list(member)).keys.length).toBe(20);
  });

  test("takes no cursor of another account, of another list, cut or made up", async () => {
    const [member, other] = [await person(at), await person(at)];
    await insertKeys(member, 3, {});
    await insertKeys(other, 3, {});
    const cursor = (await list(member, "?limit=1")).next_cursor ?? "";
    await list(member, `?limit=2&cursor=${cursor}`);
    const wrong: [string, Member][] = [
      [`/api/keys?cursor=${cursor}`, other],
      [`/api/keys?cursor=${cursor.slice(0, -1)}`, member],
      [`/api/keys?cursor=${cursor}A`, member],
      [`/api/keys?cursor=${"A".repeat(cursor.length)}`, member],
      [`/api/keys?cursor=`, member],
      [`/api/keys?cursor=${"A".repeat(513)}`, member],
      [`/api/users/sessions?cursor=${cursor}`, member],
    ];
    for (const [path, who] of wrong) {
      const response = await at.call("GET", path, undefined, who.access);
      expect([path, response.status]).toEqual([path, 400]);
      expect(await fieldsOf(response)).toEqual(["cursor"]);
    }
    for (const limit of ["0", "501", "-1", "1.5", "x", ""]) {
      const response = await at.call("GET", `/api/keys?limit=${limit}`, undefined, member.access);
      expect([limit, await fieldsOf(response)]).toEqual([limit, ["limit"]]);
    }
  });
});

describe("on the signal routes", () => {
  const HASH = "0".repeat(64);
  /** Every reading one there is. */
  const reading = (): string[] => [
    ...new Set(
      at.app.routes
        .filter(({ method, path }) => method === "GET" && /^\/api\/(signals|stats)/.test(path))
        .map(({ path }) => path.replace(":sha256", HASH).replace(":id", "1")),
    ),
  ];
  const post = (key: string, on = at) => statusOf("/api/signals", key, on, "POST", signal());

  test("a key reads or writes as its scopes say", async () => {
    const admin = await person(at, { role: "admin" });
    const read = (await make(admin)).key;
    const write = (await make(admin, { ...BODY, scopes: ["signals:write"] })).key;
    const both = (await make(admin, { ...BODY, scopes: ["signals:read", "signals:write"] })).key;
    const paths = reading();
    expect(paths.length).toBeGreaterThanOrEqual(6);
    expect([await post(read), await post(write), await post(both)]).toEqual([403, 201, 201]);
    for (const path of paths) {
      // Let in, a request for a WebSocket is told that it is no upgrade.
      const right = path.includes(HASH) ? 404 : path.endsWith("/ws") ? 400 : 200;
      expect([path, await statusOf(path, read)]).toEqual([path, right]);
      expect([path, await statusOf(path, write)]).toEqual([path, 403]);
      expect([path, await statusOf(path, both)]).toEqual([path, right]);
    }
  });

  test("one that is revoked is good for nothing at once, however its id was written", async () => {
    const admin = await person(at, { role: "admin" });
    const scopes = ["signals:read", "signals:write", "admin:read"];
    const { id, key } = await make(admin, { ...BODY, scopes });
    expect([await isGood(key), await post(key)]).toEqual([true, 201]);
    const path = `/api/keys/${id.toUpperCase()}`;
    await at.must(204, "DELETE", path, undefined, admin.access);
    for (const path of [...reading(), "/api/admin/users"]) {
      expect([path, await statusOf(path, key)]).toEqual([path, 401]);
    }
    expect(await post(key)).toBe(401);
    const { revoked_at } = await at.must<Key>(200, "GET", path, undefined, admin.access);
    expect(revoked_at).toBe(time(at.clock.ms));
    await at.must(204, "DELETE", path, undefined, admin.access);
    const entries = await at
      .db()
      .select()
      .from(auditLog)
      .where(and(eq(auditLog.actorId, admin.id), eq(auditLog.event, "key_revoked")));
    expect(entries.map(({ details }) => details["key_id"])).toEqual([id]);
  });

  test("one that nearly is a key is none", async () => {
    const { key } = await make(await person(at));
    const changed = key.slice(0, 20) + (key[20] === "A" ? "B" : "A") + key.slice(21);
    const wrong = [makeKey(), changed, key.slice(0, -1), `${key}A`, key.toLowerCase(), `${key}=`];
    for (const text of wrong) expect([text, await isGood(text)]).toEqual([text, false]);
    expect(await isGood(key)).toBe(true);
  });

  test("a role that is lost takes the scopes with it, and gives them back", async () => {
    const [admin, boss] = [
      await person(at, { role: "admin" }),
      await person(at, { role: "admin" }),
    ];
    const scopes = ["signals:read", "signals:write", "admin:read"];
    const { key } = await make(admin, { ...BODY, scopes });
    const turn = (role: string) =>
      at.must(200, "PATCH", `/api/admin/users/${admin.id}`, { role }, boss.access);
    const may = async () => [
      await statusOf(LATEST, key),
      await post(key),
      await statusOf("/api/admin/users", key),
    ];
    expect(await may()).toEqual([200, 201, 200]);
    await turn("user");
    expect(await may()).toEqual([200, 403, 403]);
    await turn("admin");
    expect(await may()).toEqual([200, 201, 200]);
  });

  test("who is shut out or gone has no keys", async () => {
    const [member, boss] = [await person(at), await person(at, { role: "admin" })];
    const keys = [(await make(member)).key, (await make(member)).key];
    const good = () => Promise.all(keys.map((key) => isGood(key)));
    const turn = (is_active: boolean) =>
      at.must(200, "PATCH", `/api/admin/users/${member.id}`, { is_active }, boss.access);
    expect(await good()).toEqual([true, true]);
    await turn(false);
    expect(await good()).toEqual([false, false]);
    await turn(true);
    expect(await good()).toEqual([true, true]);
    const { access } = await at.login(member.email);
    await at.must(204, "DELETE", "/api/users/account", { password: member.password }, access);
    expect(await good()).toEqual([false, false]);
    expect(await rowsOf(member)).toEqual([]);
  });

  test.if(BACKEND !== "embedded")("all of it on another server within a second", async () => {
    await using other = await openAccounts({ beside: at });
    const took: number[] = [];
    const [admin, boss] = [
      await person(at, { role: "admin" }),
      await person(at, { role: "admin" }),
    ];
    const turn = (change: object) =>
      at.must(200, "PATCH", `/api/admin/users/${admin.id}`, change, boss.access);
    for (let round = 0; round < 5; round += 1) {
      const body = { ...BODY, scopes: ["signals:read", "signals:write"] };
      const { id, key } = await make(admin, body);
      took.push(await until(() => isGood(key, other)));
      expect(await post(key, other)).toBe(201);
      await turn({ role: "user" });
      took.push(await until(async () => (await post(key, other)) === 403));
      await turn({ is_active: false });
      took.push(await until(async () => !(await isGood(key, other))));
      await turn({ role: "admin", is_active: true });
      took.push(await until(async () => (await post(key, other)) === 201));
      Object.assign(admin, await at.login(admin.email));
      await at.must(204, "DELETE", `/api/keys/${id}`, undefined, admin.access);
      took.push(await until(async () => !(await isGood(key, other))));
    }
    // A pause of the machine makes some later, what they wait for all.
    expect(quantile(took, 0.5)).toBeLessThan(1_000);
  });
});

describe("a rotation", () => {
  const rotate = (of: Member, id: string, body: object = {}) =>
    at.call("POST", `/api/keys/${id}/rotate`, body, of.access);
  const get = (of: Member, id: string) =>
    at.must<Key>(200, "GET", `/api/keys/${id}`, undefined, of.access);
  const atTime = async <T>(ms: number, work: () => Promise<T>): Promise<T> => {
    const begun = at.clock.ms;
    at.clock.ms = ms;
    try {
      return await work();
    } finally {
      at.clock.ms = begun;
    }
  };

  test("needs no body, and takes no other than JSON", async () => {
    const member = await person(at);
    const old = await make(member);
    const path = `/api/keys/${old.id}/rotate`;
    for (const [type, body, status] of [
      ["text/plain", "{}", 415],
      ["application/json", "", 400],
      ["application/json", '{"overlap_seconds":1,"overlap_seconds":2}', 400],
    ] as const) {
      const headers = { Authorization: `Bearer ${member.access}`, "Content-Type": type };
      const request = new Request(`http://argo.test${path}`, { method: "POST", headers, body });
      expect([body, (await at.app.send(request)).status]).toEqual([body, status]);
    }
    const made = await at.must<Key>(201, "POST", path, undefined, member.access);
    expect(made.id).not.toBe(old.id);
    const ends = (await rowsOf(member)).find(({ id }) => id === old.id);
    expect(ends?.expiresAt?.getTime()).toBe(at.clock.ms + 86_400_000);
  });

  test("gives a key in the place of another, and both are good for a day", async () => {
    const member = await person(at);
    const old = await make(member, { ...BODY, expires_at: "2027-01-01T00:00:00Z" });
    const response = await rotate(member, old.id);
    expect(response.status).toBe(201);
    const made = (await response.json()) as Key;
    expect(made).toMatchObject({
      name: old.name,
      scopes: old.scopes,
      expires_at: old.expires_at,
      successor_id: null,
    });
    expect(made.key).not.toBe(old.key);
    expect(await get(member, old.id)).toMatchObject({
      successor_id: made.id,
      expires_at: time(at.clock.ms + 24 * hourMs),
      revoked_at: null,
    });
    const good = () => Promise.all([old, made].map(({ key }) => isGood(key)));
    expect(await good()).toEqual([true, true]);
    expect(await atTime(at.clock.ms + 24 * hourMs - 1, good)).toEqual([true, true]);
    expect(await atTime(at.clock.ms + 24 * hourMs, good)).toEqual([false, true]);
    const ofMember = eq(auditLog.actorId, member.id);
    const entries = await at.db().select().from(auditLog).where(ofMember).orderBy(auditLog.id);
    expect(entries.at(-1)).toMatchObject({
      event: "key_rotated",
      details: { key_id: old.id, successor_id: made.id, overlap_seconds: 86_400 },
    });
  });

  test("without overlap ends the old key at once", async () => {
    const member = await person(at);
    const old = await make(member);
    expect(await isGood(old.key)).toBe(true);
    const made = (await (await rotate(member, old.id, { overlap_seconds: 0 })).json()) as Key;
    expect([await isGood(old.key), await isGood(made.key)]).toEqual([false, true]);
  });

  test("makes no key live longer", async () => {
    const member = await person(at);
    const expires_at = time(at.clock.ms + 60_000);
    const old = await make(member, { ...BODY, expires_at });
    const made = (await (await rotate(member, old.id)).json()) as Key;
    expect([made.expires_at, (await get(member, old.id)).expires_at]).toEqual([
      expires_at,
      expires_at,
    ]);
  });

  test("happens once, of twenty at once as well", async () => {
    const member = await person(at);
    const { id } = await make(member);
    const answers = await Promise.all(Array.from({ length: 20 }, () => rotate(member, id)));
    const statuses = answers.map(({ status }) => status).toSorted();
    expect(statuses).toEqual([201, ...Array(19).fill(409)]);
    const rows = await rowsOf(member);
    expect(rows.length).toBe(2);
    const successor = rows.find((row) => row.id !== id);
    expect(rows.find((row) => row.id === id)?.successorId).toBe(successor?.id ?? "");
    expect((await rotate(member, successor?.id ?? "")).status).toBe(201);
  });

  test("is refused for a key that is good no more", async () => {
    const member = await person(at);
    const revoked = await make(member);
    await at.must(204, "DELETE", `/api/keys/${revoked.id}`, undefined, member.access);
    expect((await rotate(member, revoked.id)).status).toBe(409);
    const [ended] = await insertKeys(member, 1, { expiresAt: new Date(at.clock.ms) });
    expect((await rotate(member, ended?.id ?? "")).status).toBe(409);
  });

  test("after rotation ends at a hundred keys that are good", async () => {
    const member = await person(at);
    await insertKeys(member, 50, {});
    let { id } = (await list(member)).keys[0] ?? { id: "" };
    for (let i = 0; i < 50; i += 1) {
      id = ((await (await rotate(member, id)).json()) as Key).id;
    }
    expect((await rotate(member, id)).status).toBe(409);
    const alpine = alpineOf(at);
    expect(alpine.credentials.keyCount).toBeGreaterThan(50);
  });

  test.each([
    [{ overlap_seconds: -1 }, "overlap_seconds"],
    [{ overlap_seconds: 604_801 }, "overlap_seconds"],
    [{ overlap_seconds: 1.5 }, "overlap_seconds"],
    [{ overlap_seconds: "60" }, "overlap_seconds"],
    [{ overlap_seconds: null }, "overlap_seconds"],
    [{ scopes: ["signals:write"] }, "scopes"],
    [{ name: "x" }, "name"],
  ])("takes no %j", async (body, field) => {
    const member = await person(at);
    const { id } = await make(member);
    const response = await rotate(member, id, body);
    expect([response.status, await fieldsOf(response)]).toEqual([422, [field]]);
  });

  test("and a revocation at once leave no key that nobody knows of", async () => {
    const member = await person(at);
    for (let round = 0; round < 10; round += 1) {
      const { id, key } = await make(member);
      const [rotated] = await Promise.all([
        rotate(member, id),
        at.must(204, "DELETE", `/api/keys/${id}`, undefined, member.access),
      ]);
      expect([201, 409]).toContain(rotated.status);
      expect(await isGood(key)).toBe(false);
      const rows = await rowsOf(member);
      const live = rows.filter((row) => row.revokedAt === null);
      expect(live.length).toBe(rotated.status === 201 ? 1 : 0);
      for (const { id } of live) {
        await at.must(204, "DELETE", `/api/keys/${id}`, undefined, member.access);
      }
    }
  });
});
