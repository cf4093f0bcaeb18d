import { describe, expect, test } from "bun:test";
import { join, resolve } from "node:path";
import { isLoopback, readConfig, Variables } from "../src/config.ts";
import { SetupError } from "../src/errors.ts";
import { tempDir } from "./harness/process.ts";

const TOKEN = "0123456789abcdef";
const SECRET = "0123456789abcdef0123456789abcdef";

function refused(env: Record<string, string>): SetupError {
  try {
    readConfig(env);
  } catch (error) {
    if (error instanceof SetupError) return error;
    throw error;
  }
  throw new Error(`${JSON.stringify(env)} was taken`);
}

test("an empty environment gives the documented defaults", () => {
  expect(readConfig({})).toMatchObject({
    role: "all",
    host: "127.0.0.1",
    port: 3000,
    dataDir: resolve("data"),
    signalsDb: resolve("data/signals.db"),
    access: "open",
    accessImplied: true,
    writeTokens: [],
    readTokens: [],
    serviceTokens: [],
    metricsTokens: [],
    corsOrigins: new Set(["http://localhost:3000", "http://localhost:3001"]),
    trustProxyHops: 0,
    rateLimitPerMinute: 600,
    pageSizeMax: 500,
    cache: true,
    compression: true,
    logLevel: "info",
  });
});

test("what is read is not changed any more", () => {
  const config = readConfig({});
  expect(Object.isFrozen(config)).toBe(true);
});

