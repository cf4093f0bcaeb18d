/** One row of "what it must reach". `met` is null when it could not be measured. */
export type Figure = {
  name: string;
  target: string;
  measured: string;
  met: boolean | null;
};

export type Table = { title: string; columns: string[]; rows: string[][] };

export type Result = {
  figures: Figure[];
  tables: Table[];
  /** What a reader has to know to judge the figures. */
  notes: string[];
  /** Peers and tools that could not be had, with the reason. */
  missing: string[];
};

/** A result with nothing in it yet. */
export function emptyResult(): Result {
  return { figures: [], tables: [], notes: [], missing: [] };
}

/** A figure that could not be measured, and why. */
export function unmeasured(name: string, target: string, reason: string): Figure {
  return { name, target, measured: `not measured: ${reason}`, met: null };
}
