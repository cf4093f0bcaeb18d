import { plans, type Tier, tiers, type UserRole } from "../../../db/alpine/schema";
import { delaySecondsMax, type Entitlement, fullView, viewOf } from "../../http/entitlement";
import type { Changes } from "../changes";
import type { Database } from "../database";
import type { PlanRow } from "./schema";

type Options = {
  db: () => Database;
  changes: Changes;
  /** How often administrators may read. */
  requestsPerMinute: number;
};

/** The plans as they are now, in process: nobody waits for a database to learn what they may. */
export class Plans {
  readonly #rows = new Map<Tier, PlanRow>();
  readonly #entitlements = new Map<Tier, Entitlement>();
  readonly #administrator: Entitlement;
  /** Plans are read one time after the other: an older reading must not overtake a newer one. */
  #reading: Promise<unknown> = Promise.resolve();

  constructor(private readonly options: Options) {
    this.#administrator = {
      view: fullView,
      quota: { name: "admin", limit: options.requestsPerMinute },
      streamsMax: Infinity,
      webhooksMax: Infinity,
      historyDays: null,
      export: true,
    };
    // Nothing is given away before the plans are known.
    for (const tier of tiers) this.#entitlements.set(tier, closed(tier));
    options.changes.onReload(() => this.#load());
    options.changes.listen(async (change) => {
      if (change.kind === "plan") await this.#load();
    });
  }

  /** The plans, cheapest tier first; empty until they were read once. */
  get all(): PlanRow[] {
    return tiers.map((tier) => this.#rows.get(tier)).filter((row) => row !== undefined);
  }

  /** What holders of this tier may: an object that is changed in place when the plan is. */
  entitlementOf(tier: Tier, role: UserRole): Entitlement {
    const held = role === "admin" ? undefined : this.#entitlements.get(tier);
    return held ?? this.#administrator;
  }

  #load(): Promise<void> {
    const done = this.#reading.then(() => this.#read());
    this.#reading = done.catch(() => undefined);
    return done;
  }

  async #read(): Promise<void> {
    for (const row of await this.options.db().select().from(plans)) {
      this.#rows.set(row.tier, row);
      const held = this.#entitlements.get(row.tier);
      if (held) Object.assign(held, entitlementOf(row));
    }
  }
}

const entitlementOf = (row: PlanRow): Entitlement => ({
  view: viewOf(row.premium, row.delaySeconds),
  quota: { name: row.tier, limit: row.requestsPerMinute },
  streamsMax: row.streamsMax,
  webhooksMax: row.webhooksMax,
  historyDays: row.historyDays,
  export: row.export,
});

const closed = (name: Tier): Entitlement => ({
  view: viewOf(false, delaySecondsMax),
  quota: { name, limit: 1 },
  streamsMax: 0,
  webhooksMax: 0,
  historyDays: 0,
  export: false,
});
