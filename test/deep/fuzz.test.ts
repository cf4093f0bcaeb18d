/** The long form of test/alpine/fuzz.test.ts. */
import { expect, test } from "bun:test";
import { AccountsFuzz } from "../alpine/fuzzing.ts";

test("100,000 random requests to the control plane: no 5xx, every refusal a problem (H3)", async () => {
  const fuzz = await AccountsFuzz.open();
  await using _at = fuzz.at;
  await fuzz.sweep();
  await fuzz.run(100_000, 0.03);
  fuzz.expectReached();
  expect((await fuzz.at.app.get("/readyz")).status).toBe(200);
}, 1_800_000);
