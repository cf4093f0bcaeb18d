/** Servers that send webhooks are killed again and again: nothing is lost, everything keeps its id. */
import { expect, test } from "bun:test";
import { sql } from "drizzle-orm";
import { webhooks } from "../../db/alpine/schema.ts";
import { receiver, signedBy, World, type Receiver } from "../alpine/webhooks/receiver.ts";
import { JWT_SECRET, openAccounts } from "../harness/accounts.ts";
import { startServer, tempDir, until, type Server } from "../harness/process.ts";
import { randomNumbers, tellSeed } from "../harness/seed.ts";

const ROUNDS = 15;

test("killed with -9 while they hand over and send, servers lose no signal and double no message", async () => {
  tellSeed();
  const random = randomNumbers();
  await using bot = receiver();
  await using flaky = receiver();
  bot.answer = async () => {
    await Bun.sleep(random() * 20);
    return new Response();
  };
  flaky.answer = () => new Response(null, { status: random() < 0.3 ? 500 : 200 });
  // Takes signals and makes webhooks; it sends nothing itself.
  const env = { WEBHOOKS_ALLOW_PRIVATE: "true" };
  await using at = await openAccounts({ backend: "postgres", now: Date.now(), env });
  await using world = await World.open(at);
  const hooks = [await world.hook(bot.url), await world.hook(flaky.url)];
  using dir = tempDir();
  await using servers = new AsyncDisposableStack();
  const start = async (): Promise<Server> => {
    const own = { ...env, JWT_SECRET, DATABASE_URL: at.database?.url, SIGNALS_DB: at.app.db };
    const started = await startServer({
      role: "all",
      cwd: dir.path,
      env: { ...own, DATA_DIR: dir.file(`data-${crypto.randomUUID()}`) },
    });
    return servers.use(started);
  };
  const ids: number[] = [];
  let killedBusy = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    const [one, two] = await Promise.all([start(), start()]);
    const came = bot.got.length;
    await until(() => bot.got.length > came || ids.length === 0, "they send", 20_000);
    const untilMs = performance.now() + 500 + random() * 1_000;
    while (performance.now() < untilMs) {
      ids.push(await world.post());
      await Bun.sleep(random() * 20);
    }
    one.kill();
    await Bun.sleep(random() * 200);
    two.kill();
    await Promise.all([one.exited, two.exited]);
    const [row] = (
      await at
        .db()
        .execute<{ n: string }>(
          sql`SELECT count(*) AS n FROM webhooks WHERE leased_until IS NOT NULL`,
        )
    ).rows;
    killedBusy += Number(row?.n ?? 0);
    // As if those who come next came after the leases of the killed.
    await at.db().execute(sql`UPDATE webhooks SET leased_until = NULL`);
    // Something is left for them.
    ids.push(await world.post());
  }
  await start();
  const all = ({ got }: Receiver): boolean =>
    new Set(got.map(({ message }) => message.data["id"])).size === ids.length;
  await until(() => all(bot), "all came", 60_000);
  flaky.answer = () => new Response();
  await at.db().execute(sql`UPDATE webhook_messages SET next_attempt_at = now()
    WHERE next_attempt_at IS NOT NULL`);
  await until(() => all(flaky), "all came where some failed", 60_000);
  for (const [receiver, hook] of [
    [bot, hooks[0]],
    [flaky, hooks[1]],
  ] as const) {
    const unique = [...new Set(receiver.ids())];
    expect(unique.toSorted((a, b) => a - b)).toEqual(ids);
    // A signal has one message, however often it was sent.
    const messages = new Set(
      receiver.got.map(({ id, message: { data } }) => `${id} ${data["id"]}`),
    );
    expect(messages.size).toBe(ids.length);
    for (const got of receiver.got) expect(hook && signedBy(hook.secret, got)).toBeTrue();
  }
  expect([...new Set(bot.ids())]).toEqual(ids);
  const again = bot.got.length - ids.length;
  console.log(`${ids.length} signals, ${again} sent once more, killed while sending ${killedBusy}`);
  expect(killedBusy).toBeGreaterThan(0);
}, 300_000);

