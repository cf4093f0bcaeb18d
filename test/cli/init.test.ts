import { expect, test } from "bun:test";
import { existsSync, readFileSync, statSync } from "node:fs";
import { parseEnv } from "node:util";
import { readConfig } from "../../src/config.ts";
import { startServer, tempDir } from "../harness/process.ts";
import { json, run } from "./run.ts";

const names = [
  "JWT_SECRET",
  "ARGO_WRITE_TOKEN",
  "ARGO_READ_TOKEN",
  "ARGO_SERVICE_TOKEN",
  "METRICS_TOKEN",
  "POSTGRES_PASSWORD",
  "REDIS_PASSWORD",
];

test("writes secrets of its own each time, for this user alone, and says what is next", async () => {
  using dir = tempDir();
  const first = await run(["init"], { cwd: dir.path });
  expect([first.code, first.err]).toEqual([0, ""]);
  expect(first.out).toContain("docker compose up -d");
  expect(first.out).toContain("argo-alpine --env-file .env serve");
  expect(statSync(dir.file(".env")).mode & 0o777).toBe(0o600);
  const text = readFileSync(dir.file(".env"), "utf8");
  const env = parseEnv(text);
  expect(Object.keys(env)).toEqual(names);
  for (const value of Object.values(env)) {
    expect(value).toMatch(/^[0-9a-f]{48,64}$/);
    expect(first.out).not.toContain(value ?? "");
  }
  const made = await json(["init", "--out", dir.file("other.env")]);
  expect(made).toEqual({ file: dir.file("other.env"), names });
  const other = parseEnv(readFileSync(dir.file("other.env"), "utf8"));
  const all = [...Object.values(env), ...Object.values(other)];
  expect(new Set(all).size).toBe(2 * names.length);
  expect(readConfig(env)).toMatchObject({ jwtSecrets: [env["JWT_SECRET"]], redisUrl: null });
});

test("never writes over a file, and says why it cannot write one", async () => {
  using dir = tempDir();
  await Bun.write(dir.file(".env"), "JWT_SECRET=in-use\n");
  const over = await run(["init"], { cwd: dir.path });
  expect([over.code, over.out]).toEqual([1, ""]);
  expect(over.err).toMatch(/^argo-alpine: .*\.env is there already.*\n {2}.*--out.*\n$/);
  expect(readFileSync(dir.file(".env"), "utf8")).toBe("JWT_SECRET=in-use\n");
  const nowhere = await run(["init", "--out", dir.file("none/.env")]);
  expect([nowhere.code, nowhere.out]).toEqual([1, ""]);
  expect(nowhere.err).toContain("cannot be made");
  expect(existsSync(dir.file("none"))).toBe(false);
});

test("a server takes what it wrote", async () => {
  using dir = tempDir();
  expect((await run(["init"], { cwd: dir.path })).code).toBe(0);
  const env = parseEnv(readFileSync(dir.file(".env"), "utf8"));
  const args = ["--env-file", dir.file(".env")];
  await using server = await startServer({ args, env: { SIGNALS_ACCESS: "key" } });
  const ask = (token: string) =>
    fetch(`${server.url}/api/signals/latest`, { headers: { Authorization: `Bearer ${token}` } });
  expect((await ask(env["ARGO_READ_TOKEN"] ?? "")).status).toBe(200);
  expect((await ask(env["METRICS_TOKEN"] ?? "")).status).toBe(401);
});

test("what looks like a variable and is none is told, and nothing else of the file", async () => {
  using dir = tempDir();
  const lines = ["RATE_LIMIT_PER_MINUT=5", "JWT_SECRETS=x", "SMTP_URL_FIL=y", "port=1", "HOME=/x"];
  await Bun.write(dir.file("env"), [...lines, "POSTGRES_PASSWORD=hidden", "PORT=0"].join("\n"));
  const args = ["--env-file", dir.file("env"), "--data-dir", dir.file("data"), "health"];
  const { err } = await run(args);
  const asked = [...err.matchAll(/env: (\w+) is not known: is it (\w+)\?/g)];
  expect(asked.map(([, name, meant]) => `${name} ${meant}`)).toEqual([
    "RATE_LIMIT_PER_MINUT RATE_LIMIT_PER_MINUTE",
    "JWT_SECRETS JWT_SECRET",
    "SMTP_URL_FIL SMTP_URL_FILE",
  ]);
  expect(err).not.toContain("hidden");
});
