/** The tables of the control plane. `bun run db:generate` writes the migration of a change here. */
import { sql } from "drizzle-orm";
import {
  bigint,
  bigserial,
  boolean,
  char,
  check,
  customType,
  date,
  doublePrecision,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  smallint,
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
    /** What counts: that of the grant, else that of the subscription, else starter. */
    tier: text("tier").$type<Tier>().notNull().default("starter"),
    /** Given by an administrator: earns nothing and outranks the subscription until cleared. */
    tierGrant: text("tier_grant").$type<Tier>(),
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
    check("users_tier_grant", oneOf("tier_grant", tiers)),
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
  (t) => [
    uniqueIndex("idx_key_hash").on(t.hash),
    index("idx_key_user").on(t.userId, t.createdAt),
    index("idx_key_expires")
      .on(t.expiresAt)
      .where(sql`${t.expiresAt} IS NOT NULL AND ${t.revokedAt} IS NULL`),
  ],
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

/** What the counts of requests are apart by. */
export const routeClasses = ["signals", "account", "admin"] as const;
export type RouteClass = (typeof routeClasses)[number];

const counts = {
  requests: bigint("requests", { mode: "number" }).notNull().default(0),
  /** Answers of status 400 and above. */
  errors: bigint("errors", { mode: "number" }).notNull().default(0),
  /** Signals in answers of status 200 and in messages of streams. */
  delivered: bigint("delivered", { mode: "number" }).notNull().default(0),
};

/** What an account did by day and class of routes, added up from every process. */
export const usage = pgTable(
  "usage",
  {
    userId: uuid("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    day: date("day", { mode: "string" }).notNull(),
    routeClass: text("route_class").$type<RouteClass>().notNull().default("signals"),
    ...counts,
  },
  (t) => [
    primaryKey({ columns: [t.userId, t.day, t.routeClass] }),
    index("idx_usage_day").on(t.day),
  ],
);

/** The same of all who come, accounts or not: what outlives the accounts that it is made of. */
export const usageDays = pgTable(
  "usage_days",
  {
    day: date("day", { mode: "string" }).notNull(),
    routeClass: text("route_class").$type<RouteClass>().notNull(),
    ...counts,
  },
  (t) => [primaryKey({ columns: [t.day, t.routeClass] })],
);

/** When an account was first given a signal. Signals are in another database: no reference. */
export const deliveries = pgTable(
  "deliveries",
  {
    userId: uuid("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    signalId: bigint("signal_id", { mode: "number" }).notNull(),
    deliveredAt: at("delivered_at").notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.userId, t.signalId] }),
    index("idx_delivery_at").on(t.userId, t.deliveredAt),
  ],
);

export const intervals = ["month", "year"] as const;
export type Interval = (typeof intervals)[number];

/** What each tier costs and may. Money is in minor units of its currency. */
export const plans = pgTable(
  "plans",
  {
    tier: text("tier").$type<Tier>().primaryKey(),
    name: text("name").notNull(),
    priceMinor: integer("price_minor").notNull(),
    currency: char("currency", { length: 3 }).notNull(),
    interval: text("interval").$type<Interval>().notNull(),
    /** Free days at the first subscription of an account. */
    trialDays: integer("trial_days").notNull().default(0),
    premium: boolean("premium").notNull(),
    delaySeconds: integer("delay_seconds").notNull(),
    requestsPerMinute: integer("requests_per_minute").notNull(),
    streamsMax: integer("streams_max").notNull(),
    webhooksMax: integer("webhooks_max").notNull(),
    /** How far back the journal of deliveries reaches; null: without end. */
    historyDays: integer("history_days"),
    export: boolean("export").notNull(),
    /** The price at Stripe that sells this plan. */
    stripePriceId: text("stripe_price_id").unique(),
    updatedAt: at("updated_at").notNull(),
  },
  () => [
    check("plans_tier", oneOf("tier", tiers)),
    check("plans_interval", oneOf("interval", intervals)),
  ],
);

/** Prices at Stripe that a plan had before: who bought at one goes on at it. */
export const formerPrices = pgTable(
  "former_prices",
  {
    stripePriceId: text("stripe_price_id").primaryKey(),
    tier: text("tier").$type<Tier>().notNull(),
  },
  () => [check("former_prices_tier", oneOf("tier", tiers))],
);

export const providers = ["manual", "stripe"] as const;
export type Provider = (typeof providers)[number];

export const subscriptionStatuses = [
  /** Waits for a payment: the first, or one that did not come within the grace period. */
  "incomplete",
  "trialing",
  "active",
  /** A payment failed or is late; within the grace period all goes on. */
  "past_due",
  "ended",
] as const;
export type SubscriptionStatus = (typeof subscriptionStatuses)[number];

