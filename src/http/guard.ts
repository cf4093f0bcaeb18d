import { timingSafeEqual } from "node:crypto";
import type { Config } from "../config";
import { AppError } from "../errors";
import { type Entitlement, fullView, type View } from "./entitlement";
import type { Exchange } from "./exchange";
import type { Meter } from "./meter";
import { isLocal } from "./policy";

/** What keys can be given, and `account` and `admin:write`, which only a session carries. */
export type Scope = "signals:read" | "signals:write" | "admin:read" | "admin:write" | "account";

/** Who asks. `id` names a token or a user without telling a secret; limits count by it. */
export type Principal = {
  id: string;
  scopes: ReadonlySet<Scope>;
  /** Absent for the operator's static tokens. */
  account?: Account;
  /** Of a server that has let in and limited its readers itself, and says what they may see. */
  speaksForOthers?: boolean;
};

export type Account = {
  userId: string;
  tier: string;
  role: string;
  /** What the plan gives, as it is now. */
  entitlement: Entitlement;
  /** Counts what it does; there once it has come. */
  meter?: Meter;
  sessionId?: string;
  keyId?: string;
};

/** Knows the holders of keys and of sessions. */
export type Credentials = {
  /** The holder of an `Authorization` header that was found good before and still is. */
  recall(authorization: string): Principal | undefined;
  /**
   * The holder of a Bearer secret; null when nobody is.
   * @throws AppError 503 when that cannot be known.
   */
  identify(secret: string, authorization: string): Principal | null | Promise<Principal | null>;
  /** @throws AppError 503 while nobody knows who was shut out elsewhere. */
  mustBeFresh(): void;
};

/** What a reader sees: the account's view, or the one that another server reads for. */
export const viewOfReader = ({ principal, view }: Pick<Exchange, "principal" | "view">): View =>
  principal?.account?.entitlement.view ?? view ?? fullView;

/** Lets accounts pass, and another server that reads for one. @throws AppError 401 or 403. */
export function mustHavePlan({ principal, view }: Pick<Exchange, "principal" | "view">): void {
  if (principal?.account || view) return;
  if (principal) throw new AppError("forbidden", "This is for accounts: a token has no plan.");
  throw new AppError("unauthorized", "A session or a key of an account is needed.", challenge);
}

/** Lets those pass whose plan includes the export. @throws AppError 403. */
export function mustHaveExport({ principal }: Pick<Exchange, "principal">): void {
  if (principal?.account?.entitlement.export !== false) return;
  throw new AppError("forbidden", "The plan of this account does not include the export.");
}

type Token = { principal: Principal; digest: Uint8Array };

const remembered = 1_000;
const challenge = { headers: { "WWW-Authenticate": 'Bearer realm="argo"' } };

/** Decides who may do what: static tokens, keys and sessions, and open reading where configured. */
export class Guard {
  readonly #tokens: Token[];
  /** Headers that were found good, so that a poll costs one look-up instead of a hash. */
  readonly #good = new Map<string, Principal>();

