/**
 * Clocks that are an hour wrong (R16): that of a server which goes forward and is set back, and
 * those of two servers that differ. A life that ends by time alone ends by whatever the clock says;
 * what somebody has ended, used up or taken back stays so on every clock.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { sessions } from "../../db/alpine/schema.ts";
import { issueToken } from "../../src/alpine/auth/one-time.ts";
import { openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { NOON } from "../harness/app.ts";
import { randomNumbers, SEED, tellSeed } from "../harness/seed.ts";
import { alpineOf, person, until } from "./people.ts";

type Tokens = { access_token: string; refresh_token: string };
type Session = Pick<Member, "access" | "refresh">;

const [minuteMs, hourMs] = [60_000, 3_600_000];
const LATEST = "/api/signals/latest";

const statusOf = async (
  at: Accounts,
  method: string,
  path: string,
  body?: unknown,
  token?: string,
): Promise<number> => {
  const response = await at.call(method, path, body, token);
  const text = await response.text();
  if (response.status >= 500) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return response.status;
};
const me = (at: Accounts, token: string) => statusOf(at, "GET", "/api/auth/me", undefined, token);
const poll = (at: Accounts, key: string) => statusOf(at, "GET", LATEST, undefined, key);
const refreshStatus = (at: Accounts, token: string) =>
  statusOf(at, "POST", "/api/auth/refresh", { refresh_token: token });
const refresh = (at: Accounts, token: string): Promise<Tokens> =>
  at.must(200, "POST", "/api/auth/refresh", { refresh_token: token });
const tend = (at: Accounts): Promise<void> => alpineOf(at).tend();
const limitedLogin = (at: Accounts, email: string) =>
  statusOf(at, "POST", "/api/auth/login", { email, password: "a guess" });

async function resetToken(at: Accounts, { id }: Member): Promise<string> {
  return alpineOf(at).changes.write((tx) => issueToken(tx, "reset_password", id, at.clock.ms));
}
const reset = (at: Accounts, token: string) =>
  statusOf(at, "POST", "/api/auth/password/reset", {
    token,
    new_password: "another good password",
  });

describe("a clock that goes an hour forward, and is set back", () => {
  let at: Accounts;
  // Without Redis: there limits go by the clock of the test too.
  beforeEach(async () => {
    at = await openAccounts({ backend: "postgres" });
  });
  afterEach(() => at[Symbol.asyncDispose]());
  const set = (ms: number) => {
    at.clock.ms = NOON + ms;
  };

  test("what was ended stays ended, also once it was let go of", async () => {
    const [out, used, stolen, shut] = [
      await person(at),
      await person(at),
      await person(at),
      await person(at),
    ];
    const admin = await person(at, { role: "admin" });
    const key = await at.key(shut);
    await at.must(204, "POST", "/api/auth/logout", undefined, out.access);
    const token = await resetToken(at, used);
    expect(await reset(at, token)).toBe(204);
    await refresh(at, stolen.refresh);
    await at.must(200, "PATCH", `/api/admin/users/${shut.id}`, { is_active: false }, admin.access);
    const allRefused = async () => {
      expect([
        await me(at, out.access),
        await refreshStatus(at, out.refresh),
        await me(at, used.access),
        await refreshStatus(at, used.refresh),
        await reset(at, token),
        await me(at, shut.access),
        await poll(at, key),
        await refreshStatus(at, shut.refresh),
      ]).toEqual([401, 401, 401, 401, 422, 401, 401, 401]);
    };
    for (const ms of [0, hourMs, 0, -hourMs, 0, 25 * minuteMs, 0, hourMs, -hourMs]) {
      set(ms);
      await allRefused();
      await tend(at);
      await allRefused();
      await using again = await openAccounts({ beside: at, now: at.clock.ms });
      expect([await me(again, out.access), await poll(again, key)]).toEqual([401, 401]);
    }
    // A refresh token that was used long ago is a stolen one, whichever way the clock went.
    set(-hourMs);
    expect(await refreshStatus(at, stolen.refresh)).toBe(401);
    set(0);
    expect(await me(at, stolen.access)).toBe(401);
  });

  test("sessions that had expired are ended too by whoever logs out everywhere", async () => {
    const member = await person(at);
    const { id } = member;
    const forgotten = await person(at);
    // Two sessions of one user.
    await at.db().update(sessions).set({ userId: id }).where(eq(sessions.userId, forgotten.id));
    set(30 * 24 * hourMs + minuteMs);
    expect(await refreshStatus(at, forgotten.refresh)).toBe(401);
    const again = await at.login(member.email);
    await at.must(204, "POST", "/api/auth/logout-all", undefined, again.access);
    set(30 * 24 * hourMs - 30 * minuteMs);
    expect(await refreshStatus(at, forgotten.refresh)).toBe(401);
  });

  test("nobody is shut out by an hour that was none", async () => {
    const member = await person(at);
    const expires_at = new Date(NOON + 30 * minuteMs).toISOString();
    const made = await at.must<{ key: string }>(
      201,
      "POST",
      "/api/keys",
      { name: "for half an hour", scopes: ["signals:read"], expires_at },
      member.access,
    );
    expect(await poll(at, made.key)).toBe(200);
    set(hourMs);
    expect([await me(at, member.access), await poll(at, made.key)]).toEqual([401, 401]);
    const renewed = await refresh(at, member.refresh);
    expect(await me(at, renewed.access_token)).toBe(200);
    // Something changes meanwhile, so that keys are read anew.
    const renamed = { full_name: "Somebody else" };
    await at.must(200, "PUT", "/api/users/profile", renamed, renewed.access_token);
    await tend(at);
    set(0);
    expect([await me(at, renewed.access_token), await poll(at, made.key)]).toEqual([200, 200]);
    const { refresh_token: next, access_token: access } = await refresh(at, renewed.refresh_token);
    expect(await me(at, access)).toBe(200);
    set(-hourMs);
    expect(await me(at, (await refresh(at, next)).access_token)).toBe(200);
    set(31 * minuteMs);
    expect(await poll(at, made.key)).toBe(401);
  });

  test("limits shut out for no longer than their window, and open for nothing", async () => {
    const email = "guessed@example.com";
    for (let i = 0; i < 10; i += 1) expect(await limitedLogin(at, email)).toBe(401);
    expect(await limitedLogin(at, email)).toBe(429);
    set(-hourMs);
    expect(await limitedLogin(at, email)).toBe(429);
    set(-hourMs + 14 * minuteMs);
    expect(await limitedLogin(at, email)).toBe(429);
    set(-hourMs + 15 * minuteMs + 1);
    expect(await limitedLogin(at, email)).toBe(401);
    set(hourMs);
    expect(await limitedLogin(at, email)).toBe(401);
  });

  test("a cached user is no older for it", async () => {
    const member = await person(at);
    const path = "/api/auth/me";
    const ask = async (token: string) => {
      const response = await at.call("GET", path, undefined, token);
      return [response.status, response.headers.get("x-cache")];
    };
    set(hourMs);
    const { access_token: access } = await refresh(at, member.refresh);
    expect(await ask(access)).toEqual([200, "miss"]);
    expect(await ask(access)).toEqual([200, "hit"]);
    set(0);
    expect(await ask(access)).toEqual([200, "miss"]);
    expect(await ask(access)).toEqual([200, "hit"]);
    set(5 * minuteMs);
    expect(await ask(access)).toEqual([200, "miss"]);
  });
});

describe.each(["postgres+redis", "postgres"] as const)(
  "servers whose clocks differ, on %s",
  (on) => {
    type Servers = Record<"right" | "fast" | "slow", Accounts>;
    let servers: Servers;
    let all: Accounts[];
    beforeEach(async () => {
      const right = await openAccounts({ backend: on });
      const fast = await openAccounts({ beside: right, now: NOON + hourMs });
      const slow = await openAccounts({ beside: right, now: NOON - hourMs });
      servers = { right, fast, slow };
      all = [right, fast, slow];
    });
    afterEach(async () => {
      for (const each of all.toReversed()) await each[Symbol.asyncDispose]();
    });

    /** A session goes on at another server, whatever has become of its access token there. */
    async function goOn(at: Accounts, session: Session): Promise<Session> {
      const { access_token: access, refresh_token: next } = await refresh(at, session.refresh);
      return { access, refresh: next };
    }
    const soon = (isSo: () => Promise<boolean>): Promise<number> => until(isSo);

    test("what one ends is ended on all, now and for as long as tokens last", async () => {
      const ended: Session[] = [];
      for (const opens of all) {
        for (const ends of all) {
          const first = await person(opens);
          const then = await goOn(ends, first);
          await ends.must(204, "POST", "/api/auth/logout-all", undefined, then.access);
          ended.push(first, then);
        }
      }
      const { slow, fast } = servers;
      const owner = await goOn(slow, await person(slow));
      const body = { name: "a key", scopes: ["signals:read"] };
      type Made = { id: string; key: string };
      const { id, key } = await slow.must<Made>(201, "POST", "/api/keys", body, owner.access);
      for (const each of all) await soon(async () => (await poll(each, key)) === 200);
      const { access } = await goOn(fast, owner);
      await fast.must(204, "DELETE", `/api/keys/${id}`, undefined, access);

      const nowhere = async () => {
        for (const each of all) {
          await soon(async () => (await poll(each, key)) === 401);
          for (const session of ended) {
            await soon(async () => (await me(each, session.access)) === 401);
            expect(await refreshStatus(each, session.refresh)).toBe(401);
          }
        }
      };
      await nowhere();
      for (let minutes = 0; minutes < 150; minutes += 50) {
        for (const each of all) each.clock.ms += 50 * minuteMs;
        for (const each of all) await tend(each);
        await nowhere();
        for (const each of all) {
          await using again = await openAccounts({ beside: each, now: each.clock.ms });
          for (const session of ended) expect(await me(again, session.access)).toBe(401);
        }
      }
    });

    test("somebody who comes to each in turn goes on, and a token by mail is good", async () => {
      const { right, fast, slow } = servers;
      let session: Session = await person(right);
      for (const at of [fast, slow, right, slow, fast, right]) {
        session = await goOn(at, session);
        expect(await me(at, session.access)).toBe(200);
      }
      for (const [issues, takes] of [
        [right, right],
        [right, slow],
        [fast, right],
        [slow, slow],
      ] as const) {
        const token = await resetToken(issues, await person(issues));
        for (const each of all) await tend(each);
        expect(await reset(takes, token)).toBe(204);
        for (const each of all) expect(await reset(each, token)).toBe(422);
      }
    });

    test("no change is lost between them", async () => {
      const { right, fast, slow } = servers;
      // The fast one clears up what it takes for old, each time that something was written.
      for (let i = 0; i < 5; i += 1) {
        const member = await person(right);
        const key = await slow.key(member);
        await soon(async () => (await poll(right, key)) === 200);
        await slow.must(204, "POST", "/api/auth/logout", undefined, member.access);
        await tend(fast);
        await soon(async () => (await me(right, member.access)) === 401);
      }
    });
  },
);

