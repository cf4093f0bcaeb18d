import { eq } from "drizzle-orm";
import { webhooks } from "../../../db/alpine/schema";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { limitWrites } from "../auth/limits";
import type { Plane } from "../plane";
import { lockSelf } from "../users/store";
import { mustBeSendable, mustHaveRoom } from "./create";
import {
  type MadeWebhook,
  type Webhook,
  type WebhookChange,
  webhookOf,
  type WebhookRow,
} from "./schema";
import { makeSecret, rotated } from "./secret";
import { positionOf, type SignalSource } from "./source";
import { stopWebhook } from "./stop";
import { countOf, lockWebhook, updateWebhook } from "./store";

/**
 * Changes a webhook, pauses it or enables it again: then it goes on from the newest signal, since
 * what bots are told late may cost them more than what they are not told.
 * @throws AppError 403, 404, 409 for one enabled too many, 422, 429, 503.
 */
export async function changeWebhook(
  plane: Plane & { source: SignalSource },
  account: Account,
  id: string,
  { status, ...given }: WebhookChange,
  origin: Origin,
): Promise<Webhook> {
  const { alpine, now, source } = plane;
  const { userId, entitlement } = account;
  await limitWrites(plane, account, origin);
  if (given.url !== undefined) await mustBeSendable(alpine.outbound, given.url);
  const place = status === "enabled" ? await positionOf(source, entitlement.view) : 0;
  const nowMs = now();
  const row = await alpine.changes.write(async (tx) => {
    const { tier, role } = await lockSelf(tx, account);
    const old = await lockWebhook(tx, userId, id);
    let next: WebhookRow = { ...old, ...columnsOf(given), updatedAt: new Date(nowMs) };
    // Another receiver answers for itself alone.
    if (next.url !== old.url) next = { ...next, failingSince: null, notBefore: null };
    if (status === "enabled" && old.status !== "enabled") {
      mustHaveRoom(alpine.plans.entitlementOf(tier, role), (await countOf(tx, userId)).enabled);
      const fresh = { reason: null, failingSince: null, notBefore: null, leasedUntil: null };
      next = { ...next, ...fresh, status, place };
    } else if (status === "paused") {
      await stopWebhook(tx, id, "owner", nowMs);
      next = { ...next, status, reason: "owner" };
    }
    await updateWebhook(tx, id, next);
    const details = {
      webhook_id: id,
      changed: Object.keys({ ...given, ...(status && { status }) }),
    };
    await audit(tx, nowMs, origin, { event: "webhook_changed", actorId: userId, details });
    return next;
  });
  return webhookOf(row);
}

function columnsOf(given: Omit<WebhookChange, "status">): Partial<WebhookRow> {
  const { url, description, symbol, strategy, min_confidence: floor, premium_only: only } = given;
  return {
    ...(url !== undefined && { url: new URL(url).href }),
    ...(description !== undefined && { description }),
    ...(symbol !== undefined && { symbol }),
    ...(strategy !== undefined && { strategy }),
    ...(floor !== undefined && { minConfidence: floor }),
    ...(only !== undefined && { premiumOnly: only }),
  };
}

/**
 * Gives a webhook another secret. For a day those before sign as well, so that the receiver can be
 * given it meanwhile. @throws AppError 404, 429.
 */
export async function rotateSecret(
  plane: Plane,
  account: Account,
  id: string,
  origin: Origin,
): Promise<MadeWebhook> {
  const { alpine, now } = plane;
  const { userId } = account;
  await limitWrites(plane, account, origin);
  const nowMs = now();
  const secret = makeSecret();
  const row = await alpine.changes.write(async (tx) => {
    await lockSelf(tx, account);
    const old = await lockWebhook(tx, userId, id);
    const sealed = rotated(alpine.webhookSeal, old, secret, nowMs);
    const change = { ...sealed, updatedAt: new Date(nowMs) };
    await updateWebhook(tx, id, change);
    const details = { webhook_id: id };
    await audit(tx, nowMs, origin, { event: "webhook_secret_rotated", actorId: userId, details });
    return { ...old, ...change };
  });
  return { ...webhookOf(row), secret };
}

/** Deletes a webhook with its log. @throws AppError 404. */
export async function deleteWebhook(
  plane: Plane,
  account: Account,
  id: string,
  origin: Origin,
): Promise<void> {
  const { alpine, now } = plane;
  const { userId } = account;
  await alpine.changes.write(async (tx) => {
    await lockSelf(tx, account);
    const { url } = await lockWebhook(tx, userId, id);
    await tx.delete(webhooks).where(eq(webhooks.id, id));
    const details = { webhook_id: id, host: new URL(url).host };
    await audit(tx, now(), origin, { event: "webhook_deleted", actorId: userId, details });
  });
}
