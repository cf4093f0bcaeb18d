/** A client that asks for an export and then reads no more of it, for now. */
import { connect } from "node:net";
import { Database } from "bun:sqlite";
import { until } from "../harness/process.ts";

/** Makes an export of the file 22 MB long: too long for all the buffers on its way. */
export function lengthen(path: string): void {
  using db = new Database(path, { readwrite: true });
  db.run("PRAGMA busy_timeout = 5000");
  db.run(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1400)
    INSERT INTO signals (symbol, action, entry_price, confidence, timestamp, strategy)
    SELECT 'LONG', 'BUY', 1, 50, '2020-01-01T00:00:00Z', hex(randomblob(8000)) FROM n`);
}

/**
 * Begins an export, and reads on after `meanwhile`.
 * @returns whether it came to its end.
 */
export async function endsWell(
  url: string,
  token: string,
  meanwhile: () => Promise<void>,
): Promise<boolean> {
  const { port, hostname } = new URL(url);
  const socket = connect(Number(port), hostname);
  let [bytes, tail, closed] = [0, "", false];
  socket.on("data", (data: Buffer) => {
    bytes += data.length;
    tail = (tail + data.toString("latin1")).slice(-200);
  });
  socket.on("error", () => undefined);
  socket.on("close", () => (closed = true));
  try {
    socket.write(
      `GET /api/signals/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`,
    );
    await until(() => bytes > 0, "the export has begun");
    socket.pause();
    await meanwhile();
    socket.resume();
    const ended = (): boolean => tail.endsWith("0\r\n\r\n");
    await until(() => closed || ended(), "it is over");
    return ended();
  } finally {
    socket.destroy();
  }
}
