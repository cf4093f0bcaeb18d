/** Whether polls went on while something else was slow. */
import { expect } from "bun:test";
import { type Phase, quantile } from "./harness.ts";

/**
 * Polls that wait for something take as long as it does, all of them: of a thousand a second a few
 * are left. What else a busy machine does to them is far from that, also where it stands still.
 */
export function expectFlow(meanwhile: Phase, quiet: Phase): void {
  expect(meanwhile.perSecond).toBeGreaterThan(quiet.perSecond / 20);
  expect(quantile(meanwhile.durationsMs, 0.5)).toBeLessThan(50);
  expect(quantile(meanwhile.durationsMs, 1)).toBeLessThan(5_000);
}
