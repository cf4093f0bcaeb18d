/** What is secret stays so: in logs, errors, metrics and documents; and nobody configures us by stealth. */
import { expect, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { spawnChild } from "../harness/children.ts";
import { freePort, startServer, tempDir } from "../harness/process.ts";
import { type Answer, MAIN, serveFile, serverEnv, signal, Wire } from "./harness.ts";

const BINARY = new URL("../../dist/argo-alpine", import.meta.url).pathname;
const built = existsSync(BINARY);
if (!built) console.log("skipped: there is no dist/argo-alpine (bun run build makes it)");

let made = 0;
/** A secret that is found wherever it turns up, also when only a part of it does. */
function canary(where: string): string {
  made += 1;
  return `CANARY${made}${where}${crypto.randomUUID().replaceAll("-", "")}`;
}

/** Where a canary, or a good part of it, turns up. */
function leaks(secrets: Record<string, string>, texts: Record<string, string>): string[] {
  return Object.entries(secrets).flatMap(([name, secret]) => {
    const forms = [secret, secret.slice(0, 24), secret.slice(-20), btoa(secret).slice(0, 24)];
    return Object.entries(texts).flatMap(([place, text]) =>
      forms.some((form) => text.includes(form)) ? [`${name} in ${place}`] : [],
    );
  });
}

test("canaries in headers, queries, bodies and the environment turn up nowhere", async () => {
  using dir = tempDir();
  const env = {
    ARGO_WRITE_TOKEN: canary("write"),
    ARGO_READ_TOKEN: canary("read"),
    METRICS_TOKEN: canary("metrics"),
    OTHER_SECRET: canary("other"),
    LOG_LEVEL: "trace",
    DEBUG: "true",
  };
  const { LOG_LEVEL: _level, DEBUG: _debug, ...fromEnv } = env;
  const asked = {
    unknownToken: canary("unknown"),
    basic: canary("basic"),
    cookie: canary("cookie"),
    query: canary("query"),
    refusedQuery: canary("refused"),
    cursor: canary("cursor"),
    etag: canary("etag"),
    key: canary("key"),
    broken: canary("broken"),
    symbol: canary("symbol").slice(0, 60),
    number: canary("number"),
    wrongType: canary("type"),
    userAgent: canary("agent"),
    latin: canary("latin"),
    hook: canary("hook"),
    alert: canary("alert"),
  };
  await using server = await serveFile(dir.file("signals.db"), { env });
  using wire = await Wire.open(server.url);
  const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });
  const write = bearer(env.ARGO_WRITE_TOKEN);
  const json = { "Content-Type": "application/json" };
  const answers: Answer[] = [];
  const ask = async (
    method: string,
    path: string,
    headers: Record<string, string> = {},
    body = "",
  ): Promise<number> => {
    using own = await Wire.open(server.url);
    const answer = await own.ask(method, path, headers, body);
    answers.push(answer);
    return answer.status;
  };

  expect(await ask("GET", "/api/signals/latest", bearer(env.ARGO_READ_TOKEN))).toBe(200);
  expect(await ask("GET", "/api/signals/latest", write)).toBe(403);
  expect(await ask("GET", "/api/signals", bearer(asked.unknownToken))).toBe(401);
  expect(await ask("GET", "/api/signals/latest", bearer(asked.unknownToken))).toBe(401);
  const basic = { Authorization: `Basic ${btoa(`user:${asked.basic}`)}` };
  expect(await ask("GET", "/api/signals", basic)).toBe(401);
  expect(await ask("POST", "/api/signals", bearer(env.ARGO_READ_TOKEN), "{}")).toBe(403);
  const odd = { Cookie: `session=${asked.cookie}`, "User-Agent": asked.userAgent };
  expect(await ask("GET", "/api/signals/latest?limit=1", odd)).toBe(200);
  expect(await ask("GET", "/api/signals/latest", { "If-None-Match": `"${asked.etag}"` })).toBe(200);
  expect(await ask("GET", `/api/signals/latest?token=${asked.query}`)).toBe(400);
  expect(await ask("GET", `/api/signals/latest?limit=${asked.refusedQuery}`)).toBe(400);
  expect(await ask("GET", `/api/signals?cursor=${asked.cursor}`)).toBe(400);
  expect(await ask("GET", `/api/signals?min_confidence=${asked.refusedQuery}`)).toBe(400);
  expect(await ask("POST", `/api/signals?token=${asked.query}`, { ...write, ...json }, "{}")).toBe(
    400,
  );
  const post = (body: string, headers: Record<string, string> = {}) =>
    ask("POST", "/api/signals", { ...write, ...json, ...headers }, body);
  expect(await post(`{"symbol": ${asked.broken}`)).toBe(400);
  expect(await post(JSON.stringify({ ...signal(asked.symbol, 1), stop_price: 900 }))).toBe(422);
  expect(await post(JSON.stringify({ ...signal("S", 1), entry_price: asked.number }))).toBe(422);
  expect(await post(JSON.stringify({ ...signal("S", 1), timestamp: asked.number }))).toBe(422);
  expect(await post(JSON.stringify({ ...signal("S", 1), sha256: asked.number }))).toBe(422);
  expect(await post(JSON.stringify(asked.wrongType))).toBe(422);
  expect(await post("{}", { "Content-Type": asked.wrongType })).toBe(415);
  expect(await post(JSON.stringify(signal("S", 1)), { "Idempotency-Key": asked.key })).toBe(201);
  expect(await post(JSON.stringify(signal("S", 2)), { "Idempotency-Key": asked.key })).toBe(422);
  expect(await ask("GET", "/api/signals/hash/x", bearer(asked.unknownToken))).toBe(401);
  const good = JSON.stringify({ symbol: "H", action: "buy", entry_price: 1, confidence: 1 });
  const hook = (key: string, query: string, body: string) =>
    ask("POST", `/api/hooks/${key}${query}`, json, body);
  expect(await hook(asked.hook, "?template=signal", good)).toBe(401);
  expect(await hook(env.ARGO_READ_TOKEN, "?template=signal", good)).toBe(403);
  expect(await hook(env.ARGO_WRITE_TOKEN, "?template=signal", good)).toBe(201);
  expect(await hook(env.ARGO_WRITE_TOKEN, "?template=none", good)).toBe(400);
  expect(await hook(env.ARGO_WRITE_TOKEN, "?template=signal", asked.alert)).toBe(422);
  const wrong = JSON.stringify({
    ...JSON.parse(good),
    action: asked.alert,
    stop_price: asked.alert,
  });
  expect(await hook(env.ARGO_WRITE_TOKEN, "?template=signal", wrong)).toBe(422);
  expect(await hook(`${env.ARGO_WRITE_TOKEN}/x`, "", good)).toBe(404);
  expect(await hook(`/${env.ARGO_WRITE_TOKEN}`, "", good)).toBe(404);
  expect(await ask("GET", `/api/hooks/${env.ARGO_WRITE_TOKEN}?template=signal`)).toBe(405);
  expect(await ask("PUT", `/api/hooks/${asked.hook}`, json, good)).toBe(405);
  const raw = await fetch(`${server.url}/api/signals`, {
    method: "POST",
    headers: { ...write, ...json },
    body: new Uint8Array([0x7b, 0xff, ...Buffer.from(asked.latin)]),
  });
  expect(raw.status).toBe(400);

  const texts: Record<string, string> = { "the body of 400": await raw.text() };
  for (const path of ["/metrics", "/openapi.json", "/health", "/readyz", "/version", "/docs"]) {
    texts[path] = (await wire.get(path)).body;
  }
  for (const [i, { status, headers, body }] of answers.entries()) {
    const shown = [...headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    texts[`answer ${i} (${status})`] = `${shown}\n${body}`;
  }
  expect(await server.stop()).toBe(0);
  texts["the log"] = server.logs().join("\n");
  expect(server.logs().length).toBeGreaterThan(20);
  expect(leaks({ ...fromEnv, ...asked }, texts)).toEqual([]);
});

