import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHmac, createSign, generateKeyPairSync } from "node:crypto";
import fc from "fast-check";
import { AccessTokens, accessSeconds, type Subject } from "../../../src/alpine/auth/tokens.ts";
import { deriveKey } from "../../../src/alpine/secrets.ts";
import { JWT_SECRET, openAccounts, type Accounts, type Member } from "../../harness/accounts.ts";
import { NOON } from "../../harness/app.ts";
import { seeded } from "../../harness/seed.ts";

const subject: Subject = {
  userId: "0190a7c0-0000-7000-8000-000000000001",
  sessionId: "0190a7c0-0000-7000-8000-000000000002",
  generation: 0,
  tier: "pro",
  role: "user",
};
const open = (secrets: string[], now = () => NOON) => AccessTokens.open(secrets, now);
const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
const decode = (part = "") =>
  JSON.parse(Buffer.from(part, "base64url").toString()) as Record<string, unknown>;
const ours = deriveKey(JWT_SECRET, "access token");
const sign = (head: unknown, body: unknown, key: Uint8Array | string = ours, alg = "sha256") => {
  const text = `${encode(head)}.${encode(body)}`;
  return `${text}.${createHmac(alg, key).update(text).digest("base64url")}`;
};

describe("a token", () => {
  test("carries who, which session, until when", async () => {
    const tokens = await open([JWT_SECRET]);
    const token = await tokens.sign(subject);
    const [head, body] = token.split(".");
    expect(decode(head)).toEqual({ alg: "HS256", typ: "at+jwt", kid: expect.any(String) });
    expect(decode(body)).toEqual({
      iss: "argo-alpine",
      aud: "argo-alpine",
      sub: subject.userId,
      sid: subject.sessionId,
      jti: expect.stringMatching(/^[0-9a-f-]{36}$/),
      gen: 0,
      tier: "pro",
      role: "user",
      iat: NOON / 1000,
      exp: NOON / 1000 + accessSeconds,
    });
    expect(await tokens.verify(token)).toMatchObject({ sub: subject.userId });
  });

  test("lives for fifteen minutes, by this clock", async () => {
    let now = NOON;
    const tokens = await open([JWT_SECRET], () => now);
    const token = await tokens.sign(subject);
    now += 899_000;
    expect(await tokens.verify(token)).not.toBeNull();
    now += 1_000;
    expect(await tokens.verify(token)).toBeNull();
  });

  test("a new key drops no session, an old one that is taken away does", async () => {
    const [older, newer] = [JWT_SECRET, "another-secret-0123456789-0123456789"];
    const token = await (await open([older])).sign(subject);
    const rotated = await open([newer, older]);
    expect(await rotated.verify(token)).not.toBeNull();
    const fresh = await rotated.sign(subject);
    expect(await (await open([newer])).verify(fresh)).not.toBeNull();
    expect(await (await open([newer])).verify(token)).toBeNull();
  });

  test("that was made for anything else is refused", async () => {
    const tokens = await open([JWT_SECRET]);
    const token = await tokens.sign(subject);
    const [head, body] = token.split(".").slice(0, 2).map(decode);
    expect(await tokens.verify(sign(head, body))).not.toBeNull();
    const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2_048 });
    const pem = publicKey.export({ type: "spki", format: "pem" }).toString();
    const rsaText = `${encode({ ...head, alg: "RS256" })}.${encode(body)}`;
    const jwk = { kty: "oct", k: Buffer.alloc(32).toString("base64url") };
    const without = (name: string) => {
      const { [name]: _left, ...rest } = body ?? {};
      return rest;
    };
    const forged = [
      `${encode({ ...head, alg: "none" })}.${encode(body)}.`,
      `${encode({ ...head, alg: "None" })}.${encode(body)}.`,
      sign({ ...head, alg: "HS512" }, body, ours, "sha512"),
      sign({ ...head, alg: "HS384" }, body, ours, "sha384"),
      sign({ ...head, alg: "RS256" }, body, pem),
      `${rsaText}.${createSign("sha256").update(rsaText).sign(privateKey).toString("base64url")}`,
      sign({ ...head, kid: "unknown" }, body),
      sign({ ...head, kid: undefined }, body),
      sign({ ...head, kid: "../../dev/null" }, body, ""),
      sign({ ...head, jwk }, body, Buffer.alloc(32)),
      sign({ ...head, jku: "http://127.0.0.1/keys", x5u: "http://127.0.0.1/c" }, body, "guess"),
      sign({ ...head, crit: ["exp"] }, body),
      sign({ ...head, typ: "JWT" }, body),
      sign({ ...head, typ: undefined }, body),
      sign(head, body, JWT_SECRET),
      sign(head, body, ""),
      ...["iss", "aud", "sub", "sid", "jti", "gen", "tier", "role", "iat", "exp"].map((name) =>
        sign(head, without(name)),
      ),
      ...Object.entries({
        iss: "somebody",
        aud: ["argo-alpine", "other"],
        sub: "admin",
        sid: null,
        jti: 7,
        gen: -1,
        tier: "gold",
        role: "root",
        exp: "never",
        nbf: NOON / 1000 + 3_600,
        more: true,
      }).map(([name, value]) => sign(head, { ...body, [name]: value })),
      sign(head, [body]),
      `${token}.${token}`,
      token.replaceAll(".", ".."),
      ` ${token}`,
      `${token}\n`,
    ];
    for (const text of forged) {
      expect(`${text.slice(0, 200)} ${(await tokens.verify(text)) === null}`).toEndWith(" true");
    }
  });

  test("with any character changed, added or left out is refused: 10,000 ways (A4)", async () => {
    const tokens = await open([JWT_SECRET]);
    const token = await tokens.sign(subject);
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/. \u0000é";
    const mutation = fc.tuple(
      fc.nat(token.length - 1),
      fc.constantFrom(...alphabet),
      fc.constantFrom("change", "add", "cut"),
    );
    let tried = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 3 }), async (mutations) => {
        let text = token;
        for (const [place, character, how] of mutations) {
          const [head, tail] = [text.slice(0, place), text.slice(place + (how === "add" ? 0 : 1))];
          text = head + (how === "cut" ? "" : character) + tail;
        }
        if (text === token) return;
        tried += 1;
        expect(await tokens.verify(text)).toBeNull();
      }),
      seeded(10_000),
    );
    expect(tried).toBeGreaterThan(9_000);
  });
});

