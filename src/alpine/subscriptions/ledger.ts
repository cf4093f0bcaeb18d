import { and, eq, sql } from "drizzle-orm";
import {
  type InvoiceReason,
  invoices,
  revenueMovements,
  subscriptions,
} from "../../../db/alpine/schema";
import type { Origin } from "../audit";
import type { Tell } from "../changes";
import type { Transaction } from "../database";
import { movementsBetween, recurringOf } from "./movements";
import type { InvoiceRow, SubscriptionRow } from "./schema";

/** What every change of a subscription stands on; the user is locked. */
export type Books = {
  tx: Transaction;
  tell: Tell;
  nowMs: number;
  /** How long after a period's end its payment may come. */
  graceMs: number;
  /** Who does it; null for the system. */
  actorId: string | null;
  origin: Origin | null;
};

/** Writes a subscription as it is from `at` on, and what that does to revenue. */
export async function saveSubscription(
  { tx, nowMs }: Books,
  old: SubscriptionRow | null,
  row: SubscriptionRow,
  at: Date,
): Promise<SubscriptionRow> {
  const saved = { ...row, updatedAt: new Date(nowMs) };
  if (old) await tx.update(subscriptions).set(saved).where(eq(subscriptions.id, row.id));
  else await tx.insert(subscriptions).values(saved);
  const moved = movementsBetween(recurringOf(old), recurringOf(saved));
  if (moved.length === 0) return saved;
  const of = { at, userId: row.userId, subscriptionId: row.id };
  await tx
    .insert(revenueMovements)
    .values(moved.map((movement) => ({ id: Bun.randomUUIDv7(), ...of, ...movement })));
  if (moved.some(({ kind }) => kind === "new")) await nameBeginnings(tx, row.userId);
  return saved;
}

/** The first of an account is new, all later ones are reactivations, in whatever order they came. */
export async function nameBeginnings(tx: Transaction, userId: string): Promise<void> {
  const beginning = sql`user_id = ${userId} AND kind IN ('new', 'reactivation')`;
  await tx.execute(sql`
    UPDATE revenue_movements SET kind = CASE WHEN id = (
      SELECT id FROM revenue_movements WHERE ${beginning} ORDER BY at, id LIMIT 1
    ) THEN 'new' ELSE 'reactivation' END
    WHERE ${beginning}`);
}

/** Asks for money; what costs nothing is paid. */
export async function openInvoice(
  tx: Transaction,
  { id: subscriptionId, userId, currency }: SubscriptionRow,
  given: Pick<
    InvoiceRow,
    "tier" | "priceMinor" | "amountMinor" | "periodStart" | "periodEnd" | "createdAt"
  > & { reason: InvoiceReason },
): Promise<InvoiceRow> {
  const free = given.amountMinor === 0;
  const row: InvoiceRow = {
    ...given,
    id: Bun.randomUUIDv7("hex", given.createdAt),
    subscriptionId,
    userId,
    currency,
    status: free ? "paid" : "open",
    paidAt: free ? given.createdAt : null,
    providerInvoice: null,
  };
  await tx.insert(invoices).values(row);
  return row;
}

/** Takes back what a subscription was asked for and has not paid. */
export async function voidOpenInvoices(tx: Transaction, subscriptionId: string): Promise<void> {
  await tx
    .update(invoices)
    .set({ status: "void" })
    .where(and(eq(invoices.subscriptionId, subscriptionId), eq(invoices.status, "open")));
}
