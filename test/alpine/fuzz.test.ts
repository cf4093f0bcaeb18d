import { expect, test } from "bun:test";
import { AccountsFuzz } from "./fuzzing.ts";

const REQUESTS = Number(process.env["FUZZ_REQUESTS"] ?? 2_400);

test(`${REQUESTS} random requests to the control plane: no 5xx, every refusal a problem (H3)`, async () => {
  const fuzz = await AccountsFuzz.open();
  await using _at = fuzz.at;
  await fuzz.sweep();
  await fuzz.run(REQUESTS);
  fuzz.expectReached();
  expect((await fuzz.at.app.get("/readyz")).status).toBe(200);
  expect(Object.keys(Object.prototype)).toEqual([]);
});
