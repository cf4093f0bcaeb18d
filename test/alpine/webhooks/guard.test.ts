/** Where signals may not be sent, asked over the API (H6); the table of addresses is outbound.test.ts. */
import { expect, test } from "bun:test";
import { sql } from "drizzle-orm";
import { openAccounts } from "../../harness/accounts.ts";
import { fieldsOf } from "../../harness/app.ts";
import { forgetExpired } from "../../../src/alpine/retention.ts";
import { receiver, World } from "./receiver.ts";

test("what leads inside is refused by its field; what came to lead there is a failed attempt", async () => {
  await using at = await openAccounts({ now: Date.now() });
  await using bot = receiver();
  await using world = await World.open(at);
  const { port } = new URL(bot.url);
  for (const host of ["127.0.0.1", "localhost", "[::1]", "2130706433", "169.254.169.254"]) {
    const body = { url: `https://${host}:${port}/` };
    const response = await at.call("POST", "/api/webhooks", body, world.member.access);
    expect([host, response.status, ...(await fieldsOf(response))]).toEqual([host, 422, "url"]);
  }
  const plain = await at.call("POST", "/api/webhooks", { url: bot.url }, world.member.access);
  expect(plain.status).toBe(422);
  const hook = await world.hook("https://8.8.8.8/");
  const changed = await at.call(
    "PATCH",
    `/api/webhooks/${hook.id}`,
    { url: bot.url },
    await world.access(),
  );
  expect([changed.status, ...(await fieldsOf(changed))]).toEqual([422, "url"]);
  // As if the operator had allowed it before, or the name had led elsewhere then.
  const lead = (url: string) => at.db().execute(sql`UPDATE webhooks SET url = ${url}`);
  await lead(`https://localhost:${port}/`);
  await world.post();
  await world.send();
  const inside = "must not lead to an address that is not public";
  expect(await world.log(hook.id)).toMatchObject([
    { status: "waiting", attempts: 1, last_status: null, last_error: inside },
  ]);
  expect(await world.ask("POST", `${hook.id}/test`)).toMatchObject({ last_error: inside });
  await lead(bot.url);
  const insecure = { last_error: "must begin with https://" };
  expect(await world.ask("POST", `${hook.id}/test`)).toMatchObject(insecure);
  expect(bot.got).toEqual([]);

  // The log is forgotten a week after it ended; what waits stays.
  expect(await world.log(hook.id)).toHaveLength(3);
  await forgetExpired(at.db(), at.clock.ms + 8 * 86_400_000);
  expect((await world.log(hook.id)).map(({ status }) => status)).toEqual(["waiting"]);
});
