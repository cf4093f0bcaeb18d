/** A minute without Postgres (R8): signals by the rights last known, and no payment lost. */
import { expect, test } from "bun:test";
import { inArray } from "drizzle-orm";
import { payments, providerEvents } from "../../db/alpine/schema.ts";
import { signal } from "../harness/app.ts";
import { until } from "../harness/process.ts";
import { ownPostgres } from "../harness/servers.ts";
import { Customer, openShop, send } from "../alpine/stripe/world.ts";

const outageMs = 60_000;

test("Postgres down for a minute", async () => {
  await using server = await ownPostgres();
  await using at = await openShop({ backend: "postgres", servers: { postgres: server } });
  const boss = await at.admin();
  const [starter, pro, buyer] = [await at.member(), await at.member(), await at.member()];
  const keys = { starter: await at.key(starter), pro: await at.key(pro) };
  await at.must(200, "PATCH", `/api/admin/users/${pro.id}`, { tier: "pro" }, boss.access);
  await at.must(200, "PATCH", "/api/admin/plans/starter", { delay_seconds: 0 }, boss.access);
  const customer = new Customer(buyer.id);
  customer.buy("pro", Math.floor(at.clock.ms / 1000));

  await server.kill();
  const end = performance.now() + outageMs;
  let price = 100;
  let polls = 0;
  let refused = 0;
  const read = async (key: string) => {
    const begun = performance.now();
    const response = await at.call("GET", "/api/signals/latest?limit=5", undefined, key);
    expect(response.status).toBe(200);
    const rows = (await response.json()) as { confidence: number; entry_price: number }[];
    expect(performance.now() - begun).toBeLessThan(1_000);
    polls += 1;
    return rows;
  };
  while (performance.now() < end) {
    for (const confidence of [50, 99]) {
      price += 1;
      const bare = { stop_price: null, target_price: null };
      const posted = await at.app.post(signal({ ...bare, confidence, entry_price: price }));
      expect(posted.status).toBe(201);
    }
    const [seen, all] = [await read(keys.starter), await read(keys.pro)];
    expect(seen.every(({ confidence }) => confidence < 95)).toBe(true);
    expect(seen[0]?.entry_price).toBe(price - 1);
    expect(all[0]?.entry_price).toBe(price);
    const told = await send(at, customer.events[refused % customer.events.length]);
    expect(told.status).toBe(503);
    expect(Number(told.headers.get("retry-after"))).toBeGreaterThan(0);
    refused += 1;
    await Bun.sleep(100);
  }
  console.log(`${polls} polls, ${refused} events refused in ${outageMs / 1000} s`);

  await server.start();
  await until(
    async () => (await send(at, customer.events[0])).status === 200,
    "accounts are back",
    20_000,
  );
  // What was refused is sent again, as Stripe does.
  for (const event of customer.events) expect((await send(at, event)).status).toBe(200);
  const ids = customer.events.map(({ id }) => id);
  const rows = await at.db().select().from(providerEvents).where(inArray(providerEvents.id, ids));
  expect(rows).toHaveLength(ids.length);
  expect(rows.every(({ appliedAt }) => appliedAt !== null)).toBe(true);
  expect(await at.db().select().from(payments)).toMatchObject([
    { kind: "charge", userId: buyer.id, amountMinor: 14_900 },
  ]);
}, 180_000);