  constructor(
    private readonly config: Pick<
      Config,
      "access" | "accessImplied" | "readTokens" | "serviceTokens" | "trustProxyHops" | "writeTokens"
    >,
    private readonly credentials: Credentials | null = null,
  ) {
    this.#tokens = [
      ...config.readTokens.map((token) => makeToken(token, "signals:read")),
      ...config.serviceTokens.map((token) => makeToken(token, "signals:read", true)),
      ...config.writeTokens.map((token) => makeToken(token, "signals:write")),
    ];
  }

  /**
   * Who reads; null for an anonymous reader where reading is open. A promise only for a session
   * that is met for the first time.
   * @throws AppError 401 without a good token where one is needed, 403 for one of another scope.
   */
  reader(headers: Headers): Principal | null | Promise<Principal> {
    const authorization = headers.get("authorization");
    if (authorization !== null) return this.holder(authorization);
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

  /** Who reads by this `Authorization`; as `reader` has it. @throws AppError 401, 403 or 503. */
  holder(authorization: string): Principal | Promise<Principal> {
    const principal = this.#known(authorization);
    if (!(principal instanceof Promise)) return this.permit(principal, "signals:read");
    return principal.then((found) => this.permit(found, "signals:read"));
  }

  /** Who asks for what this scope is needed for, whether they hold it or not. @throws AppError 401. */
  asker(authorization: string | null, scope: Scope): Principal | Promise<Principal> {
    if (authorization !== null) return this.#known(authorization);
    throw new AppError("unauthorized", needed[scope], challenge);
  }

  /**
   * Lets those pass who hold the scope. Keys go on reading while the database is away; all else
   * waits for those who may know better. @throws AppError 403 or 503.
   */
  permit(principal: Principal, scope: Scope): Principal {
    const { account, scopes } = principal;
    if (account && (scope !== "signals:read" || account.sessionId !== undefined)) {
      this.credentials?.mustBeFresh();
    }
    if (scopes.has(scope)) return principal;
    throw new AppError("forbidden", lacking(principal, scope));
  }

  #known(authorization: string): Principal | Promise<Principal> {
    const known = this.#good.get(authorization) ?? this.credentials?.recall(authorization);
    return known ?? this.#identify(authorization);
  }

  #identify(authorization: string): Principal | Promise<Principal> {
    const secret = bearerSecret(authorization);
    if (secret === undefined) throw unknown();
    const token = this.#match(secret);
    if (token) {
      // In one spelling alone: nobody fills this with others.
      if (authorization !== `Bearer ${secret}`) return token;
      if (this.#good.size >= remembered) this.#good.clear();
      this.#good.set(authorization, token);
      return token;
    }
    const found = this.credentials?.identify(secret, authorization) ?? null;
    return found instanceof Promise ? found.then(mustBe) : mustBe(found);
  }

  /** Compares digests of equal length with every token, so that time tells nothing. */
  #match(secret: string): Principal | undefined {
    const digest = sha256(secret);
    let found: Principal | undefined;
    for (const token of this.#tokens) {
      if (timingSafeEqual(token.digest, digest)) found = token.principal;
    }
    return found;
  }
}

const needed: Record<Scope, string> = {
  "signals:read": "A session, a key or a token that reads signals is needed.",
  "signals:write": "A key or a token that writes signals is needed.",
  account: "A session is needed.",
  "admin:read": "A session of an administrator, or a key with admin:read, is needed.",
  "admin:write": "A session of an administrator is needed.",
};

/** Why a good token is not enough. */
function lacking({ account }: Principal, scope: Scope): string {
  const isKey = account?.keyId !== undefined;
  if (isKey && (scope === "account" || scope === "admin:write")) {
    return "This needs a session: a key cannot do it.";
  }
  if (scope === "account") return "This needs a session: a token of the operator cannot do it.";
  if (scope === "signals:write" && account && !isKey) {
    return "This needs a key or a token that writes signals: a session cannot do it.";
  }
  if (scope.startsWith("admin:") && !isKey) return "This is for administrators.";
  return `The ${isKey ? "key" : "token"} does not carry the scope ${scope}.`;
}

function mustBe(principal: Principal | null): Principal {
  if (principal) return principal;
  throw unknown();
}

const unknown = () => new AppError("unauthorized", "The Bearer token is not known.", challenge);

const bearerSecret = (authorization: string): string | undefined =>
  /^Bearer +(\S+)$/i.exec(authorization)?.[1];

/** True when the header carries one of these tokens, compared in constant time. */
export function bearerMatches(authorization: string | null, tokens: readonly string[]): boolean {
  const secret = bearerSecret(authorization ?? "");
  if (secret === undefined) return false;
  const digest = sha256(secret);
  let found = false;
  for (const token of tokens) if (timingSafeEqual(sha256(token), digest)) found = true;
  return found;
}

function makeToken(secret: string, scope: Scope, speaksForOthers = false): Token {
  const digest = sha256(secret);
  const id = `token:${Buffer.from(digest).toString("hex").slice(0, 12)}`;
  return { principal: { id, scopes: new Set([scope]), speaksForOthers }, digest };
}

const sha256 = (text: string): Uint8Array => new Bun.CryptoHasher("sha256").update(text).digest();