/** What an account pays for. At most one that has not ended for each account. */
export const subscriptions = pgTable(
  "subscriptions",
  {
    id: uuid("id").primaryKey(),
    userId: uuid("user_id").notNull(),
    tier: text("tier").$type<Tier>().notNull(),
    provider: text("provider").$type<Provider>().notNull(),
    status: text("status").$type<SubscriptionStatus>().notNull(),
    /** As agreed when the period began: a later change of the plan does not touch it. */
    priceMinor: integer("price_minor").notNull(),
    currency: char("currency", { length: 3 }).notNull(),
    interval: text("interval").$type<Interval>().notNull(),
    createdAt: at("created_at").notNull(),
    updatedAt: at("updated_at").notNull(),
    periodStart: at("period_start").notNull(),
    periodEnd: at("period_end").notNull(),
    /** Where months are counted from, so that the 31st comes back after February. */
    anchorAt: at("anchor_at").notNull(),
    trialEnd: at("trial_end"),
    cancelAtPeriodEnd: boolean("cancel_at_period_end").notNull().default(false),
    /** The tier from the next period on. */
    nextTier: text("next_tier").$type<Tier>(),
    graceUntil: at("grace_until"),
    endedAt: at("ended_at"),
    providerCustomer: text("provider_customer"),
    providerSubscription: text("provider_subscription").unique(),
  },
  (t) => [
    uniqueIndex("idx_subscription_user_live")
      .on(t.userId)
      .where(sql`${t.status} <> 'ended'`),
    index("idx_subscription_user").on(t.userId, t.createdAt),
    index("idx_subscription_created").on(t.createdAt, t.id),
    index("idx_subscription_status").on(t.status, t.createdAt, t.id),
    index("idx_subscription_tier").on(t.tier, t.createdAt, t.id),
    index("idx_subscription_provider").on(t.provider, t.createdAt, t.id),
    index("idx_subscription_due")
      .on(t.periodEnd)
      .where(sql`${t.status} <> 'ended'`),
    index("idx_subscription_grace")
      .on(t.graceUntil)
      .where(sql`${t.status} = 'past_due'`),
    check("subscriptions_tier", oneOf("tier", tiers)),
    check("subscriptions_status", oneOf("status", subscriptionStatuses)),
    check("subscriptions_provider", oneOf("provider", providers)),
  ],
);

export const invoiceReasons = ["start", "renewal", "upgrade"] as const;
export type InvoiceReason = (typeof invoiceReasons)[number];
export const invoiceStatuses = ["open", "paid", "void"] as const;
export type InvoiceStatus = (typeof invoiceStatuses)[number];

/** What is owed for a period of a subscription. Outlives the account: money must add up. */
export const invoices = pgTable(
  "invoices",
  {
    id: uuid("id").primaryKey(),
    subscriptionId: uuid("subscription_id").notNull(),
    userId: uuid("user_id").notNull(),
    reason: text("reason").$type<InvoiceReason>().notNull(),
    tier: text("tier").$type<Tier>().notNull(),
    /** What a whole period costs once this is paid: an upgrade is asked for a part of it. */
    priceMinor: integer("price_minor").notNull(),
    amountMinor: integer("amount_minor").notNull(),
    currency: char("currency", { length: 3 }).notNull(),
    periodStart: at("period_start").notNull(),
    periodEnd: at("period_end").notNull(),
    status: text("status").$type<InvoiceStatus>().notNull(),
    createdAt: at("created_at").notNull(),
    paidAt: at("paid_at"),
    providerInvoice: text("provider_invoice").unique(),
  },
  (t) => [
    index("idx_invoice_user").on(t.userId, t.createdAt, t.id),
    index("idx_invoice_subscription").on(t.subscriptionId, t.createdAt),
    index("idx_invoice_created").on(t.createdAt, t.id),
    index("idx_invoice_status").on(t.status, t.createdAt, t.id),
    check("invoices_reason", oneOf("reason", invoiceReasons)),
    check("invoices_status", oneOf("status", invoiceStatuses)),
  ],
);

export const paymentKinds = ["charge", "refund", "failure"] as const;
export type PaymentKind = (typeof paymentKinds)[number];

/** Money that came, went back, or did not come. Rows are only ever added. */
export const payments = pgTable(
  "payments",
  {
    id: uuid("id").primaryKey(),
    kind: text("kind").$type<PaymentKind>().notNull(),
    userId: uuid("user_id").notNull(),
    subscriptionId: uuid("subscription_id"),
    invoiceId: uuid("invoice_id"),
    provider: text("provider").$type<Provider>().notNull(),
    /** Names it at the provider; the same one is never booked twice. */
    reference: text("reference").notNull(),
    amountMinor: integer("amount_minor").notNull(),
    currency: char("currency", { length: 3 }).notNull(),
    at: at("at").notNull(),
  },
  (t) => [
    uniqueIndex("idx_payment_reference").on(t.provider, t.kind, t.reference),
    index("idx_payment_user").on(t.userId, t.at, t.id),
    index("idx_payment_at").on(t.at),
    index("idx_payment_kind").on(t.kind, t.at, t.id),
    check("payments_kind", oneOf("kind", paymentKinds)),
    check("payments_amount", sql.raw(`"amount_minor" >= 0`)),
  ],
);