describe("what is given", () => {
  const given: [Record<string, string>, Record<string, unknown>][] = [
    [{ HOST: "0.0.0.0" }, { host: "0.0.0.0", access: "key", accessImplied: true }],
    [{ HOST: "::1" }, { access: "open", accessImplied: true }],
    [
      { HOST: "0.0.0.0", SIGNALS_ACCESS: "open" },
      { access: "open", accessImplied: false },
    ],
    [{ SIGNALS_ACCESS: "key" }, { access: "key", accessImplied: false }],
    [{ PORT: "0" }, { port: 0 }],
    [{ PORT: "65535" }, { port: 65_535 }],
    [{ DATA_DIR: "/srv/argo" }, { dataDir: "/srv/argo", signalsDb: "/srv/argo/signals.db" }],
    [
      { DATA_DIR: "/a", SIGNALS_DB: "/b/s.db" },
      { dataDir: "/a", signalsDb: "/b/s.db" },
    ],
    [{ SIGNALS_DB: "x.db" }, { signalsDb: resolve("x.db") }],
    [{ ARGO_WRITE_TOKEN: ` ${TOKEN} , ${TOKEN}2,` }, { writeTokens: [TOKEN, `${TOKEN}2`] }],
    [{ ARGO_READ_TOKEN: TOKEN }, { readTokens: [TOKEN] }],
    [{ ARGO_SERVICE_TOKEN: TOKEN }, { serviceTokens: [TOKEN] }],
    [{ METRICS_TOKEN: TOKEN }, { metricsTokens: [TOKEN] }],
    [
      { CORS_ORIGINS: "https://a.example", FRONTEND_URL: "https://b.example:8443" },
      {
        corsOrigins: new Set(["https://b.example:8443", "https://a.example"]),
      },
    ],
    [{ TRUST_PROXY: "2" }, { trustProxyHops: 2 }],
    [{ RATE_LIMIT_PER_MINUTE: "1" }, { rateLimitPerMinute: 1 }],
    [{ MAX_PAGE_SIZE: "5000" }, { pageSizeMax: 5_000 }],
    ...["true", "1", "yes", "on", "TRUE", "On"].map(
      (word): [Record<string, string>, Record<string, unknown>] => [
        { ENABLE_CACHE: word },
        { cache: true },
      ],
    ),
    ...["false", "0", "no", "off", "FALSE", "Off"].map(
      (word): [Record<string, string>, Record<string, unknown>] => [
        { ENABLE_COMPRESSION: word },
        { compression: false },
      ],
    ),
    [{ LOG_LEVEL: "warn" }, { logLevel: "warn" }],
    [{ DEBUG: "true", LOG_LEVEL: "error" }, { logLevel: "debug" }],
    [
      { PORT: "", HOST: "", SIGNALS_ACCESS: "", ARGO_WRITE_TOKEN: "" },
      { port: 3000, writeTokens: [] },
    ],
    [{ SOMETHING_ELSE: "x" }, {}],
    [
      { DATABASE_URL: "postgres://u:p@db.example/argo", JWT_SECRET: SECRET },
      { databaseUrl: "postgres://u:p@db.example/argo", jwtSecrets: [SECRET] },
    ],
    [{ JWT_SECRET: `${SECRET}1, ${SECRET}2` }, { jwtSecrets: [`${SECRET}1`, `${SECRET}2`] }],
    [
      { DB_POOL_SIZE: "5", DB_MAX_OVERFLOW: "0" },
      { dbPoolSize: 5, dbMaxOverflow: 0 },
    ],
    [{ REDIS_URL: "rediss://r.example:6380/1" }, { redisUrl: "rediss://r.example:6380/1" }],
    [{ REDIS_HOST: "r", REDIS_PASSWORD: "a/b@c" }, { redisUrl: "redis://:a%2Fb%40c@r:6379" }],
    [{ REDIS_HOST: "::1", REDIS_PORT: "7000" }, { redisUrl: "redis://[::1]:7000" }],
    [{ REDIS_URL: "redis://one", REDIS_HOST: "two" }, { redisUrl: "redis://one" }],
    [
      { LIBSQL_URL: "libsql://a.example", LIBSQL_AUTH_TOKEN: "t", LIBSQL_POLL_MS: "50" },
      { libsql: { url: "libsql://a.example", token: "t", pollMs: 50 } },
    ],
    [{ LIBSQL_URL: "" }, { libsql: null }],
    [{ PUBLIC_URL: "https://a.example/x/" }, { publicUrl: "https://a.example/x" }],
    [
      { CACHE_TTL: "1", EMBEDDED: "yes" },
      { cacheTtlSeconds: 1, embedded: true },
    ],
    [
      {
        PAYMENT_GRACE_DAYS: "27",
        STRIPE_SECRET_KEY: "sk_live_1",
        STRIPE_WEBHOOK_SECRET: "whsec_12",
      },
      { paymentGraceDays: 27, stripeSecretKey: "sk_live_1", stripeWebhookSecret: "whsec_12" },
    ],
    [
      { REQUIRE_VERIFIED_EMAIL: "true", SMTP_URL: "smtps://u:p@mail.example" },
      { requireVerifiedEmail: true, smtpUrl: "smtps://u:p@mail.example" },
    ],
  ];
  test.each(given.map(([env, wanted]) => [JSON.stringify(env), env, wanted] as const))(
    "%s",
    (_shown, env, wanted) => {
      expect(readConfig(env)).toMatchObject(wanted);
    },
  );
});

