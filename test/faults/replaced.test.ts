import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { copyFileSync, renameSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { startServer, tempDir, until } from "../harness/process.ts";

const TOKEN = "replaced-test-token";
const fixture = new URL("../fixtures/argo-legacy.db", import.meta.url).pathname;

async function serve(db: string) {
  return startServer({
    env: { SIGNALS_DB: db, ARGO_WRITE_TOKEN: TOKEN, SHUTDOWN_DELAY_SECONDS: "0" },
  });
}

const post = (url: string) =>
  fetch(`${url}/api/signals`, {
    method: "POST",
    headers: { Authorization: `Bearer ${TOKEN}`, "Content-Type": "application/json" },
    body: JSON.stringify({ symbol: "NEVER", action: "BUY", confidence: 97, entry_price: 1 }),
  });

test.each([
  ["replaced", (db: string) => renameSync(`${db}.new`, db)],
  ["removed", (db: string) => rmSync(db)],
  ["moved away", (db: string) => renameSync(db, `${db}.away`)],
  ["robbed of its log", (db: string) => rmSync(`${db}-wal`)],
])(
  "a file that is %s under the server: 503, and nothing is acknowledged",
  async (_what, change) => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    copyFileSync(fixture, db);
    copyFileSync(fixture, `${db}.new`);
    await using server = await serve(db);
    expect((await post(server.url)).status).toBe(201);
    const settled = async () => (await fetch(`${server.url}/readyz`)).status === 200;
    await until(settled, "to be ready");
    await Bun.sleep(300);
    change(db);
    const unfit = async () => (await fetch(`${server.url}/readyz`)).status === 503;
    await until(unfit, "the change to be noticed");
    const polled = await fetch(`${server.url}/api/signals/latest`);
    expect(polled.status).toBe(503);
    expect(await polled.text()).toContain("Restart it");
    const posted = await post(server.url);
    expect(posted.status).toBe(503);
    expect((await fetch(`${server.url}/livez`)).status).toBe(200);
    expect(await server.stop()).toBe(0);
  },
);

test("a database of something else is left as it is", async () => {
  using dir = tempDir();
  const db = dir.file("other.db");
  const other = new Database(db);
  other.run("CREATE TABLE invoices (a)");
  other.close();
  const before = await Bun.file(db).bytes();
  await expect(serve(db)).rejects.toThrow(/invoices/);
  expect(await Bun.file(db).bytes()).toEqual(before);
});

test.each(["IGNORE", "REPLACE", "ROLLBACK", "FAIL"])(
  "a table that says ON CONFLICT %s: a post in conflict is refused, its neighbours are not",
  async (clause) => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    const made = new Database(db);
    made.run(
      `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT NOT NULL, action TEXT NOT NULL,
       entry_price REAL NOT NULL, target_price REAL, stop_price REAL, confidence REAL NOT NULL,
       strategy TEXT, timestamp TEXT NOT NULL, sha256 TEXT,
       UNIQUE (symbol, timestamp) ON CONFLICT ${clause})`,
    );
    made.close();
    await using server = await serve(db);
    const send = (confidence: number, symbol = "EURUSD") =>
      fetch(`${server.url}/api/signals`, {
        method: "POST",
        headers: { Authorization: `Bearer ${TOKEN}`, "Content-Type": "application/json" },
        body: JSON.stringify({
          symbol,
          action: "BUY",
          confidence,
          entry_price: 1,
          timestamp: "2026-01-01T00:00:00Z",
        }),
      });
    expect((await send(90)).status).toBe(201);
    const [conflict, other] = await Promise.all([send(91), send(92, "GBPUSD")]);
    expect([conflict.status, other.status]).toEqual([409, 201]);
    const rows = (await (await fetch(`${server.url}/api/signals/latest`)).json()) as {
      symbol: string;
      confidence: number;
    }[];
    expect(rows.map((row) => [row.symbol, row.confidence]).toSorted()).toEqual([
      ["EURUSD", 90],
      ["GBPUSD", 92],
    ]);
    expect(await server.stop()).toBe(0);
  },
);

test.each([
  "GET /readyz HTTP/1.0\r\n\r\n",
  "GET /api/signals?limit=1 HTTP/1.0\r\n\r\n",
  "GET /livez HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
  "GET /health HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n",
  "GET /api/signals/latest HTTP/1.1\r\nHost: [::1\r\nConnection: close\r\n\r\n",
])("a request without a usable host is answered: %j", async (request) => {
  using dir = tempDir();
  await using server = await serve(dir.file("signals.db"));
  const { port, hostname } = new URL(server.url);
  const answer = await new Promise<string>((resolve, reject) => {
    let text = "";
    const socket = connect(Number(port), hostname, () => socket.write(request));
    socket.on("data", (chunk) => {
      text += String(chunk);
      if (text.includes("\r\n\r\n")) socket.destroy();
    });
    socket.on("close", () => resolve(text));
    socket.on("error", reject);
  });
  expect(answer).toMatch(/^HTTP\/1\.1 (200|400|401) /);
});