test("a configuration that is refused does not tell what it was", async () => {
  using dir = tempDir();
  const secrets = {
    spaced: `${canary("spaced")} with a space`,
    port: canary("port"),
    origin: canary("origin"),
    file: canary("file"),
  };
  const tokenFile = dir.file("token");
  writeFileSync(tokenFile, `${secrets.file}\n\u0001`);
  const wrong: Record<string, string>[] = [
    { ARGO_WRITE_TOKEN: secrets.spaced },
    { ARGO_WRITE_TOKEN: "short", ARGO_READ_TOKEN: secrets.spaced },
    { METRICS_TOKEN: secrets.spaced, PORT: secrets.port },
    { CORS_ORIGINS: secrets.origin, SIGNALS_ACCESS: secrets.port },
    { ARGO_READ_TOKEN_FILE: tokenFile, LOG_LEVEL: secrets.port },
    { ARGO_WRITE_TOKEN_FILE: tokenFile, ARGO_WRITE_TOKEN: secrets.spaced },
  ];
  for (const given of wrong) {
    const env = { ...serverEnv(dir.file("signals.db")), PORT: "0", ...given };
    const child = spawnChild([process.execPath, MAIN, "serve"], { env });
    expect(await child.done).toBe(1);
    const said = child.lines().join("\n");
    expect(said).toMatch(/ARGO_|METRICS_|CORS_|PORT/);
    expect(leaks(secrets, { said })).toEqual([]);
  }
  expect(existsSync(dir.file("signals.db"))).toBe(false);
});

