import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { Secret, TOTP } from "otpauth";
import { spawnChild } from "../harness/children.ts";
import { JWT_SECRET, PASSWORD } from "../harness/accounts.ts";
import { startServer, tempDir, until, type Server } from "../harness/process.ts";

test("the embedded Postgres is not met by surprise where other machines connect", async () => {
  using dir = tempDir();
  const data = dir.file("data");
  const main = new URL("../../src/main.ts", import.meta.url).pathname;
  await using child = spawnChild([process.execPath, main, "serve", "--host", "0.0.0.0"], {
    cwd: dir.path,
    env: { PORT: "0", DATA_DIR: data },
  });
  expect(await child.done).toBe(1);
  const said = child.lines().join("\n");
  for (const word of ["0.0.0.0", "DATABASE_URL", "--embedded", "--role argo"]) {
    expect(said).toContain(word);
  }
  expect(existsSync(data)).toBe(false);
});

test("secrets that cannot open the second factors of these accounts are told at the start", async () => {
  using dir = tempDir();
  const post = async <T>(server: Server, path: string, body: object, token = ""): Promise<T> => {
    const response = await fetch(`${server.url}/api/auth/${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
      body: JSON.stringify(body),
    });
    expect([path, response.ok]).toEqual([path, true]);
    return (await response.json()) as T;
  };
  const said = "second factors cannot be read with the secrets given";
  /** Starts a server, has it do something, and gives what it said of second factors. */
  async function told(
    env: Record<string, string>,
    work: (server: Server) => Promise<void> = () => Promise.resolve(),
  ): Promise<string | undefined> {
    await using server = await startServer({
      role: "all",
      env: { DATA_DIR: dir.path, SHUTDOWN_DELAY_SECONDS: "0", ...env },
    });
    const told = (text: string) => server.logs().find((line) => line.includes(text));
    // The link for an administrator comes of the same start.
    await until(() => told("no administrator yet") !== undefined, "the accounts");
    await work(server);
    await server.stop();
    return told(said);
  }
  expect(
    await told({}, async (server) => {
      const person = { email: "ada@example.com", password: PASSWORD };
      await post(server, "signup", { ...person, full_name: "Ada" });
      const { access_token: token } = await post<{ access_token: string }>(server, "login", person);
      const { password } = person;
      const begun = await post<{ secret: string }>(server, "totp/setup", { password }, token);
      const code = new TOTP({ secret: Secret.fromBase32(begun.secret) }).generate();
      await post(server, "totp/enable", { code }, token);
    }),
  ).toBeUndefined();
  const warned = (server: Server) =>
    until(() => server.logs().some((line) => line.includes(said)), "the warning");
  const warning = (await told({ JWT_SECRET }, warned)) ?? "";
  expect(JSON.parse(warning)).toMatchObject({ level: "warn", fix: expect.any(String) });
  expect(warning).toContain(dir.file("jwt.secret"));
  const kept = readFileSync(dir.file("jwt.secret"), "utf8").trim();
  expect(warning).not.toContain(kept);
  expect(await told({ JWT_SECRET: `${JWT_SECRET},${kept}` })).toBeUndefined();
});

test("a signal for workers ends no server that has none, and is told of", async () => {
  await using server = await startServer({ env: { SHUTDOWN_DELAY_SECONDS: "0" } });
  process.kill(server.pid, "SIGUSR2");
  await until(() => server.logs().some((line) => line.includes("SIGUSR2")), "a word of it");
  expect((await fetch(`${server.url}/livez`)).status).toBe(200);
  expect(await server.stop()).toBe(0);
});

test("a terminal that is closed ends it like SIGTERM", async () => {
  await using server = await startServer({ env: { SHUTDOWN_DELAY_SECONDS: "0" } });
  expect(await server.stop("SIGHUP")).toBe(0);
  expect(server.logs().at(-1)).toContain('"stopped"');
});
