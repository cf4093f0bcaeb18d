import { and, asc, eq, inArray, isNull, lte, ne, or, sql } from "drizzle-orm";
import { z } from "zod";
import {
  formerPrices,
  invoices,
  payments,
  plans,
  providerEvents,
  revenueMovements,
  subscriptions,
  type Tier,
} from "../../../db/alpine/schema";
import type { Logger } from "../../platform/log";
import { audit, type AuditEvent } from "../audit";
import type { Changes } from "../changes";
import type { Database, Transaction } from "../database";
import { tellFailure } from "../payments/failure";
import type { PaymentRow } from "../payments/schema";
import { settleTier } from "../plans/settle-tier";
import { type Books, nameBeginnings } from "../subscriptions/ledger";
import { end, graceMsOf } from "../subscriptions/renew";
import type { SubscriptionRow } from "../subscriptions/schema";
import { lockLiveOf } from "../subscriptions/store";
import { lockUser } from "../users/store";
import { endsOf, inOrder } from "./events";
import { fold, type Folded, Held, idOf } from "./fold";

type Ground = {
  db: () => Database;
  changes: Changes;
  now: () => number;
  log: Logger;
  config: { paymentGraceDays: number };
};

const customersAtOnce = 50;

/**
 * Brings the state of a customer in line with all their events that are journaled. What cannot be
 * applied yet says why, changes nothing but what has ended, and is tried again. @throws AppError 503.
 */
export async function applyEvents(ground: Ground, customer: string): Promise<void> {
  const { changes, now, log, config } = ground;
  const nowMs = now();
  const graceMs = graceMsOf(config);
  const ofCustomer = and(
    eq(providerEvents.provider, "stripe"),
    eq(providerEvents.subject, customer),
  );
  const waiting = and(ofCustomer, isNull(providerEvents.appliedAt));
  const held = await changes.write(async (tx, tell) => {
    // One at a time: the last to go has seen every event that was journaled before it began.
    await tx.execute(
      sql`SELECT pg_advisory_xact_lock(hashtextextended(${`stripe ${customer}`}, 0))`,
    );
    const rows = await tx.select().from(providerEvents).where(ofCustomer);
    const prices = await readPrices(tx);
    try {
      const terms = { customer, prices, graceMs, nowMs };
      const folded = fold(inOrder(rows), terms);
      const user = await lockUser(tx, folded.userId);
      const known = await knownOf(tx, folded);
      if (!user && known.length === 0) throw new Held("There is no account of this customer.");
      await mustBeOnlyOne(tx, folded);
      const booked = await write(tx, folded);
      await nameBeginnings(tx, folded.userId);
      await note(tx, nowMs, folded, known, booked);
      for (const payment of booked) {
        if (!user || payment.kind !== "failure") continue;
        const failed = folded.subscriptions.find(({ id }) => id === payment.subscriptionId);
        await tellFailure(tx, nowMs, payment, failed ?? null);
      }
      const manner = { nowMs, actorId: null, origin: null };
      if (user) await settleTier(tx, tell, user, manner);
      // Events that came late may say that it was somebody else's all the time.
      const others = new Set(known.map((row) => row.userId)).difference(new Set([folded.userId]));
      for (const id of others) {
        await nameBeginnings(tx, id);
        const other = await lockUser(tx, id);
        if (other) await settleTier(tx, tell, other, manner);
      }
    } catch (error) {
      const fault = faultOf(error);
      const books = { tx, tell, nowMs, graceMs, actorId: null, origin: null };
      await endGone(books, endsOf(rows));
      await tx.update(providerEvents).set({ fault }).where(waiting);
      return fault;
    }
    await tx
      .update(providerEvents)
      .set({ appliedAt: new Date(nowMs), fault: null })
      .where(waiting);
    return null;
  });
  if (held !== null) log.warn({ customer, reason: held }, "events of Stripe are held");
}

/** Which tier a price sells: what it sells now before what it sold. */
async function readPrices(tx: Transaction): Promise<Map<string, Tier>> {
  const priced = [...(await tx.select().from(formerPrices)), ...(await tx.select().from(plans))];
  return new Map(
    priced.flatMap(({ stripePriceId: id, tier }): [string, Tier][] => (id ? [[id, tier]] : [])),
  );
}

/** Whatever holds the rest: what has ended at Stripe gives no rights any more. */
async function endGone(books: Books, ends: Map<string, Date>): Promise<void> {
  const { tx, tell } = books;
  const live = and(
    inArray(subscriptions.providerSubscription, [...ends.keys()]),
    ne(subscriptions.status, "ended"),
  );
  for (const { userId } of await tx.select().from(subscriptions).where(live)) {
    // Users are locked before what they have.
    const user = await lockUser(tx, userId);
    const row = await lockLiveOf(tx, userId);
    const at = ends.get(row?.providerSubscription ?? "");
    if (!row || !at) continue;
    await end(books, row, at, "cancelled");
    if (user) await settleTier(tx, tell, user, books);
  }
}

/** What is only to be waited for, or mended by the operator. @throws what is anything else. */
function faultOf(error: unknown): string {
  if (error instanceof Held) return error.message;
  if (!(error instanceof z.ZodError)) throw error;
  const fields = error.issues.map(({ path }) => path.join("."));
  return `An event cannot be read: ${[...new Set(fields)].join(", ")}.`.slice(0, 500);
}

