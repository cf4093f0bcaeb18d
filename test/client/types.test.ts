import { expect, test } from "bun:test";
import { startServer } from "../harness/process.ts";
import { TYPES, typesOf } from "./generate.ts";

test("the client's types are those of the server's routes", async () => {
  await using server = await startServer({ role: "all", args: ["--embedded"] });
  const stale = (await typesOf(server.url)) !== (await Bun.file(TYPES).text());
  expect(stale && "client/src/api.ts is not of this server: bun run client:types").toBe(false);
});
