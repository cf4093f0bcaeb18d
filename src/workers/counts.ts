import { windowMs } from "../http/limit";

type Held = { start: number; current: number; previous: number };

const wordsPerKey = 5;

/**
 * The windows of all workers in the supervisor's memory, for those who have no Redis: what the
 * script of `http/share.ts` does there, step by step.
 */
export class SharedCounts {
  #young = new Map<string, Held>();
  #old = new Map<string, Held>();
  #turnedAt = 0;

  constructor(
    private readonly keysMax: number,
    /** Milliseconds that only go forward. */
    private readonly now: () => number,
  ) {}

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  /**
   * For each key five numbers: its limit, let in since the last time, and the window as the worker
   * knows it: elapsed ms, current, previous. Gives elapsed, current, previous of each.
   */
  exchange(keys: readonly string[], numbers: readonly number[]): number[] {
    const now = this.now();
    return keys.flatMap((key, i) => {
      const [, letIn = 0, elapsed = 0, current = 0, previous = 0] = numbers.slice(
        wordsPerKey * i,
        wordsPerKey * (i + 1),
      );
      let held = this.#held(key, now);
      if (held && now - held.start < 2 * windowMs) {
        turn(held, now);
        held.current += letIn;
      } else {
        // Unknown here, as after a restart of the supervisor: it goes on as the worker knows it.
        held = { start: now - elapsed, current, previous };
        turn(held, now);
      }
      this.#young.set(key, held);
      return [now - held.start, held.current, held.previous];
    });
  }

  /** Two generations: what was not told for as long as it counts goes as a whole. */
  #held(key: string, now: number): Held | undefined {
    if (now - this.#turnedAt >= 2 * windowMs || this.#young.size >= this.keysMax / 2) {
      this.#old = this.#young;
      this.#young = new Map();
      this.#turnedAt = now;
    }
    const held = this.#young.get(key) ?? this.#old.get(key);
    this.#old.delete(key);
    return held;
  }
}

function turn(held: Held, now: number): void {
  if (now - held.start < windowMs) return;
  held.start += windowMs;
  held.previous = held.current;
  held.current = 0;
}