/** Whose subscriptions are due for something that time does, and whose events wait. */
export async function settleEvents(ground: Ground & { stopped: () => boolean }): Promise<void> {
  const { db, now, log, stopped } = ground;
  const at = new Date(now());
  const over = lte(subscriptions.graceUntil, at);
  const lapsed = await db()
    .select({ customer: subscriptions.providerCustomer })
    .from(subscriptions)
    .where(
      and(
        or(
          and(eq(subscriptions.status, "past_due"), over),
          and(eq(subscriptions.status, "incomplete"), over),
        ),
        eq(subscriptions.provider, "stripe"),
      ),
    )
    .limit(customersAtOnce);
  // Those that were never tried come first; among the others nobody is passed by for ever.
  const waiting = await db()
    .select({ customer: providerEvents.subject })
    .from(providerEvents)
    .where(and(isNull(providerEvents.appliedAt), eq(providerEvents.provider, "stripe")))
    .groupBy(providerEvents.subject)
    .orderBy(sql`bool_and(${providerEvents.fault} IS NOT NULL)`, sql`random()`)
    .limit(customersAtOnce);
  const customers = new Set([...lapsed, ...waiting].map(({ customer }) => customer));
  for (const customer of customers) {
    if (stopped()) return;
    if (customer === null) continue;
    try {
      await applyEvents(ground, customer);
    } catch (error) {
      log.error({ customer, reason: String(error) }, "events of Stripe not applied");
    }
  }
}

/** Those of its subscriptions that are written down already, held. */
async function knownOf(tx: Transaction, folded: Folded): Promise<SubscriptionRow[]> {
  const ids = folded.subscriptions.map(({ id }) => id);
  if (ids.length === 0) return [];
  return tx
    .select()
    .from(subscriptions)
    .where(inArray(subscriptions.id, ids))
    .orderBy(asc(subscriptions.id))
    .for("update");
}

/** @throws Held for an account that would have two subscriptions at once: one is to be ended. */
async function mustBeOnlyOne(tx: Transaction, folded: Folded): Promise<void> {
  const live = folded.subscriptions.filter(({ status }) => status !== "ended");
  const [first] = live;
  if (!first) return;
  const [other] = await tx
    .select({ id: subscriptions.id })
    .from(subscriptions)
    .where(
      and(
        eq(subscriptions.userId, folded.userId),
        ne(subscriptions.status, "ended"),
        sql`${subscriptions.id} <> ALL(${sql.param(folded.subscriptions.map(({ id }) => id))}::uuid[])`,
      ),
    );
  if (!other && live.length === 1) return;
  throw new Held(`The account has another subscription besides ${first.providerSubscription}.`);
}

/** Puts the state in the place of what was there. @returns payments that are new. */
async function write(tx: Transaction, folded: Folded): Promise<PaymentRow[]> {
  const { userId, movements } = folded;
  // What has ended makes room first.
  const byLife = folded.subscriptions.toSorted(
    (a, b) => Number(b.status === "ended") - Number(a.status === "ended"),
  );
  for (const row of byLife) {
    await tx
      .insert(subscriptions)
      .values(row)
      .onConflictDoUpdate({ target: subscriptions.id, set: row });
    await tx.delete(revenueMovements).where(eq(revenueMovements.subscriptionId, row.id));
  }
  if (movements.length > 0) {
    await tx.insert(revenueMovements).values(
      movements.map((movement, i) => {
        const id = idOf(`movement ${movement.subscriptionId} ${i}`);
        return Object.assign({ id, userId }, movement);
      }),
    );
  }
  for (const row of folded.invoices) {
    await tx.insert(invoices).values(row).onConflictDoUpdate({ target: invoices.id, set: row });
  }
  const booked: PaymentRow[] = [];
  for (const row of folded.payments) {
    const [written] = await tx
      .insert(payments)
      .values(row)
      .onConflictDoUpdate({ target: payments.id, set: row })
      .returning({ isNew: sql<boolean>`xmax = 0` });
    if (written?.isNew) booked.push(row);
  }
  return booked;
}

const booking: Record<PaymentRow["kind"], AuditEvent> = {
  charge: "payment_recorded",
  failure: "payment_failed",
  refund: "payment_refunded",
};

/** Writes down what is new in it. */
async function note(
  tx: Transaction,
  nowMs: number,
  { userId: subjectId, subscriptions: rows }: Folded,
  known: SubscriptionRow[],
  booked: PaymentRow[],
): Promise<void> {
  const write = (event: AuditEvent, details: Record<string, unknown>) =>
    audit(tx, nowMs, null, { event, subjectId, details: { provider: "stripe", ...details } });
  for (const { id, status, tier } of rows) {
    const old = known.find((row) => row.id === id);
    if (!old) await write("subscription_started", { subscription_id: id, tier, status });
    else if (old.tier !== tier) {
      await write("subscription_changed", { subscription_id: id, from: old.tier, to: tier });
    }
    if (status === "ended" && old?.status !== "ended") {
      await write("subscription_ended", { subscription_id: id, tier });
    }
  }
  for (const { id, kind, reference, amountMinor, currency } of booked) {
    const details = { payment_id: id, reference, amount_minor: amountMinor, currency };
    await write(booking[kind], details);
  }
}
