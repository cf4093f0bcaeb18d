import { test } from "bun:test";
import { seekLeaks } from "./leaks.ts";

test("no plan is shown what it may not see, nor early, while rows come and change", async () => {
  await seekLeaks(25_000);
});
