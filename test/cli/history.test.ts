import { expect, test } from "bun:test";
import { IdMap } from "../../src/cli/history.ts";
import { randomNumbers } from "../harness/seed.ts";

test("ids are found again: in runs, across gaps, out of order, and none that was not there", () => {
  const random = randomNumbers();
  const ids = new IdMap();
  const known = new Map<number, number>();
  for (let n = 0, old = 0, now = 0; n < 5_000; n += 1) {
    old += random() < 0.9 ? 1 : Math.ceil(random() * 50);
    now += random() < 0.95 ? 1 : Math.ceil(random() * 50);
    const key = random() < 0.02 ? Math.floor(random() * old) : old;
    ids.set(key, now);
    known.set(key, now);
  }
  const highest = Math.max(...known.keys());
  for (let old = -1; old <= highest + 1; old += 1)
    expect(ids.get(old)).toBe(known.get(old) ?? null);
  expect(new IdMap().get(1)).toBe(null);
});
