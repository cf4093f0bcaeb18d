import { and, eq } from "drizzle-orm";
import { webhookMessages } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import type { Origin } from "../audit";
import { limitWrites } from "../auth/limits";
import { first } from "../database";
import type { Plane } from "../plane";
import { enqueueAgain } from "./enqueue";
import {
  type Replayed,
  replayLooksMax,
  replayMax,
  type WebhookDelivery,
  webhookDeliveryOf,
  type WebhookRow,
} from "./schema";
import type { SignalSource } from "./source";
import { lockWebhook, missing, webhookOfUser } from "./store";

const signalsAtOnce = 200;
/** Where the filters take little, a request goes through no more than so many slices. */
const slicesMax = replayLooksMax / signalsAtOnce;

/** @throws AppError 409. */
function mustBeEnabled({ status }: WebhookRow): void {
  if (status === "enabled") return;
  throw new AppError("conflict", `The webhook is ${status}. Enable it first.`);
}

/** Has a delivery be sent again, with its own id. @throws AppError 404, 409, 429. */
export async function replayDelivery(
  plane: Plane,
  account: Account,
  { id, delivery }: { id: string; delivery: string },
  origin: Origin,
): Promise<WebhookDelivery> {
  const { alpine, now } = plane;
  await limitWrites(plane, account, origin);
  const again = { status: "waiting", lane: 1, attempts: 0, endedAt: null } as const;
  const rows = await alpine.db().transaction(async (tx) => {
    // Held, so that nobody stops it meanwhile and gives up what waited before.
    mustBeEnabled(await lockWebhook(tx, account.userId, id));
    return tx
      .update(webhookMessages)
      .set({ ...again, nextAttemptAt: new Date(now()) })
      .where(and(eq(webhookMessages.id, delivery), eq(webhookMessages.webhookId, id)))
      .returning();
  });
  return webhookDeliveryOf(first(rows) ?? missing("delivery"));
}

/**
 * Has all signals after an id be sent that the owner sees and the webhook wants, whether they were
 * before or not: those that were keep the ids of their deliveries.
 * @throws AppError 404, 409, 429, 503.
 */
export async function replaySince(
  plane: Plane & { source: SignalSource },
  account: Account,
  id: string,
  sinceId: number,
  origin: Origin,
): Promise<Replayed> {
  const { alpine, now, source } = plane;
  await limitWrites(plane, account, origin);
  mustBeEnabled(await webhookOfUser(alpine.db(), account.userId, id));
  const followed = await source.follow(account.entitlement.view, () => undefined);
  try {
    const position = await followed.position();
    let [lastId, queued] = [sinceId, 0];
    for (let slices = 0; lastId < position && slices < slicesMax; slices += 1) {
      if (queued > replayMax - signalsAtOnce) break;
      const slice = await followed.after(lastId, signalsAtOnce);
      queued += await enqueueAgain(alpine.db(), id, slice, now());
      if (slice.untilId <= lastId) break;
      lastId = slice.untilId;
    }
    return { queued, last_id: lastId, has_more: lastId < position };
  } finally {
    followed.close();
  }
}
