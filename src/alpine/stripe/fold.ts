import type { InvoiceReason, SubscriptionStatus, Tier } from "../../../db/alpine/schema";
import { minorMax, type PaymentRow } from "../payments/schema";
import { type Movement, movementsBetween, recurringOf } from "../subscriptions/movements";
import type { InvoiceRow, SubscriptionRow } from "../subscriptions/schema";
import {
  type InvoiceTold,
  subscriptionOfInvoice,
  type SubscriptionTold,
  tierSold,
  type Told,
} from "./events";

/** Why the events of a customer cannot be applied yet. They are kept, and tried again. */
export class Held extends Error {
  override readonly name = "Held";
}

type Terms = {
  customer: string;
  /** Which tier a price sells. */
  prices: ReadonlyMap<string, Tier>;
  graceMs: number;
  nowMs: number;
};

/** Everything that the events of a customer come to. Ids are made of Stripe's: always the same. */
export type Folded = {
  userId: string;
  subscriptions: SubscriptionRow[];
  movements: (Movement & { at: Date; subscriptionId: string })[];
  invoices: InvoiceRow[];
  payments: PaymentRow[];
};

const statuses: Record<string, SubscriptionStatus> = {
  incomplete: "incomplete",
  incomplete_expired: "ended",
  trialing: "trialing",
  active: "active",
  past_due: "past_due",
  unpaid: "incomplete",
  paused: "incomplete",
  canceled: "ended",
};
const reasons: Record<string, InvoiceReason> = {
  subscription_create: "start",
  subscription_update: "upgrade",
};

/** Stripe gives a subscription up whose first payment did not come within 23 hours; an hour for its word. */
const firstPaymentMs = 86_400_000;

const namespace = "6f0c2d8a-53b1-5d1e-9a53-0d6f3c1f7a20";
/** The id of a row of ours for something at Stripe. */
export const idOf = (name: string): string => Bun.randomUUIDv5(name, namespace);

/**
 * The state that a customer's events come to: a pure function of the set of them, so that it does
 * not matter in which order, how often or by how many they were brought.
 * @param events in the order in which they count. @throws Held.
 */
export function fold(events: readonly Told[], terms: Terms): Folded {
  const userId = events.find((event) => event.userId !== undefined)?.userId;
  if (userId === undefined) throw new Held("It is not known whose customer this is.");
  const ledger = new Ledger(userId, terms);
  for (const event of events) ledger.take(event);
  ledger.advance(new Date(terms.nowMs));
  ledger.expire(new Date(terms.nowMs));
  return ledger.folded();
}

/** A subscription on its way through its events. */
type Track = {
  row: SubscriptionRow | null;
  /** Since when payments are late. */
  lateSince: Date | null;
  /** Where the first payment is waited for: when Stripe has given it up for certain. */
  openUntil: Date | null;
  /** Invoices that wait for a payment that failed. */
  unpaid: Set<string>;
};

class Ledger {
  readonly #tracks = new Map<string, Track>();
  readonly #movements: Folded["movements"] = [];
  readonly #invoices = new Map<string, InvoiceRow>();
  readonly #payments = new Map<string, PaymentRow>();
  /** What each charge has given back, by how much it was in all by then. */
  readonly #refunds = new Map<string, Map<number, PaymentRow>>();

  constructor(
    private readonly userId: string,
    private readonly terms: Terms,
  ) {}

  take(event: Told): void {
    this.advance(event.at);
    if (event.kind === "checkout") return;
    if (event.kind === "refunded") return this.#refund(event);
    if (event.kind === "paid" || event.kind === "failed") {
      return this.#bill(event.kind, event.told, event.at);
    }
    const track = this.#track(event.told.id);
    // What has ended at Stripe never comes back.
    if (track.row?.status === "ended") return;
    const told = statuses[event.told.status] ?? "incomplete";
    const status = event.kind === "deleted" ? "ended" : told;
    if (status === "active" || status === "trialing") track.unpaid.clear();
    const begins = event.told.status === "incomplete";
    track.openUntil = begins ? new Date(event.told.created.getTime() + firstPaymentMs) : null;
    this.#become(track, this.#rowOf(event.told, status, event.at), event.at);
  }

