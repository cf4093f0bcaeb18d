import { afterAll, beforeAll, expect, test } from "bun:test";
import { BACKEND, serveAccounts, type ServedAccounts } from "../harness/accounts.ts";
import { until } from "../harness/process.ts";
import { bot, noPython } from "./bot.ts";
import { follow } from "./follow.ts";
import { reader } from "./serve.ts";

let at: ServedAccounts;
beforeAll(async () => {
  at = await serveAccounts("source", BACKEND, { SIGNALS_ACCESS: "key" });
});
afterAll(() => at[Symbol.asyncDispose]());

test("a key that is revoked, and a newer stream on a plan of one, end it with an error", async () => {
  const { url } = at.server;
  const member = await at.member();
  const made = await at.must<{ id: string; key: string }>(
    201,
    "POST",
    "/api/keys",
    { name: "bot", scopes: ["signals:read"] },
    member.access,
  );
  const argo = reader(url, { token: made.key });
  const first = follow(argo);
  await until(() => first.notices.length > 0, "the first");
  await using second = follow(argo);
  const error = await first.done.catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ name: "StreamEndedError", reason: "replaced", cursor: 0 });
  await at.must(204, "DELETE", `/api/keys/${made.id}`, undefined, member.access);
  const shutOut = await second.done.catch((thrown: unknown) => thrown);
  expect(shutOut).toMatchObject({ name: "StreamEndedError", reason: "unauthorized" });
  // Who has the next token at hand asks once more; this one has none.
  await using renewing = follow(reader(url, { token: () => made.key }));
  const refused = await renewing.done.catch((thrown: unknown) => thrown);
  expect(refused).toMatchObject({ name: "ArgoError", status: 401 });
});

test.skipIf(noPython)(
  "the Python client is told when its key is revoked, and when a newer stream takes its place",
  async () => {
    const { url } = at.server;
    const member = await at.member();
    const body = { name: "bot", scopes: ["signals:read"] };
    type Made = { id: string; key: string };
    const made = await at.must<Made>(201, "POST", "/api/keys", body, member.access);
    await using first = bot("stream", url, made.key, "7");
    await first.has(1, "type");
    await using second = bot("stream", url, made.key);
    await first.has(1, "ended");
    await second.has(1, "type");
    await at.must(204, "DELETE", `/api/keys/${made.id}`, undefined, member.access);
    await second.has(1, "ended");
    expect(first.told).toEqual([
      { type: "ahead", id: 0 },
      { ended: "replaced", cursor: 0 },
    ]);
    expect(second.told.at(-1)).toEqual({ ended: "unauthorized", cursor: 0 });
  },
);
