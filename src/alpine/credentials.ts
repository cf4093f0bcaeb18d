import { and, eq, gt, isNull, or, sql } from "drizzle-orm";
import {
  apiKeys,
  type Change,
  revocations,
  type Tier,
  type UserRole,
  users,
} from "../../db/alpine/schema";
import { AppError } from "../errors";
import type { Credentials as Known, Principal, Scope } from "../http/guard";
import type { Meters } from "../http/meter";
import type { Logger } from "../platform/log";
import type { AccessTokens, Claims } from "./auth/tokens";
import type { Changes } from "./changes";
import { clocksApartMs } from "./clocks";
import type { Database } from "./database";
import { isKey, isWellFormed } from "./keys/format";
import type { Plans } from "./plans/registry";

/** Scopes that a key may carry; `admin:read` and `signals:write` only while its owner is an admin. */
export const keyScopes = ["signals:read", "signals:write", "admin:read"] as const;
export type KeyScope = (typeof keyScopes)[number];

type Holder = {
  principal: Principal;
  /** Milliseconds since the epoch; Infinity for a key without end. */
  expiresAtMs: number;
  /** `void` once it was revoked, `unsure` while it could not be read again, wherever it is held. */
  state: "good" | "unsure" | "void";
};
type KeyHolder = Holder & {
  hash: string;
  lastUsedMs: number;
  /** Whether it was used since that was last taken down. */
  used: boolean;
};
type SessionHolder = Holder & { sessionId: string; tokenId: string; generation: number };

type Options = {
  db: () => Database;
  tokens: () => AccessTokens | null;
  changes: Changes;
  plans: Plans;
  meters: Meters;
  /** Without a look at the database for so long, nobody knows who was shut out elsewhere. */
  staleMs: number;
  now: () => number;
  log: Logger;
};

/** Headers that were found good: what a poll looks up instead of hashing its key. */
const rememberedMax = 20_000;
/** Longer texts than these are nothing that this server gave out in its one canonical way. */
const rememberedChars = 2_048;
const reloadRows = 10_000;
/** How long a key that is not known is looked for, while the database is slow. */
const newKeyMs = 1_000;

/**
 * Every good key and every revoked session, held in process: whoever asks who holds a token waits
 * for no database. Kept current by `Changes`.
 */
export class Credentials implements Known {
  readonly #keys = new Map<string, KeyHolder>();
  readonly #keysById = new Map<string, KeyHolder>();
  readonly #keysByUser = new Map<string, Set<KeyHolder>>();
  readonly #revoked = new Map<string, { fromGeneration: number | null; expiresAtMs: number }>();
  #remembered = new Map<string, KeyHolder | SessionHolder>();
  /** True when the database was silent for so long that nobody's rights are believed any more. */
  outdated = false;
  #used: KeyHolder[] = [];
  /** Keys are read one time after the other: an older reading must not overtake a newer one. */
  #reading: Promise<unknown> = Promise.resolve();

  constructor(private readonly options: Options) {
    options.changes.onReload(() => this.#inTurn(() => this.#load()));
    options.changes.listen((change) => this.#hear(change));
  }

  get keyCount(): number {
    return this.#keys.size;
  }

  get revokedCount(): number {
    return this.#revoked.size;
  }

  recall(authorization: string): Principal | undefined {
    const holder = this.#remembered.get(authorization);
    if (holder === undefined) return undefined;
    const nowMs = this.options.now();
    if (this.#isGood(holder, nowMs)) {
      this.#use(holder, nowMs);
      return holder.principal;
    }
    this.#remembered.delete(authorization);
    return undefined;
  }

  mustBeFresh(): void {
    if (this.options.changes.ageMs <= this.options.staleMs) return;
    throw unsure();
  }

  identify(secret: string, authorization: string): Principal | null | Promise<Principal | null> {
    if (isKey(secret)) return this.#identifyKey(secret, authorization);
    // What is no token of ours by its looks costs no verification.
    if (secret.split(".").length !== 3) return null;
    return this.#identifySession(secret, authorization);
  }

  /** When keys were last used, by their id, since this was last asked. */
  takeUsed(): Map<string, number> {
    const keys = new Map<string, number>();
    for (const holder of this.#used) {
      keys.set(keyIdOf(holder), holder.lastUsedMs);
      holder.used = false;
    }
    this.#used = [];
    return keys;
  }

  /** Lets go of revocations of which no token is left, and of keys that have expired on any clock. */
  forget(): void {
    const nowMs = this.options.now();
    for (const [id, { expiresAtMs }] of this.#revoked) {
      if (expiresAtMs < nowMs) this.#revoked.delete(id);
    }
    for (const holder of this.#keys.values()) {
      if (holder.expiresAtMs + clocksApartMs < nowMs) this.#drop(holder);
    }
  }

  #identifyKey(
    secret: string,
    authorization: string,
  ): Principal | null | Promise<Principal | null> {
    if (!isWellFormed(secret)) return null;
    const holder = this.#keys.get(hashText(secret));
    return holder
      ? this.#holderOf(holder, secret, authorization)
      : this.#identifyNewKey(secret, authorization);
  }

  /** One that nobody knows may have been made by another process a moment ago. */
  async #identifyNewKey(secret: string, authorization: string): Promise<Principal | null> {
    this.mustBeFresh();
    await Promise.race([this.options.changes.catchUp(), Bun.sleep(newKeyMs)]);
    const holder = this.#keys.get(hashText(secret));
    if (holder) return this.#holderOf(holder, secret, authorization);
    this.mustBeFresh();
    return null;
  }

