import { expect, test } from "bun:test";
import { z } from "zod";
import { fieldErrors, namesOf } from "../../src/http/validate.ts";
import { openAccounts } from "../harness/accounts.ts";
import { problemOf, READ_TOKEN } from "../harness/app.ts";

const field = (schema: z.ZodType, value: unknown) => {
  const { error } = z.object({ field: schema }).safeParse({ field: value });
  return error ? fieldErrors(error).map(({ detail }) => detail) : [];
};

test.each([
  [z.string(), undefined, "is missing"],
  [z.string(), 7, "must be text"],
  [z.number(), "7", "must be a number"],
  [z.int(), 1.5, "must be a whole number"],
  [z.boolean(), "yes", "must be true or false"],
  [z.array(z.string()), "a", "must be a list"],
  [z.object({}), [], "must be an object"],
  [z.string().min(1), "", "must not be empty"],
  [z.string().min(8), "short", "must have at least 8 characters"],
  [z.string().max(3), "long", "must have at most 3 characters"],
  [z.array(z.string()).min(1), [], "must not be empty"],
  [z.array(z.string()).max(1), ["a", "b"], "must have at most 1 items"],
  [z.number().min(0), -1, "must be at least 0"],
  [z.number().max(100), 101, "must be at most 100"],
  [z.number().positive(), 0, "must be more than 0"],
  [z.enum(["BUY", "SELL", "HOLD"]), "hold", "must be BUY, SELL or HOLD"],
  [z.literal("Bearer"), "x", "must be Bearer"],
  [z.strictObject({}), { more: 1 }, "unknown field"],
  [z.union([z.string(), z.number()]), true, "is none of what it may be"],
  [z.string().regex(/a/), "b", "has not the form that it must have"],
  [z.string().regex(/a/, "must hold an a"), "b", "must hold an a"],
])("case %#: %p in our words", (schema, value, detail) => {
  expect(field(schema as z.ZodType, value)).toEqual([detail]);
});

test("a summary names a field once", () => {
  const twice = ["a", "b", "a"].map((name) => ({ field: name, detail: "is wrong" }));
  expect(namesOf(twice)).toBe("a, b");
});

test("who may not is told what is needed, without names of our own", async () => {
  await using at = await openAccounts({ env: { SIGNALS_ACCESS: "key" } });
  const member = await at.member();
  const key = await at.key(member, ["signals:read"]);
  const session = "This needs a session: a key cannot do it.";
  for (const [token, method, path, detail] of [
    [null, "GET", "/api/auth/me", "A session is needed."],
    [null, "PATCH", "/api/admin/users/x", "A session of an administrator is needed."],
    [key, "GET", "/api/auth/me", session],
    [key, "PATCH", "/api/admin/users/x", session],
    [key, "GET", "/api/admin/users", "The key does not carry the scope admin:read."],
    [key, "POST", "/api/signals", "The key does not carry the scope signals:write."],
    [member.access, "GET", "/api/admin/users", "This is for administrators."],
    [member.access, "PATCH", "/api/admin/users/x", "This is for administrators."],
    [
      member.access,
      "POST",
      "/api/signals",
      "This needs a key or a token that writes signals: a session cannot do it.",
    ],
    [READ_TOKEN, "GET", "/api/keys", "This needs a session: a token of the operator cannot do it."],
    [READ_TOKEN, "GET", "/api/admin/users", "This is for administrators."],
  ] as const) {
    const body = method === "GET" ? undefined : {};
    const refused = await problemOf(await at.call(method, path, body, token));
    expect([method, path, refused.status, refused.detail]).toEqual([
      method,
      path,
      token === null ? 401 : 403,
      detail,
    ]);
  }
});
