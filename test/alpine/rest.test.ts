/** What is kept of secrets: nothing that lets anybody in (A8), nor a hash in a cache (H10). */
import { expect, test } from "bun:test";
import { sql } from "drizzle-orm";
import { Redis } from "ioredis";
import { offerSetup } from "../../src/alpine/admin/setup.ts";
import { openAccounts, type Accounts } from "../harness/accounts.ts";
import { smtp } from "../harness/smtp.ts";
import { canary, leaks, liveOnce } from "./life.ts";
import { alpineOf } from "./people.ts";

/** Every row of every table, all columns as text; bytes are in hex. */
async function everyRow(at: Accounts): Promise<Record<string, string>> {
  const { rows: tables } = await at.db().execute<{ name: string }>(
    sql`SELECT format('%I.%I', table_schema, table_name) AS name FROM information_schema.tables
        WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'`,
  );
  const texts: Record<string, string> = {};
  for (const { name } of tables) {
    const { rows } = await at
      .db()
      .execute<{ row: string }>(sql`SELECT to_jsonb(t)::text AS row FROM ${sql.raw(name)} AS t`);
    texts[name] = rows.map(({ row }) => row).join("\n");
  }
  return texts;
}

/** Every key of a Redis with all that it holds. */
async function everyKey(url: string): Promise<Record<string, string>> {
  const client = new Redis(url);
  try {
    const texts: Record<string, string> = {};
    for (const key of await client.keys("*")) {
      const read = {
        string: () => client.get(key),
        hash: () => client.hgetall(key),
        list: () => client.lrange(key, 0, -1),
        set: () => client.smembers(key),
        zset: () => client.zrange(key, "0", "-1", "WITHSCORES"),
      }[(await client.type(key)) as "string"];
      texts[`redis ${key}`] = `${key} ${JSON.stringify(await read())}`;
    }
    return texts;
  } finally {
    client.disconnect();
  }
}

/** Every command that a Redis is sent from now on. */
async function listenTo(url: string | undefined): Promise<Disposable & { said: string[] }> {
  const said: string[] = [];
  const client = url === undefined ? null : new Redis(url);
  const monitor = await client?.monitor();
  monitor?.on("monitor", (_time: string, args: string[]) => said.push(args.join(" ")));
  return {
    said,
    [Symbol.dispose]: () => {
      monitor?.disconnect();
      client?.disconnect();
    },
  };
}

test("the search finds what is there, however it is written", () => {
  const [secret, key] = [canary("x"), `argo_live_${"k".repeat(38)}`];
  const token = Buffer.from(crypto.getRandomValues(new Uint8Array(32)));
  const given = { secret, key, token: token.toString("base64url") };
  const texts = {
    plain: `{"a":"${secret}"}`,
    hex: `\\x${Buffer.from(`ab${secret}cd`).toString("hex")}`,
    base64: Buffer.from(`a${secret}cd`).toString("base64"),
    base64url: Buffer.from(`ab${secret}cd`).toString("base64url"),
    hashed: new Bun.CryptoHasher("sha256").update(secret).digest("hex"),
    bytes: `\\x00${token.toString("hex")}`,
    key: key.slice(10),
    nothing: `argo_live_${"k".repeat(6)} ${new Bun.CryptoHasher("sha256").update(key).digest("hex")}`,
  };
  expect(leaks(given, texts)).toEqual([
    ...["plain", "hex", "base64", "base64url", "hashed"].map((place) => `secret in ${place}`),
    "key in key",
    "token in bytes",
  ]);
});

test("after a whole life no secret is in the database, in Redis, or was ever sent there", async () => {
  await using sink = await smtp();
  await using at = await openAccounts({ env: { SMTP_URL: sink.url } });
  const alpine = alpineOf(at);
  using listener = await listenTo(at.redis?.url);
  const { said } = listener;
  const { secrets, member } = await liveOnce({
    at,
    sink,
    now: () => at.clock.ms,
    setupToken: async () => (await offerSetup({ alpine, now: () => at.clock.ms })) ?? "",
  });
  await alpine.usage.flush();
  await at.must(200, "GET", "/api/auth/me", undefined, member.access);

  const rows = await everyRow(at);
  const keys = at.redis ? await everyKey(at.redis.url) : {};
  // All that could hold something does.
  for (const name of [
    "users",
    "sessions",
    "refresh_tokens",
    "api_keys",
    "one_time_tokens",
    "recovery_codes",
    "revocations",
    "audit_log",
    "usage",
    "changes",
  ]) {
    expect([name, (rows[`public.${name}`] ?? "").length > 0]).toEqual([name, true]);
  }
  expect(Object.keys(secrets).length).toBeGreaterThan(25);
  if (at.redis) {
    expect(Object.keys(keys).some((key) => key.includes("window:"))).toBe(true);
    expect(Object.keys(keys).some((key) => key.includes("user"))).toBe(true);
    expect(said.length).toBeGreaterThan(20);
  }
  const texts: Record<string, string> = {
    ...rows,
    ...keys,
    "what was sent to Redis": said.join("\n"),
  };
  expect(leaks(secrets, texts)).toEqual([]);

  // Hashes of passwords are in one column, and nowhere else.
  const { "public.users": people = "", ...others } = texts;
  expect(people).toContain("$argon2id$");
  for (const [place, text] of Object.entries(others)) {
    expect([place, text.includes("argon2")]).toEqual([place, false]);
  }
  const cached = alpine.users.peek(member.id);
  expect(cached?.email).toBe(member.email);
  expect(JSON.stringify(cached)).not.toMatch(/argon2|password|totp_secret/);
});