  #holderOf(holder: KeyHolder, secret: string, authorization: string): Principal | null {
    const nowMs = this.options.now();
    if (!this.#isGood(holder, nowMs)) return null;
    this.#remember(authorization, secret, holder);
    this.#use(holder, nowMs);
    return holder.principal;
  }

  async #identifySession(secret: string, authorization: string): Promise<Principal | null> {
    const tokens = this.options.tokens();
    if (!tokens) this.mustBeFresh();
    const claims = (await tokens?.verify(secret)) ?? null;
    if (!claims) return null;
    // A session that was ended elsewhere must not be taken for a good one.
    this.mustBeFresh();
    const holder = sessionHolder(claims, this.options.plans);
    const nowMs = this.options.now();
    if (!this.#isGood(holder, nowMs)) throw ended();
    this.#remember(authorization, secret, holder);
    this.#use(holder, nowMs);
    return holder.principal;
  }

  /** @throws AppError 503 for one that could not be read again after it was changed. */
  #isGood(holder: KeyHolder | SessionHolder, nowMs: number): boolean {
    if (this.outdated || holder.state !== "good") {
      if (this.outdated || holder.state === "unsure") throw unsure();
      return false;
    }
    if (nowMs >= holder.expiresAtMs) return false;
    if ("hash" in holder) return true;
    if (this.#revoked.has(holder.tokenId)) return false;
    const revoked = this.#revoked.get(holder.sessionId);
    if (revoked === undefined) return true;
    return revoked.fromGeneration !== null && holder.generation >= revoked.fromGeneration;
  }

  /** In the one spelling alone: a holder of one key must not fill this with others. */
  #remember(authorization: string, secret: string, holder: KeyHolder | SessionHolder): void {
    if (authorization.length > rememberedChars || authorization !== `Bearer ${secret}`) return;
    if (this.#remembered.size >= rememberedMax) this.#remembered = new Map();
    this.#remembered.set(authorization, holder);
  }

