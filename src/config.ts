import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { SetupError } from "./errors";
import "./http/wording";

const booleanWords: Record<string, boolean> = {
  true: true,
  "1": true,
  yes: true,
  on: true,
  false: false,
  "0": false,
  no: false,
  off: false,
};

const flag = z.string().transform((word, context) => {
  const value = booleanWords[word.toLowerCase()];
  if (value === undefined) context.addIssue("must be true or false");
  return value ?? false;
});
const count = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, "must be a whole number")
    .transform(Number)
    .pipe(z.number().min(min, `must be ${min} to ${max}`).max(max, `must be ${min} to ${max}`));
const list = z.string().transform((text) =>
  text
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== ""),
);
const tokens = list.pipe(
  z.array(z.string().regex(/^[\x21-\x7e]{16,}$/, "each token needs 16 or more visible characters")),
);
const secrets = list.pipe(z.array(z.string().min(32, "each secret needs 32 or more characters")));
const origins = list.pipe(
  z.array(
    z.string().refine((origin) => {
      // "*" or a bare host would let any page in: only what URL itself calls an origin counts.
      const whole = URL.canParse(origin) && new URL(origin).origin === origin;
      return whole && !origin.includes("*");
    }, "each must be an origin such as https://app.example.com"),
  ),
);

/** Secrets, each of which may also come as NAME_FILE. */
export const secretNames = [
  "ARGO_WRITE_TOKEN",
  "ARGO_READ_TOKEN",
  "ARGO_SERVICE_TOKEN",
  "METRICS_TOKEN",
  "LIBSQL_AUTH_TOKEN",
  "DATABASE_URL",
  "REDIS_URL",
  "REDIS_PASSWORD",
  "JWT_SECRET",
  "SMTP_URL",
  "STRIPE_SECRET_KEY",
  "STRIPE_WEBHOOK_SECRET",
] as const;

const url = (...protocols: string[]) =>
  // Never the text itself in a message: it may hold a password.
  z
    .string()
    .refine(
      (text) => URL.canParse(text) && protocols.includes(new URL(text).protocol),
      `must be a URL that begins with ${protocols.map((protocol) => `${protocol}//`).join(" or ")}`,
    )
    .refine(isDecodable, "has a % that stands for nothing: write each of a password as %25");

/** Without a name or password, which a URL shows in logs, and without what stands after a path. */
const argoUrl = url("http:", "https:")
  .refine((text) => {
    const { username, password, search, hash } = URL.parse(text) ?? {};
    return !username && !password && !search && !hash;
  }, "must be an address alone: the token goes into ARGO_SERVICE_TOKEN")
  .transform((text) => text.replace(/\/+$/, ""))
  .optional();

/** As `libsql:` it is asked over TLS. */
const libsqlUrl = url("libsql:", "http:", "https:")
  .refine((text) => {
    const { username, password, search, hash } = URL.parse(text) ?? {};
    return !username && !password && !search && !hash;
  }, "must be an address alone: the token goes into LIBSQL_AUTH_TOKEN")
  .optional();

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}

