import { timingSafeEqual } from "node:crypto";
import type { Config } from "../config";
import { AppError } from "../errors";
import { isLocal } from "./policy";

export type Scope = "signals:read" | "signals:write";

/** Who asks. `id` names a token without telling it. */
export type Principal = { id: string; scope: Scope };

type Token = Principal & { digest: Uint8Array };

const remembered = 1_000;
const challenge = { headers: { "WWW-Authenticate": 'Bearer realm="argo"' } };

/** Decides who may read and who may write: static tokens, and open reading where configured. */
export class Guard {
  readonly #tokens: Token[];
  /** Headers that were found good, so that a poll costs one look-up instead of a hash. */
  readonly #good = new Map<string, Principal>();

  constructor(
    private readonly config: Pick<
      Config,
      "access" | "accessImplied" | "readTokens" | "trustProxyHops" | "writeTokens"
    >,
  ) {
    this.#tokens = [
      ...config.readTokens.map((token) => makeToken(token, "signals:read")),
      ...config.writeTokens.map((token) => makeToken(token, "signals:write")),
    ];
  }

  /**
   * Who reads; null for an anonymous reader where reading is open.
   * @throws AppError 401 without a good token where one is needed, 403 for one of another scope.
   */
  reader(headers: Headers): Principal | null {
    const authorization = headers.get("authorization");
    if (authorization !== null) return this.#holder(authorization, "signals:read");
    if (this.config.access === "key") {
      throw new AppError("unauthorized", "A Bearer token is needed to read signals.", challenge);
    }
    if (this.config.accessImplied && !isLocal(this.config, headers)) {
      throw new AppError(
        "unauthorized",
        "Reading is open to this machine alone: a request through a proxy or under another host name needs a Bearer token, or SIGNALS_ACCESS=open.",
        challenge,
      );
    }
    return null;
  }

  /** Who writes. @throws AppError 401 or 403. */
  writer(headers: Headers): Principal {
    const authorization = headers.get("authorization");
    if (authorization !== null) return this.#holder(authorization, "signals:write");
    throw new AppError("unauthorized", "A Bearer token is needed to write signals.", challenge);
  }

  #holder(authorization: string, scope: Scope): Principal {
    const principal = this.#good.get(authorization) ?? this.#verify(authorization);
    if (principal.scope === scope) return principal;
    throw new AppError("forbidden", `The token does not carry the scope ${scope}.`);
  }

  #verify(authorization: string): Principal {
    const secret = /^Bearer +(\S+)$/i.exec(authorization)?.[1];
    const found = secret === undefined ? undefined : this.#match(secret);
    if (!found) throw new AppError("unauthorized", "The Bearer token is not known.", challenge);
    const principal: Principal = { id: found.id, scope: found.scope };
    if (this.#good.size >= remembered) this.#good.clear();
    this.#good.set(authorization, principal);
    return principal;
  }

  /** Compares digests of equal length with every token, so that time tells nothing. */
  #match(secret: string): Token | undefined {
    const digest = sha256(secret);
    let found: Token | undefined;
    for (const token of this.#tokens) if (timingSafeEqual(token.digest, digest)) found = token;
    return found;
  }
}

/** True when the header carries one of these tokens, compared in constant time. */
export function bearerMatches(authorization: string | null, tokens: readonly string[]): boolean {
  const secret = /^Bearer +(\S+)$/i.exec(authorization ?? "")?.[1];
  if (secret === undefined) return false;
  const digest = sha256(secret);
  let found = false;
  for (const token of tokens) if (timingSafeEqual(sha256(token), digest)) found = true;
  return found;
}

function makeToken(secret: string, scope: Scope): Token {
  const digest = sha256(secret);
  return { id: `token:${Buffer.from(digest).toString("hex").slice(0, 12)}`, scope, digest };
}

const sha256 = (text: string): Uint8Array => new Bun.CryptoHasher("sha256").update(text).digest();
