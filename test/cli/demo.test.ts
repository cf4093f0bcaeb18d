import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { bareEnv, spawnChild, within, type Child } from "../harness/children.ts";
import { freePort, tempDir, until, type TempDir } from "../harness/process.ts";

const MAIN = new URL("../../src/main.ts", import.meta.url).pathname;
/** Less than connections are given to end, on a machine that may be slow. */
const endMs = 6_500;

type Demo = Child & { url: string };
type Login = { email: string; password: string };

/** What the environment of real signals and accounts would make of a demo that listened to it. */
const elsewhere = {
  DATABASE_URL: "postgres://argo:argo@127.0.0.1:1/argo",
  REDIS_HOST: "127.0.0.1",
  SMTP_URL: "smtp://127.0.0.1:1",
  REQUIRE_VERIFIED_EMAIL: "true",
};

function startDemo(dir: TempDir): Demo {
  const port = freePort();
  const command = [process.execPath, MAIN, "demo", "--port", `${port}`];
  const child = spawnChild(command, { cwd: dir.path, env: elsewhere });
  return Object.assign(child, { url: `http://127.0.0.1:${port}` });
}

const text = (demo: Demo): string => demo.lines().join("\n");
const welcomed = (demo: Demo) => until(() => text(demo).includes("Ctrl-C stops it."), "a welcome");

const signals = async (demo: Demo): Promise<unknown[] | null> => {
  try {
    const response = await fetch(`${demo.url}/api/signals/latest?limit=1`);
    return (await response.json()) as unknown[];
  } catch {
    return null;
  }
};

const send = (demo: Demo, path: string, body: object): Promise<Response> =>
  fetch(demo.url + path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

function loginOf(demo: Demo, role: string): Login {
  const [, email = "", password = ""] =
    new RegExp(`^ {2}${role} +(\\S+) +(\\S+)$`, "m").exec(text(demo)) ?? [];
  return { email, password };
}

/** Processes whose command names the directory: the database is one of its own. */
const processesOf = (dir: TempDir): string[] =>
  readdirSync("/proc").filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(dir.path);
    } catch {
      return false;
    }
  });

test("signals first, then logins of this run, and an end that is quick", async () => {
  using dir = tempDir();
  const logins: Login[] = [];
  for (const _run of [1, 2]) {
    await using demo = startDemo(dir);
    await until(async () => ((await signals(demo)) ?? []).length > 0, "signals");
    await welcomed(demo);
    for (const [role, status] of [
      ["Admin", 200],
      ["User", 403],
    ] as const) {
      const login = loginOf(demo, role);
      logins.push(login);
      const answer = await send(demo, "/api/auth/login", login);
      expect([role, answer.status]).toEqual([role, 200]);
      const { access_token: token } = (await answer.json()) as { access_token: string };
      const headers = { Authorization: `Bearer ${token}` };
      expect((await fetch(`${demo.url}/api/admin/users`, { headers })).status).toBe(status);
    }
    // Nothing is mailed; what would have been is shown.
    const email = `signup-${logins.length}@example.com`;
    const person = { email, password: "correct horse battery", full_name: "Somebody" };
    expect((await send(demo, "/api/auth/signup", person)).status).toBe(201);
    await until(() => text(demo).includes(`${demo.url}/#verify-email=`), "a link");
    expect(text(demo)).not.toContain("no administrator yet");
    const begun = performance.now();
    expect(await demo.stop("SIGINT")).toBe(0);
    expect(performance.now() - begun).toBeLessThan(endMs);
    expect(processesOf(dir)).toEqual([]);
  }
  const [first, , again] = logins;
  expect(again?.email).toBe(first?.email ?? "");
  expect(again?.password).not.toBe(first?.password ?? "");
  await using demo = startDemo(dir);
  await welcomed(demo);
  expect((await send(demo, "/api/auth/login", first ?? {})).status).toBe(401);
  await demo.stop("SIGINT");
});

test("its history is old: a new account sees what its plan may, at once", async () => {
  using dir = tempDir();
  await using demo = startDemo(dir);
  await welcomed(demo);
  const headers = await (async () => {
    const person = { email: "new@example.com", password: "correct horse battery" };
    await send(demo, "/api/auth/signup", { ...person, full_name: "Somebody" });
    const answer = await send(demo, "/api/auth/login", person);
    const { access_token: token } = (await answer.json()) as { access_token: string };
    return { Authorization: `Bearer ${token}` };
  })();
  const answer = await fetch(`${demo.url}/api/signals/latest?limit=5`, { headers });
  const shown = (await answer.json()) as { confidence: number; timestamp: string }[];
  expect(shown).toHaveLength(5);
  await demo.stop("SIGINT");
});

test("the lines that it prints to try do what they say", async () => {
  using dir = tempDir();
  await using demo = startDemo(dir);
  await welcomed(demo);
  const [, tries = ""] = text(demo).split("Try:");
  const commands = tries.replaceAll("\\\n", "").match(/^ {2}curl .+$/gm) ?? [];
  expect(commands.length).toBe(3);
  const answers: string[] = [];
  for (const command of commands) {
    await using shell = spawnChild(["/bin/sh", "-c", `${command.trim()} -sS --fail-with-body`]);
    expect([command, await shell.done]).toEqual([command, 0]);
    answers.push(shell.lines().join("\n"));
  }
  expect(JSON.parse(answers[0] ?? "")).toHaveLength(3);
  expect(JSON.parse(answers[1] ?? "")).toMatchObject({ signals: [{ duplicate: false }] });
  expect(JSON.parse(answers[2] ?? "")).toMatchObject({ token_type: "Bearer" });
});

test("an end in the midst of the start is as quick, and leaves nothing that the next one minds", async () => {
  using dir = tempDir();
  for (const afterMs of [300, 900, 1_500]) {
    await using demo = startDemo(dir);
    await Bun.sleep(afterMs);
    demo.kill("SIGINT");
    const code = await within(demo.done, endMs);
    // Before it listens to signals at all, the system ends it.
    expect([0, 130]).toContain(code as number);
    await until(() => processesOf(dir).length === 0, "the end of its database");
  }
  await using demo = startDemo(dir);
  await welcomed(demo);
  expect((await send(demo, "/api/auth/login", loginOf(demo, "User"))).status).toBe(200);
});

test("whoever closes its output, and then its terminal, reads of no fault", async () => {
  using dir = tempDir();
  const child = Bun.spawn([process.execPath, MAIN, "demo", "--port", "0"], {
    cwd: dir.path,
    env: bareEnv(),
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  try {
    const reader = child.stdout.getReader();
    let said = "";
    while (!said.includes("Ctrl-C stops it.")) {
      const { value, done } = await reader.read();
      if (done) throw new Error(`it ended: ${await child.stderr.text()}`);
      said += new TextDecoder().decode(value);
    }
    await reader.cancel();
    child.kill("SIGHUP");
    expect([await within(child.exited, endMs), await child.stderr.text()]).toEqual([0, ""]);
  } finally {
    child.kill("SIGKILL");
  }
  await until(() => processesOf(dir).length === 0, "the end of its database");
});
