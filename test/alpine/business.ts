/**
 * A small business as it would be kept in a notebook: what each account has, what it pays, what
 * came in. Written from the rules alone; it shares no code with what it is compared to.
 */

export type TierName = "starter" | "pro" | "elite";
export const TIERS: TierName[] = ["starter", "pro", "elite"];

export interface Offer {
  cents: number;
  currency: string;
  every: "month" | "year";
  trialDays: number;
}

interface Bill {
  for: "start" | "renewal" | "upgrade";
  tier: TierName;
  /** What a whole period costs once it is paid. */
  whole: number;
  cents: number;
  currency: string;
}

export interface Contract {
  number: number;
  state: "waiting" | "trial" | "paid" | "late";
  /** Somebody has paid for it at least once. */
  proven: boolean;
  tier: TierName;
  cents: number;
  currency: string;
  every: "month" | "year";
  start: number;
  end: number;
  anchor: number;
  /** How many months after the anchor it ends. */
  months: number;
  grace: number;
  cancelled: boolean;
  next: TierName | null;
  bill: Bill | null;
}

export interface Customer {
  number: number;
  joined: number;
  contract: Contract | null;
  hadContract: boolean;
  hasEarned: boolean;
  grant: TierName | null;
  charges: { contract: number; cents: number; back: number; currency: string }[];
  left: boolean;
}

type Worth = { tier: TierName; currency: string; cents: number } | null;
interface Movement {
  customer: number;
  at: number;
  month: string;
  kind: "new" | "reactivation" | "expansion" | "contraction" | "churned";
  currency: string;
  cents: number;
  contract: number;
}
interface Cash {
  month: string;
  kind: "received" | "refunded";
  currency: string;
  cents: number;
}

const DAY = 24 * 3600 * 1000;
const monthOf = (at: number): string => new Date(at).toISOString().slice(0, 7);

/** So many months after a moment, by the calendar on the wall. */
function calendar(anchor: number, months: number): number {
  const text = new Date(anchor).toISOString();
  const [year, month, day] = text.slice(0, 10).split("-").map(Number) as [number, number, number];
  const total = year * 12 + month - 1 + months;
  const [y, m] = [Math.floor(total / 12), total % 12];
  const leap = y % 4 === 0 && (y % 100 !== 0 || y % 400 === 0);
  const days = [31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][m] ?? 0;
  const two = (n: number): string => `${n}`.padStart(2, "0");
  return Date.parse(`${y}-${two(m + 1)}-${two(Math.min(day, days))}${text.slice(10)}`);
}

/** Nearest whole number, the half upwards; exact while products stay below 2^53. */
function nearest(numerator: number, denominator: number): number {
  const whole = Math.floor(numerator / denominator);
  return numerator - whole * denominator >= denominator / 2 ? whole + 1 : whole;
}

const aMonth = (cents: number, every: "month" | "year"): number =>
  every === "month" ? cents : nearest(cents, 12);

export class Business {
  readonly customers: Customer[] = [];
  readonly movements: Movement[] = [];
  readonly cash: Cash[] = [];
  /** By month and currency, as it was when the day was last closed. */
  readonly closed = new Map<string, Map<string, number>>();
  #contracts = 0;

  constructor(
    readonly offers: Record<TierName, Offer>,
    readonly graceDays: number,
  ) {}

  join(now: number): Customer {
    const customer: Customer = {
      number: this.customers.length,
      joined: now,
      contract: null,
      hadContract: false,
      hasEarned: false,
      grant: null,
      charges: [],
      left: false,
    };
    this.customers.push(customer);
    return customer;
  }

  /** What their rights are. */
  tierOf({ grant, contract }: Customer): TierName {
    if (grant) return grant;
    return contract && contract.state !== "waiting" ? contract.tier : "starter";
  }

  worth({ contract }: Customer): Worth {
    if (!contract) return null;
    const { state, proven, tier, currency, cents, every } = contract;
    const counts = state === "paid" || (state === "late" && proven);
    return counts ? { tier, currency, cents: aMonth(cents, every) } : null;
  }

