/** kill -9 under ingest: nothing acknowledged is lost, nothing is there that nobody sent. */
import { expect, test } from "bun:test";
import { tempDir, until } from "../harness/process.ts";
import { acceptedOf, seededRandom, serveFile, signal, Wire } from "./harness.ts";
import { Ledger, SOUND } from "./producers.ts";

const ROUNDS = 8;
const PRODUCERS = 6;

test("kill -9 at random moments loses nothing that was acknowledged", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const random = seededRandom("kill");
  const ledger = new Ledger(random);
  for (let round = 0; round < ROUNDS; round += 1) {
    await using server = await serveFile(db);
    const producers = Array.from({ length: PRODUCERS }, () => ledger.produce(server.url));
    const enough = ledger.acknowledged.length + PRODUCERS + random() * 250;
    await until(() => ledger.acknowledged.length > enough, "so many are acknowledged");
    server.kill();
    await server.exited;
    await Promise.all(producers);
    // The log as the crash left it is read by this process first, by the next server after it.
    expect(ledger.compare(db)).toEqual(SOUND);
  }
  const { acknowledged, unanswered } = ledger;
  console.log(`${ROUNDS} kills, ${acknowledged.length} acknowledged, ${unanswered.length} cut off`);
  expect(ledger.odd).toEqual([]);
  expect(acknowledged.length).toBeGreaterThan(ROUNDS * PRODUCERS);
  expect(unanswered.length).toBeGreaterThan(0);

  // What was cut off is sent again, as a producer would: each is one row, whether it had got
  // through or not. What was answered before the crash gets the same answer again.
  await using server = await serveFile(db);
  using wire = await Wire.open(server.url);
  for (const post of unanswered) await ledger.send(wire, post);
  expect(ledger.unanswered).toEqual([]);
  for (const post of acknowledged.filter((_, i) => i % 10 === 0)) {
    const ids = post.ids;
    const answer = await ledger.send(wire, post);
    expect([answer.status, post.ids]).toEqual([201, ids]);
    const again = post.key === null ? answer.body.includes('"duplicate":true') : true;
    expect(again).toBe(true);
    expect(answer.headers.get("idempotency-replayed") === "true").toBe(post.key !== null);
  }
  const missing = ledger.posts.flatMap((post) => post.symbols).length;
  expect(ledger.compare(db)).toEqual(SOUND);
  const total = await wire.get("/api/stats");
  expect((JSON.parse(total.body) as { total: number }).total).toBe(missing);
});

test("an Idempotency-Key survives the crash: the same answer, another body is 422", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  const headers = { "Idempotency-Key": "once-only" };
  const body = signal("ONCE", 1, false);
  await using before = await serveFile(db);
  using wire = await Wire.open(before.url);
  const first = await wire.post(body, headers);
  expect(first.status).toBe(201);
  before.kill();
  await before.exited;

  await using after = await serveFile(db);
  const parallel = await Promise.all(
    Array.from({ length: 20 }, async () => {
      using own = await Wire.open(after.url);
      return await own.post(body, headers);
    }),
  );
  for (const answer of parallel) {
    // 409 while the same key is under way is a client's sign to ask again.
    if (answer.status === 409) continue;
    expect(answer.status).toBe(201);
    expect(acceptedOf(answer)).toEqual(acceptedOf(first));
  }
  using own = await Wire.open(after.url);
  const other = await own.post(signal("OTHER", 2, false), headers);
  expect(other.status).toBe(422);
  const list = await own.get("/api/signals/latest?limit=10");
  expect((JSON.parse(list.body) as unknown[]).length).toBe(1);
});
