/** What the actors of one run share. */
import { randomNumbers } from "../harness/seed.ts";
import type { Ledger, Reader } from "./ledger.ts";

export interface Stage {
  ledger: Ledger;
  readers: readonly Reader[];
  writeHeaders: Record<string, string>;
  /** Where the next request goes: to the servers themselves, or over links that are cut. */
  url: (random: () => number) => string;
  /** Servers may be behind what was acknowledged, but for a read that names an id. */
  copies: boolean;
  /** Producers make nothing new. */
  over: () => boolean;
  /** The last id that this client has to come to; null while that is not known. */
  target: (sequence: { reader: Reader; filter: object; fromId: number }) => number | null;
  /** Nobody waits any longer, for whatever is missing. */
  late: () => boolean;
  counts: Counts;
}

/** What a run came to, for its summary. */
export interface Counts {
  /** Connections that clients cut by themselves. */
  cuts: number;
  polls: number;
  unmodified: number;
  lists: number;
  retries: number;
}

/** Numbers of one actor's own: what it does is not moved by how fast the others are. */
export function numbersOf(seed: number, actor: string): () => number {
  return randomNumbers(Number(BigInt.asUintN(32, Bun.hash.wyhash(`${seed} ${actor}`))));
}

export const below = (random: () => number, n: number): number => Math.floor(random() * n);

export const pick = <T>(random: () => number, from: readonly T[]): T =>
  from[below(random, from.length)] as T;