test("killed in the middle of an attempt, another process makes the same one once the claim has run out", async () => {
  await using bot = receiver();
  bot.answer = () => new Promise(() => undefined);
  const env = { WEBHOOKS_ALLOW_PRIVATE: "true" };
  await using at = await openAccounts({ backend: "postgres", now: Date.now(), env });
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  using dir = tempDir();
  const own = { ...env, JWT_SECRET, DATABASE_URL: at.database?.url, SIGNALS_DB: at.app.db };
  const start = (name: string) =>
    startServer({ role: "all", cwd: dir.path, env: { ...own, DATA_DIR: dir.file(name) } });
  await using one = await start("one");
  await world.post();
  await until(() => bot.got.length === 1, "it is sent", 20_000);
  const begun = performance.now();
  await using _two = await start("two");
  one.kill();
  await one.exited;
  bot.answer = () => new Response();
  await until(() => bot.got.length === 2, "it is sent again", 40_000);
  const seconds = (performance.now() - begun) / 1_000;
  console.log(`sent again after ${seconds.toFixed(1)} s`);
  expect(seconds).toBeWithin(28, 34);
  expect(bot.got[1]?.id).toBe(bot.got[0]?.id ?? "");
  await until(async () => (await world.log(hook.id))[0]?.status === "delivered", "written down");
  expect(await world.log(hook.id)).toMatchObject([{ attempts: 1, last_status: 200 }]);
}, 120_000);

test("a server that is to end gives up what hangs, lets go of the receiver and leaves the rest waiting", async () => {
  await using bot = receiver();
  bot.answer = () => new Promise<Response>(() => undefined);
  const env = { WEBHOOKS_ALLOW_PRIVATE: "true" };
  await using at = await openAccounts({ backend: "postgres", now: Date.now(), env });
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  using dir = tempDir();
  const own = { ...env, JWT_SECRET, DATABASE_URL: at.database?.url, SIGNALS_DB: at.app.db };
  const started = { ...own, DATA_DIR: dir.file("data"), SHUTDOWN_DELAY_SECONDS: "0" };
  await using server = await startServer({ role: "all", cwd: dir.path, env: started });
  await world.post();
  await until(() => bot.got.length === 1, "it hangs", 20_000);
  const begunAt = performance.now();
  expect(await server.stop()).toBe(0);
  expect(performance.now() - begunAt).toBeLessThan(15_000);
  expect(await world.log(hook.id)).toMatchObject([{ status: "waiting", attempts: 0 }]);
  const [row] = await at.db().select().from(webhooks);
  expect(row?.leasedUntil).toBeNull();
}, 60_000);

test("a receiver that has failed for an hour while a hundred thousand wait is disabled", async () => {
  await using bot = receiver();
  bot.answer = () => new Response(null, { status: 500 });
  const env = { WEBHOOKS_ALLOW_PRIVATE: "true" };
  await using at = await openAccounts({ backend: "postgres", now: Date.now(), env });
  await using world = await World.open(at);
  const { id } = await world.hook(bot.url);
  await world.post();
  await world.send();
  await at.db().execute(sql`
    INSERT INTO webhook_messages (id, webhook_id, type, signal_id, body, status, lane, attempts,
      next_attempt_at, created_at)
    SELECT gen_random_uuid(), ${id}::uuid, 'signal.created', 1000000 + n, '{}', 'waiting', 1, 1,
      now() + interval '10 days', now() FROM generate_series(1, 100001) AS n`);
  at.clock.ms += 3_600_000;
  // It is looked at with each hundredth signal alone.
  while ((await world.post()) < 99);
  await world.send();
  expect(await world.get(id)).toMatchObject({ status: "enabled" });
  await world.post();
  await world.send();
  expect(await world.get(id)).toMatchObject({ status: "disabled", reason: "failing" });
}, 60_000);

test("a replay goes through fifty thousand signals in a request, and says where to go on", async () => {
  await using bot = receiver();
  const env = { WEBHOOKS_ALLOW_PRIVATE: "true" };
  await using at = await openAccounts({ backend: "postgres", now: Date.now(), env });
  await using world = await World.open(at);
  const [all, rare] = [await world.hook(bot.url), await world.hook(bot.url, { symbol: "RARE" })];
  at.app.engine.run(`
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
    INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
    SELECT iif(i = 55000, 'RARE', 'SPX'), 'BUY', i, 99, '2026-01-01T00:00:00Z' FROM n`);
  const replay = async (id: string, since_id: number): Promise<unknown> => {
    const begunAt = performance.now();
    const answer = await world.ask("POST", `${id}/replay`, { since_id }, 202);
    expect(performance.now() - begunAt).toBeLessThan(9_000);
    return answer;
  };
  expect(await replay(all.id, 0)).toEqual({ queued: 10_000, last_id: 10_000, has_more: true });
  expect(await replay(all.id, 55_000)).toEqual({ queued: 5_000, last_id: 60_000, has_more: false });
  expect(await replay(rare.id, 0)).toEqual({ queued: 0, last_id: 50_000, has_more: true });
  expect(await replay(rare.id, 50_000)).toEqual({ queued: 1, last_id: 60_000, has_more: false });
}, 60_000);
