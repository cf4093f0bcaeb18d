/** The tables of the control plane. `bun run db:generate` writes the migration of a change here. */
import { sql } from "drizzle-orm";
import {
  bigint,
  bigserial,
  boolean,
  check,
  customType,
  date,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
  uuid,
} from "drizzle-orm/pg-core";

export const tiers = ["starter", "pro", "elite"] as const;
export type Tier = (typeof tiers)[number];

export const roles = ["user", "admin"] as const;
export type UserRole = (typeof roles)[number];

const bytes = customType<{ data: Uint8Array; driverData: Uint8Array }>({
  dataType: () => "bytea",
  toDriver: (value) => Buffer.from(value),
  fromDriver: (value) => new Uint8Array(value),
});

const at = (name: string) => timestamp(name, { withTimezone: true, precision: 3, mode: "date" });
const oneOf = (column: string, values: readonly string[]) =>
  sql.raw(`"${column}" IN (${values.map((value) => `'${value}'`).join(", ")})`);

export const users = pgTable(
  "users",
  {
    id: uuid("id").primaryKey(),
    /** As it was given; unique whatever its case. */
    email: text("email").notNull(),
    fullName: text("full_name").notNull(),
    passwordHash: text("password_hash").notNull(),
    tier: text("tier").$type<Tier>().notNull().default("starter"),
    role: text("role").$type<UserRole>().notNull().default("user"),
    isActive: boolean("is_active").notNull().default(true),
    isVerified: boolean("is_verified").notNull().default(false),
    createdAt: at("created_at").notNull(),
    updatedAt: at("updated_at").notNull(),
    lastLoginAt: at("last_login_at"),
    passwordChangedAt: at("password_changed_at").notNull(),
    /** Sealed with a key that is not in this database; null without a second factor. */
    totpSecret: bytes("totp_secret"),
    /** Null while the second factor was begun and not yet confirmed. */
    totpEnabledAt: at("totp_enabled_at"),
    /** The last time step that was used: no code counts twice (RFC 6238 §5.2). */
    totpLastStep: bigint("totp_last_step", { mode: "number" }),
  },
  (t) => [
    // The operator class lets the same index serve searches by their first letters.
    uniqueIndex("idx_user_email").on(sql`lower(${t.email}) text_pattern_ops`),
    index("idx_user_name").on(sql`lower(${t.fullName}) text_pattern_ops`),
    index("idx_user_tier_active").on(t.tier, t.isActive),
    index("idx_user_created").on(t.createdAt, t.id),
    // Few among many: whether another one is left must not cost a walk over everybody.
    index("idx_user_admin")
      .on(t.createdAt, t.id)
      .where(sql`${t.role} = 'admin'`),
    check("users_tier", oneOf("tier", tiers)),
    check("users_role", oneOf("role", roles)),
  ],
);

