import type { Logger } from "../../platform/log";
import { arrivedAfter } from "./due";
import type { FarReader } from "./far";
import { aheadOf } from "./feed";
import type { SignalReader } from "./store";

const countMax = 100;

type Deps = { reader: SignalReader; far: FarReader; log: Logger; now: () => number };

/** Signals from a clock that is ahead of this one, at most 100 counted; looked at now and then. */
export class Ahead {
  /** Newest ones by their own timestamps: they pin the top. */
  dated = 0;
  /** By their arrival: streams of plans with a delay do not wait for them, and pass them over. */
  arrived = 0;

  constructor(private readonly deps: Deps) {}

  async count(): Promise<void> {
    const { reader, far, log, now } = this.deps;
    const bound = aheadOf(now());
    try {
      const arrived = arrivedAfter(reader, bound, countMax);
      if (this.arrived === 0 && arrived > 0) {
        log.warn(
          {
            signals: arrived,
            fix: "Correct the clocks. Lists show these signals when they fall due.",
          },
          "signals arrived more than 300 s ahead of the clock: streams and exports of plans with a delay pass them over",
        );
      }
      this.arrived = arrived;
      this.dated = await far.datedAfter(bound.slice(0, 19), countMax);
    } catch (error) {
      log.debug({ reason: String(error) }, "signals from a clock ahead not counted");
    }
  }
}
