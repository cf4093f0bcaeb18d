import { and, count, desc, eq, isNotNull } from "drizzle-orm";
import { type MessageStatus, webhookMessages, webhooks } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Queries, Transaction } from "../database";
import { olderThan, type TimePlace } from "../page";
import type { MessageRow, WebhookRow } from "./schema";

/** Of an account, those that are not enabled as well. */
export const webhooksMax = 200;

/** Newest first. */
export function webhooksOf(
  db: Queries,
  userId: string,
  after: TimePlace | null,
  limit: number,
): Promise<WebhookRow[]> {
  return db
    .select()
    .from(webhooks)
    .where(and(eq(webhooks.userId, userId), olderThan(webhooks.createdAt, webhooks.id, after)))
    .orderBy(desc(webhooks.createdAt), desc(webhooks.id))
    .limit(limit);
}

const owned = (userId: string, id: string) => and(eq(webhooks.id, id), eq(webhooks.userId, userId));

/** @throws AppError 404, for a webhook of somebody else as well. */
export async function webhookOfUser(db: Queries, userId: string, id: string): Promise<WebhookRow> {
  const [row] = await db.select().from(webhooks).where(owned(userId, id));
  return row ?? missing("webhook");
}

/** The same, held until the transaction ends. @throws AppError 404. */
export async function lockWebhook(
  tx: Transaction,
  userId: string,
  id: string,
): Promise<WebhookRow> {
  const [row] = await tx.select().from(webhooks).where(owned(userId, id)).for("no key update");
  return row ?? missing("webhook");
}

export async function updateWebhook(
  tx: Transaction,
  id: string,
  change: Partial<WebhookRow>,
): Promise<void> {
  await tx.update(webhooks).set(change).where(eq(webhooks.id, id));
}

/** How many somebody has, whose row is locked, so that nobody counts beside it. */
export async function countOf(
  tx: Transaction,
  userId: string,
): Promise<{ all: number; enabled: number }> {
  const rows = await tx
    .select({ status: webhooks.status, rows: count() })
    .from(webhooks)
    .where(eq(webhooks.userId, userId))
    .groupBy(webhooks.status);
  const all = rows.reduce((sum, row) => sum + row.rows, 0);
  return { all, enabled: rows.find(({ status }) => status === "enabled")?.rows ?? 0 };
}

/** What was sent to a webhook, newest first. */
export function messagesOf(
  db: Queries,
  webhookId: string,
  status: MessageStatus | undefined,
  after: TimePlace | null,
  limit: number,
): Promise<MessageRow[]> {
  return db
    .select()
    .from(webhookMessages)
    .where(
      and(
        eq(webhookMessages.webhookId, webhookId),
        status === undefined ? undefined : eq(webhookMessages.status, status),
        olderThan(webhookMessages.createdAt, webhookMessages.id, after),
      ),
    )
    .orderBy(desc(webhookMessages.createdAt), desc(webhookMessages.id))
    .limit(limit);
}

const waitingMax = 10_000;

/** Messages that wait to be sent, of all webhooks; at most so many are counted. */
export async function waitingCount(db: Queries): Promise<number> {
  const { nextAttemptAt, webhookId, lane, signalId } = webhookMessages;
  const some = db
    .select({ webhookId })
    .from(webhookMessages)
    .where(isNotNull(nextAttemptAt))
    .orderBy(webhookId, lane, nextAttemptAt, signalId)
    .limit(waitingMax)
    .as("some");
  const [row] = await db.select({ rows: count() }).from(some);
  return row?.rows ?? 0;
}

export function missing(what: "webhook" | "delivery"): never {
  throw new AppError("not_found", `There is no such ${what}.`);
}