describe("what is refused, by its name", () => {
  test("one token for reading and writing", () => {
    const { message } = refused({ ARGO_READ_TOKEN: `${TOKEN}x,${TOKEN}`, ARGO_WRITE_TOKEN: TOKEN });
    expect(message).toContain("ARGO_READ_TOKEN and ARGO_WRITE_TOKEN hold the same token");
    expect(message).not.toContain(TOKEN);
  });

  const bad: [string, string[]][] = [
    ["PORT", ["-1", "65536", "x", "1.5", "0x50", " ", "1e3"]],
    ["SIGNALS_ACCESS", ["closed", "OPEN", "true"]],
    [
      "ARGO_WRITE_TOKEN",
      ["short", "has a space in the middle", "0123456789abcdé6", `${TOKEN},short`],
    ],
    ["ARGO_READ_TOKEN", ["short"]],
    ["ARGO_SERVICE_TOKEN", ["short"]],
    ["METRICS_TOKEN", ["short"]],
    [
      "CORS_ORIGINS",
      ["*", "null", "a.example", "https://a.example/", "https://a.example/x", "https://A.example"],
    ],
    ["FRONTEND_URL", ["*", "localhost:3000"]],
    ["TRUST_PROXY", ["true", "-1", "17", "loopback"]],
    ["RATE_LIMIT_PER_MINUTE", ["0", "-1", "none", "1.5"]],
    ["MAX_PAGE_SIZE", ["0", "5001", "x"]],
    ["ENABLE_CACHE", ["maybe", "2", "y"]],
    ["ENABLE_COMPRESSION", ["enabled"]],
    ["LOG_LEVEL", ["verbose", "INFO"]],
    ["DEBUG", ["x"]],
    ["DATABASE_URL", ["mysql://u:hidden@h/d", "hidden", "postgres://u:hidden@h/d"]],
    ["DB_POOL_SIZE", ["0", "x"]],
    ["DB_MAX_OVERFLOW", ["-1"]],
    ["DB_POOL_RECYCLE", ["0", "1h"]],
    ["RIGHTS_MAX_AGE", ["0", "4", "1d"]],
    ["REDIS_URL", ["http://hidden@r", "hidden"]],
    ["REDIS_PORT", ["0", "x"]],
    ["CACHE_TTL", ["0", "x"]],
    ["JWT_SECRET", ["hidden", `${SECRET},hidden`]],
    ["PUBLIC_URL", ["ftp://a.example", "a.example"]],
    ["SMTP_URL", ["http://hidden@mail.example", "hidden"]],
    ["REQUIRE_VERIFIED_EMAIL", ["x", "true"]],
    ["PAYMENT_GRACE_DAYS", ["0", "28", "x"]],
    ["STRIPE_SECRET_KEY", ["short", "sk_live_without_the_other"]],
    ["STRIPE_WEBHOOK_SECRET", ["short", "whsec_without_the_other"]],
    ["STRIPE_API_BASE", ["stripe.test", "ftp://stripe.test"]],
    ["EMBEDDED", ["x"]],
    [
      "ARGO_URL",
      ["a.example", "ftp://a.example", "http://u:hidden@a.example", "http://a/?hidden=1"],
    ],
    [
      "LIBSQL_URL",
      [
        "a.example",
        "file:x.db",
        "ws://a.example",
        "http://u:hidden@a.example",
        "http://a/?hidden=1",
      ],
    ],
    ["LIBSQL_AUTH_TOKEN", ["has a space"]],
    ["LIBSQL_POLL_MS", ["9", "60001", "x"]],
    ["EXTERNAL_SIGNAL_API_URL", ["x"]],
  ];
  const cases = bad.flatMap(([name, values]) => values.map((value) => [name, value] as const));
  test.each(cases)("%s=%s", (name, value) => {
    const error = refused({ [name]: value });
    expect(error.message).toContain(name);
    expect(error.fix).not.toBe("");
    if (/TOKEN/.test(name)) expect(error.message).not.toContain(value);
    expect(error.message).not.toContain("hidden");
  });

  test("all of them at once", () => {
    const error = refused({ PORT: "x", DEBUG: "x", SIGNALS_ACCESS: "x" });
    for (const name of ["PORT", "DEBUG", "SIGNALS_ACCESS"]) expect(error.message).toContain(name);
  });
});

describe("the role alpine", () => {
  const read = (env: Record<string, string>) => readConfig(env, "alpine");
  const given = { ARGO_SERVICE_TOKEN: TOKEN };

  test("knows where argo is, by the new name or the old", () => {
    expect(read({ ...given, ARGO_URL: "http://a:1/x/" }).argoUrl).toBe("http://a:1/x");
    const old = { EXTERNAL_SIGNAL_API_URL: "https://b" };
    expect(read({ ...given, ...old }).argoUrl).toBe("https://b");
    expect(read({ ...given, ...old, ARGO_URL: "http://a" }).argoUrl).toBe("http://a");
    expect(readConfig({ ...given, ARGO_URL: "http://a" }).argoUrl).toBeNull();
    expect(readConfig({ ARGO_URL: "http://a" }, "argo").argoUrl).toBeNull();
  });

  test("does not start without", () => {
    for (const [env, name] of [
      [given, "ARGO_URL"],
      [{ ARGO_URL: "http://a" }, "ARGO_SERVICE_TOKEN"],
    ] as const) {
      try {
        read(env);
        throw new Error("it was taken");
      } catch (error) {
        expect(error).toBeInstanceOf(SetupError);
        expect((error as SetupError).fix).toContain(name);
      }
    }
  });
});