  #use(holder: KeyHolder | SessionHolder, nowMs: number): void {
    const { account } = holder.principal;
    // Most of the keys that are held never come: only those who do are given a meter.
    if (account) account.meter ??= this.options.meters.of(account.userId);
    if (!("hash" in holder)) return;
    holder.lastUsedMs = nowMs;
    if (holder.used) return;
    holder.used = true;
    this.#used.push(holder);
  }

  #hear(change: Change): void | Promise<void> {
    if (change.kind === "session") return this.#revoke(change);
    if (change.kind === "plan") return;
    return this.#inTurn(() => this.#lookAgain(change));
  }

  /** What was revoked once is never less so, in whatever order it is heard. */
  #revoke({ id, fromGeneration, expiresAtMs }: Omit<Revoked, "kind">): void {
    const held = this.#revoked.get(id);
    const [from, old] = [fromGeneration, held ? held.fromGeneration : -1];
    this.#revoked.set(id, {
      fromGeneration: from === null || old === null ? null : Math.max(from, old),
      expiresAtMs: Math.max(expiresAtMs, held?.expiresAtMs ?? 0),
    });
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#reading.then(work);
    this.#reading = done.catch(() => undefined);
    return done;
  }

  /** Puts keys in their place as they are now. Of what cannot be read nobody can be sure. */
  async #lookAgain(change: Extract<Change, { kind: "key" | "user" }>): Promise<void> {
    const byKey = change.kind === "key";
    const concerned = byKey
      ? [this.#keysById.get(change.id)].filter((holder) => holder !== undefined)
      : [...(this.#keysByUser.get(change.id) ?? [])];
    try {
      const where = byKey ? eq(apiKeys.id, change.id) : eq(apiKeys.userId, change.id);
      const good = new Set(await this.#read(where));
      for (const holder of concerned) if (!good.has(keyIdOf(holder))) this.#drop(holder);
    } catch (error) {
      for (const holder of concerned) holder.state = "unsure";
      throw error;
    }
  }

  async #load(): Promise<void> {
    const nowMs = this.options.now();
    const rows = await this.options
      .db()
      .select()
      .from(revocations)
      .where(gt(revocations.expiresAt, new Date(nowMs)));
    for (const { id, fromGeneration, expiresAt } of rows) {
      this.#revoke({ id, fromGeneration, expiresAtMs: expiresAt.getTime() });
    }
    const seen = new Set<string>();
    for (let after = "00000000-0000-0000-0000-000000000000"; ;) {
      const ids = await this.#read(gt(apiKeys.id, after));
      for (const id of ids) seen.add(id);
      if (ids.length < reloadRows) break;
      after = ids.at(-1) ?? after;
    }
    for (const [id, holder] of this.#keysById) if (!seen.has(id)) this.#drop(holder);
  }

  /** Reads good keys and holds them. @returns their ids, ascending. */
  async #read(where: ReturnType<typeof eq>): Promise<string[]> {
    const db = this.options.db();
    // One that has only just expired is held as well: the clock may be set back.
    const goodAt = new Date(this.options.now() - clocksApartMs);
    // Looked up key by key: as a plain join the last pages would each read all users.
    const owner = db
      .select({ tier: users.tier, role: users.role })
      .from(users)
      .where(and(eq(users.id, apiKeys.userId), eq(users.isActive, true)))
      .limit(1)
      .as("owner");
    const rows = await db
      .select({
        id: apiKeys.id,
        userId: apiKeys.userId,
        hash: apiKeys.hash,
        scopes: apiKeys.scopes,
        expiresAt: apiKeys.expiresAt,
        tier: owner.tier,
        role: owner.role,
      })
      .from(apiKeys)
      .innerJoinLateral(owner, sql`true`)
      .where(
        and(
          where,
          isNull(apiKeys.revokedAt),
          or(isNull(apiKeys.expiresAt), gt(apiKeys.expiresAt, goodAt)),
        ),
      )
      .orderBy(sql`${apiKeys.id}`)
      .limit(reloadRows);
    for (const row of rows) {
      const old = this.#keysById.get(row.id);
      if (old) this.#drop(old);
      this.#hold(keyHolder(row, this.options.plans));
    }
    return rows.map((row) => row.id);
  }

  #hold(holder: KeyHolder): void {
    this.#keys.set(holder.hash, holder);
    this.#keysById.set(keyIdOf(holder), holder);
    const userId = userIdOf(holder);
    const others = this.#keysByUser.get(userId);
    if (others) others.add(holder);
    else this.#keysByUser.set(userId, new Set([holder]));
  }

  #drop(holder: KeyHolder): void {
    holder.state = "void";
    this.#keys.delete(holder.hash);
    this.#keysById.delete(keyIdOf(holder));
    const others = this.#keysByUser.get(userIdOf(holder));
    others?.delete(holder);
    if (others?.size === 0) this.#keysByUser.delete(userIdOf(holder));
  }
}

type Revoked = Extract<Change, { kind: "session" }>;

const unsure = (): AppError =>
  new AppError("unavailable", "Accounts cannot be looked up at the moment. Try again.", {
    retryAfterSeconds: 2,
  });

const ended = (): AppError =>
  new AppError(
    "unauthorized",
    "This access token is good no more: the session was ended, or what its user may has changed. Refresh it, or log in.",
    { headers: { "WWW-Authenticate": 'Bearer realm="argo", error="invalid_token"' } },
  );

const keyIdOf = ({ principal }: Holder): string => principal.account?.keyId ?? "";
const userIdOf = ({ principal }: Holder): string => principal.account?.userId ?? "";

type KeyRow = {
  id: string;
  userId: string;
  hash: Uint8Array;
  scopes: string[];
  expiresAt: Date | null;
  tier: Tier;
  role: UserRole;
};

function keyHolder(row: KeyRow, plans: Plans): KeyHolder {
  const { id, userId, tier, role } = row;
  return {
    hash: Buffer.from(row.hash).toString("base64"),
    state: "good",
    expiresAtMs: row.expiresAt?.getTime() ?? Infinity,
    lastUsedMs: 0,
    used: false,
    principal: {
      id: `user:${userId}`,
      scopes: new Set(keyScopes.filter((s) => row.scopes.includes(s) && mayHold(s, role))),
      account: { userId, keyId: id, tier, role, entitlement: plans.entitlementOf(tier, role) },
    },
  };
}

/** True for a scope that somebody of this role may give to a key. */
export const mayHold = (scope: KeyScope, role: UserRole): boolean =>
  scope === "signals:read" || role === "admin";

const sessionScopes: Record<UserRole, ReadonlySet<Scope>> = {
  user: new Set(["account", "signals:read"]),
  admin: new Set(["account", "signals:read", "admin:read", "admin:write"]),
};

function sessionHolder(claims: Claims, plans: Plans): SessionHolder {
  const { sub, sid, jti, gen, tier, role, exp } = claims;
  const entitlement = plans.entitlementOf(tier, role);
  return {
    state: "good",
    expiresAtMs: exp * 1000,
    sessionId: sid,
    tokenId: jti,
    generation: gen,
    principal: {
      id: `user:${sub}`,
      scopes: sessionScopes[role],
      account: { userId: sub, sessionId: sid, tier, role, entitlement },
    },
  };
}

const hashText = (secret: string): string =>
  new Bun.CryptoHasher("sha256").update(secret).digest("base64");
