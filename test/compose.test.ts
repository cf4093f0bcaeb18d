/** What compose.yaml and the Dockerfile say, as far as it can be held without Docker. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { chown } from "node:fs/promises";
import { join } from "node:path";
import { parseEnv } from "node:util";
import { Redis } from "ioredis";
import { readConfig, Variables } from "../src/config.ts";
import { run } from "./cli/run.ts";
import { spawnChild, within, type Child } from "./harness/children.ts";
import { freePort, tempDir, until } from "./harness/process.ts";
import { ownPostgres } from "./harness/servers.ts";
import { findTool } from "./harness/tools.ts";

const ROOT = join(import.meta.dir, "..");
const BINARY = join(ROOT, "dist/argo-alpine");

interface Service {
  image: string;
  user: string;
  build?: string;
  command?: string[];
  read_only: boolean;
  cap_drop: string[];
  cap_add?: string[];
  security_opt: string[];
  privileged?: boolean;
  restart: string;
  ports?: string[];
  networks?: string[];
  network_mode?: string;
  volumes: (string | { source: string; target: string })[];
  environment: Record<string, string>;
  healthcheck?: { test: string[] };
}

interface Compose {
  services: Record<"argo" | "postgres" | "redis", Service>;
  networks: Record<string, { internal?: boolean } | null>;
  volumes: Record<string, null>;
}

const text = readFileSync(join(ROOT, "compose.yaml"), "utf8");
const compose = Bun.YAML.parse(text) as Compose;
const { argo, postgres, redis } = compose.services;
const services = Object.entries(compose.services);
const dockerfile = readFileSync(join(ROOT, "Dockerfile"), "utf8");
const known = Object.keys(Variables.shape);
const dir = tempDir();
afterAll(() => dir[Symbol.dispose]());

/** Variables of the image. */
const imageEnv = Object.fromEntries(
  [...dockerfile.matchAll(/^ENV (.+)$/gm)].flatMap(([, pairs = ""]) =>
    pairs.split(" ").map((pair) => pair.split("=") as [string, string]),
  ),
);

/** `${NAME:?why}` and `${NAME:-default}`, as Compose reads them. */
const placeholder = /\$\{(\w+)(:[?-])([^}]*)\}/g;

function filled(value: string, env: Record<string, string | undefined>): string {
  return value.replaceAll(placeholder, (_all, name: string, kind: string, rest: string) => {
    const given = env[name];
    if (given) return given;
    if (kind === ":-") return rest;
    throw new Error(`${name}: ${rest}`);
  });
}

const filledAll = (
  values: Record<string, string>,
  env: Record<string, string | undefined>,
): Record<string, string> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, filled(value, env)]));

/** The file that `init` writes. */
let env: Record<string, string | undefined>;
beforeAll(async () => {
  const { code, err } = await run(["init"], { cwd: dir.path });
  expect([code, err]).toEqual([0, ""]);
  env = parseEnv(readFileSync(dir.file(".env"), "utf8"));
});

describe("variables", () => {
  test("the server is given those that it reads, and no others", () => {
    const names = [...Object.keys(argo.environment), ...Object.keys(imageEnv)];
    expect(names.filter((name) => !known.includes(name))).toEqual([]);
    expect(new Set(names).size).toBe(names.length);
  });

  test("what must be set is what init writes; what may be set is read by the server", () => {
    const used = [...text.matchAll(placeholder)];
    expect(text.match(/\$\{/g)?.length).toBe(used.length);
    const must = used.filter(([, , kind]) => kind === ":?").map(([, name]) => name ?? "");
    const may = used.filter(([, , kind]) => kind === ":-").map(([, name]) => name ?? "");
    expect([...new Set(must)].toSorted()).toEqual(Object.keys(env).toSorted());
    expect(may.filter((name) => !known.includes(name))).toEqual([]);
  });

  test("no secret has a default, and none is written here", () => {
    const secret = /PASSWORD|SECRET|TOKEN|AUTH$/;
    for (const [, { environment }] of services) {
      for (const [name, value] of Object.entries(environment)) {
        // Of a provider that nobody need have, nothing at all will do.
        const fits = /^(STRIPE|LIBSQL)_/.test(name) ? /^\$\{\w+:-\}$/ : /^\$\{\w+:\?[^}]+\}$/;
        if (secret.test(name)) expect(value).toMatch(fits);
      }
    }
    expect(() => filledAll(argo.environment, {})).toThrow("run argo-alpine init");
  });

  test("make a configuration: keyed, on Postgres through its socket, on Redis", () => {
    const config = readConfig({ ...imageEnv, ...filledAll(argo.environment, env) });
    expect(config).toMatchObject({
      host: "0.0.0.0",
      port: 3000,
      access: "key",
      dataDir: "/data",
      redisUrl: `redis://:${env["REDIS_PASSWORD"]}@redis:6379`,
      jwtSecrets: [env["JWT_SECRET"]],
      metricsTokens: [env["METRICS_TOKEN"]],
      readTokens: [env["ARGO_READ_TOKEN"]],
      writeTokens: [env["ARGO_WRITE_TOKEN"]],
      logLevel: "info",
      publicUrl: null,
      smtpUrl: null,
    });
    const url = new URL(config.databaseUrl ?? "");
    expect([url.username, url.password, url.pathname]).toEqual([
      postgres.environment["POSTGRES_USER"] ?? "",
      env["POSTGRES_PASSWORD"] ?? "",
      "/argo",
    ]);
    expect(url.searchParams.get("host")).toBe("/run/postgresql");
  });
});

