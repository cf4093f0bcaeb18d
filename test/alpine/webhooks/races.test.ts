/** What is asked for while somebody else changes the same webhook. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { stopWebhook } from "../../../src/alpine/webhooks/stop.ts";
import { type Accounts, openAccounts } from "../../harness/accounts.ts";
import { receiver, World } from "./receiver.ts";

let at: Accounts;
beforeAll(async () => {
  // The file notes by the real clock when a signal arrived.
  at = await openAccounts({ now: Date.now(), env: { WEBHOOKS_ALLOW_PRIVATE: "true" } });
});
afterAll(() => at[Symbol.asyncDispose]());

test("what is replayed while its webhook is stopped does not wait for ever", async () => {
  await using bot = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  const first = await world.post();
  await world.send();
  const [delivery] = await world.log(hook.id);
  const paths = [
    [`${hook.id}/replay`, { since_id: first - 1 }],
    [`${hook.id}/deliveries/${delivery?.id}/replay`, undefined],
  ] as const;
  for (const [path, body] of paths) {
    const stopped = Promise.withResolvers<void>();
    const over = Promise.withResolvers<void>();
    const stopping = at.db().transaction(async (tx) => {
      expect(await stopWebhook(tx, hook.id, "owner", at.clock.ms)).toBe(true);
      stopped.resolve();
      await over.promise;
    });
    await stopped.promise;
    const replayed = world.ask("POST", path, body, 202).catch(() => undefined);
    await Bun.sleep(150);
    over.resolve();
    await Promise.all([stopping, replayed]);
    expect(await world.log(hook.id, "?status=waiting")).toEqual([]);
    await world.ask("PATCH", hook.id, { status: "enabled" });
  }
});

test("a test that is answered 410 says nothing of the address that was named meanwhile", async () => {
  await using bot = receiver();
  await using other = receiver();
  await using world = await World.open(at);
  const hook = await world.hook(bot.url);
  const asked = Promise.withResolvers<void>();
  const release = Promise.withResolvers<Response>();
  bot.answer = () => {
    asked.resolve();
    return release.promise;
  };
  const tested = world.ask("POST", `${hook.id}/test`);
  await asked.promise;
  await world.ask("PATCH", hook.id, { url: other.url });
  release.resolve(new Response("", { status: 410 }));
  await tested;
  expect((await world.get(hook.id)).status).toBe("enabled");
});
