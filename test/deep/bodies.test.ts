/** Bodies of many at once, against a server in a process of its own: what it holds of them is bounded. */
import { Database } from "bun:sqlite";
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import type { Socket } from "bun";
import { WRITE_TOKEN } from "../harness/app.ts";
import { residentMiB } from "../faults/harness.ts";
import { type Server, startServer, tempDir, until } from "../harness/process.ts";

const ROWS = 5_000;
const BATCHES = 50;

const dir = tempDir();
let server: Server;
beforeAll(async () => {
  server = await startServer({
    env: {
      DATA_DIR: dir.path,
      ARGO_WRITE_TOKEN: WRITE_TOKEN,
      MAX_PAGE_SIZE: String(ROWS),
      RATE_LIMIT_PER_MINUTE: "1000000",
      // Else what is collected late is as much as there is memory for.
      BUN_JSC_forceRAMSize: "200000000",
    },
  });
  using engine = new Database(join(dir.path, "signals.db"));
  engine.run(
    `WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ${ROWS})
     INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
     SELECT 'S' || n, 'BUY', 1, 50, '2026-01-01T00:00:00Z' FROM n`,
  );
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  dir[Symbol.dispose]();
});

type Sockets = { sockets: Socket[]; lines: string[] } & Disposable;

/** Sends the same to the server over so many sockets; of each answer no more is read than comes first. */
async function sendOver(count: number, text: string): Promise<Sockets> {
  const { hostname, port } = new URL(server.url);
  const lines: string[] = [];
  const sockets = await Promise.all(
    Array.from({ length: count }, () =>
      Bun.connect({
        hostname,
        port: Number(port),
        socket: {
          open: (socket) => void socket.write(text),
          data: (socket, data) => {
            socket.pause();
            lines.push(data.toString().split("\r\n", 1)[0] ?? "");
          },
        },
      }),
    ),
  );
  return {
    sockets,
    lines,
    [Symbol.dispose]: () => {
      for (const socket of sockets) socket.terminate();
    },
  };
}

const large = JSON.stringify({
  requests: Array.from({ length: 7 }, () => ({ url: `/api/signals?limit=${ROWS}` })),
});

async function batch(body: string): Promise<{ status: number; body: unknown[] | null }[]> {
  const response = await fetch(`${server.url}/api/batch`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body,
  });
  expect(response.status).toBe(200);
  return ((await response.json()) as { responses: never[] }).responses;
}

const poll = async () => (await fetch(`${server.url}/api/signals/latest?limit=1`)).status;

test("of batches that nobody reads a part each is held, and who reads gets the whole", async () => {
  const parts = await batch(large);
  expect(parts.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 200, 413]);
  for (const part of parts.slice(0, 6)) expect(part.body).toHaveProperty("signals.length", ROWS);
  const head = `POST /api/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${large.length}\r\n\r\n`;
  const before = residentMiB(server.pid);
  using stalled = await sendOver(BATCHES, head + large);
  await until(() => stalled.lines.length === BATCHES, "all began");
  expect(stalled.lines.filter((line) => !line.startsWith("HTTP/1.1"))).toEqual([]);
  const held = () => residentMiB(server.pid) - before;
  console.log(`${BATCHES} batches of 8 MiB: ${Math.round(held())} MiB more`);
  // What each was told is collected after a while.
  const isLittle = async () => (await poll()) === 200 && held() < BATCHES * 5;
  await until(isLittle, "they hold little");
  // While they hold what there is, each other one asks part by part and gets as much.
  expect((await batch(large)).map(({ status }) => status)).toEqual([
    200, 200, 200, 200, 200, 200, 413,
  ]);
}, 30_000);
