/** Alerts that are sent again, because the server was killed or others sent them at once. */
import { expect, test } from "bun:test";
import { tempDir, until } from "../harness/process.ts";
import {
  acceptedOf,
  type AcceptedSignal,
  isRetryLater,
  readFile,
  seededRandom,
  serveFile,
  Wire,
  WRITE_TOKEN,
} from "./harness.ts";

const HOOK = `/api/hooks/${WRITE_TOKEN}?template=tradingview&confidence=80`;
const ROUNDS = 4;
const SENDERS = 20;

/** Alerts that were told to come back, although they may have been written after that. */
const late = new Set<string>();

/** Sends an alert until it is taken; null when the connection was lost before an answer. */
async function send(url: string, symbol: string): Promise<AcceptedSignal | null> {
  try {
    using wire = await Wire.open(url);
    const body = JSON.stringify({ ticker: symbol, action: "sell", price: "1.5" });
    const json = { "Content-Type": "application/json" };
    let answer = await wire.ask("POST", HOOK, json, body);
    while (isRetryLater(answer)) {
      late.add(symbol);
      answer = await wire.ask("POST", HOOK, json, body);
    }
    if (answer.status !== 201) throw new Error(`${answer.status} ${answer.body}`);
    return acceptedOf(answer)[0] ?? null;
  } catch (error) {
    if (error instanceof Error && /^\d{3} /.test(error.message)) throw error;
    return null;
  }
}

test("killed at any moment, and sent again to another process: each alert is one signal", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const random = seededRandom("hooks");
  await using other = await serveFile(db);
  const answered = new Map<string, AcceptedSignal>();
  const lost: string[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    await using server = await serveFile(db);
    // One after the other each, so that some are under way whenever it is killed.
    const senders = Array.from({ length: SENDERS }, async (_, sender) => {
      for (let i = 0; ; i += 1) {
        const symbol = `R${round}S${sender}N${i}`;
        const row = await send(server.url, symbol);
        if (!row) return lost.push(symbol);
        answered.set(symbol, row);
      }
    });
    const enough = answered.size + 1 + random() * 80;
    await until(() => answered.size >= enough, "so many are answered");
    server.kill();
    await Promise.all(senders);
    await server.exited;
  }
  expect(lost).toHaveLength(ROUNDS * SENDERS);
  const before = new Set(readFile(db).rows.map((row) => row.symbol));
  const committed = lost.filter((symbol) => before.has(symbol));
  console.log(
    `${answered.size} answered; ${lost.length} lost, of them ${committed.length} written`,
  );
  for (const symbol of lost) {
    const row = await send(other.url, symbol);
    const known = committed.includes(symbol) || (late.has(symbol) && row?.duplicate === true);
    expect([symbol, row?.duplicate]).toEqual([symbol, known]);
  }
  for (const [symbol, row] of answered) {
    expect(await send(other.url, symbol)).toEqual({ ...row, duplicate: true });
  }
  const { rows, integrity } = readFile(db);
  expect(integrity).toEqual(["ok"]);
  expect(rows.map((row) => row.symbol).toSorted()).toEqual(
    [...answered.keys(), ...lost].toSorted(),
  );
});

test("sent at once to two processes of one file it is one signal", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using one = await serveFile(db);
  await using two = await serveFile(db);
  const sent = Array.from({ length: 20 }, (_, i) => send(i % 2 === 0 ? one.url : two.url, "BOTH"));
  const rows = await Promise.all(sent);
  const made = rows.filter((row) => row?.duplicate === false).length;
  expect(made).toBeWithin(late.has("BOTH") ? 0 : 1, 2);
  expect(new Set(rows.map((row) => row?.id)).size).toBe(1);
  expect(readFile(db).rows).toHaveLength(1);
});
