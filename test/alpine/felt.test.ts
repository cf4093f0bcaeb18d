/** What takes rights away is felt by every application of the database, and soon (A6). */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { decodeJwt } from "jose";
import { openAccounts, PASSWORD, type Accounts, type Member } from "../harness/accounts.ts";
import { randomNumbers, SEED, tellSeed } from "../harness/seed.ts";
import { alpineOf, person, until } from "./people.ts";

type Tokens = { access_token: string; refresh_token: string };

const LATEST = "/api/signals/latest";
const statusOf = async (at: Accounts, token: string, path = "/api/auth/me"): Promise<number> => {
  const response = await at.call("GET", path, undefined, token);
  await response.arrayBuffer();
  return response.status;
};
const refresh = (at: Accounts, { refresh: token }: Member): Promise<Response> =>
  at.call("POST", "/api/auth/refresh", { refresh_token: token });

// With Redis a message tells, without it each looks for itself.
describe.each([
  ["postgres+redis", 1_000],
  ["postgres", 2_000],
] as const)("on %s", (backend, boundMs) => {
  let one: Accounts;
  let other: Accounts;
  let admin: Member;
  beforeAll(async () => {
    one = await openAccounts({ backend });
    other = await openAccounts({ beside: one });
    admin = await person(one, { role: "admin" });
  });
  afterAll(async () => {
    await other[Symbol.asyncDispose]();
    await one[Symbol.asyncDispose]();
  });

  const patch = (id: string, change: unknown, at = one) =>
    at.must(200, "PATCH", `/api/admin/users/${id}`, change, admin.access);

  /** Somebody whom the other application knows well: nothing has to be looked up for them. */
  async function known(given = {}): Promise<{ member: Member; key: string; keyId: string }> {
    const member = await person(one, given);
    const body = { name: "a key", scopes: ["signals:read"] };
    const made = await one.must<{ id: string; key: string }>(
      201,
      "POST",
      "/api/keys",
      body,
      member.access,
    );
    await until(async () => (await statusOf(other, made.key, LATEST)) === 200);
    expect(await statusOf(other, member.access)).toBe(200);
    expect(await statusOf(other, member.access, LATEST)).toBe(200);
    return { member, key: made.key, keyId: made.id };
  }

  /**
   * How long it takes, after the answer to it, until it is felt. What has to be waited for is
   * waited for each time, a pause of the machine is not: the shortest counts.
   */
  async function felt(
    what: string,
    act: () => Promise<() => Promise<boolean>>,
    times = backend === "postgres" ? 2 : 4,
  ): Promise<void> {
    const tookMs: number[] = [];
    for (let i = 0; i < times; i += 1) tookMs.push(await until(await act()));
    const shown = tookMs.map((ms) => ms.toFixed(0)).join(", ");
    console.log(`${what}, felt by another application on ${backend}: ${shown} ms`);
    expect(Math.min(...tookMs)).toBeLessThan(boundMs);
    expect(Math.max(...tookMs)).toBeLessThan(boundMs + 5_000);
  }
  const refused = (token: string, path?: string) => async () =>
    (await statusOf(other, token, path)) === 401;

  test("a key that was made a moment ago is good at the other application at once", async () => {
    const member = await person(one);
    for (let i = 0; i < 4; i += 1) {
      const body = { name: `key ${i}`, scopes: ["signals:read"] };
      const path = "/api/keys";
      const { key } = await one.must<{ key: string }>(201, "POST", path, body, member.access);
      expect(await statusOf(other, key, LATEST)).toBe(200);
    }
  });

  test("logout-all", () =>
    felt("logout-all", async () => {
      const { member } = await known();
      await one.must(204, "POST", "/api/auth/logout-all", undefined, member.access);
      expect(await statusOf(one, member.access)).toBe(401);
      return refused(member.access);
    }));

  test("a change of the password, by all sessions but the one that made it", () =>
    felt(
      "a change of the password",
      async () => {
        const { member, key } = await known();
        const session = await one.login(member.email);
        const change = { current_password: PASSWORD, new_password: "another good password" };
        await one.must(204, "POST", "/api/auth/password/change", change, session.access);
        return async () => {
          if (!(await refused(member.access)())) return false;
          expect(await statusOf(other, session.access)).toBe(200);
          expect(await statusOf(other, key, LATEST)).toBe(200);
          expect((await refresh(other, member)).status).toBe(401);
          return true;
        };
      },
      2,
    ));

  test("being shut out: sessions, keys, and what would renew them", () =>
    felt("being shut out", async () => {
      const { member, key } = await known();
      await patch(member.id, { is_active: false });
      // What the database says is felt at once.
      expect((await refresh(other, member)).status).toBe(401);
      return async () =>
        (await refused(member.access)()) &&
        (await refused(member.access, LATEST)()) &&
        (await refused(key, LATEST)());
    }));

  test("another tier: old tokens are void, a refresh gives others, keys go on with it", () =>
    felt("another tier", async () => {
      const { member, key } = await known({ tier: "elite" });
      const tierOf = async (token: string) =>
        (await alpineOf(other).credentials.identify(token, `Bearer ${token}`))?.account?.tier;
      expect(await tierOf(key)).toBe("elite");
      await patch(member.id, { tier: "starter" });
      return async () => {
        if (!(await refused(member.access)()) || (await tierOf(key)) !== "starter") return false;
        const renewed = (await (await refresh(other, member)).json()) as Tokens;
        expect(decodeJwt(renewed.access_token)["tier"]).toBe("starter");
        expect(await statusOf(other, renewed.access_token)).toBe(200);
        expect(await statusOf(one, renewed.access_token)).toBe(200);
        expect(await statusOf(other, key, LATEST)).toBe(200);
        const me = await other.must<{ tier: string }>(
          200,
          "GET",
          "/api/auth/me",
          undefined,
          renewed.access_token,
        );
        expect(me.tier).toBe("starter");
        return true;
      };
    }));

  test("being no administrator any more: by sessions, and by keys for administrators", () =>
    felt("being no administrator any more", async () => {
      const was = await person(one, { role: "admin" });
      const key = await one.key(was, ["signals:read", "admin:read"]);
      const users = "/api/admin/users";
      await until(async () => (await statusOf(other, key, users)) === 200);
      expect(await statusOf(other, was.access, users)).toBe(200);
      await patch(was.id, { role: "user" });
      return async () => {
        if (!(await refused(was.access, users)())) return false;
        if ((await statusOf(other, key, users)) !== 403) return false;
        const renewed = (await (await refresh(other, was)).json()) as Tokens;
        expect(await statusOf(other, renewed.access_token, users)).toBe(403);
        return true;
      };
    }));

  test("the end of an account", () =>
    felt(
      "the end of an account",
      async () => {
        const { member, key } = await known();
        const body = { password: PASSWORD };
        await one.must(204, "DELETE", "/api/users/account", body, member.access);
        expect((await refresh(other, member)).status).toBe(401);
        return async () => (await refused(member.access)()) && (await refused(key, LATEST)());
      },
      2,
    ));

  test("the end of a key", () =>
    felt("the end of a key", async () => {
      const { member, key, keyId } = await known();
      await one.must(204, "DELETE", `/api/keys/${keyId}`, undefined, member.access);
      return async () => {
        if (!(await refused(key, LATEST)())) return false;
        expect(await statusOf(other, member.access)).toBe(200);
        return true;
      };
    }));

  test("50 logins and refreshes while rights change: none comes out with the old ones", async () => {
    tellSeed();
    const random = randomNumbers(SEED + boundMs);
    const came: Record<string, number> = {};
    const felt: Promise<number>[] = [];
    for (let round = 0; round < 50; round += 1) {
      const member = await person(one, { tier: "elite" });
      const [changes, asks] = random() < 0.5 ? [one, other] : [other, one];
      // Of the first two one asks before the change and one after it: neither is left to chance.
      const shutsOut = round > 1 && random() < 0.5;
      const logsIn = round > 1 && random() < 0.2;
      const [first, second] = [random() * 16, random() * (logsIn ? 100 : 8)];
      const ask = () =>
        logsIn
          ? asks.call("POST", "/api/auth/login", { email: member.email, password: PASSWORD })
          : refresh(asks, member);
      const change = () =>
        patch(member.id, shutsOut ? { is_active: false } : { tier: "starter" }, changes);
      let answer: Response;
      if (round === 0) {
        answer = await ask();
        await change();
      } else if (round === 1) {
        await change();
        answer = await ask();
      } else {
        const asked = Bun.sleep(first).then(ask);
        [answer] = await Promise.all([asked, Bun.sleep(second).then(change)]);
      }
      const what = `TEST_SEED=${SEED} round ${round}: ${logsIn ? "login" : "refresh"}, ${shutsOut ? "shut out" : "downgraded"}`;
      if (answer.status !== 200) {
        expect(`${what}: ${answer.status}`).toBe(`${what}: 401`);
        expect(shutsOut).toBe(true);
        came["refused"] = (came["refused"] ?? 0) + 1;
        continue;
      }
      const tokens = (await answer.json()) as Tokens;
      const { tier } = decodeJwt(tokens.access_token);
      const good = !shutsOut && tier === "starter";
      const status = good ? 200 : 401;
      came[good ? "with the new" : "void"] = (came[good ? "with the new" : "void"] ?? 0) + 1;
      // At once where the change was made, a moment later elsewhere.
      expect([what, await statusOf(changes, tokens.access_token)]).toEqual([what, status]);
      const elsewhere = async () => (await statusOf(asks, tokens.access_token)) === status;
      felt.push(until(elsewhere));
      const renewed = await tierAfterwards(asks, tokens);
      expect([what, renewed]).toEqual([what, shutsOut ? null : "starter"]);
    }
    await Promise.all(felt);
    console.log(`answers on ${backend}: ${JSON.stringify(came)}`);
    expect(came["void"]).toBeGreaterThan(0);
    expect(came["with the new"]).toBeGreaterThan(0);
  });

  /** The tier that a refresh gives; null where it is refused. */
  async function tierAfterwards(asks: Accounts, { refresh_token: token }: Tokens) {
    const answer = await asks.call("POST", "/api/auth/refresh", { refresh_token: token });
    if (answer.status === 401) return null;
    const { access_token: access } = (await answer.json()) as Tokens;
    expect(await statusOf(asks, access)).toBe(200);
    return decodeJwt(access)["tier"];
  }
});
