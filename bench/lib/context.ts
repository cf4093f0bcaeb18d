import type { Result } from "./result";

/** What a run was asked for. A quick run only shows that everything works. */
export type Context = {
  quick: boolean;
  rounds: number;
  secondsPerRound: number;
  /** Says what is going on, to the terminal only. */
  say: (line: string) => void;
};

export type Bench = { name: string; title: string; run(context: Context): Promise<Result> };
