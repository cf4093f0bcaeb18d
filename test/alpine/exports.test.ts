import { afterAll, beforeAll, expect, test } from "bun:test";
import { openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { LEGACY } from "../harness/app.ts";
import { person, until } from "./people.ts";
import { endsWell, lengthen } from "./stalled.ts";

/** An export that is under way goes on only while its reader may have it. */

const EXPORT = "/api/signals/export";
let at: Accounts;
let boss: Member;
beforeAll(async () => {
  at = await openAccounts({ env: { SIGNALS_ACCESS: "key" }, fixture: LEGACY, now: Date.now() });
  boss = await person(at, { role: "admin" });
});
afterAll(() => at[Symbol.asyncDispose]());

/** An export of which one slice was read. */
async function begun(token: string, headers: Record<string, string> = {}) {
  const response = await at.app.get(EXPORT, { ...headers, Authorization: `Bearer ${token}` });
  expect(response.status).toBe(200);
  const reader = response.body?.getReader();
  expect((await reader?.read())?.done).toBe(false);
  /** How many more pieces come before it breaks off; null when it comes to its end. */
  return async (): Promise<number | null> => {
    for (let pieces = 0; ; pieces += 1) {
      try {
        if ((await reader?.read())?.done !== false) return null;
      } catch {
        return pieces;
      }
    }
  };
}

const isRefused = (token: string, status: number) =>
  until(async () => {
    const response = await at.call("GET", EXPORT, undefined, token);
    await response.body?.cancel();
    return response.status === status;
  });

test("a key that is revoked, a session that ends and a holder who is shut out get no more of it", async () => {
  const [owner, other, third] = [
    await person(at, { tier: "elite" }),
    await person(at, { tier: "elite" }),
    await person(at, { tier: "elite" }),
  ];
  const made = await at.must<{ id: string; key: string }>(
    201,
    "POST",
    "/api/keys",
    { name: "bot", scopes: ["signals:read"] },
    owner.access,
  );
  const untouched = await begun(third.access);
  const byKey = await begun(made.key);
  const packed = await begun(made.key, { "Accept-Encoding": "gzip" });
  await at.must(204, "DELETE", `/api/keys/${made.id}`, undefined, owner.access);
  await isRefused(made.key, 401);
  expect(await byKey()).toBe(0);
  expect(await packed()).not.toBeNull();
  const bySession = await begun(owner.access);
  await at.must(204, "POST", "/api/auth/logout", undefined, owner.access);
  await isRefused(owner.access, 401);
  expect(await bySession()).toBe(0);
  const byOther = await begun(await at.key(other));
  await at.must(200, "PATCH", `/api/admin/users/${other.id}`, { is_active: false }, boss.access);
  await until(
    async () => (await at.call("GET", "/api/auth/me", undefined, other.access)).status !== 200,
  );
  expect(await byOther()).toBe(0);
  // Somebody else's goes on to its end.
  expect(await untouched()).toBeNull();
});

test("nor does whoever has another plan by then, or one without exports", async () => {
  const member = await person(at, { tier: "elite" });
  const key = await at.key(member);
  const path = `/api/admin/users/${member.id}`;
  const otherwise = await begun(key);
  const change = (delay: number) =>
    at.must(200, "PATCH", "/api/admin/plans/elite", { delay_seconds: delay }, boss.access);
  await change(60);
  expect(await otherwise()).toBe(0);
  await change(0);
  const lowered = await begun(key);
  await at.must(200, "PATCH", path, { tier: "starter" }, boss.access);
  await isRefused(key, 403);
  expect(await lowered()).toBe(0);
});

test("over the wire it is cut off, so that nobody takes it for whole", async () => {
  const url = at.app.listen();
  lengthen(at.app.db);
  const owner = await person(at, { tier: "elite" });
  const revoke = async (): Promise<void> => {
    await at.must(204, "POST", "/api/auth/logout", undefined, owner.access);
    await isRefused(owner.access, 401);
  };
  const other = await person(at, { tier: "elite" });
  expect(await endsWell(url, owner.access, revoke)).toBe(false);
  expect(await endsWell(url, other.access, () => Bun.sleep(1))).toBe(true);
});
