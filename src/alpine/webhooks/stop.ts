import { and, eq, isNotNull, sql } from "drizzle-orm";
import {
  webhookMessages,
  type WebhookReason,
  webhooks,
  type WebhookStatus,
} from "../../../db/alpine/schema";
import { audit, type Origin } from "../audit";
import type { Database, Transaction } from "../database";
import { notify } from "../notifications/notify";
import type { WebhookRow } from "./schema";

/** What is not sent, since its webhook is not enabled any more. */
const givenUp: Record<WebhookReason, string> = {
  owner: "not sent: the webhook was paused",
  plan: "not sent: the plan allows fewer webhooks",
  account: "not sent: the account was shut out",
  gone: "not sent: the receiver is gone",
  failing: "not sent: the webhook was disabled",
};
const statusOf = (reason: WebhookReason): WebhookStatus =>
  reason === "gone" || reason === "failing" ? "disabled" : "paused";

/** Ends an enabled webhook until its owner enables it; what waits is given up. False when it was. */
export async function stopWebhook(
  tx: Transaction,
  id: string,
  reason: WebhookReason,
  nowMs: number,
): Promise<boolean> {
  const now = new Date(nowMs);
  const { rowCount } = await tx
    .update(webhooks)
    .set({ status: statusOf(reason), reason, updatedAt: now })
    .where(and(eq(webhooks.id, id), eq(webhooks.status, "enabled")));
  if (rowCount !== 1) return false;
  await tx
    .update(webhookMessages)
    .set({ status: "failed", nextAttemptAt: null, endedAt: now, lastError: givenUp[reason] })
    .where(and(eq(webhookMessages.webhookId, id), isNotNull(webhookMessages.nextAttemptAt)));
  return true;
}

const told: Record<"gone" | "failing", string> = {
  gone: "Its receiver answered 410: it wants to be sent nothing any more.",
  failing: "Nothing could be delivered there for some three days, or too much waited.",
};

/** Stops one whose receiver does not take anything, and tells its owner. */
export async function disableWebhook(
  tx: Transaction,
  { id, userId, url }: Pick<WebhookRow, "id" | "userId" | "url">,
  reason: "gone" | "failing",
  nowMs: number,
  by: { actorId: string | null; origin: Origin | null } = { actorId: null, origin: null },
): Promise<void> {
  if (!(await stopWebhook(tx, id, reason, nowMs))) return;
  const { hostname } = new URL(url);
  const details = { webhook_id: id, reason };
  await audit(tx, nowMs, by.origin, {
    event: "webhook_stopped",
    actorId: by.actorId,
    subjectId: userId,
    details,
  });
  await notify(tx, nowMs, {
    userId,
    kind: "webhook_disabled",
    reference: `${id} ${new Date(nowMs).toISOString()}`,
    title: `The webhook to ${hostname} was disabled`,
    body: `The webhook to ${hostname} was disabled.\n${told[reason]}\nEnable it again once the receiver is there, and replay what it missed.`,
    details,
  });
}

const usersAtOnce = 200;

/** Looks through everybody for what plans do not allow any more. @throws AppError 503. */
export async function pauseAllExcess(db: Database, nowMs: number): Promise<void> {
  for (let after = "00000000-0000-0000-0000-000000000000"; ;) {
    const { rows } = await db.execute<{ id: string }>(sql`
      SELECT DISTINCT user_id AS id FROM webhooks
      WHERE status = 'enabled' AND user_id > ${after}::uuid ORDER BY user_id LIMIT ${usersAtOnce}`);
    const ids = rows.map(({ id }) => id);
    await pauseExcess(db, ids, nowMs);
    if (ids.length < usersAtOnce) return;
    after = ids.at(-1) ?? after;
  }
}

/** Pauses what users have enabled beyond their plans, the newest first, and all of who was shut out. */
export async function pauseExcess(
  db: Database,
  userIds: readonly string[],
  nowMs: number,
): Promise<void> {
  if (userIds.length === 0) return;
  const { rows } = await db.execute<{ id: string; user_id: string; is_active: boolean }>(sql`
    SELECT id, user_id, is_active FROM (
      SELECT w.id, w.user_id, u.is_active, u.role, u.tier,
        row_number() OVER (PARTITION BY w.user_id ORDER BY w.created_at, w.id) AS place
      FROM webhooks w JOIN users u ON u.id = w.user_id
      WHERE w.status = 'enabled' AND w.user_id = ANY(${sql.param(userIds)}::uuid[])
    ) AS enabled
    JOIN plans USING (tier)
    WHERE NOT is_active OR (role <> 'admin' AND place > webhooks_max)`);
  for (const { id, user_id: subjectId, is_active: active } of rows) {
    const reason = active ? "plan" : "account";
    await db.transaction(async (tx) => {
      if (!(await stopWebhook(tx, id, reason, nowMs))) return;
      const details = { webhook_id: id, reason };
      await audit(tx, nowMs, null, { event: "webhook_stopped", subjectId, details });
    });
  }
}
