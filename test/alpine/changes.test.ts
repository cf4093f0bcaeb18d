import { describe, expect, test } from "bun:test";
import { eq, sql } from "drizzle-orm";
import { Client } from "pg";
import { changes, revocations, sessions, users } from "../../db/alpine/schema.ts";
import { openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { signal } from "../harness/app.ts";
import { until } from "../harness/process.ts";
import { ownPostgres } from "../harness/servers.ts";

const me = async (at: Accounts, token: string) =>
  (await at.call("GET", "/api/auth/me", undefined, token)).status;
const poll = async (at: Accounts, token: string) =>
  (await at.call("GET", "/api/signals/latest", undefined, token)).status;

/** Makes one key and gives its id with it. */
async function keyOf(at: Accounts, member: Member): Promise<{ id: string; key: string }> {
  const body = { name: "a key", scopes: ["signals:read"] };
  return at.must(201, "POST", "/api/keys", body, member.access);
}

describe("what was revoked", () => {
  test("is never less so, whatever is heard afterwards", async () => {
    await using at = await openAccounts({ backend: "postgres+redis" });
    const member = await at.member();
    const { id: sessionId } = (await at.db().select().from(sessions))[0] ?? { id: "" };
    await at.must(204, "POST", "/api/auth/logout-all", undefined, member.access);
    expect(await me(at, member.access)).toBe(401);
    const expiresAtMs = at.clock.ms + 1;
    const late = [{ kind: "session", id: sessionId, fromGeneration: 0, expiresAtMs }];
    await at.app.deps.redis?.publish("changes", JSON.stringify({ by: "another", told: late }));
    await Bun.sleep(100);
    expect(await me(at, member.access)).toBe(401);
    const [row] = await at.db().select().from(revocations);
    expect(row).toMatchObject({ id: sessionId, fromGeneration: null });
  });

  test("and whatever is changed is heard once by whoever changed it, once more by nobody", async () => {
    await using at = await openAccounts({ backend: "postgres+redis" });
    await using other = await openAccounts({ beside: at, now: at.clock.ms });
    const heard = { here: 0, there: 0 };
    for (const [name, { app }] of [
      ["here", at],
      ["there", other],
    ] as const) {
      app.deps.alpine?.changes.listen((change) => {
        if (change.kind === "key") heard[name] += 1;
      });
    }
    await keyOf(at, await at.member());
    await until(() => heard.there > 0, "the other one hears of it");
    // Its own message has come by, and its own row was looked at.
    await Bun.sleep(1_200);
    expect(heard.here).toBe(1);
  });

  test("through Redis is felt where the database cannot be reached any more", async () => {
    await using server = await ownPostgres();
    await using at = await openAccounts({
      backend: "postgres+redis",
      servers: { postgres: server },
    });
    const member = await at.member();
    const { id, key } = await keyOf(at, member);
    expect(await poll(at, key)).toBe(200);
    await server.kill();
    // Another process, which still reaches the database, has revoked it and says so.
    const told = [{ kind: "key", id, userId: member.id }];
    const message = JSON.stringify({ by: "another", told });
    // A Redis that answers late on a busy machine is done without for a moment.
    const { redis } = at.app.deps;
    await until(async () => (await redis?.publish("changes", message)) === true, "it is told");
    await until(async () => (await poll(at, key)) !== 200, "the key is not believed");
    expect(await poll(at, key)).toBe(503);
    await server.start();
    await until(async () => (await poll(at, key)) === 200, "it is read again");
  });

  test("stays so although another database answers, whose numbers begin earlier", async () => {
    await using here = await openAccounts({ backend: "postgres" });
    await using there = await openAccounts({ beside: here, now: here.clock.ms });
    const member = await here.member();
    const keys = [await keyOf(here, member), await keyOf(here, member)];
    for (const { key } of keys) await until(async () => (await poll(there, key)) === 200, "known");
    // As after a fail-over to a copy that was behind.
    here.clock.ms += 1;
    await here.db().delete(changes);
    await here.db().execute(sql`SELECT setval('changes_seq_seq', 1)`);
    const [first] = keys;
    await here.must(204, "DELETE", `/api/keys/${first?.id}`, undefined, member.access);
    await until(async () => (await poll(there, first?.key ?? "")) === 401, "felt");
  });
});

test("a change of a kind that this release does not know shuts nobody out", async () => {
  await using at = await openAccounts({ backend: "postgres" });
  const member = await at.member();
  const { id, key } = await keyOf(at, member);
  const unknown = sql`INSERT INTO changes (at, change) VALUES (now(), '{"kind":"plan","id":"pro"}')`;
  await at.db().execute(unknown);
  await Bun.sleep(1_200);
  const ageMs = () => at.app.deps.alpine?.changes.ageMs ?? Infinity;
  await until(
    () => ageMs() < 1_000,
    () => `looks at what changed, not one ${ageMs()} ms ago`,
  );
  expect(await me(at, member.access)).toBe(200);
  await at.must(204, "DELETE", `/api/keys/${id}`, undefined, member.access);
  expect(await poll(at, key)).toBe(401);
});

test("without the database keys read on, and all that could do harm waits", async () => {
  await using server = await ownPostgres();
  await using at = await openAccounts({ backend: "postgres", servers: { postgres: server } });
  const admin = await at.admin();
  const [reads, writes] = [await at.key(admin), await at.key(admin, ["signals:write"])];
  const post = async () => (await at.call("POST", "/api/signals", signal(), writes)).status;
  expect(await poll(at, admin.access)).toBe(200);
  expect(await post()).toBe(201);
  await server.kill();
  await until(async () => (await post()) === 503, "writing waits");
  expect(await poll(at, admin.access)).toBe(503);
  expect(await poll(at, reads)).toBe(200);
  await server.start();
  await until(async () => (await post()) === 201, "and goes on");
});

test("a key that was just made is not read again: the database may falter by then", async () => {
  await using at = await openAccounts({ backend: "postgres" });
  const { key } = await keyOf(at, await at.member());
  const client = new Client({ connectionString: at.database?.url });
  await client.connect();
  try {
    // The change can be read, the key cannot, for longer than anybody waits for a lock.
    await client.query("BEGIN");
    await client.query("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE");
    const until = performance.now() + 7_000;
    while (performance.now() < until) {
      expect(await poll(at, key)).toBe(200);
      await Bun.sleep(50);
    }
  } finally {
    await client.end();
  }
});

test("of many sessions the oldest end, and all of them at once", async () => {
  await using at = await openAccounts({ backend: "postgres" });
  const first = await at.member();
  const [row] = await at.db().select().from(sessions);
  if (!row) throw new Error("there is no session");
  const rows = Array.from({ length: 5_000 }, (_, i) => ({
    ...row,
    id: crypto.randomUUID(),
    createdAt: new Date(row.createdAt.getTime() + 1 + i),
  }));
  for (let i = 0; i < rows.length; i += 1_000) {
    await at
      .db()
      .insert(sessions)
      .values(rows.slice(i, i + 1_000));
  }
  at.clock.ms += 10_000;
  const last = await at.login(first.email);
  expect(await me(at, first.access)).toBe(401);
  expect(await me(at, last.access)).toBe(200);
  const open = await at
    .db()
    .select()
    .from(sessions)
    .where(sql`ended_at IS NULL`);
  expect(open.length).toBe(100);
  const all = await at.db().select().from(sessions).where(eq(sessions.userId, first.id));
  expect(all.length).toBe(200);
  await at.must(204, "POST", "/api/auth/logout-all", undefined, last.access);
  expect(await me(at, last.access)).toBe(401);
  expect(await at.db().select().from(users)).toHaveLength(1);
});

test("keys that have expired are let go of", async () => {
  await using at = await openAccounts({ backend: "postgres" });
  const member = await at.member();
  const expires_at = new Date(at.clock.ms + 60_000).toISOString();
  const body = { name: "short", scopes: ["signals:read"], expires_at };
  const { key } = await at.must<{ key: string }>(201, "POST", "/api/keys", body, member.access);
  expect(await poll(at, key)).toBe(200);
  const credentials = at.app.deps.alpine?.credentials;
  at.clock.ms += 60_001;
  expect(await poll(at, key)).toBe(401);
  credentials?.forget();
  expect(credentials?.keyCount).toBe(1);
  at.clock.ms += 86_400_000;
  credentials?.forget();
  expect(credentials?.keyCount).toBe(0);
});