export const recoveryCodes = pgTable(
  "recovery_codes",
  {
    userId: uuid("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    hash: bytes("hash").notNull(),
    usedAt: at("used_at"),
  },
  (t) => [primaryKey({ columns: [t.userId, t.hash] })],
);

export const sessions = pgTable(
  "sessions",
  {
    id: uuid("id").primaryKey(),
    userId: uuid("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    /** Access tokens of an earlier generation are void: the rights of the user have changed. */
    generation: integer("generation").notNull().default(0),
    createdAt: at("created_at").notNull(),
    lastUsedAt: at("last_used_at").notNull(),
    expiresAt: at("expires_at").notNull(),
    endedAt: at("ended_at"),
    userAgent: text("user_agent"),
    address: text("address"),
  },
  (t) => [
    index("idx_session_user").on(t.userId, t.createdAt),
    index("idx_session_expires").on(t.expiresAt),
  ],
);

export const refreshTokens = pgTable(
  "refresh_tokens",
  {
    /** SHA-256 of the token. */
    hash: bytes("hash").primaryKey(),
    sessionId: uuid("session_id")
      .notNull()
      .references(() => sessions.id, { onDelete: "cascade" }),
    createdAt: at("created_at").notNull(),
    expiresAt: at("expires_at").notNull(),
    usedAt: at("used_at"),
  },
  (t) => [
    index("idx_refresh_session").on(t.sessionId),
    index("idx_refresh_expires").on(t.expiresAt),
  ],
);

export const apiKeys = pgTable(
  "api_keys",
  {
    id: uuid("id").primaryKey(),
    userId: uuid("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    name: text("name").notNull(),
    /** The first characters of the key, to tell keys apart. */
    prefix: text("prefix").notNull(),
    /** SHA-256 of the key. */
    hash: bytes("hash").notNull(),
    scopes: text("scopes").array().notNull(),
    createdAt: at("created_at").notNull(),
    expiresAt: at("expires_at"),
    revokedAt: at("revoked_at"),
    lastUsedAt: at("last_used_at"),
    /** The key that takes this one's place, once rotated. */
    successorId: uuid("successor_id"),
  },
  (t) => [uniqueIndex("idx_key_hash").on(t.hash), index("idx_key_user").on(t.userId, t.createdAt)],
);

/** Sessions (`sid`) and single tokens (`jti`) that are void although they have not expired. */
export const revocations = pgTable(
  "revocations",
  {
    id: uuid("id").primaryKey(),
    /** Tokens of this generation and later ones stay good; null: none does. */
    fromGeneration: integer("from_generation"),
    createdAt: at("created_at").notNull(),
    /** From then on no token that it concerns is left. */
    expiresAt: at("expires_at").notNull(),
  },
  (t) => [index("idx_revocation_expires").on(t.expiresAt)],
);

export const tokenPurposes = ["verify_email", "reset_password", "setup_admin"] as const;
export type TokenPurpose = (typeof tokenPurposes)[number];

/** What an account becomes once its owner has shown a token. */
export type Pending = { email?: string; fullName?: string; passwordHash?: string };

/** Tokens that are sent once and used once. */
export const oneTimeTokens = pgTable(
  "one_time_tokens",
  {
    /** SHA-256 of the token. */
    hash: bytes("hash").primaryKey(),
    purpose: text("purpose").$type<TokenPurpose>().notNull(),
    userId: uuid("user_id").references(() => users.id, { onDelete: "cascade" }),
    createdAt: at("created_at").notNull(),
    expiresAt: at("expires_at").notNull(),
    usedAt: at("used_at"),
    /** Nothing of it is so before the token is used: whoever asked may not own the mailbox. */
    pending: jsonb("pending").$type<Pending>(),
  },
  (t) => [
    index("idx_one_time_user").on(t.userId, t.purpose),
    index("idx_one_time_expires").on(t.expiresAt),
    check("one_time_purpose", oneOf("purpose", tokenPurposes)),
  ],
);

/** What happened to accounts, keys, roles and money. Rows outlive the user whom they name. */
export const auditLog = pgTable(
  "audit_log",
  {
    id: bigserial("id", { mode: "number" }).primaryKey(),
    at: at("at").notNull(),
    event: text("event").notNull(),
    /** Who did it; null for somebody unknown and for the system. */
    actorId: uuid("actor_id"),
    /** Whom it concerns. */
    subjectId: uuid("subject_id"),
    address: text("address"),
    requestId: text("request_id"),
    details: jsonb("details").$type<Record<string, unknown>>().notNull().default({}),
  },
  (t) => [
    index("idx_audit_subject").on(t.subjectId, t.id),
    index("idx_audit_actor").on(t.actorId, t.id),
    index("idx_audit_event").on(t.event, t.id),
    index("idx_audit_at").on(t.at),
  ],
);

/** Requests of an account by day, added up from every process. */
export const usage = pgTable(
  "usage",
  {
    userId: uuid("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    day: date("day", { mode: "string" }).notNull(),
    requests: bigint("requests", { mode: "number" }).notNull().default(0),
  },
  (t) => [primaryKey({ columns: [t.userId, t.day] }), index("idx_usage_day").on(t.day)],
);

/**
 * What every process must hear of. Written in the transaction of the change itself, under one
 * lock, so that numbers become visible in their order and none is passed by.
 */
export const changes = pgTable(
  "changes",
  {
    seq: bigserial("seq", { mode: "number" }).primaryKey(),
    at: at("at").notNull(),
    change: jsonb("change").$type<Change>().notNull(),
  },
  (t) => [index("idx_change_at").on(t.at)],
);

/** `session`: a revocation. `key` and `user`: something of them has changed, or they are gone. */
export type Change =
  | { kind: "session"; id: string; fromGeneration: number | null; expiresAtMs: number }
  | { kind: "key"; id: string; userId: string }
  | { kind: "user"; id: string };
