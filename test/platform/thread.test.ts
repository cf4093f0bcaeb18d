import { describe, expect, test } from "bun:test";
import { AppError } from "../../src/errors.ts";
import { Thread } from "../../src/platform/thread.ts";

const events: string[] = [];
const open = (): Thread =>
  new Thread({
    module: "../test/platform/dying.worker",
    start: "here",
    pendingMax: 4,
    onEvent: (event) => events.push(event),
  });

const failure = (call: Promise<unknown>): Promise<unknown> =>
  call.then(
    () => null,
    (error: unknown) => error,
  );

describe("a thread", () => {
  test.each([
    ["throw", "died", "A thread of the server died."],
    ["exit", "ended", "A thread of the server ended."],
  ])(
    "that dies (%s) fails what it was asked, and the next call starts another",
    async (way, event, detail) => {
      const thread = open();
      try {
        for (let round = 0; round < 3; round += 1) {
          events.length = 0;
          expect(await thread.call<unknown>("echo", round)).toEqual(["here", round]);
          const waiting = failure(thread.call("silence", null));
          const killing = failure(thread.call(way, null));
          for (const error of [await killing, await waiting]) {
            expect(error).toBeInstanceOf(AppError);
            expect(error).toMatchObject({ code: "unavailable", detail });
          }
          expect(events).toContain(event);
        }
        // What failed no longer counts as waiting.
        const all = Array.from({ length: 4 }, (_, i) => thread.call<unknown>("echo", i));
        expect(await Promise.all(all)).toEqual([0, 1, 2, 3].map((i) => ["here", i]));
      } finally {
        await thread.end();
      }
    },
  );

  test("takes so many calls and no more", async () => {
    const thread = open();
    const calls = Array.from({ length: 4 }, () => failure(thread.call("silence", null)));
    expect(await failure(thread.call("echo", 1))).toBeInstanceOf(AppError);
    await thread.end();
    for (const error of await Promise.all(calls)) expect(error).toBeInstanceOf(AppError);
  });
});