/** Every variable that is read, as .env.example documents it. */
export const Variables = z.object({
  HOST: z.string().min(1).default("127.0.0.1"),
  PORT: z.string().default("3000").pipe(count(0, 65_535)),
  DATA_DIR: z.string().min(1).default("./data"),
  SIGNALS_DB: z.string().min(1).optional(),
  SIGNALS_ACCESS: z.enum(["open", "key"]).optional(),
  ARGO_WRITE_TOKEN: z.string().default("").pipe(tokens),
  ARGO_READ_TOKEN: z.string().default("").pipe(tokens),
  ARGO_SERVICE_TOKEN: z.string().default("").pipe(tokens),
  FRONTEND_URL: z.string().default("http://localhost:3000,http://localhost:3001").pipe(origins),
  CORS_ORIGINS: z.string().default("").pipe(origins),
  TRUST_PROXY: z.string().default("0").pipe(count(0, 16)),
  RATE_LIMIT_PER_MINUTE: z.string().default("600").pipe(count(1, 1_000_000_000)),
  MAX_PAGE_SIZE: z.string().default("500").pipe(count(1, 5_000)),
  ENABLE_CACHE: z.string().default("true").pipe(flag),
  ENABLE_COMPRESSION: z.string().default("true").pipe(flag),
  SHUTDOWN_DELAY_SECONDS: z.string().default("1").pipe(count(0, 300)),
  LOG_LEVEL: z.enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"]).default("info"),
  DEBUG: z.string().default("false").pipe(flag),
  METRICS_TOKEN: z.string().default("").pipe(tokens),
  DATABASE_URL: url("postgres:", "postgresql:").optional(),
  DB_POOL_SIZE: z.string().default("20").pipe(count(1, 1_000)),
  DB_MAX_OVERFLOW: z.string().default("10").pipe(count(0, 1_000)),
  DB_POOL_RECYCLE: z.string().default("3600").pipe(count(1, 1_000_000)),
  RIGHTS_MAX_AGE: z.string().default("86400").pipe(count(5, 31_536_000)),
  REDIS_URL: url("redis:", "rediss:").optional(),
  REDIS_HOST: z.string().min(1).optional(),
  REDIS_PORT: z.string().default("6379").pipe(count(1, 65_535)),
  REDIS_PASSWORD: z.string().min(1).optional(),
  CACHE_TTL: z.string().default("300").pipe(count(1, 86_400)),
  JWT_SECRET: z.string().default("").pipe(secrets),
  ARGO_URL: argoUrl,
  EXTERNAL_SIGNAL_API_URL: argoUrl,
  PUBLIC_URL: url("http:", "https:").optional(),
  SMTP_URL: url("smtp:", "smtps:").optional(),
  MAIL_FROM: z.string().min(3).default("argo-alpine@localhost"),
  REQUIRE_VERIFIED_EMAIL: z.string().default("false").pipe(flag),
  PAYMENT_GRACE_DAYS: z.string().default("7").pipe(count(1, 27)),
  STRIPE_SECRET_KEY: z.string().min(8).optional(),
  STRIPE_WEBHOOK_SECRET: z.string().min(8).optional(),
  STRIPE_API_BASE: url("http:", "https:").optional(),
  EMBEDDED: z.string().default("false").pipe(flag),
  BACKGROUND_TASKS: z.string().default("true").pipe(flag),
  LIBSQL_URL: libsqlUrl,
  LIBSQL_AUTH_TOKEN: z
    .string()
    .regex(/^[\x21-\x7e]+$/, "must be visible characters")
    .optional(),
  LIBSQL_POLL_MS: z.string().default("100").pipe(count(10, 60_000)),
  WEBHOOKS_ALLOW_PRIVATE: z.string().default("false").pipe(flag),
  SIGNALS_RETENTION_DAYS: z.string().pipe(count(1, 36_500)).optional(),
  ASYNC_WORKERS: z.string().default("1").pipe(count(1, 64)),
});

/**
 * Which planes a process runs: `argo` serves signals and knows no accounts, `alpine` has accounts
 * and fetches its signals from an argo elsewhere.
 */
export const roles = ["all", "argo", "alpine"] as const;
export type Role = (typeof roles)[number];

export type Config = Readonly<{
  role: Role;
  host: string;
  port: number;
  dataDir: string;
  signalsDb: string;
  /** True when somebody named the file, so that its absence is worth a word. */
  signalsDbGiven: boolean;
  access: "open" | "key";
  /** True when nobody said SIGNALS_ACCESS and a loopback host implied `open`. */
  accessImplied: boolean;
  writeTokens: readonly string[];
  readTokens: readonly string[];
  /** Of the servers that read signals here for accounts of their own; the first is said to argo. */
  serviceTokens: readonly string[];
  metricsTokens: readonly string[];
  /** Where argo is, for the role `alpine`; null for those that have the signals themselves. */
  argoUrl: string | null;
  /** The libSQL server that holds the signals of many nodes; null for a file of this machine. */
  libsql: Readonly<{ url: string; token: string | null; pollMs: number }> | null;
  corsOrigins: ReadonlySet<string>;
  trustProxyHops: number;
  rateLimitPerMinute: number;
  pageSizeMax: number;
  cache: boolean;
  compression: boolean;
  shutdownDelaySeconds: number;
  logLevel: string;
  /** Null: the embedded Postgres under the data directory. */
  databaseUrl: string | null;
  /** The embedded Postgres also where other machines can connect. */
  embedded: boolean;
  dbPoolSize: number;
  dbMaxOverflow: number;
  dbPoolRecycleSeconds: number;
  /** For how long known keys go on reading by the rights last known, while the database is away. */
  rightsMaxAgeSeconds: number;
  /** Null: everything that Redis would hold is held in process. */
  redisUrl: string | null;
  cacheTtlSeconds: number;
  /** The first signs, all verify; empty: one is made and kept under the data directory. */
  jwtSecrets: readonly string[];
  /** Where users reach this server, for the links in mails; null: where it listens. */
  publicUrl: string | null;
  smtpUrl: string | null;
  mailFrom: string;
  requireVerifiedEmail: boolean;
  /** Less than the shortest month: a period never ends within the grace of the one before. */
  paymentGraceDays: number;
  /** Null: nothing is sold at Stripe. */
  stripeSecretKey: string | null;
  stripeWebhookSecret: string | null;
  /** Null: Stripe itself. */
  stripeApiBase: string | null;
  /** Whether this process does what no request waits for: notifications, mails of them, retention. */
  backgroundTasks: boolean;
  /** Whether users may have signals sent to this machine and to private networks. */
  webhooksAllowPrivate: boolean;
  /** Null: signals are kept. */
  signalsRetentionDays: number | null;
  /** Processes that serve the port together; 1: this one alone. */
  workers: number;
}>;

