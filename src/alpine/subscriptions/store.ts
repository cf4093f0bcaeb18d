import { and, desc, eq, getTableColumns, inArray, lte, ne } from "drizzle-orm";
import {
  invoices,
  type InvoiceStatus,
  plans,
  type Provider,
  type Tier,
  type SubscriptionStatus,
  subscriptions,
  users,
} from "../../../db/alpine/schema";
import type { Queries, Transaction } from "../database";
import { olderThan, type TimePlace } from "../page";
import type { PlanRow } from "../plans/schema";
import type { InvoiceRow, SubscriptionRow, WithEmail } from "./schema";

/** The one of an account that has not ended. */
export async function liveOf(db: Queries, userId: string): Promise<SubscriptionRow | null> {
  const [row] = await db.select().from(subscriptions).where(isLive(userId));
  return row ?? null;
}

/** The same, held until the transaction ends; the user is locked by then. */
export async function lockLiveOf(tx: Transaction, userId: string): Promise<SubscriptionRow | null> {
  const [row] = await tx.select().from(subscriptions).where(isLive(userId)).for("update");
  return row ?? null;
}

const isLive = (userId: string) =>
  and(eq(subscriptions.userId, userId), ne(subscriptions.status, "ended"));

export type SubscriptionFilter = {
  userId?: string | undefined;
  status?: SubscriptionStatus | undefined;
  tier?: Tier | undefined;
  provider?: Provider | undefined;
};

/** Newest first. */
export function findSubscriptions(
  db: Queries,
  { userId, status, tier, provider }: SubscriptionFilter,
  after: TimePlace | null,
  limit: number,
): Promise<WithEmail<SubscriptionRow>[]> {
  const { createdAt, id } = subscriptions;
  return db
    .select({ ...getTableColumns(subscriptions), email: users.email })
    .from(subscriptions)
    .leftJoin(users, eq(users.id, subscriptions.userId))
    .where(
      and(
        userId === undefined ? undefined : eq(subscriptions.userId, userId),
        status === undefined ? undefined : eq(subscriptions.status, status),
        tier === undefined ? undefined : eq(subscriptions.tier, tier),
        provider === undefined ? undefined : eq(subscriptions.provider, provider),
        olderThan(createdAt, id, after),
      ),
    )
    .orderBy(desc(createdAt), desc(id))
    .limit(limit);
}

/** The last that an account has at Stripe. */
export async function lastAtStripe(db: Queries, userId: string): Promise<SubscriptionRow | null> {
  const [row] = await db
    .select()
    .from(subscriptions)
    .where(and(eq(subscriptions.userId, userId), eq(subscriptions.provider, "stripe")))
    .orderBy(desc(subscriptions.createdAt))
    .limit(1);
  return row ?? null;
}

/** A plan as it is now. */
export async function readPlan(db: Queries, tier: Tier): Promise<PlanRow> {
  const [row] = await db.select().from(plans).where(eq(plans.tier, tier));
  if (!row) throw new Error(`there is no plan ${tier}`);
  return row;
}

/** What a subscription owes. At most one is open at a time. */
export async function openInvoiceOf(
  db: Queries,
  subscriptionId: string,
): Promise<InvoiceRow | null> {
  const [row] = await db
    .select()
    .from(invoices)
    .where(and(eq(invoices.subscriptionId, subscriptionId), eq(invoices.status, "open")))
    .orderBy(desc(invoices.createdAt))
    .limit(1);
  return row ?? null;
}

export async function invoiceById(db: Queries, id: string): Promise<InvoiceRow | undefined> {
  const [row] = await db.select().from(invoices).where(eq(invoices.id, id));
  return row;
}

/** Newest first. */
export function findInvoices(
  db: Queries,
  { userId, status }: { userId?: string | undefined; status?: InvoiceStatus | undefined },
  after: TimePlace | null,
  limit: number,
): Promise<WithEmail<InvoiceRow>[]> {
  return db
    .select({ ...getTableColumns(invoices), email: users.email })
    .from(invoices)
    .leftJoin(users, eq(users.id, invoices.userId))
    .where(
      and(
        userId === undefined ? undefined : eq(invoices.userId, userId),
        status === undefined ? undefined : eq(invoices.status, status),
        olderThan(invoices.createdAt, invoices.id, after),
      ),
    )
    .orderBy(desc(invoices.createdAt), desc(invoices.id))
    .limit(limit);
}

/** Accounts whose subscription something is due for, the longest waiting first. */
export async function dueAccounts(db: Queries, nowMs: number, limit: number): Promise<string[]> {
  const now = new Date(nowMs);
  const ours = eq(subscriptions.provider, "manual");
  const ended = db
    .select({ userId: subscriptions.userId })
    .from(subscriptions)
    .where(
      and(
        ne(subscriptions.status, "ended"),
        inArray(subscriptions.status, ["trialing", "active"]),
        lte(subscriptions.periodEnd, now),
        ours,
      ),
    )
    .orderBy(subscriptions.periodEnd)
    .limit(limit);
  const unpaid = db
    .select({ userId: subscriptions.userId })
    .from(subscriptions)
    .where(and(eq(subscriptions.status, "past_due"), lte(subscriptions.graceUntil, now), ours))
    .orderBy(subscriptions.graceUntil)
    .limit(limit);
  const rows = [...(await ended), ...(await unpaid)];
  return rows.map(({ userId }) => userId);
}
