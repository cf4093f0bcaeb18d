import { and, desc, eq, getTableColumns, sql } from "drizzle-orm";
import { type PaymentKind, payments, users } from "../../../db/alpine/schema";
import type { Queries, Transaction } from "../database";
import { olderThan, type TimePlace } from "../page";
import type { WithEmail } from "../subscriptions/schema";
import type { PaymentRow } from "./schema";

export type PaymentFilter = {
  userId?: string | undefined;
  kind?: PaymentKind | undefined;
};

/** Newest first. */
export function findPayments(
  db: Queries,
  { userId, kind }: PaymentFilter,
  after: TimePlace | null,
  limit: number,
): Promise<WithEmail<PaymentRow>[]> {
  return db
    .select({ ...getTableColumns(payments), email: users.email })
    .from(payments)
    .leftJoin(users, eq(users.id, payments.userId))
    .where(
      and(
        userId === undefined ? undefined : eq(payments.userId, userId),
        kind === undefined ? undefined : eq(payments.kind, kind),
        olderThan(payments.at, payments.id, after),
      ),
    )
    .orderBy(desc(payments.at), desc(payments.id))
    .limit(limit);
}

/** A place in that list. */
export const paymentPlaceOf = ({ at, id }: PaymentRow): TimePlace => [at.toISOString(), id];

export async function paymentById(db: Queries, id: string): Promise<PaymentRow | undefined> {
  const [row] = await db.select().from(payments).where(eq(payments.id, id));
  return row;
}

/** What an administrator has booked under this reference. */
export async function bookedAs(
  tx: Transaction,
  kind: PaymentKind,
  reference: string,
): Promise<PaymentRow | undefined> {
  const [row] = await tx
    .select()
    .from(payments)
    .where(
      and(
        eq(payments.provider, "manual"),
        eq(payments.kind, kind),
        eq(payments.reference, reference),
      ),
    );
  return row;
}

export async function insertPayment(
  tx: Transaction,
  given: Omit<PaymentRow, "id" | "provider">,
): Promise<PaymentRow> {
  const row: PaymentRow = { ...given, id: Bun.randomUUIDv7("hex", given.at), provider: "manual" };
  await tx.insert(payments).values(row);
  return row;
}

/** What was given back of an invoice by now, in minor units. */
export async function refundedOf(tx: Transaction, invoiceId: string): Promise<number> {
  const [row] = await tx
    .select({ minor: sql<string>`coalesce(sum(${payments.amountMinor}), 0)` })
    .from(payments)
    .where(and(eq(payments.invoiceId, invoiceId), eq(payments.kind, "refund")));
  return Number(row?.minor ?? 0);
}
