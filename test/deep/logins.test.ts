/** The long form of test/faults/logins.test.ts. */
import { test } from "bun:test";
import { testLogins } from "../faults/logins.ts";

test("200 logins a second for a minute", async () => {
  await testLogins(20);
}, 300_000);