test("metrics are for this machine alone: not through a proxy, unless with the token", async () => {
  using dir = tempDir();
  const token = canary("scrape");
  const env = { METRICS_TOKEN: token };
  await using server = await serveFile(dir.file("signals.db"), { env });
  const ask = async (headers: Record<string, string>) => {
    using wire = await Wire.open(server.url);
    return await wire.get("/metrics", headers);
  };
  expect((await ask({})).status).toBe(200);
  const proxies: Record<string, string>[] = [
    { "X-Forwarded-For": "203.0.113.7" },
    { "x-forwarded-for": "127.0.0.1" },
    { "X-Forwarded-Proto": "https" },
    { "X-Forwarded-Host": "example.com" },
    { Forwarded: "for=203.0.113.7" },
    { Via: "1.1 proxy" },
    { "X-Forwarded-For": "" },
  ];
  for (const headers of proxies) {
    const answer = await ask(headers);
    expect([headers, answer.status]).toEqual([headers, 401]);
    expect(answer.body).not.toContain("api_requests_total");
    expect(answer.headers.get("www-authenticate")).toContain("Bearer");
    const allowed = await ask({ ...headers, Authorization: `Bearer ${token}` });
    expect([headers, allowed.status]).toEqual([headers, 200]);
    const wrong = await ask({ ...headers, Authorization: `Bearer ${token}x` });
    expect([headers, wrong.status]).toEqual([headers, 401]);
  }
});

test.skipIf(!built)(
  "a hostile .env and bunfig.toml in the working directory change nothing in the binary",
  async () => {
    using dir = tempDir();
    const cwd = dir.file("cwd");
    mkdirSync(cwd);
    const mark = dir.file("mark");
    const port = freePort();
    const hostile = canary("hostile");
    writeFileSync(`${cwd}/evil.ts`, `require("fs").writeFileSync(${JSON.stringify(mark)}, "ran")`);
    writeFileSync(`${cwd}/evil.js`, `require("fs").writeFileSync(${JSON.stringify(mark)}, "ran")`);
    writeFileSync(
      `${cwd}/bunfig.toml`,
      'preload = ["./evil.ts", "./evil.js"]\n[run]\npreload = ["./evil.js"]\n[serve]\nport = 1\n',
    );
    const variables = `PORT=${port}\nHOST=0.0.0.0\nARGO_WRITE_TOKEN=${hostile}\nSIGNALS_DB=${cwd}/stolen.db\nSIGNALS_ACCESS=open\nNODE_OPTIONS=--require=./evil.js\nBUN_OPTIONS=--preload=./evil.js\nLOG_LEVEL=silent\n`;
    for (const name of [".env", ".env.local", ".env.production", ".env.development"]) {
      writeFileSync(`${cwd}/${name}`, variables);
    }
    writeFileSync(`${cwd}/tsconfig.json`, '{"compilerOptions":{"paths":{"*":["./evil.ts"]}}}');
    writeFileSync(`${cwd}/package.json`, '{"type":"module","imports":{"#x":"./evil.js"}}');

    const env = serverEnv(dir.file("signals.db"));
    await using server = await startServer({ binary: BINARY, cwd, env });
    expect(server.url).toStartWith("http://127.0.0.1:");
    expect(server.url).not.toEndWith(`:${port}`);
    using wire = await Wire.open(server.url);
    expect((await wire.post(signal("KEPT", 1))).status).toBe(201);
    const forged = await wire.post(signal("FORGED", 2), { Authorization: `Bearer ${hostile}` });
    expect(forged.status).toBe(401);
    // Threads of the binary start with the same care.
    expect((await wire.get("/api/signals/export")).status).toBe(200);
    expect(await server.stop()).toBe(0);
    expect([existsSync(mark), existsSync(`${cwd}/stolen.db`)]).toEqual([false, false]);
    expect(existsSync(dir.file("signals.db"))).toBe(true);
  },
);
