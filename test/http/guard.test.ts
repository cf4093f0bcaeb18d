import { expect, spyOn, test } from "bun:test";
import { Guard } from "../../src/http/guard.ts";
import { READ_TOKEN } from "../harness/app.ts";

test("a good header is remembered, and at most a thousand of them", () => {
  const guard = new Guard({
    access: "key",
    accessImplied: false,
    readTokens: [READ_TOKEN],
    writeTokens: [],
    trustProxyHops: 0,
  });
  const hashing = spyOn(Bun.CryptoHasher.prototype, "update");
  /** How many hashes it costs to let the spelling of this number in. */
  const cost = (spelling: number): number => {
    hashing.mockClear();
    guard.reader(new Headers({ Authorization: `Bearer${" ".repeat(1 + spelling)}${READ_TOKEN}` }));
    return hashing.mock.calls.length;
  };
  try {
    for (let i = 0; i < 1_000; i += 1) expect(cost(i)).toBe(1);
    for (let i = 0; i < 1_000; i += 1) expect(cost(i)).toBe(0);
    // One more, and the first has to be looked at again.
    expect(cost(1_000)).toBe(1);
    expect(cost(0)).toBe(1);
    expect(cost(1_000)).toBe(0);
  } finally {
    hashing.mockRestore();
  }
});