  subscribe(who: Customer, tier: TierName, now: number): number {
    if (who.contract) return 409;
    const { cents, currency, every, trialDays } = this.offers[tier];
    const trial = !who.hadContract && trialDays > 0;
    who.hadContract = true;
    this.#contracts += 1;
    const months = every === "month" ? 1 : 12;
    const anchor = trial ? now + trialDays * DAY : now;
    who.contract = {
      number: this.#contracts,
      state: trial ? "trial" : "waiting",
      proven: false,
      tier,
      cents,
      currency,
      every,
      start: now,
      anchor,
      months: trial ? 0 : months,
      end: trial ? anchor : calendar(now, months),
      grace: 0,
      cancelled: false,
      next: null,
      bill: trial ? null : { for: "start", tier, whole: cents, cents, currency },
    };
    return 201;
  }

  change(who: Customer, tier: TierName, now: number): number {
    const has = who.contract;
    if (!has || has.cancelled) return 409;
    const offer = this.offers[tier];
    if (has.state === "waiting") {
      if (has.tier === tier) return 409;
      const { cents, currency, every } = offer;
      Object.assign(has, { tier, cents, currency, every });
      has.bill = { for: "start", tier, whole: cents, cents, currency };
      return 200;
    }
    const upgrading = has.bill?.for === "upgrade";
    if (has.tier === tier) {
      if (!upgrading && has.next === null) return 409;
      if (upgrading) has.bill = null;
      has.next = null;
      return 200;
    }
    const comparable =
      has.state !== "trial" && has.every === offer.every && has.currency === offer.currency;
    const dearer = aMonth(offer.cents, offer.every) > aMonth(has.cents, has.every);
    if (comparable && dearer) {
      if (has.bill) return 409;
      const part = nearest((offer.cents - has.cents) * (has.end - now), has.end - has.start);
      const cents = Math.max(1, part);
      const bill: Bill = {
        for: "upgrade",
        tier,
        whole: offer.cents,
        cents,
        currency: has.currency,
      };
      has.bill = bill;
      return 200;
    }
    if (has.next === tier) return 409;
    if (upgrading) has.bill = null;
    has.next = tier;
    return 200;
  }

  cancel(who: Customer, now: number): number {
    const has = who.contract;
    if (!has) return 409;
    if (has.state === "waiting") this.#end(who, now);
    else if (has.cancelled) return 409;
    else {
      has.cancelled = true;
      if (has.bill?.for === "upgrade") has.bill = null;
    }
    return 200;
  }

  resume(who: Customer): number {
    if (!who.contract?.cancelled) return 409;
    who.contract.cancelled = false;
    return 200;
  }

