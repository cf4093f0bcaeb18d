/** WebSockets by the thousand: those that do not read cost only themselves, and leave nothing behind. */
import { Database } from "bun:sqlite";
import { connect, type Socket } from "node:net";
import { expect, test } from "bun:test";
import { READ_TOKEN } from "../harness/app.ts";
import { Messages } from "../harness/messages.ts";
import { startServer, tempDir, until } from "../harness/process.ts";

const reader = { Authorization: `Bearer ${READ_TOKEN}` };
const HEALTHY = 900;
const STALLED = 100;
const ROWS = 4_000;

/** Subscribes, then reads nothing more. */
async function stalled(url: string): Promise<Socket> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  let text = "";
  socket.on("error", () => undefined);
  socket.on("data", (bytes) => (text += bytes.toString("latin1")));
  socket.write(
    `GET /api/signals/ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${READ_TOKEN}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`,
  );
  await until(() => text.includes("101 Switching"), "the upgrade");
  const asked = Buffer.from('{"type":"subscribe"}');
  // A mask of zeros changes nothing.
  socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | asked.length, 0, 0, 0, 0]), asked]));
  await until(() => text.includes("subscribed"), "the subscription");
  socket.removeAllListeners("data");
  return socket.pause();
}

test(`${HEALTHY + STALLED} sockets, ${STALLED} stalled: those end with their cursor, memory returns`, async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using server = await startServer({
    cwd: dir.path,
    env: { SIGNALS_DB: db, ARGO_READ_TOKEN: READ_TOKEN, RATE_LIMIT_PER_MINUTE: "1000000000" },
  });
  const metric = async (name: string): Promise<number> => {
    const text = await (await fetch(`${server.url}/metrics`)).text();
    const line = text.split("\n").find((one) => one.startsWith(name)) ?? "";
    return Number(line.slice(line.lastIndexOf(" ") + 1));
  };
  const mebibytes = async () => (await metric("process_resident_memory_bytes ")) / 1024 / 1024;
  const slow = () => metric('argo_streams_ended_total{reason="slow"}');

  const empty = await mebibytes();
  const healthy: Messages[] = [];
  for (let i = 0; i < HEALTHY; i += 50) {
    const some = Array.from({ length: 50 }, () =>
      Messages.open(`${server.url}/api/signals/ws`, reader),
    );
    healthy.push(...(await Promise.all(some)));
    await Promise.all(healthy.slice(-50).map((messages) => messages.subscribe()));
  }
  const sockets = await Promise.all(Array.from({ length: STALLED }, () => stalled(server.url)));
  const before = await mebibytes();

  using engine = new Database(db, { readwrite: true });
  engine.run("PRAGMA busy_timeout = 10000");
  const insert = engine.prepare(
    `INSERT INTO signals (symbol, action, entry_price, confidence, timestamp, strategy)
     VALUES ('SPX', 'BUY', 1, 50, '2026-01-01T00:00:00Z', '${"x".repeat(2_000)}')`,
  );
  let most = 0;
  const expected = Array.from({ length: 100 }, (_, i) => i);
  for (let row = 0; row < ROWS; row += 100) {
    engine.transaction(() => {
      for (let i = 0; i < 100; i += 1) insert.run();
    })();
    const ids = await Promise.all(healthy.map((messages) => messages.ids(100, 30_000)));
    for (const own of ids) expect(own).toEqual(expected.map((i) => row + i + 1));
    most = Math.max(most, await mebibytes());
  }
  expect(await slow()).toBe(STALLED);
  // Ten seconds to read the end, then they are given up.
  await Bun.sleep(12_000);
  const after = await mebibytes();
  console.log(
    `resident MiB: ${empty.toFixed(0)} at the start, ${before.toFixed(0)} with ${HEALTHY + STALLED} sockets, at most ${most.toFixed(0)}, ${after.toFixed(0)} afterwards`,
  );
  expect(most - before).toBeLessThan(STALLED * 1.5 + 60);
  expect(after - before).toBeLessThan(60);
  for (const socket of sockets) socket.destroy();
  for (const messages of healthy) messages.socket.close();
  await until(async () => (await metric("argo_streams_open ")) === 0, "all have left");
}, 180_000);