describe("presented to the server", () => {
  let at: Accounts;
  let member: Member;
  beforeAll(async () => {
    at = await openAccounts();
    member = await at.member();
  });
  afterAll(() => at[Symbol.asyncDispose]());

  const poll = (authorization: string) =>
    at.app.get("/api/signals/latest", { Authorization: authorization });

  test("a session reads signals, on every route", async () => {
    expect((await poll(`Bearer ${member.access}`)).status).toBe(200);
    expect((await poll(`bearer  ${member.access}`)).status).toBe(200);
    const stats = await at.call("GET", "/api/stats", undefined, member.access);
    expect(stats.status).toBe(200);
  });

  test("a session may not write", async () => {
    const response = await at.call("POST", "/api/signals", {}, member.access);
    expect(response.status).toBe(403);
  });

  test("an expired one is 401 although it was remembered", async () => {
    expect((await poll(`Bearer ${member.access}`)).status).toBe(200);
    at.clock.ms += accessSeconds * 1000;
    expect((await poll(`Bearer ${member.access}`)).status).toBe(401);
    at.clock.ms -= accessSeconds * 1000;
  });

  test("what only looks like one counts against its address", async () => {
    for (const secret of ["a.b.c", "eyJhbGciOiJub25lIn0.e30.", `${member.access}x`]) {
      const response = await poll(`Bearer ${secret}`);
      expect(response.status).toBe(401);
      expect(response.headers.get("x-ratelimit-remaining")).not.toBeNull();
    }
  });
});
