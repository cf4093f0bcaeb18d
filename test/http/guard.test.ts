import { expect, spyOn, test } from "bun:test";
import { Guard } from "../../src/http/guard.ts";
import { READ_TOKEN } from "../harness/app.ts";

test("a good header is remembered, in its one spelling", () => {
  const guard = new Guard({
    access: "key",
    accessImplied: false,
    serviceTokens: [],
    readTokens: [READ_TOKEN],
    writeTokens: [],
    trustProxyHops: 0,
  });
  const hashing = spyOn(Bun.CryptoHasher.prototype, "update");
  /** How many hashes it costs to let a spelling in. */
  const cost = (start: string): number => {
    hashing.mockClear();
    guard.reader(new Headers({ Authorization: `${start}${READ_TOKEN}` }));
    return hashing.mock.calls.length;
  };
  try {
    expect(cost("Bearer ")).toBe(1);
    expect(cost("Bearer ")).toBe(0);
    // Else a holder of one token could fill the memory with spellings of it.
    for (const start of ["bearer ", "Bearer  ", `BEARER${" ".repeat(99)}`]) {
      expect(cost(start)).toBe(1);
      expect(cost(start)).toBe(1);
    }
  } finally {
    hashing.mockRestore();
  }
});
