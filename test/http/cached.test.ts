import { afterAll, beforeAll, expect, test } from "bun:test";
import { openAccounts, type Accounts, type Member } from "../harness/accounts.ts";

/** Answers out of a cache get their headers in one piece: the same as others get one by one. */
let at: Accounts;
let member: Member;

beforeAll(async () => {
  at = await openAccounts({ env: { CORS_ORIGINS: "https://app.example.com" } });
  member = await at.member();
});
afterAll(() => at[Symbol.asyncDispose]());

const ask = (path: string, token: string, headers: Record<string, string> = {}) =>
  at.app.send(
    new Request(`http://argo.test${path}`, {
      headers: { authorization: `Bearer ${token}`, ...headers },
    }),
  );
const cached = ["/api/auth/me", "/api/users/profile"];

test("has every header that another answer has, and X-Cache", async () => {
  for (const path of cached) {
    for (const origin of [undefined, "https://app.example.com"]) {
      const headers: Record<string, string> = origin === undefined ? {} : { origin };
      await ask(path, member.access);
      const answer = await ask(path, member.access, headers);
      const other = await ask("/api/keys", member.access, headers);
      expect([answer.status, other.status]).toEqual([200, 200]);
      const names = (response: Response) => [...response.headers.keys()].toSorted();
      expect(names(answer)).toEqual([...names(other), "x-cache"].toSorted());
      const moving = new Set(["x-request-id", "ratelimit", "x-ratelimit-remaining"]);
      for (const [name, value] of other.headers) {
        if (!moving.has(name)) expect(answer.headers.get(name), name).toBe(value);
      }
      expect(answer.headers.get("x-cache")).toBe("hit");
      expect(await answer.json()).toMatchObject({ id: member.id, email: member.email });
    }
  }
});

test("each answer has its own id and quota, however many are asked for at once", async () => {
  const others = [member, await at.member(), await at.member()];
  for (const { access } of others) await ask("/api/auth/me", access);
  const left = async ({ access }: Member) =>
    Number((await ask("/api/keys", access)).headers.get("x-ratelimit-remaining"));
  const before = await Promise.all(others.map(left));
  const asked = await Promise.all(
    Array.from({ length: 30 }, async (_, i) => {
      const who = others[i % 3] ?? member;
      const id = `asked-for-${i}`;
      const answer = await ask("/api/auth/me", who.access, { "x-request-id": id });
      expect(answer.headers.get("x-request-id")).toBe(id);
      expect(await answer.json()).toMatchObject({ id: who.id });
      return { who: i % 3, remaining: Number(answer.headers.get("x-ratelimit-remaining")) };
    }),
  );
  for (const who of [0, 1, 2]) {
    const seen = asked.filter((one) => one.who === who).map(({ remaining }) => remaining);
    const first = (before[who] ?? 0) - 1;
    expect(seen).toEqual(Array.from({ length: 10 }, (_, n) => first - n));
  }
});

test("a refusal of such a route has the headers of a refusal", async () => {
  const answer = await ask("/api/auth/me?unknown=%FF", member.access);
  expect(answer.status).toBe(400);
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
  expect(answer.headers.get("x-cache")).toBeNull();
  expect(answer.headers.get("vary")).toBe("Accept-Encoding, Origin");
});
