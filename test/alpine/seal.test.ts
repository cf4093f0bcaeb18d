import { expect, test } from "bun:test";
import fc from "fast-check";
import { Seal } from "../../src/alpine/seal.ts";
import { seeded } from "../harness/seed.ts";

const [old, current] = ["o".repeat(32), "c".repeat(32)];
const seal = new Seal([current], "second factor");

test("what is sealed opens for its owner, and never looks the same twice", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.string(), (text, owner) => {
      const sealed = seal.seal(text, owner);
      const whole = Buffer.from(text).toString();
      expect(seal.open(sealed, owner)).toBe(whole);
      expect(seal.seal(text, owner)).not.toEqual(sealed);
    }),
    seeded(200),
  );
});

test("a secret that was replaced still opens, and seals no more", () => {
  const before = new Seal([old], "second factor").seal("text", "owner");
  const both = new Seal([current, old], "second factor");
  expect(both.open(before, "owner")).toBe("text");
  expect(seal.open(before, "owner")).toBeNull();
  expect(seal.open(both.seal("text", "owner"), "owner")).toBe("text");
});

test("nothing else opens: another owner, another use, a changed or cut text", () => {
  const sealed = seal.seal("text", "owner");
  expect(seal.open(sealed, "other")).toBeNull();
  expect(new Seal([current], "cursor").open(sealed, "owner")).toBeNull();
  for (let at = 0; at < sealed.length; at += 1) {
    const changed = Uint8Array.from(sealed);
    changed[at] = (changed[at] ?? 0) ^ 1;
    expect(seal.open(changed, "owner")).toBeNull();
    expect(seal.open(sealed.subarray(0, at), "owner")).toBeNull();
  }
});