test("random days with clocks that jump: nothing that was ended is good again, no 500", async () => {
  tellSeed();
  const random = randomNumbers(SEED + 16);
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  await using one = await openAccounts({ backend: "postgres" });
  await using other = await openAccounts({ beside: one });
  const both = [one, other];
  const live: Session[] = [];
  const ended: Session[] = [];
  const keys: { id: string; key: string; owner: Session }[] = [];
  const revoked: string[] = [];
  const rounds = Number(process.env["CLOCK_ROUNDS"] ?? 150);
  const counts: Record<string, number> = {};
  const renewed = async (at: Accounts, session: Session): Promise<boolean> => {
    const response = await at.call("POST", "/api/auth/refresh", {
      refresh_token: session.refresh,
    });
    expect([200, 401]).toContain(response.status);
    if (response.status !== 200) return false;
    const tokens = (await response.json()) as Tokens;
    Object.assign(session, { access: tokens.access_token, refresh: tokens.refresh_token });
    return true;
  };
  let begun = NOON;
  for (let round = 0; round < rounds; round += 1) {
    const at = pick(both);
    const act = pick(["jump", "jump", "jump", "login", "logout", "key", "revoke", "tend", "tend"]);
    counts[act] = (counts[act] ?? 0) + 1;
    if (act === "jump") {
      begun += Math.floor(random() * 5 * minuteMs);
      at.clock.ms = begun + pick([-1, -0.5, 0, 0.5, 1]) * hourMs;
    } else if (act === "login" || live.length === 0) live.push(await person(at));
    else if (act === "tend") await tend(at);
    else {
      const session = pick(live);
      if (!(await renewed(at, session))) {
        live.splice(live.indexOf(session), 1);
        ended.push(session);
        continue;
      }
      if (act === "logout") {
        await at.must(204, "POST", "/api/auth/logout", undefined, session.access);
        live.splice(live.indexOf(session), 1);
        ended.push(session);
      }
      if (act === "key") {
        const body = { name: "a key", scopes: ["signals:read"] };
        const made = await at.must<{ id: string; key: string }>(
          201,
          "POST",
          "/api/keys",
          body,
          session.access,
        );
        keys.push({ ...made, owner: session });
      }
      const mine = keys.find(({ owner }) => owner === session);
      if (act === "revoke" && mine) {
        await at.must(204, "DELETE", `/api/keys/${mine.id}`, undefined, session.access);
        keys.splice(keys.indexOf(mine), 1);
        revoked.push(mine.key);
      }
    }
    for (const each of both) await alpineOf(each).changes.look();
    for (const each of both) {
      for (const { access, refresh: token } of ended.slice(-40)) {
        expect([round, await me(each, access)]).toEqual([round, 401]);
        expect([round, await refreshStatus(each, token)]).toEqual([round, 401]);
      }
      for (const key of revoked) expect([round, await poll(each, key)]).toEqual([round, 401]);
      for (const { key } of keys) expect([round, await poll(each, key)]).toEqual([round, 200]);
    }
  }
  console.log(`${rounds} rounds: ${JSON.stringify(counts)}`);
});