/** True for the hosts that only this machine can reach. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || host === "[::1]" || /^127(\.\d+){3}$/.test(host);
}

/**
 * Reads the configuration from environment variables; flags of the command line come in as
 * variables that win. An empty variable counts as absent.
 * @throws SetupError that names each variable at fault.
 */
export function readConfig(env: Record<string, string | undefined>, role: Role = "all"): Config {
  const given = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined && value !== ""),
  );
  for (const name of secretNames) readSecretFile(given, name);
  const parsed = Variables.safeParse(given);
  if (!parsed.success) {
    const faults = parsed.error.issues.map((i) => `${i.path.slice(0, 1).join("")}: ${i.message}`);
    throw new SetupError(
      `Configuration refused: ${[...new Set(faults)].join("; ")}`,
      "Correct the named variables; `argo-alpine serve --help` lists them, .env.example explains them.",
    );
  }
  const v = parsed.data;
  mustFit(role, v);
  const dataDir = resolve(v.DATA_DIR);
  return Object.freeze({
    role,
    host: v.HOST,
    port: v.PORT,
    dataDir,
    signalsDb: v.SIGNALS_DB ? resolve(v.SIGNALS_DB) : join(dataDir, "signals.db"),
    signalsDbGiven: v.SIGNALS_DB !== undefined,
    access: v.SIGNALS_ACCESS ?? (isLoopback(v.HOST) ? "open" : "key"),
    accessImplied: v.SIGNALS_ACCESS === undefined,
    writeTokens: v.ARGO_WRITE_TOKEN,
    readTokens: v.ARGO_READ_TOKEN,
    serviceTokens: v.ARGO_SERVICE_TOKEN,
    metricsTokens: v.METRICS_TOKEN,
    argoUrl: role === "alpine" ? (v.ARGO_URL ?? v.EXTERNAL_SIGNAL_API_URL ?? null) : null,
    libsql:
      role === "alpine" || v.LIBSQL_URL === undefined
        ? null
        : { url: v.LIBSQL_URL, token: v.LIBSQL_AUTH_TOKEN ?? null, pollMs: v.LIBSQL_POLL_MS },
    corsOrigins: new Set([...v.FRONTEND_URL, ...v.CORS_ORIGINS]),
    trustProxyHops: v.TRUST_PROXY,
    rateLimitPerMinute: v.RATE_LIMIT_PER_MINUTE,
    pageSizeMax: v.MAX_PAGE_SIZE,
    cache: v.ENABLE_CACHE,
    compression: v.ENABLE_COMPRESSION,
    shutdownDelaySeconds: v.SHUTDOWN_DELAY_SECONDS,
    logLevel: v.DEBUG ? "debug" : v.LOG_LEVEL,
    databaseUrl: v.DATABASE_URL ?? null,
    embedded: v.EMBEDDED,
    dbPoolSize: v.DB_POOL_SIZE,
    dbMaxOverflow: v.DB_MAX_OVERFLOW,
    dbPoolRecycleSeconds: v.DB_POOL_RECYCLE,
    rightsMaxAgeSeconds: v.RIGHTS_MAX_AGE,
    redisUrl: v.REDIS_URL ?? redisUrl(v),
    cacheTtlSeconds: v.CACHE_TTL,
    jwtSecrets: v.JWT_SECRET,
    publicUrl: v.PUBLIC_URL?.replace(/\/+$/, "") ?? null,
    smtpUrl: v.SMTP_URL ?? null,
    mailFrom: v.MAIL_FROM,
    requireVerifiedEmail: v.REQUIRE_VERIFIED_EMAIL,
    paymentGraceDays: v.PAYMENT_GRACE_DAYS,
    stripeSecretKey: v.STRIPE_SECRET_KEY ?? null,
    stripeWebhookSecret: v.STRIPE_WEBHOOK_SECRET ?? null,
    stripeApiBase: v.STRIPE_API_BASE ?? null,
    backgroundTasks: v.BACKGROUND_TASKS,
    webhooksAllowPrivate: v.WEBHOOKS_ALLOW_PRIVATE,
    signalsRetentionDays: v.SIGNALS_RETENTION_DAYS ?? null,
    workers: v.ASYNC_WORKERS,
  });
}

