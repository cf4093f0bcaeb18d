import type { Context } from "./context";

/**
 * Takes one sample of every variant, round by round (A B C A B C …), so that a slow moment of the
 * machine falls on all of them. One unrecorded round warms up.
 */
export async function interleave<T>(
  context: Context,
  variants: ReadonlyArray<{ name: string; round(seconds: number): Promise<T> }>,
  rounds = context.rounds,
  seconds = context.secondsPerRound,
): Promise<Map<string, T[]>> {
  const samples = new Map<string, T[]>(variants.map(({ name }) => [name, []]));
  for (const variant of variants) await variant.round(Math.min(1, seconds));
  for (let round = 1; round <= rounds; round += 1) {
    context.say(`  round ${round} of ${rounds}`);
    for (const variant of variants) {
      samples.get(variant.name)?.push(await variant.round(seconds));
    }
  }
  return samples;
}
