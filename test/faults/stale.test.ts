/** A poll that begins after a commit has returned shows that commit. */
import { expect, test } from "bun:test";
import { raceEngine, raceOwnCommits, type RaceResult } from "./stale.ts";

function print(name: string, result: RaceResult): void {
  const { polls, unmodified, commits, stale, durationMs } = result;
  const seconds = (durationMs / 1_000).toFixed(1);
  console.log(
    `${name}: ${polls} polls (${unmodified} of them 304), ${commits} commits, ${stale.length} stale, ${seconds} s`,
  );
}

for (const rate of [1, 100, 1_000]) {
  test(`no stale poll while the engine commits ${rate} times a second`, async () => {
    // Two seconds of it; on a machine that is busy the engine gets to a part of that.
    const commits = Math.ceil(rate / 5) + 1;
    const result = await raceEngine({
      rate,
      polls: 8_000,
      commits,
      secondsMin: rate === 1 ? 3 : 2,
    });
    print(`${rate}/s`, result);
    expect(result.stale).toEqual([]);
    expect(result.polls).toBeGreaterThanOrEqual(8_000);
    expect(result.commits).toBeGreaterThanOrEqual(commits);
  });
}

test("no stale poll right behind a commit of the poller's own", async () => {
  const result = await raceOwnCommits(8_000);
  print("own commits", result);
  expect(result.stale).toEqual([]);
  expect(result.commits).toBeGreaterThanOrEqual(8_000);
});