function redisUrl(v: z.infer<typeof Variables>): string | null {
  if (v.REDIS_HOST === undefined) return null;
  const password =
    v.REDIS_PASSWORD === undefined ? "" : `:${encodeURIComponent(v.REDIS_PASSWORD)}@`;
  const host = v.REDIS_HOST.includes(":") ? `[${v.REDIS_HOST}]` : v.REDIS_HOST;
  return `redis://${password}${host}:${v.REDIS_PORT}`;
}

/** What the variables say together. @throws SetupError that names the fix. */
function mustFit(role: Role, v: z.infer<typeof Variables>): void {
  if (v.ARGO_READ_TOKEN.some((token) => v.ARGO_WRITE_TOKEN.includes(token))) {
    throw new SetupError(
      "ARGO_READ_TOKEN and ARGO_WRITE_TOKEN hold the same token: one that writes does not read.",
      "Make two with `openssl rand -hex 32`; a key of an account may do both.",
    );
  }
  if (role === "argo") return;
  if (role === "alpine") mustReachArgo(v);
  if (v.DATABASE_URL !== undefined && v.JWT_SECRET.length === 0) {
    throw new SetupError(
      "DATABASE_URL needs a JWT_SECRET: processes that share accounts must share it.",
      "Make one with `openssl rand -hex 32`, or let `argo-alpine init` write all secrets.",
    );
  }
  if ((v.STRIPE_SECRET_KEY === undefined) !== (v.STRIPE_WEBHOOK_SECRET === undefined)) {
    throw new SetupError(
      "Of STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET one is missing: money would come unseen.",
      "Set both; the second is shown where the webhook of /api/webhooks/stripe is made at Stripe.",
    );
  }
  if (v.REQUIRE_VERIFIED_EMAIL && v.SMTP_URL === undefined) {
    throw new SetupError(
      "REQUIRE_VERIFIED_EMAIL needs a way to send mail.",
      "Set SMTP_URL, such as smtps://user:password@mail.example.com.",
    );
  }
}

function mustReachArgo(v: z.infer<typeof Variables>): void {
  if ((v.ARGO_URL ?? v.EXTERNAL_SIGNAL_API_URL) === undefined) {
    throw new SetupError(
      "The role alpine needs to know where argo is.",
      "Set ARGO_URL, such as http://10.0.0.5:3000, or say --role all to serve a signal file here.",
    );
  }
  if (v.ARGO_SERVICE_TOKEN.length > 0) return;
  throw new SetupError(
    "The role alpine needs a token that argo knows.",
    "Set ARGO_SERVICE_TOKEN to the same value on both sides.",
  );
}

function readSecretFile(given: Record<string, string | undefined>, name: string): void {
  const path = given[`${name}_FILE`];
  if (path === undefined) return;
  if (given[name] !== undefined) {
    throw new SetupError(`Both ${name} and ${name}_FILE are set.`, "Keep one of the two.");
  }
  try {
    given[name] = readFileSync(path, "utf8").trim();
  } catch (cause) {
    throw new SetupError(
      `${name}_FILE cannot be read: ${path}`,
      "Name a file that this user can read.",
      { cause },
    );
  }
  if (given[name] !== "") return;
  // A mount that came up empty must not be taken for no secret wanted.
  throw new SetupError(`${name}_FILE is empty: ${path}`, "Put the secret into it.");
}
