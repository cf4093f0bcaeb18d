import { webhookMessages } from "../../../db/alpine/schema";
import type { Account } from "../../http/guard";
import type { Origin } from "../audit";
import { limitWrites } from "../auth/limits";
import type { Plane } from "../plane";
import { attempt, isDelivered } from "./attempt";
import { type MessageRow, type WebhookDelivery, webhookDeliveryOf } from "./schema";
import { disableWebhook } from "./stop";
import { lockWebhook, webhookOfUser } from "./store";

/**
 * Sends a test at once and once, also where the webhook is not enabled; what came back is answered
 * and stands in the log. @throws AppError 404, 429.
 */
export async function sendTest(
  plane: Plane,
  account: Account,
  id: string,
  origin: Origin,
): Promise<WebhookDelivery> {
  const { alpine, now } = plane;
  const { userId: actorId } = account;
  await limitWrites(plane, account, origin);
  const webhook = await webhookOfUser(alpine.db(), actorId, id);
  const createdAt = new Date(now());
  const type = "webhook.test";
  const data = { webhook_id: id };
  const message = {
    id: Bun.randomUUIDv7("hex", createdAt.getTime()),
    body: JSON.stringify({ type, timestamp: createdAt.toISOString(), data }),
  };
  const { outbound, webhookSeal: seal } = alpine;
  const outcome = await attempt({ outbound, seal, now }, webhook, message);
  if (!outcome) throw new Error("a test was given up");
  const { status, error, atMs, durationMs } = outcome;
  const row: MessageRow = {
    ...message,
    webhookId: id,
    type,
    signalId: null,
    status: isDelivered(outcome) ? "delivered" : "failed",
    lane: 0,
    attempts: 1,
    nextAttemptAt: null,
    lastStatus: status,
    lastError: error,
    lastAttemptAt: new Date(atMs),
    durationMs,
    createdAt,
    endedAt: new Date(now()),
  };
  await alpine.db().transaction(async (tx) => {
    // It may have been deleted meanwhile, or lead elsewhere: then this is nothing to who is there.
    const { url } = await lockWebhook(tx, actorId, id);
    await tx.insert(webhookMessages).values(row);
    if (status === 410 && url === webhook.url)
      await disableWebhook(tx, webhook, "gone", now(), { actorId, origin });
  });
  return webhookDeliveryOf(row);
}