describe("secrets from files", () => {
  const secrets = ["ARGO_WRITE_TOKEN", "ARGO_READ_TOKEN", "METRICS_TOKEN"] as const;
  const held = {
    ARGO_WRITE_TOKEN: "writeTokens",
    ARGO_READ_TOKEN: "readTokens",
    METRICS_TOKEN: "metricsTokens",
  } as const;

  test.each(secrets)("%s_FILE holds what the variable would", async (name) => {
    using dir = tempDir();
    await Bun.write(dir.file("secret"), `${TOKEN}\n`);
    expect(readConfig({ [`${name}_FILE`]: dir.file("secret") })[held[name]]).toEqual([TOKEN]);
    const both = refused({ [`${name}_FILE`]: dir.file("secret"), [name]: TOKEN });
    expect(both.message).toContain(name);
    expect(both.message).not.toContain(TOKEN);
    const none = refused({ [`${name}_FILE`]: dir.file("none") });
    expect(none.message).toContain(`${name}_FILE`);
    await Bun.write(dir.file("short"), "x");
    expect(refused({ [`${name}_FILE`]: dir.file("short") }).message).toContain(name);
  });

  test("a file with nothing in it is not taken for no token wanted", async () => {
    using dir = tempDir();
    await Bun.write(dir.file("empty"), "\n");
    expect(() => readConfig({ ARGO_WRITE_TOKEN_FILE: dir.file("empty") })).toThrow(SetupError);
  });
});

test("which hosts are this machine alone", () => {
  for (const host of ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"]) {
    expect(isLoopback(host)).toBe(true);
  }
  for (const host of [
    "0.0.0.0",
    "::",
    "",
    "10.0.0.1",
    "127.0.0.1.evil.example",
    "localhost.example",
    "1127.0.0.1",
  ]) {
    expect(isLoopback(host)).toBe(false);
  }
});

describe(".env.example", () => {
  const read = (): Promise<string> => Bun.file(join(import.meta.dir, "../.env.example")).text();

  test("documents exactly the variables that are read", async () => {
    const names = [...(await read()).matchAll(/^#? ?([A-Z][A-Z0-9_]+)=/gm)].map(
      (match) => match[1] ?? "",
    );
    const plain = names.filter((name) => !name.endsWith("_FILE"));
    expect(plain.toSorted()).toEqual(Object.keys(Variables.shape).toSorted());
    expect(new Set(plain).size).toBe(plain.length);
  });

  test("gives the defaults", async () => {
    const text = await read();
    for (const [name, value] of [
      ["HOST", "127.0.0.1"],
      ["PORT", "3000"],
      ["DATA_DIR", "./data"],
      ["TRUST_PROXY", "0"],
      ["RATE_LIMIT_PER_MINUTE", "600"],
      ["MAX_PAGE_SIZE", "500"],
      ["ENABLE_CACHE", "true"],
      ["LOG_LEVEL", "info"],
    ]) {
      expect(text).toMatch(new RegExp(`^#? ?${name}=${value?.replaceAll(".", "\\.")}\\s*$`, "m"));
    }
  });

  test("as it stands it can be read, and changes nothing", async () => {
    const given = Object.fromEntries(
      [...(await read()).matchAll(/^([A-Z][A-Z0-9_]+)=(.*)$/gm)].map((m) => [
        m[1] ?? "",
        m[2] ?? "",
      ]),
    );
    expect(readConfig(given)).toEqual({ ...readConfig({}), accessImplied: expect.any(Boolean) });
  });
});
