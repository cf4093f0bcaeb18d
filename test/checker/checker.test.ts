/** The checker for a moment, on signals alone; test/deep has it for long and against everything. */
import { expect, test } from "bun:test";
import { SEED, tellSeed } from "../harness/seed.ts";
import { check, faultsOf, plan } from "./run.ts";
import { numbersOf } from "./stage.ts";

test("through kills, restarts and cuts nothing is lost, doubled, reordered or wrongly shown", async () => {
  tellSeed();
  const checked = await check({ seed: SEED, seconds: 3, against: "one", accounts: false });
  console.log(checked.summary);
  expect(faultsOf(checked.verdict)).toEqual([]);
  expect(checked.acknowledged).toBeGreaterThan(10);
});

test("the same seed breaks the same things, another one others", () => {
  const of = (seed: number): unknown[] => {
    const planned = plan(numbersOf(seed, "servers"), ["kill", "restart", "freeze"]);
    return Array.from({ length: 20 }, () => planned.next().value);
  };
  expect(of(7)).toEqual(of(7));
  expect(of(7)).not.toEqual(of(8));
});
