/** Two servers: on one port the second leaves no trace, on one file both serve and agree. */
import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { spawnChild, within } from "../harness/children.ts";
import { freePort, tempDir, until } from "../harness/process.ts";
import {
  acceptedOf,
  LATEST,
  MAIN,
  newestId,
  readFile,
  seededRandom,
  serveFile,
  serverEnv,
  signal,
  Wire,
} from "./harness.ts";
import { Ledger, SOUND } from "./producers.ts";

/** A second for the server itself, and what starting a process costs on a busy machine. */
const EXIT_MS_MAX = 15_000;

async function startAgain(db: string, port: number) {
  const begun = performance.now();
  const env = { ...serverEnv(db), PORT: String(port) };
  await using second = spawnChild([process.execPath, MAIN, "serve"], { env });
  const code = (await within(second.done, 2 * EXIT_MS_MAX)) ?? "it serves";
  return { code, ms: performance.now() - begun, said: second.lines().join("\n") };
}

test("a second server on one port exits 1 at once and writes nothing", async () => {
  using dir = tempDir();
  const port = freePort();
  const env = { PORT: String(port) };
  await using first = await serveFile(dir.file("signals.db"), { env });

  const other = dir.file("other");
  const { code, ms, said } = await startAgain(`${other}/signals.db`, port);
  expect([code, said.includes(`:${port}`), said.includes("--port")]).toEqual([1, true, true]);
  expect(ms).toBeLessThan(EXIT_MS_MAX);
  expect(existsSync(other)).toBe(false);

  // A directory that is there stays empty; the same file stays as it is and goes on being served.
  mkdirSync(other);
  expect((await startAgain(`${other}/signals.db`, port)).code).toBe(1);
  expect(readdirSync(other)).toEqual([]);
  using wire = await Wire.open(first.url);
  expect((await wire.post(signal("ONE", 1))).status).toBe(201);
  expect((await startAgain(dir.file("signals.db"), port)).code).toBe(1);
  expect((await wire.post(signal("TWO", 2))).status).toBe(201);
  expect(newestId((await wire.get(LATEST)).body)).toBe(2);
  console.log(`second server on the port: gone after ${ms.toFixed(0)} ms`);
});

test("two servers start on one new file at the same moment", async () => {
  for (let round = 0; round < 3; round += 1) {
    using dir = tempDir();
    const db = dir.file("signals.db");
    const [a, b] = await Promise.all([serveFile(db), serveFile(db)]);
    await using first = a;
    await using second = b;
    using one = await Wire.open(first.url);
    using two = await Wire.open(second.url);
    expect((await one.post(signal("ONE", 1))).status).toBe(201);
    expect((await two.post(signal("TWO", 2))).status).toBe(201);
    expect(newestId((await one.get(LATEST)).body)).toBe(2);
    expect(readFile(db).integrity).toEqual(["ok"]);
  }
});

test("two servers on one file: each shows the other's commit at the next poll", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using first = await serveFile(db);
  await using second = await serveFile(db);
  using one = await Wire.open(first.url);
  using two = await Wire.open(second.url);
  for (let n = 1; n <= 300; n += 1) {
    const [writer, reader] = n % 2 === 0 ? [one, two] : [two, one];
    const answer = await writer.post(signal("SEEN", n));
    expect(answer.status).toBe(201);
    const poll = await reader.get(`${LATEST}?limit=10`);
    const id = acceptedOf(answer)[0]?.id ?? Number.NaN;
    expect([newestId(poll.body), poll.headers.get("signal-head")]).toEqual([id, String(id)]);
  }
});

test("two servers on one file: nothing acknowledged is lost, through a kill of one", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const ledger = new Ledger(seededRandom("two servers"));
  await using first = await serveFile(db);
  await using second = await serveFile(db);
  const acknowledged = () => ledger.acknowledged.length;
  let enough = Infinity;
  const over = () => acknowledged() > enough;
  const producers = [first, second, first, second].map((s) => ledger.produce(s.url, over));
  await until(() => acknowledged() > 100, "posts before the kill");
  first.kill();
  enough = acknowledged() + 100;
  await Promise.all(producers);
  expect(ledger.odd).toEqual([]);
  using wire = await Wire.open(second.url);
  for (const post of ledger.unanswered) await ledger.send(wire, post);
  expect(ledger.unanswered).toEqual([]);
  expect(ledger.compare(db)).toEqual(SOUND);
});

test("the same post to both at once is one row: by its key, or by its content", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using first = await serveFile(db);
  await using second = await serveFile(db);
  using one = await Wire.open(first.url);
  using two = await Wire.open(second.url);
  for (let n = 1; n <= 60; n += 1) {
    const keyed = n % 2 === 0;
    const body = signal(`SAME${n}`, n, !keyed);
    const headers: Record<string, string> = keyed ? { "Idempotency-Key": `same-${n}` } : {};
    const [a, b] = await Promise.all([one.post(body, headers), two.post(body, headers)]);
    expect([a?.status, b?.status]).toEqual([201, 201]);
    expect(acceptedOf(a)[0]?.id).toBe(acceptedOf(b)[0]?.id ?? Number.NaN);
  }
  const { rows, integrity } = readFile(db);
  expect([rows.length, integrity]).toEqual([60, ["ok"]]);
});
