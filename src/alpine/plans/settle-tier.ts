import { and, eq, inArray } from "drizzle-orm";
import { subscriptions, type SubscriptionStatus, type Tier } from "../../../db/alpine/schema";
import { audit, type Origin } from "../audit";
import { renewSessions } from "../auth/sessions";
import type { Tell } from "../changes";
import type { Transaction } from "../database";
import type { UserRow } from "../users/schema";
import { updateUser } from "../users/store";

/** In these a subscription gives its tier. */
export const givingStatuses: readonly SubscriptionStatus[] = ["trialing", "active", "past_due"];

type Manner = { nowMs: number; actorId: string | null; origin: Origin | null };

/**
 * Brings the tier of a user in line with their grant, else their subscription, else starter. The
 * user is locked by the caller; what their tokens say is void at once where it differs.
 * @param user as it is to be, `tierGrant` included; `tier` as it was.
 */
export async function settleTier(
  tx: Transaction,
  tell: Tell,
  user: UserRow,
  { nowMs, actorId, origin }: Manner,
): Promise<UserRow> {
  const tier = user.tierGrant ?? (await subscribedTier(tx, user.id)) ?? "starter";
  if (tier === user.tier) return user;
  const updatedAt = new Date(nowMs);
  await updateUser(tx, user.id, { tier, updatedAt });
  const details = { from: user.tier, to: tier };
  await audit(tx, nowMs, origin, { event: "tier_changed", actorId, subjectId: user.id, details });
  await renewSessions(tx, tell, user.id, nowMs);
  tell({ kind: "user", id: user.id });
  return { ...user, tier, updatedAt };
}

async function subscribedTier(tx: Transaction, userId: string): Promise<Tier | undefined> {
  const [row] = await tx
    .select({ tier: subscriptions.tier })
    .from(subscriptions)
    .where(
      and(eq(subscriptions.userId, userId), inArray(subscriptions.status, [...givingStatuses])),
    );
  return row?.tier;
}
