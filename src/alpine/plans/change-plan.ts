import { eq } from "drizzle-orm";
import { formerPrices, plans, type Tier } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { mustAdminister } from "../admin/store";
import { audit, type Origin } from "../audit";
import { isTaken } from "../database";
import type { Plane } from "../plane";
import { type AdminPlan, adminPlanOf, columnsOf, type PlanChange } from "./schema";

/**
 * Changes what a plan costs and gives. What it gives changes at once for all who have it, in every
 * process within a second; what a running period costs was agreed and stays.
 * @throws AppError 403, 409 for a price at Stripe that sells another plan.
 */
export async function changePlan(
  { alpine, now }: Plane,
  admin: Account,
  tier: Tier,
  change: PlanChange,
  origin: Origin,
): Promise<AdminPlan> {
  const nowMs = now();
  const row = await alpine.changes
    .write(async (tx, tell) => {
      await mustAdminister(tx, admin);
      const [old] = await tx.select().from(plans).where(eq(plans.tier, tier)).for("update");
      if (!old) throw new AppError("not_found", "There is no such plan.");
      const next = { ...old, ...columnsOf(change), updatedAt: new Date(nowMs) };
      await tx.update(plans).set(next).where(eq(plans.tier, tier));
      if (old.stripePriceId !== null && old.stripePriceId !== next.stripePriceId) {
        const set = { stripePriceId: old.stripePriceId, tier };
        const target = formerPrices.stripePriceId;
        await tx.insert(formerPrices).values(set).onConflictDoUpdate({ target, set });
      }
      const [from, to] = [adminPlanOf(old), adminPlanOf(next)];
      const names = Object.keys(change) as (keyof PlanChange)[];
      const changed = names.filter((name) => from[name] !== to[name]);
      if (changed.length === 0) return old;
      const pairs = changed.map((name) => [name, { from: from[name], to: to[name] }]);
      const details = { tier, ...Object.fromEntries(pairs) };
      await audit(tx, nowMs, origin, { event: "plan_changed", actorId: admin.userId, details });
      tell({ kind: "plan", tier });
      return next;
    })
    .catch((error: unknown) => {
      if (!isTaken(error)) throw error;
      throw new AppError("conflict", "This price at Stripe sells another plan.", {
        errors: [{ field: "stripe_price_id", detail: "is taken" }],
      });
    });
  return adminPlanOf(row);
}