  /** What time does: who has not paid within the grace period has no rights until they do. */
  advance(at: Date): void {
    for (const track of this.#tracks.values()) {
      const { row } = track;
      if (row?.status !== "past_due" || row.graceUntil === null) continue;
      if (row.graceUntil <= at) {
        this.#become(track, { ...row, status: "incomplete" }, row.graceUntil);
      }
    }
  }

  /** After all events: whoever began and never paid has ended, whether Stripe's word of it came or not. */
  expire(at: Date): void {
    for (const track of this.#tracks.values()) {
      const { row, openUntil } = track;
      if (row?.status !== "incomplete" || openUntil === null || openUntil > at) continue;
      this.#become(track, { ...row, status: "ended", endedAt: openUntil }, openUntil);
    }
  }

  folded(): Folded {
    const subscriptions = [...this.#tracks.values()].map(({ row }) => {
      if (row) return row;
      throw new Held("An invoice came, its subscription did not yet.");
    });
    const ended = new Set(subscriptions.filter((s) => s.status === "ended").map(({ id }) => id));
    const refunds = [...this.#refunds.values()].flatMap(differences);
    return {
      userId: this.userId,
      subscriptions,
      movements: this.#movements,
      invoices: [...this.#invoices.values()].map((row) => {
        const lapsed = row.status === "open" && ended.has(row.subscriptionId);
        return lapsed ? Object.assign(row, { status: "void" }) : row;
      }),
      payments: [...this.#payments.values(), ...refunds],
    };
  }

