/** The statement that hands signals over, by itself. */
import { expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { plans, webhookMessages, webhooks } from "../../../db/alpine/schema.ts";
import { enqueue, lowestPlace } from "../../../src/alpine/webhooks/enqueue.ts";
import { localSource } from "../../../src/alpine/webhooks/source.ts";
import { fullView, viewOf } from "../../../src/http/entitlement.ts";
import { openAccounts } from "../../harness/accounts.ts";
import { people } from "../people.ts";
import { World } from "./receiver.ts";

test("a slice goes to those who stand at its beginning and see it, once, whoever hands it over", async () => {
  await using at = await openAccounts({ env: { WEBHOOKS_ALLOW_PRIVATE: "true" } });
  await using world = await World.open(at);
  await at.db().update(plans).set({ premium: false, delaySeconds: 0 }).where(eq(plans.tier, "pro"));
  const [pro] = await people(at, 1, { tier: "pro" });
  const [admin] = await people(at, 1, { tier: "starter", role: "admin" });
  const url = "http://127.0.0.1:1/";
  const elite = await world.hook(url);
  const ahead = await world.hook(url);
  const paused = await world.hook(url);
  const shut = await world.hook(url, {}, pro);
  const whole = await world.hook(url, {}, admin);
  const place = (id: string, to: number) =>
    at.db().update(webhooks).set({ place: to }).where(eq(webhooks.id, id));
  await place(ahead.id, 3);
  await at.db().update(webhooks).set({ status: "paused" }).where(eq(webhooks.id, paused.id));
  const { reader, far, feed, views } = at.app.deps.argo;
  // A copy that misses something says nothing of what is gone, and one that does not says all.
  const isLate = (current: boolean) =>
    localSource({ reader, far, feed, views, node: { current } }).isLate();
  expect([isLate(false), isLate(true)]).toEqual([true, false]);
  const line = (id: number) => JSON.stringify({ id, symbol: "SPX", strategy: "s", confidence: 99 });
  const slice = { lines: [line(1), line(2)], untilId: 2 };
  const given = async () => {
    const rows = await at.db().select().from(webhookMessages);
    const places = await at.db().select().from(webhooks);
    return [elite, ahead, paused, shut, whole].map(({ id }) => [
      rows.filter(({ webhookId }) => webhookId === id).length,
      places.find((row) => row.id === id)?.place,
    ]);
  };
  const modest = viewOf(false, 0);
  const premium = viewOf(true, 0);
  expect(premium).toBe(fullView);
  expect(await lowestPlace(at.db(), fullView, 2)).toBe(0);
  const hand = () => enqueue(at.db(), fullView, 0, slice, at.clock.ms);
  const made = await Promise.all([hand(), hand(), hand(), hand()]);
  expect(made.toSorted()).toEqual([0, 0, 0, 4]);
  expect(await given()).toEqual([
    [2, 2],
    [0, 3],
    [0, 0],
    [0, 0],
    [2, 2],
  ]);
  expect(await lowestPlace(at.db(), fullView, 2)).toBeNull();
  expect(await lowestPlace(at.db(), modest, 2)).toBe(0);
  expect(await enqueue(at.db(), modest, 0, { lines: [], untilId: 2 }, at.clock.ms)).toBe(0);
  expect((await given())[3]).toEqual([0, 2]);
});
