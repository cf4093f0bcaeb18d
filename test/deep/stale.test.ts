/** The long form of test/faults/stale.test.ts: a million polls in all. */
import { expect, test } from "bun:test";
import { raceEngine, raceOwnCommits } from "../faults/stale.ts";

const POLLS = 330_000;

for (const rate of [1, 100, 1_000]) {
  test(`no stale poll in ${POLLS} while the engine commits ${rate} times a second`, async () => {
    const result = await raceEngine({ rate, polls: POLLS, commits: 1, secondsMin: 5 });
    console.log(`${rate}/s: ${result.polls} polls, ${result.commits} commits`);
    expect(result.stale).toEqual([]);
    expect(result.polls).toBeGreaterThanOrEqual(POLLS);
  }, 300_000);
}

test("no stale poll in 100,000 right behind a commit of the poller's own", async () => {
  const result = await raceOwnCommits(100_000);
  expect(result.stale).toEqual([]);
}, 300_000);