  #track(id: string): Track {
    const held = this.#tracks.get(id);
    if (held) return held;
    const track: Track = { row: null, lateSince: null, openUntil: null, unpaid: new Set() };
    this.#tracks.set(id, track);
    return track;
  }

  /** The next state of a subscription, and what that does to revenue. */
  #become(track: Track, given: SubscriptionRow, at: Date): void {
    const { status } = given;
    if (status === "active" || status === "trialing") track.lateSince = track.openUntil = null;
    if (status === "past_due") track.lateSince ??= at;
    const { lateSince } = track;
    const graceUntil =
      status === "past_due" && lateSince
        ? new Date(lateSince.getTime() + this.terms.graceMs)
        : status === "incomplete"
          ? track.openUntil
          : null;
    const lapsed = graceUntil !== null && graceUntil <= at;
    const row: SubscriptionRow = {
      ...given,
      status: lapsed ? "incomplete" : status,
      graceUntil: lapsed ? null : graceUntil,
      updatedAt: at,
    };
    const moved = movementsBetween(recurringOf(track.row), recurringOf(row));
    for (const movement of moved) {
      this.#movements.push({ ...movement, at, subscriptionId: row.id });
    }
    track.row = row;
  }

  #rowOf(told: SubscriptionTold, status: SubscriptionStatus, at: Date): SubscriptionRow {
    const { customer, prices } = this.terms;
    const [item] = told.items.data;
    if (!item) throw new Held("A subscription without a price cannot be kept.");
    const { price } = item;
    const tier = tierSold(told, prices);
    if (tier === null) throw new Held(`No plan is sold at ${price.id}.`);
    const priceMinor = price.unit_amount * (item.quantity ?? 1);
    if (priceMinor > minorMax)
      throw new Held(`${item.quantity} × ${price.id} is too much to keep.`);
    const periodStart = item.current_period_start ?? told.current_period_start ?? told.created;
    const periodEnd = item.current_period_end ?? told.current_period_end ?? periodStart;
    return {
      id: idOf(told.id),
      userId: this.userId,
      tier,
      provider: "stripe",
      status,
      priceMinor,
      currency: price.currency,
      interval: price.recurring.interval,
      createdAt: told.created,
      updatedAt: at,
      periodStart,
      periodEnd,
      anchorAt: told.billing_cycle_anchor ?? periodStart,
      trialEnd: told.trial_end ?? null,
      cancelAtPeriodEnd:
        status !== "ended" && (told.cancel_at_period_end === true || Boolean(told.cancel_at)),
      nextTier: null,
      graceUntil: null,
      endedAt: status === "ended" ? (told.ended_at ?? at) : null,
      providerCustomer: customer,
      providerSubscription: told.id,
    };
  }

  /** A payment of an invoice that came, or did not. */
  #bill(kind: "paid" | "failed", told: InvoiceTold, at: Date): void {
    const subscription = subscriptionOfInvoice(told);
    if (subscription === null) return;
    const track = this.#track(subscription);
    const paid = kind === "paid";
    const paidAt = told.status_transitions?.paid_at ?? at;
    const amountMinor = paid ? told.amount_paid : told.amount_due;
    const before = this.#invoices.get(told.id);
    if (!paid && before?.status === "paid") return;
    const of = track.row;
    const { start, end } = told.lines?.data[0]?.period ?? {};
    const row: InvoiceRow = {
      id: idOf(told.id),
      subscriptionId: idOf(subscription),
      userId: this.userId,
      reason: reasons[told.billing_reason ?? ""] ?? "renewal",
      tier: of?.tier ?? "starter",
      priceMinor: of?.priceMinor ?? amountMinor,
      amountMinor,
      currency: told.currency,
      periodStart: start ?? told.period_start,
      periodEnd: end ?? told.period_end,
      status: paid ? "paid" : "open",
      createdAt: before?.createdAt ?? at,
      paidAt: paid ? paidAt : null,
      providerInvoice: told.id,
    };
    this.#invoices.set(told.id, row);
    const reference = paid ? told.id : `${told.id} ${told.attempt_count ?? 1}`;
    if (amountMinor > 0) {
      this.#pay(paid ? "charge" : "failure", reference, row, amountMinor, paid ? paidAt : at);
    }
    if (paid) track.unpaid.delete(told.id);
    else track.unpaid.add(told.id);
    if (!of || of.status === "ended") return;
    // Their own events say the same of the subscription; whichever comes is enough.
    if (!paid && of.status === "active") this.#become(track, { ...of, status: "past_due" }, at);
    const waited = of.status === "past_due" || of.status === "incomplete";
    if (paid && amountMinor > 0 && waited && track.unpaid.size === 0) {
      this.#become(track, { ...of, status: "active" }, at);
    }
  }

  #pay(
    kind: PaymentRow["kind"],
    reference: string,
    { subscriptionId, id: invoiceId, userId, currency }: InvoiceRow,
    amountMinor: number,
    at: Date,
  ): void {
    const id = idOf(`${kind} ${reference}`);
    if (this.#payments.has(id)) return;
    const of = { userId, subscriptionId, invoiceId, currency } as const;
    this.#payments.set(id, { id, kind, provider: "stripe", reference, amountMinor, at, ...of });
  }

  /** Stripe tells how much of a charge went back in all: each sum counts once. */
  #refund({ told, at }: Extract<Told, { kind: "refunded" }>): void {
    const { id: charge, amount_refunded: sum, currency, invoice } = told;
    const sums = this.#refunds.get(charge) ?? new Map<number, PaymentRow>();
    this.#refunds.set(charge, sums);
    if (sum === 0 || sums.has(sum)) return;
    const of = invoice === null ? undefined : this.#invoices.get(invoice);
    const reference = `${charge} ${sum}`;
    sums.set(sum, {
      id: idOf(`refund ${reference}`),
      kind: "refund",
      userId: this.userId,
      subscriptionId: of?.subscriptionId ?? null,
      invoiceId: of?.id ?? null,
      provider: "stripe",
      reference,
      amountMinor: sum,
      currency,
      at,
    });
  }
}

/** Of sums that grow, what each has added. */
function differences(sums: Map<number, PaymentRow>): PaymentRow[] {
  let before = 0;
  return [...sums]
    .toSorted(([a], [b]) => a - b)
    .map(([sum, row]) => {
      const amountMinor = sum - before;
      before = sum;
      return Object.assign(row, { amountMinor });
    });
}
