import { createHash, createHmac } from "node:crypto";
import { importJWK, type JWTPayload, jwtVerify, SignJWT } from "jose";
import { z } from "zod";
import { roles, type Tier, tiers, type UserRole } from "../../../db/alpine/schema";
import { deriveKey } from "../secrets";

export const accessSeconds = 900;
/** What an access token says it is (RFC 9068 §2.1), so that no other token passes for one. */
const type = "at+jwt";
const issuer = "argo-alpine";
const audience = "argo-alpine";
const algorithm = "HS256";

const uuid = z.uuid();
const Claims = z.strictObject({
  iss: z.literal(issuer),
  aud: z.literal(audience),
  sub: uuid,
  sid: uuid,
  jti: uuid,
  gen: z.int().min(0),
  tier: z.enum(tiers),
  role: z.enum(roles),
  iat: z.int(),
  exp: z.int(),
});
export type Claims = z.infer<typeof Claims>;

export type Subject = {
  userId: string;
  sessionId: string;
  generation: number;
  tier: Tier;
  role: UserRole;
};

type Key = { kid: string; key: CryptoKey };

/** Signs and verifies access tokens. Keys are told apart by `kid`: the first signs, all verify. */
export class AccessTokens {
  private constructor(
    private readonly keys: readonly [Key, ...Key[]],
    private readonly now: () => number,
  ) {}

  static async open(secrets: readonly string[], now: () => number): Promise<AccessTokens> {
    const [first, ...more] = await Promise.all(secrets.map(makeKey));
    if (!first) throw new Error("There is no secret to sign with.");
    return new AccessTokens([first, ...more], now);
  }

  async sign({ userId, sessionId, generation, tier, role }: Subject): Promise<string> {
    const [{ kid, key }] = this.keys;
    const issuedAt = Math.floor(this.now() / 1000);
    return new SignJWT({ sid: sessionId, gen: generation, tier, role })
      .setProtectedHeader({ alg: algorithm, typ: type, kid })
      .setIssuer(issuer)
      .setAudience(audience)
      .setSubject(userId)
      .setJti(crypto.randomUUID())
      .setIssuedAt(issuedAt)
      .setExpirationTime(issuedAt + accessSeconds)
      .sign(key);
  }

  /**
   * The claims of a token that is ours, unexpired and written in the one canonical way; else null
   * (RFC 8725). A signature has spare bits in base64url: four spellings of one token verify.
   */
  async verify(token: string): Promise<Claims | null> {
    if (!isCanonical(token)) return null;
    try {
      const { payload } = await jwtVerify(
        token,
        ({ kid }) => {
          const known = this.keys.find((key) => key.kid === kid);
          if (!known) throw new Error("unknown key");
          return known.key;
        },
        {
          algorithms: [algorithm],
          typ: type,
          issuer,
          audience,
          requiredClaims: ["exp", "iat", "jti", "sub"],
          currentDate: new Date(this.now()),
        },
      );
      return claimsOf(payload);
    } catch {
      return null;
    }
  }
}

function claimsOf(payload: JWTPayload): Claims | null {
  const parsed = Claims.safeParse(payload);
  return parsed.success ? parsed.data : null;
}

/** True for three parts of base64url that are what their bytes are written as. */
function isCanonical(token: string): boolean {
  if (token.length > 2_048) return false;
  const parts = token.split(".");
  return (
    parts.length === 3 &&
    parts.every((part) => Buffer.from(part, "base64url").toString("base64url") === part)
  );
}

async function makeKey(secret: string): Promise<Key> {
  const bytes = deriveKey(secret, "access token");
  const kid = createHash("sha256").update(bytes).digest("base64url").slice(0, 12);
  const jwk = { kty: "oct", k: bytes.toString("base64url"), alg: algorithm };
  return { kid, key: (await importJWK(jwk, algorithm)) as CryptoKey };
}

/**
 * Refresh tokens: random at a login, then each made of the one before, so that parallel uses of
 * one token get the same child, and the database, which holds hashes, need not hold it.
 */
export class RefreshTokens {
  readonly #key: Buffer;

  constructor(secret: string) {
    this.#key = deriveKey(secret, "refresh token");
  }

  first(): string {
    return Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64url");
  }

  child(token: string): string {
    return createHmac("sha256", this.#key).update(token).digest("base64url");
  }
}

/** How a secret that was handed out is kept. */
export const hashOf = (secret: string): Uint8Array =>
  new Bun.CryptoHasher("sha256").update(secret).digest();
