/** Events of payments while the database is gone, slow or cut: each is journaled, or sent again. */
import { expect, test } from "bun:test";
import { providerEvents } from "../../db/alpine/schema.ts";
import { Customer, openShop, send } from "../alpine/stripe/world.ts";
import { Shop } from "../alpine/money.ts";
import { alpineOf, people } from "../alpine/people.ts";
import { ownPostgres } from "../harness/servers.ts";

test("Postgres goes away while webhooks arrive: none that was answered 200 is lost, none counts twice", async () => {
  await using postgres = await ownPostgres();
  await using at = await openShop({ backend: "postgres", servers: { postgres } });
  const now = Math.floor(at.clock.ms / 1000);
  const members = await people(at, 6);
  const events = members.flatMap(({ id }) => {
    const customer = new Customer(id);
    customer.buy("pro", now - 40 * 86_400);
    customer.renew(now - 10 * 86_400);
    return customer.events;
  });
  const waiting = [...events];
  const answered = new Set<string>();
  let refused = 0;
  let sent = 0;
  // As Stripe does: what is not answered 200 comes again.
  while (waiting.length > 0) {
    const event = waiting.shift();
    if (!event) break;
    sent += 1;
    if (sent === 12) await postgres.kill();
    if (sent === 40) await postgres.start();
    const response = await send(at, event);
    await response.text();
    if (response.status === 200) answered.add(event.id);
    else {
      expect(response.status).toBe(503);
      expect(response.headers.get("retry-after")).not.toBeNull();
      refused += 1;
      waiting.push(event);
      await Bun.sleep(20);
    }
  }
  expect(refused).toBeGreaterThan(10);
  expect(answered.size).toBe(events.length);
  await alpineOf(at).settle();
  const rows = await at.db().select().from(providerEvents);
  expect(rows.map(({ id }) => id).toSorted()).toEqual(events.map(({ id }) => id).toSorted());
  expect(rows.filter(({ appliedAt }) => appliedAt === null)).toEqual([]);
  const { currencies } = await new Shop(at).revenue();
  expect(currencies).toMatchObject([{ mrr_minor: 6 * 14_900, subscribers: 6 }]);
  expect(currencies[0]?.months.reduce((sum, { received_minor: minor }) => sum + minor, 0)).toBe(
    12 * 14_900,
  );
});
