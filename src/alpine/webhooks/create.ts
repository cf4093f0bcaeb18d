import { webhooks } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Entitlement } from "../../http/entitlement";
import type { Account } from "../../http/guard";
import type { Outbound } from "../../platform/outbound";
import { audit, type Origin } from "../audit";
import { limitWrites } from "../auth/limits";
import type { Plane } from "../plane";
import { lockSelf } from "../users/store";
import { type MadeWebhook, type NewWebhook, webhookOf, type WebhookRow } from "./schema";
import { makeSecret } from "./secret";
import { positionOf, type SignalSource } from "./source";
import { countOf, webhooksMax } from "./store";

/** @throws AppError 422 for an address that nothing is sent to. */
export async function mustBeSendable(outbound: Outbound, url: string): Promise<void> {
  const detail = await outbound.fault(url);
  if (detail === null) return;
  throw new AppError("unprocessable", "The body is not valid: url.", {
    errors: [{ field: "url", detail }],
  });
}

/** @throws AppError 403 for a plan without webhooks, 409 when as many are enabled as it allows. */
export function mustHaveRoom({ webhooksMax: most }: Entitlement, enabled: number): void {
  if (most < 1) {
    throw new AppError("forbidden", "The plan of this account does not include webhooks.");
  }
  if (enabled < most) return;
  const detail = `The plan of this account allows ${most} webhooks at once. Pause or delete one first.`;
  throw new AppError("conflict", detail);
}

/**
 * Makes a webhook, which is sent what comes from now on. Its secret is in the answer and nowhere else.
 * @throws AppError 403, 409 for one too many, 422 for an address that nothing is sent to, 429, 503.
 */
export async function createWebhook(
  plane: Plane & { source: SignalSource },
  account: Account,
  given: NewWebhook,
  origin: Origin,
): Promise<MadeWebhook> {
  const { alpine, now, source } = plane;
  const { userId } = account;
  mustHaveRoom(account.entitlement, 0);
  await limitWrites(plane, account, origin);
  await mustBeSendable(alpine.outbound, given.url);
  // Before it is there, so that nothing is missed that comes from then on.
  const place = await positionOf(source, account.entitlement.view);
  const nowMs = now();
  const id = Bun.randomUUIDv7("hex", nowMs);
  const secret = makeSecret();
  const row: WebhookRow = {
    id,
    userId,
    url: new URL(given.url).href,
    description: given.description ?? null,
    symbol: given.symbol ?? null,
    strategy: given.strategy ?? null,
    minConfidence: given.min_confidence ?? null,
    premiumOnly: given.premium_only,
    secret: alpine.webhookSeal.seal(secret, id),
    oldSecret: null,
    oldSecretUntil: null,
    status: "enabled",
    reason: null,
    place,
    createdAt: new Date(nowMs),
    updatedAt: new Date(nowMs),
    failingSince: null,
    notBefore: null,
    leasedUntil: null,
  };
  await alpine.changes.write(async (tx) => {
    const { tier, role } = await lockSelf(tx, account);
    const { all, enabled } = await countOf(tx, userId);
    mustHaveRoom(alpine.plans.entitlementOf(tier, role), enabled);
    if (all >= webhooksMax) {
      throw new AppError("conflict", `An account has at most ${webhooksMax} webhooks. Delete one.`);
    }
    await tx.insert(webhooks).values(row);
    const details = { webhook_id: id, host: new URL(row.url).host };
    await audit(tx, nowMs, origin, { event: "webhook_created", actorId: userId, details });
  });
  return { ...webhookOf(row), secret };
}
