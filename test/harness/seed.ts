/** Random tests that can be had again: the seed is printed, and taken from TEST_SEED. */

/** The seed of this run. */
export const SEED = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

let told = false;

/** Settings of fast-check for so many runs; prints the seed once. */
export function seeded(numRuns: number): { seed: number; numRuns: number } {
  tellSeed();
  return { seed: SEED, numRuns };
}

export function tellSeed(): void {
  if (!told) console.log(`TEST_SEED=${SEED}`);
  told = true;
}

/** Numbers from 0 up to 1, the same for the same seed (mulberry32). */
export function randomNumbers(seed = SEED): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