describe("containers", () => {
  test.each(services)("%s can do little", (_name, service) => {
    expect(service).toMatchObject({
      read_only: true,
      cap_drop: ["ALL"],
      security_opt: ["no-new-privileges:true"],
      restart: "unless-stopped",
    });
    expect(service.cap_add ?? service.privileged).toBeUndefined();
    expect(service.user).not.toMatch(/^(0|root)(:|$)/);
    const check =
      service.healthcheck ?? /^HEALTHCHECK .*CMD \["argo-alpine", "health"\]$/m.test(dockerfile);
    expect(check).toBeTruthy();
  });

  test("the server's is of the image's user, and alone has a port, of this machine", () => {
    expect(dockerfile).toMatch(/^FROM gcr\.io\/distroless\/.*:nonroot$/m);
    expect(dockerfile).toContain(`--chown=${argo.user} /data /data`);
    expect(argo.ports).toEqual([`127.0.0.1:\${PORT:-3000}:${imageEnv["PORT"]}`]);
    expect([postgres.ports, redis.ports]).toEqual([undefined, undefined]);
    expect([postgres.network_mode, postgres.networks]).toEqual(["none", undefined]);
    expect(redis.networks?.map((name) => compose.networks[name]?.internal)).toEqual([true]);
  });

  test("what must last is on volumes, where the images keep it", () => {
    const mounts = services.flatMap(([name, { volumes }]) =>
      volumes.map((volume) => {
        const { source, target } =
          typeof volume === "string"
            ? { source: volume.split(":")[0], target: volume.split(":")[1] }
            : volume;
        return `${name} ${source} ${target}`;
      }),
    );
    expect(mounts).toEqual([
      `argo data ${imageEnv["DATA_DIR"]}`,
      "argo socket /run/postgresql",
      // PGDATA of the image is /var/lib/postgresql/18/docker, its VOLUME the directory above.
      "postgres postgres /var/lib/postgresql",
      "postgres socket /run/postgresql",
      "redis redis /data",
    ]);
    expect(postgres.image).toBe("postgres:18");
    expect(Object.keys(compose.volumes).toSorted()).toEqual([
      "data",
      "postgres",
      "redis",
      "socket",
    ]);
  });

  test("the image is built from what is not left out", () => {
    const ignore = readFileSync(join(ROOT, ".dockerignore"), "utf8").split("\n");
    const copied = [...dockerfile.matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(
      ([, files = ""]) => files.split(" "),
    );
    expect(copied.length).toBeGreaterThan(5);
    for (const file of copied) {
      expect(existsSync(join(ROOT, file))).toBe(true);
      expect(ignore).toContain(`!${file}`);
    }
    // What build.ts takes from beside src: the schema, the migrations, the prepared database.
    expect(copied).toContain("db");
  });
});

test("Redis takes the flags, wants the password and keeps what it is told", async () => {
  const tool = await findTool("redis-server");
  if (tool.path === null) throw new Error(tool.reason);
  const [, ...flags] = (redis.command ?? []).map((word) => filled(word, env));
  const port = freePort();
  const place = ["--port", `${port}`, "--bind", "127.0.0.1", "--dir", dir.path];
  await using server = spawnChild([tool.path, ...flags, ...place], { cwd: dir.path });
  await until(() => server.lines().some((line) => /Ready to accept/.test(line)), "Redis");
  const ask = async (url: string, command: string[]): Promise<unknown> => {
    const client = new Redis(url, { lazyConnect: true, retryStrategy: () => null });
    client.on("error", () => undefined);
    try {
      await client.connect();
      return await client.call(command[0] ?? "", ...command.slice(1));
    } finally {
      client.disconnect();
    }
  };
  const address = `127.0.0.1:${port}`;
  const { redisUrl } = readConfig(filledAll(argo.environment, env));
  const url = redisUrl?.replace("redis:6379", address) ?? "";
  expect(await ask(url, ["PING"])).toBe("PONG");
  expect(await ask(url, ["CONFIG", "GET", "maxmemory-policy"])).toEqual([
    "maxmemory-policy",
    "noeviction",
  ]);
  expect(await ask(url, ["CONFIG", "GET", "appendonly"])).toEqual(["appendonly", "yes"]);
  await expect(ask(`redis://${address}`, ["PING"])).rejects.toThrow();
  expect(await server.stop("SIGTERM")).toBe(0);
  expect(existsSync(dir.file("appendonlydir"))).toBe(true);
});

describe("the server, as compose starts it", () => {
  const isRoot = process.getuid?.() === 0;
  const [uid, gid] = argo.user.split(":").map(Number) as [number, number];

  /** A place that the user of the image can reach, with the program in it. */
  async function place(): Promise<string> {
    if (!existsSync(BINARY)) {
      const build = Bun.spawn([process.execPath, "build.ts"], { cwd: ROOT, stdout: "ignore" });
      expect(await build.exited).toBe(0);
    }
    chmodSync(dir.path, 0o711);
    const program = dir.file("argo-alpine");
    copyFileSync(BINARY, program);
    chmodSync(program, 0o755);
    mkdirSync(dir.file("data"), { mode: 0o700 });
    if (isRoot) await chown(dir.file("data"), uid, gid);
    return program;
  }

  test("reaches Postgres through a socket of another user's, and takes its first administrator", async () => {
    const program = await place();
    const socket = dir.file("socket");
    mkdirSync(socket);
    // As the image has it. Postgres runs as one user here, the server as another.
    chmodSync(socket, 0o3777);
    await using database = await ownPostgres({ settings: { unix_socket_directories: socket } });
    await using made = await database.createDatabase();
    const POSTGRES_PASSWORD = new URL(database.url).password;
    const given = filledAll(argo.environment, { ...env, POSTGRES_PASSWORD });
    const url = given["DATABASE_URL"]
      ?.replace("@localhost/argo", `@localhost:${database.port}/${made.name}`)
      .replace("/run/postgresql", socket);
    const own = {
      ...imageEnv,
      ...given,
      DATABASE_URL: url,
      // Nobody is there by this name: Redis is done without.
      REDIS_HOST: "127.0.0.1",
      REDIS_PORT: `${freePort()}`,
      HOST: "127.0.0.1",
      PORT: "0",
      DATA_DIR: dir.file("data"),
      SHUTDOWN_DELAY_SECONDS: "0",
    };
    const start = (...words: string[]): Child =>
      spawnChild([program, ...words], { cwd: dir.path, env: own, ...(isRoot && { uid }) });
    await using server = start("serve");
    const line = (msg: string) => server.lines().find((entry) => entry.includes(msg));
    await until(() => line("no administrator yet") !== undefined || !server.running(), "a link");
    const { url: base } = JSON.parse(line('"listening"') ?? "{}") as { url: string };
    const { url: link } = JSON.parse(line("no administrator yet") ?? "{}") as { url: string };
    expect((await fetch(`${base}/readyz`)).status).toBe(200);

    const password = "correct horse battery staple";
    const post = (path: string, body: object): Promise<Response> =>
      fetch(base + path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
    const person = { email: "first@example.com", password };
    const token = link.split("#setup=")[1];
    const setup = await post("/api/auth/setup", { ...person, full_name: "The First", token });
    expect([setup.status, await setup.json()]).toMatchObject([201, { role: "admin" }]);
    expect((await post("/api/auth/login", person)).status).toBe(200);

    // What `docker compose exec argo …` does.
    await Bun.write(dir.file("password"), `${password}\n`);
    chmodSync(dir.file("password"), 0o644);
    const words = ["admin", "create", "--email", "second@example.com"];
    await using command = start(...words, "--password-file", dir.file("password"));
    expect([await command.done, command.lines()]).toEqual([
      0,
      ["second@example.com is an administrator now."],
    ]);
    expect((await post("/api/auth/login", { ...person, email: "second@example.com" })).status).toBe(
      200,
    );
    await using health = start("health", "--url", base);
    expect(await health.done).toBe(0);
    expect(await within(server.stop("SIGTERM"), 60_000)).toBe(0);
  });
});
