import { afterAll, beforeAll, expect, test } from "bun:test";
import { auditLog } from "../../../db/alpine/schema.ts";
import type { Security } from "../../../src/alpine/admin/security.ts";
import { auditEvents } from "../../../src/alpine/audit.ts";
import { openAccounts, type Accounts, type Member } from "../../harness/accounts.ts";
import { NOON } from "../../harness/app.ts";
import { randomNumbers, tellSeed } from "../../harness/seed.ts";
import { person } from "../people.ts";

const PATH = "/api/admin/security";
const dayMs = 86_400_000;

let at: Accounts;
let boss: Member;
beforeAll(async () => {
  tellSeed();
  at = await openAccounts({ env: { TRUST_PROXY: "1" } });
  boss = await person(at, { role: "admin" });
});
afterAll(() => at[Symbol.asyncDispose]());

const ask = () => at.must<Security>(200, "GET", `${PATH}?fresh=1`, undefined, boss.access);
const from = (address: string, path: string, body: unknown, token?: string) =>
  at.app.send(
    new Request(`http://argo.test${path}`, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        "X-Forwarded-For": address,
        ...(token && { Authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify(body),
    }),
  );

test("is what a plain recount of a day's entries gives", async () => {
  // Before all others: in a log ids go with time.
  const random = randomNumbers();
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  const addresses = Array.from({ length: 30 }, (_, i) => `198.51.100.${i}`);
  const subjects = Array.from({ length: 10 }, () => Bun.randomUUIDv7());
  const rows = Array.from({ length: 3_000 }, () => ({
    at: new Date(NOON - Math.floor(random() * 2 * dayMs)),
    event: pick(auditEvents),
    subjectId: pick([null, ...subjects]),
    address: pick([null, ...addresses]),
  })).toSorted((a, b) => a.at.getTime() - b.at.getTime());
  await at.db().insert(auditLog).values(rows);
  const found = await ask();
  const all = await at.db().select().from(auditLog);
  const recent = all.filter((row) => row.at.getTime() >= NOON - dayMs);
  const of = (event: string, address?: string) =>
    recent.filter((row) => row.event === event && (!address || row.address === address));
  expect(found).toMatchObject({
    failed_logins: of("login_failed").length,
    failed_confirmations: of("confirmation_failed").length,
    limits_exceeded: of("limit_exceeded").length,
    refresh_reuse: of("refresh_reused").length,
    administration_refused: of("admin_refused").length,
    revocations: {
      sessions: of("session_revoked").length + of("logout_all").length,
      keys: of("key_revoked").length,
    },
  });
  expect(found.suspicious_addresses.length).toBe(20);
  for (const [i, row] of found.suspicious_addresses.entries()) {
    const failed = of("login_failed", row.address);
    const tried = new Set(failed.flatMap(({ subjectId }) => subjectId ?? []));
    expect([row.failed_logins, row.accounts_tried]).toEqual([failed.length, tried.size]);
    expect(row.limits_exceeded).toBe(of("limit_exceeded", row.address).length);
    const next = found.suspicious_addresses[i + 1];
    if (next) expect(next.failed_logins).toBeLessThanOrEqual(row.failed_logins);
  }
});

test("what was tried, from where, on how many accounts", async () => {
  at.clock.ms += 3 * dayMs;
  boss = await person(at, { role: "admin" });
  const before = await ask();
  expect(before).toMatchObject({ failed_logins: 0, suspicious_addresses: [], complete: true });
  const [one, two] = [await person(at), await person(at)];
  const tries: [address: string, email: string][] = [
    ["203.0.113.7", one.email],
    ["203.0.113.7", one.email],
    ["203.0.113.7", two.email],
    ["203.0.113.7", "nobody@example.com"],
    ["203.0.113.8", one.email],
  ];
  for (const [address, email] of tries) {
    const body = { email, password: "not the password" };
    expect((await from(address, "/api/auth/login", body)).status).toBe(401);
  }
  const member = await at.member();
  const spent = await at.login(member.email);
  await at.must(204, "POST", "/api/auth/logout-all", undefined, spent.access);
  const again = await at.login(member.email);
  const key = await at.must<{ id: string }>(
    201,
    "POST",
    "/api/keys",
    { name: "k", scopes: ["signals:read"] },
    again.access,
  );
  await at.must(204, "DELETE", `/api/keys/${key.id}`, undefined, again.access);
  await at.must(403, "GET", "/api/admin/users", undefined, again.access);
  const found = await ask();
  expect(found).toMatchObject({
    since: new Date(NOON + 2 * dayMs).toISOString(),
    failed_logins: 5,
    administration_refused: 1,
    revocations: { sessions: 1, keys: 1 },
    complete: true,
  });
  expect(found.suspicious_addresses.map((row) => Object.values(row).slice(0, 3))).toEqual([
    ["203.0.113.7", 4, 2],
    ["203.0.113.8", 1, 1],
  ]);
  expect(found.errors_today.account).toBeGreaterThanOrEqual(5);
  expect(found.errors_today.admin).toBeGreaterThanOrEqual(1);
});
