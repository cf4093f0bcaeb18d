/** Clients that hold a connection and never come to an end do not keep the server from ending. */
import { expect, test } from "bun:test";
import { holdLock, serveFile, signal, Wire, WRITE_TOKEN } from "../faults/harness.ts";
import { tempDir } from "../harness/process.ts";

const EXIT_MS_MAX = 15_000;

async function drip(wire: Wire): Promise<void> {
  while (!wire.closed) {
    wire.send("x");
    await Bun.sleep(500);
  }
}

const clients: [name: string, begin: (wire: Wire) => void][] = [
  [
    "a deaf export",
    (wire) => {
      wire.pause();
      wire.send("GET /api/signals/export HTTP/1.1\r\nHost: x\r\n\r\n");
    },
  ],
  [
    "a deaf stream",
    (wire) => {
      wire.pause();
      wire.send("GET /api/signals/stream?since_id=0 HTTP/1.1\r\nHost: x\r\n\r\n");
    },
  ],
  [
    "half a body",
    (wire) =>
      wire.send(
        `POST /api/signals HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${WRITE_TOKEN}\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{`,
      ),
  ],
  [
    "headers, a byte at a time",
    (wire) => {
      wire.send("GET /api/signals/latest HTTP/1.1\r\nX-Slow: ");
      void drip(wire);
    },
  ],
];

for (const [name, begin] of clients) {
  test(`${name} does not keep it from ending within 15 s`, async () => {
    using dir = tempDir();
    await using server = await serveFile(dir.file("signals.db"));
    using writer = await Wire.open(server.url);
    for (let n = 0; n < 20_000; n += 1_000) {
      const batch = Array.from({ length: 1_000 }, (_, i) => signal("LONG", n + i));
      expect((await writer.post(batch)).status).toBe(201);
    }
    using client = await Wire.open(server.url);
    begin(client);
    await Bun.sleep(300);
    const begun = performance.now();
    expect(await server.stop()).toBe(0);
    const ms = performance.now() - begun;
    console.log(`${name}: ended in ${ms.toFixed(0)} ms`);
    expect(ms).toBeLessThan(EXIT_MS_MAX);
  }, 60_000);
}

test("posts that wait behind a foreign lock do not keep it from ending within 15 s", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using server = await serveFile(db);
  await using _lock = await holdLock(db, "IMMEDIATE", 60);
  const body = JSON.stringify(signal("LARGE", 1)) + " ".repeat(1_000_000);
  const headers = { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" };
  const posts = Array.from({ length: 40 }, async () => {
    using wire = await Wire.open(server.url);
    const answer = await wire.ask("POST", "/api/signals", headers, body).catch(() => null);
    return answer?.status ?? 0;
  });
  await Bun.sleep(500);
  const begun = performance.now();
  expect(await server.stop()).toBe(0);
  const ms = performance.now() - begun;
  console.log(`40 posts behind a lock: ended in ${ms.toFixed(0)} ms`);
  expect(ms).toBeLessThan(EXIT_MS_MAX);
  expect((await Promise.all(posts)).filter((status) => status !== 503)).toEqual([]);
}, 60_000);