export const movementKinds = ["new", "expansion", "contraction", "churn", "reactivation"] as const;
export type MovementKind = (typeof movementKinds)[number];

/** Each change of the monthly recurring revenue: their sum up to a day is that day's. */
export const revenueMovements = pgTable(
  "revenue_movements",
  {
    id: uuid("id").primaryKey(),
    at: at("at").notNull(),
    userId: uuid("user_id").notNull(),
    subscriptionId: uuid("subscription_id").notNull(),
    kind: text("kind").$type<MovementKind>().notNull(),
    tier: text("tier").$type<Tier>().notNull(),
    /** By how much the revenue of a month in this tier changed, in minor units. */
    deltaMinor: integer("delta_minor").notNull(),
    currency: char("currency", { length: 3 }).notNull(),
  },
  (t) => [
    index("idx_movement_at").on(t.at),
    index("idx_movement_user").on(t.userId, t.at),
    index("idx_movement_subscription").on(t.subscriptionId, t.at),
    check("movements_kind", oneOf("kind", movementKinds)),
  ],
);

/** What a provider told, as it came, before it was answered. */
export const providerEvents = pgTable(
  "provider_events",
  {
    provider: text("provider").$type<Provider>().notNull(),
    id: text("id").notNull(),
    type: text("type").notNull(),
    /** What the event is about: those of one subject are folded in their own order. */
    subject: text("subject"),
    createdAt: at("created_at").notNull(),
    receivedAt: at("received_at").notNull(),
    appliedAt: at("applied_at"),
    /** Why it could not be applied; it is tried again. */
    fault: text("fault"),
    body: jsonb("body").$type<Record<string, unknown>>().notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.provider, t.id] }),
    index("idx_provider_event_subject").on(t.provider, t.subject, t.createdAt),
    index("idx_provider_event_waiting")
      .on(t.receivedAt)
      .where(sql`${t.appliedAt} IS NULL`),
    index("idx_provider_event_applied")
      .on(t.appliedAt)
      .where(sql`${t.appliedAt} IS NOT NULL`),
  ],
);

export const notificationKinds = [
  "premium_signal",
  "payment_failed",
  "key_expiring",
  "new_login",
  "webhook_disabled",
] as const;
export type NotificationKind = (typeof notificationKinds)[number];

