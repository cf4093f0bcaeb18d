import { lateMsMax } from "../../argo/origin/status";
import { fullView, type View } from "../../http/entitlement";
import type { Database } from "../database";
import type { Plans } from "../plans/registry";
import { enqueue, highestPlace, lowestPlace, rewindPlaces } from "./enqueue";
import type { FollowedView, SignalSource } from "./source";

type Options = {
  db: () => Database;
  plans: Plans;
  source: SignalSource;
  now: () => number;
  /** Called when there is something to send. */
  onEnqueued: () => void;
  /** Called with what keeps a view from being followed; it is tried again. */
  onFault: (error: unknown) => void;
};

/** Signals in one step. */
const signalsAtOnce = 50;
/** All views are looked through this often, also those of which nothing new was heard. */
const throughEveryMs = 10_000;

/**
 * Hands signals to the webhooks whose owners see them, in the order of ids and as soon as each view
 * shows them: each view is followed while there is an enabled webhook.
 */
export class WebhookOutbox {
  readonly #feeders = new Map<View, Feeder>();
  #throughAt = -Infinity;
  #belowSince: number | null = null;

  constructor(private readonly options: Options) {}

  /** To be called every second or so: for what nothing tells of. @throws AppError 503. */
  async look(): Promise<void> {
    const { db, plans } = this.options;
    const highest = await highestPlace(db());
    const views = new Set<View>();
    if (highest !== null) {
      views.add(fullView);
      for (const { tier } of plans.all) views.add(plans.entitlementOf(tier, "user").view);
      await this.#lookForRewind(highest);
    }
    const through = performance.now() - this.#throughAt > throughEveryMs;
    if (through) this.#throughAt = performance.now();
    for (const [view, feeder] of this.#feeders) {
      if (views.has(view)) continue;
      this.#feeders.delete(view);
      feeder.close();
    }
    for (const view of views) {
      const feeder = this.#feeders.get(view) ?? new Feeder(view, this.options);
      this.#feeders.set(view, feeder);
      if (through) feeder.doubt();
    }
    await Promise.all([...this.#feeders.values()].map((feeder) => feeder.feed()));
  }

  /** Owners see something else now: all is looked through at the next look. */
  doubt(): void {
    this.#throughAt = -Infinity;
  }

  async close(): Promise<void> {
    for (const feeder of this.#feeders.values()) feeder.close();
    await Promise.all([...this.#feeders.values()].map((feeder) => feeder.feeding));
    this.#feeders.clear();
  }

  /** Ids below what was handed over tell of a table that was made anew, where that lasts. */
  async #lookForRewind(highest: number): Promise<void> {
    const { db, source } = this.options;
    const maxId = await source.maxId();
    if (maxId >= highest || (await source.isLate())) this.#belowSince = null;
    else this.#belowSince ??= performance.now();
    if (this.#belowSince === null || performance.now() - this.#belowSince < lateMsMax) return;
    this.#belowSince = null;
    await rewindPlaces(db(), maxId);
  }
}

/** Hands over what one view shows. */
class Feeder {
  feeding: Promise<void> | null = null;
  #followed: FollowedView | null = null;
  /** Up to there nobody waits for anything. */
  #fedTo = -1;
  #again = false;
  #closed = false;

  constructor(
    private readonly view: View,
    private readonly options: Options,
  ) {}

  doubt(): void {
    this.#fedTo = -1;
  }

  /** One run at a time; asked meanwhile, it runs once more. Faults are told, and tried again. */
  feed(): Promise<void> {
    if (this.feeding) {
      this.#again = true;
      return this.feeding;
    }
    this.feeding = this.#feed()
      .catch(this.options.onFault)
      .finally(() => {
        this.feeding = null;
      });
    return this.feeding;
  }

  close(): void {
    this.#closed = true;
    this.#followed?.close();
    this.#followed = null;
  }

  async #feed(): Promise<void> {
    let more = true;
    while (!this.#closed && (more || this.#again)) {
      this.#again = false;
      const followed = await this.#open();
      more = followed !== null && (await this.#step(followed));
    }
  }

  async #open(): Promise<FollowedView | null> {
    if (this.#followed?.ended) {
      this.#followed.close();
      this.#followed = null;
    }
    this.#followed ??= await this.options.source.follow(this.view, () => void this.feed());
    if (!this.#closed) return this.#followed;
    this.close();
    return null;
  }

  /** @returns whether there may be more. */
  async #step(followed: FollowedView): Promise<boolean> {
    const { view } = this;
    const { db, now, onEnqueued } = this.options;
    const position = await followed.position();
    if (position === this.#fedTo) return false;
    const place = await lowestPlace(db(), view, position);
    if (place === null) {
      this.#fedTo = position;
      return false;
    }
    const slice = await followed.after(place, signalsAtOnce);
    // Rows were deleted meanwhile.
    if (slice.untilId <= place) return false;
    if ((await enqueue(db(), view, place, slice, now())) > 0) onEnqueued();
    return true;
  }
}
