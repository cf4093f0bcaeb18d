/** The long form of test/faults/leaks.test.ts. */
import { test } from "bun:test";
import { seekLeaks } from "../faults/leaks.ts";

test("no leak in 1,000,000 polls of mixed plans", async () => {
  await seekLeaks(1_000_000);
}, 1_800_000);
