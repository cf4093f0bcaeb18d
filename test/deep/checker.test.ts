/** The checker for long, with accounts: what is read, written and broken is in test/checker. */
import { expect, test } from "bun:test";
import { AGAINST, check, faultsOf } from "../checker/run.ts";
import { SEED, tellSeed } from "../harness/seed.ts";

const SECONDS = Number(process.env["CHECKER_SECONDS"] ?? 60);

for (const against of AGAINST) {
  test(`${against} for ${SECONDS} s`, async () => {
    tellSeed();
    const checked = await check({ seed: SEED, seconds: SECONDS, against, accounts: true });
    console.log(checked.summary);
    expect(faultsOf(checked.verdict)).toEqual([]);
  }, 1_200_000);
}