/** What a user is told, once for each event. */
export const notifications = pgTable(
  "notifications",
  {
    id: uuid("id").primaryKey(),
    userId: uuid("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    kind: text("kind").$type<NotificationKind>().notNull(),
    /** Names the event: there is one notification of it for each user. */
    reference: text("reference").notNull(),
    title: text("title").notNull(),
    body: text("body").notNull(),
    details: jsonb("details").$type<Record<string, unknown>>().notNull().default({}),
    /** False for one that goes by mail alone: it is not listed, and stands as read. */
    inApp: boolean("in_app").notNull().default(true),
    isRead: boolean("is_read").notNull().default(false),
    createdAt: at("created_at").notNull(),
    readAt: at("read_at"),
    /** When a mail is to be tried next; null when none is to be sent, or it was. */
    mailDueAt: at("mail_due_at"),
  },
  (t) => [
    uniqueIndex("idx_notif_once").on(t.userId, t.kind, t.reference),
    index("idx_notif_user_read_created").on(
      t.userId,
      t.isRead,
      t.createdAt.desc().nullsFirst(),
      t.id.desc().nullsFirst(),
    ),
    index("idx_notif_created").on(t.createdAt),
    index("idx_notif_read_at")
      .on(t.readAt)
      .where(sql`${t.readAt} IS NOT NULL`),
    index("idx_notif_mail_due")
      .on(t.mailDueAt)
      .where(sql`${t.mailDueAt} IS NOT NULL`),
    check("notifications_kind", oneOf("kind", notificationKinds)),
  ],
);

/** What a user wants to be told, where it is not what is usual. */
export const notificationPreferences = pgTable(
  "notification_preferences",
  {
    userId: uuid("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    kind: text("kind").$type<NotificationKind>().notNull(),
    inApp: boolean("in_app").notNull(),
    email: boolean("email").notNull(),
  },
  (t) => [primaryKey({ columns: [t.userId, t.kind] })],
);

export const webhookStatuses = ["enabled", "paused", "disabled"] as const;
export type WebhookStatus = (typeof webhookStatuses)[number];
/** `owner`, `plan`, `account`: paused. `gone` (410), `failing`: disabled. */
export const webhookReasons = ["owner", "plan", "account", "gone", "failing"] as const;
export type WebhookReason = (typeof webhookReasons)[number];

/** Where a user has signals sent to. */
export const webhooks = pgTable(
  "webhooks",
  {
    id: uuid("id").primaryKey(),
    userId: uuid("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    url: text("url").notNull(),
    description: text("description"),
    symbol: text("symbol"),
    strategy: text("strategy"),
    minConfidence: doublePrecision("min_confidence"),
    premiumOnly: boolean("premium_only").notNull(),
    /** Sealed: it must be read again to sign with. */
    secret: bytes("secret").notNull(),
    /** Those before, the newest first, which sign as well until then; sealed with spaces between. */
    oldSecret: bytes("old_secret"),
    oldSecretUntil: at("old_secret_until"),
    status: text("status").$type<WebhookStatus>().notNull(),
    reason: text("reason").$type<WebhookReason>(),
    /** All signals up to this id have been handed over that it is to be sent. */
    place: bigint("place", { mode: "number" }).notNull(),
    createdAt: at("created_at").notNull(),
    updatedAt: at("updated_at").notNull(),
    /** The first failure since anything was delivered last. */
    failingSince: at("failing_since"),
    /** The receiver has asked to be left alone until then. */
    notBefore: at("not_before"),
    /** Whoever sends has it to themselves until then, by the clock of the database. */
    leasedUntil: at("leased_until"),
  },
  (t) => [
    index("idx_webhook_user").on(t.userId, t.createdAt, t.id),
    index("idx_webhook_place")
      .on(t.place)
      .where(sql`${t.status} = 'enabled'`),
    check("webhooks_status", oneOf("status", webhookStatuses)),
    check("webhooks_reason", oneOf("reason", webhookReasons)),
  ],
);

export const messageTypes = ["signal.created", "webhook.test"] as const;
export type MessageType = (typeof messageTypes)[number];
export const messageStatuses = ["waiting", "delivered", "failed"] as const;
export type MessageStatus = (typeof messageStatuses)[number];

/** What is sent to webhooks: those that wait are the outbox, the others the log. */
export const webhookMessages = pgTable(
  "webhook_messages",
  {
    id: uuid("id").primaryKey(),
    webhookId: uuid("webhook_id")
      .notNull()
      .references(() => webhooks.id, { onDelete: "cascade" }),
    type: text("type").$type<MessageType>().notNull(),
    /** Null for a test, and for a signal of a table that was made anew since. */
    signalId: bigint("signal_id", { mode: "number" }),
    /** What is signed and sent, the same each time. */
    body: text("body").notNull(),
    status: text("status").$type<MessageStatus>().notNull(),
    /** 0 for what has just come, which goes before 1: what is sent again. */
    lane: smallint("lane").notNull(),
    attempts: integer("attempts").notNull(),
    /** Null when it is not to be sent any more. */
    nextAttemptAt: at("next_attempt_at"),
    /** Of the last attempt: the answer's status, or why there was none. */
    lastStatus: integer("last_status"),
    lastError: text("last_error"),
    lastAttemptAt: at("last_attempt_at"),
    durationMs: integer("duration_ms"),
    createdAt: at("created_at").notNull(),
    endedAt: at("ended_at"),
  },
  (t) => [
    uniqueIndex("idx_message_once").on(t.webhookId, t.signalId),
    index("idx_message_created").on(t.webhookId, t.createdAt, t.id),
    index("idx_message_status").on(t.webhookId, t.status, t.createdAt, t.id),
    index("idx_message_due")
      .on(t.webhookId, t.lane, t.nextAttemptAt, t.signalId)
      .where(sql`${t.nextAttemptAt} IS NOT NULL`),
    index("idx_message_ended")
      .on(t.endedAt)
      .where(sql`${t.endedAt} IS NOT NULL`),
    check("messages_type", oneOf("type", messageTypes)),
    check("messages_status", oneOf("status", messageStatuses)),
  ],
);

/** How far a job has read that goes through something in order. */
export const jobPlaces = pgTable("job_places", {
  name: text("name").primaryKey(),
  place: bigint("place", { mode: "number" }).notNull(),
});

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

/** `session`: a revocation. `key`, `user`, `plan`: something of them has changed, or they are gone. */
export type Change =
  | { kind: "session"; id: string; fromGeneration: number | null; expiresAtMs: number }
  | { kind: "key"; id: string; userId: string }
  | { kind: "user"; id: string }
  | { kind: "plan"; tier: Tier };
