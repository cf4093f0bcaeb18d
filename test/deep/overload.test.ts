/** Connections that come to nothing do not keep their place for ever. */
import { expect, test } from "bun:test";
import { LATEST, serveFile, Wire, WRITE_TOKEN } from "../faults/harness.ts";
import { tempDir, until } from "../harness/process.ts";

const CLOSED_MS_MAX = 20_000;

const stalls: [name: string, text: string, drip: string][] = [
  ["nothing said", "", ""],
  ["idle after an answer", `GET ${LATEST} HTTP/1.1\r\nHost: localhost\r\n\r\n`, ""],
  ["half a header", `GET ${LATEST} HTTP/1.1\r\nHost: localhost\r\nX-Slow: a`, ""],
  [
    "half a body",
    `POST /api/signals HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${WRITE_TOKEN}\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n[`,
    "",
  ],
  ["a header, a byte a second", `GET ${LATEST} HTTP/1.1\r\nHost: localhost\r\nX-Slow: a`, "a"],
];

for (const [name, text, drip] of stalls) {
  test(`${name}: the connection is closed in time`, async () => {
    using dir = tempDir();
    await using server = await serveFile(dir.file("signals.db"));
    using wire = await Wire.open(server.url);
    if (text !== "") wire.send(text);
    const begun = performance.now();
    const gone = async () => {
      if (drip !== "" && !wire.closed) wire.send(drip);
      if (!wire.closed) await Bun.sleep(1_000);
      return wire.closed;
    };
    await until(gone, "the end of the connection", CLOSED_MS_MAX);
    console.log(`${name}: closed after ${(performance.now() - begun).toFixed(0)} ms`);
    expect(performance.now() - begun).toBeLessThan(CLOSED_MS_MAX);
  }, 40_000);
}