  pay(who: Customer, now: number): void {
    const has = who.contract;
    const bill = has?.bill;
    if (!has || !bill) throw new Error("nothing is owed");
    const { cents, currency } = bill;
    this.cash.push({ month: monthOf(now), kind: "received", currency, cents });
    who.charges.push({ contract: has.number, cents, back: 0, currency });
    this.#move(who, now, () => {
      has.bill = null;
      has.proven = true;
      if (bill.for === "upgrade") {
        Object.assign(has, { tier: bill.tier, cents: bill.whole, next: null });
        return;
      }
      if (has.state === "waiting") {
        const months = has.every === "month" ? 1 : 12;
        Object.assign(has, { start: now, anchor: now, months, end: calendar(now, months) });
      }
      has.state = "paid";
    });
  }

  refund(who: Customer, charge: number, cents: number, ends: boolean, now: number): number {
    const of = who.charges[charge];
    if (!of || of.back + cents > of.cents) return 422;
    of.back += cents;
    this.cash.push({ month: monthOf(now), kind: "refunded", currency: of.currency, cents });
    if (ends && who.contract?.number === of.contract) this.#end(who, now);
    return 201;
  }

  leave(who: Customer, now: number): void {
    this.#end(who, now);
    who.left = true;
  }

  /** What time does by itself. */
  advance(now: number): void {
    for (const who of this.customers) {
      for (;;) {
        const has = who.contract;
        if (!has || has.state === "waiting") break;
        const due = has.state === "late" ? has.grace : has.end;
        if (due > now) break;
        if (has.state === "late" || has.cancelled) this.#end(who, due);
        else this.#renew(who, has, due);
      }
    }
  }

  /** The end of a day: what the month has come to. */
  close(now: number): void {
    const sums = new Map<string, number>();
    for (const who of this.customers) {
      const worth = this.worth(who);
      if (worth) sums.set(worth.currency, (sums.get(worth.currency) ?? 0) + worth.cents);
    }
    this.closed.set(monthOf(now), sums);
  }

  #renew(who: Customer, has: Contract, at: number): void {
    this.#move(who, at, () => {
      const tier = has.next ?? has.tier;
      const { cents, currency, every } = this.offers[tier];
      const kind = has.state === "trial" ? "start" : "renewal";
      // A tier above the one that was tried waits for its money.
      const above = TIERS.indexOf(tier) > TIERS.indexOf(has.tier);
      const state = kind === "start" && above ? "waiting" : "late";
      has.months += every === "month" ? 1 : 12;
      Object.assign(has, { tier, cents, currency, every, next: null, state, start: at });
      has.end = calendar(has.anchor, has.months);
      has.grace = at + this.graceDays * DAY;
      has.bill = { for: kind, tier, whole: cents, cents, currency };
    });
  }

  #end(who: Customer, at: number): void {
    this.#move(who, at, () => {
      who.contract = null;
    });
  }

  /** Does something, and writes down what it did to what is earned a month. */
  #move(who: Customer, at: number, act: () => void): void {
    const before = this.worth(who);
    const contract = who.contract?.number ?? 0;
    act();
    const after = this.worth(who);
    const note = (kind: Movement["kind"], currency: string, cents: number) =>
      this.movements.push({
        customer: who.number,
        at,
        month: monthOf(at),
        kind,
        currency,
        cents,
        contract,
      });
    if (!before && after) {
      note(who.hasEarned ? "reactivation" : "new", after.currency, after.cents);
      who.hasEarned = true;
    } else if (before && !after) note("churned", before.currency, before.cents);
    else if (before && after && before.currency !== after.currency) {
      note("contraction", before.currency, before.cents);
      note("expansion", after.currency, after.cents);
    } else if (before && after && (before.cents !== after.cents || before.tier !== after.tier)) {
      const more = after.cents - before.cents;
      note(more < 0 ? "contraction" : "expansion", after.currency, Math.abs(more));
    }
  }

  /** Everything that is known of money, as the report has it. */
  report(now: number): Record<string, unknown>[] {
    const live = this.customers.filter((who) => who.contract);
    const currencies = new Set([
      ...this.movements.map(({ currency }) => currency),
      ...this.cash.map(({ currency }) => currency),
      ...live.map(({ contract }) => contract?.currency ?? ""),
    ]);
    return [...currencies].toSorted().map((currency) => {
      const own = live.filter(({ contract }) => contract?.currency === currency);
      const earning = own.filter((who) => this.worth(who));
      const cents = (them: Customer[]) => sum(them.map((who) => this.worth(who)?.cents ?? 0));
      const each = (value: (them: Customer[]) => number) =>
        Object.fromEntries(
          TIERS.map((tier) => [tier, value(earning.filter((who) => who.contract?.tier === tier))]),
        );
      const inState = (state: Contract["state"]) =>
        own.filter(({ contract }) => contract?.state === state).length;
      const flows = (month: string) => {
        const moved = this.movements.filter((m) => m.month === month && m.currency === currency);
        const money = this.cash.filter((c) => c.month === month && c.currency === currency);
        const of = (kind: string) => moved.filter((m) => m.kind === kind);
        return {
          ...Object.fromEntries(
            ["new", "reactivation", "expansion", "contraction", "churned"].flatMap((kind) => [
              [`${kind}_minor`, sum(of(kind).map((m) => m.cents))],
              [`${kind}_count`, new Set(of(kind).map((m) => m.contract)).size],
            ]),
          ),
          received_minor: sum(money.filter((c) => c.kind === "received").map((c) => c.cents)),
          refunded_minor: sum(money.filter((c) => c.kind === "refunded").map((c) => c.cents)),
        };
      };
      const months = Array.from({ length: 12 }, (_, i) => {
        const [year = 0, month = 0] = monthOf(now).split("-").map(Number);
        const number = year * 12 + month - 1 - 11 + i;
        const name = `${Math.floor(number / 12)}-${`${(number % 12) + 1}`.padStart(2, "0")}`;
        const mrr_minor = this.closed.get(name)?.get(currency) ?? 0;
        return Object.assign(flows(name), { month: name, mrr_minor });
      });
      return Object.assign(flows(monthOf(now)), {
        currency,
        mrr_minor: cents(earning),
        arr_minor: cents(earning) * 12,
        mrr_by_tier: each(cents),
        subscribers: earning.length,
        subscribers_by_tier: each((them) => them.length),
        trials: inState("trial"),
        past_due: inState("late"),
        months,
      });
    });
  }
}

const sum = (numbers: number[]): number => numbers.reduce((total, n) => total + n, 0);
