/** Accounts put into the tables at once: a thousand cost no thousand hashes of passwords. */
import * as schema from "../../db/alpine/schema.ts";
import { sessionMs } from "../../src/alpine/auth/sessions.ts";
import { hashOf } from "../../src/alpine/auth/tokens.ts";
import type { Alpine } from "../../src/alpine/alpine.ts";
import type { UserRow } from "../../src/alpine/users/schema.ts";
import { lockChanges } from "../../src/alpine/database.ts";
import { newUser } from "../../src/alpine/users/store.ts";
import { PASSWORD, type Accounts, type Member } from "../harness/accounts.ts";

export function alpineOf({ app }: Accounts): Alpine {
  const { alpine } = app.deps;
  if (!alpine) throw new Error("there are no accounts");
  return alpine;
}

const rowsAtOnce = 500;
let made = 0;
let passwordHash: string | undefined;

/** So many users, each with an open session; `given` says what they are else. */
export async function people(
  at: Accounts,
  count: number,
  given: Partial<UserRow> = {},
): Promise<Member[]> {
  const alpine = alpineOf(at);
  passwordHash ??= await alpine.passwords.hash(PASSWORD);
  const hash = passwordHash;
  const rows = Array.from({ length: count }, () => {
    made += 1;
    const email = `person-${made}@example.com`;
    const own = { email, fullName: `Person ${made}`, passwordHash: hash };
    return newUser(at.clock.ms, { ...own, ...given });
  });
  const created = new Date(at.clock.ms);
  const expiresAt = new Date(at.clock.ms + sessionMs);
  const sessions = rows.map(({ id: userId }) => ({
    id: Bun.randomUUIDv7("hex", at.clock.ms),
    userId,
    createdAt: created,
    lastUsedAt: created,
    expiresAt,
    userAgent: "test",
    address: "127.0.0.1",
    refresh: alpine.refreshTokens.first(),
  }));
  const tokens = sessions.map(({ id: sessionId, refresh }) => ({
    hash: hashOf(refresh),
    sessionId,
    createdAt: created,
    expiresAt,
  }));
  await at.db().transaction(async (tx) => {
    for (let i = 0; i < count; i += rowsAtOnce) {
      await tx.insert(schema.users).values(rows.slice(i, i + rowsAtOnce));
      await tx.insert(schema.sessions).values(sessions.slice(i, i + rowsAtOnce));
      await tx.insert(schema.refreshTokens).values(tokens.slice(i, i + rowsAtOnce));
    }
  });
  return Promise.all(
    rows.map(async ({ id, email, tier, role }, i): Promise<Member> => {
      const { id: sessionId, refresh } = sessions[i] ?? { id: "", refresh: "" };
      const subject = { userId: id, sessionId, generation: 0, tier, role };
      const access = await alpine.tokens.sign(subject);
      return { id, email, password: PASSWORD, access, refresh };
    }),
  );
}

export async function person(at: Accounts, given: Partial<UserRow> = {}): Promise<Member> {
  const [member] = await people(at, 1, given);
  if (!member) throw new Error("nobody was made");
  return member;
}

/**
 * Does some works at once, each of which is kept from committing until all have come as far as
 * they can: what only looks at the same time by chance is then at the same time.
 */
export async function together<T>(at: Accounts, works: (() => Promise<T>)[]): Promise<T[]> {
  const begun = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  const held = at.db().transaction(async (tx) => {
    await lockChanges(tx);
    begun.resolve();
    await go.promise;
  });
  await begun.promise;
  const done = Promise.all(works.map((work) => work()));
  await Bun.sleep(500);
  go.resolve();
  await held;
  return done;
}

/** Waits until it is so, in real time. @returns how long it took, milliseconds. */
export async function until(isSo: () => Promise<boolean>, withinMs = 30_000): Promise<number> {
  const begun = performance.now();
  while (!(await isSo())) {
    if (performance.now() - begun > withinMs) throw new Error(`not so within ${withinMs} ms`);
    await Bun.sleep(5);
  }
  return performance.now() - begun;
}

/** What an object in a body may try to become. */
export const assignments: [field: string, body: string][] = [
  ["tier", '{"tier":"elite"}'],
  ["role", '{"role":"admin"}'],
  ["id", '{"id":"0190a7c0-0000-7000-8000-000000000000"}'],
  ["user_id", '{"user_id":"0190a7c0-0000-7000-8000-000000000000"}'],
  ["is_active", '{"is_active":true}'],
  ["is_verified", '{"is_verified":true}'],
  ["password_hash", '{"password_hash":"x"}'],
  ["created_at", '{"created_at":"2020-01-01T00:00:00Z"}'],
  ["__proto__", '{"__proto__":{"role":"admin"}}'],
  ["constructor", '{"constructor":{"prototype":{"role":"admin"}}}'],
  ["prototype", '{"prototype":{}}'],
];

/** A body with what another one holds besides, as text: `__proto__` is no field of a literal. */
export const besides = (body: Record<string, unknown>, more: string): string =>
  JSON.stringify(body).replace(/\}$/, Object.keys(body).length > 0 ? "," : "") + more.slice(1);
