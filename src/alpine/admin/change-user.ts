import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { voidTokens } from "../auth/one-time";
import { endSessions, renewSessions } from "../auth/sessions";
import type { Plane } from "../plane";
import { settleTier } from "../plans/settle-tier";
import { administers, mustLeaveAdmin, updateUser } from "../users/store";
import type { AdminUserDetails, UserChange } from "./schema";
import { lockForAdmin, withSubscription } from "./store";

/**
 * Changes the rights of a user. A tier is a grant, which null clears. What their tokens say of them
 * is void at once; who is shut out has no session, no key and no link any more.
 * @throws AppError 404, 409 when nobody could administer any more.
 */
export async function changeUser(
  { alpine, config, now }: Plane,
  admin: Account,
  id: string,
  change: UserChange,
  origin: Origin,
): Promise<AdminUserDetails> {
  const { userId: adminId } = admin;
  const nowMs = now();
  return alpine.changes.write(async (tx, tell) => {
    const old = await lockForAdmin(tx, admin, id);
    const next = {
      tierGrant: change.tier === undefined ? old.tierGrant : change.tier,
      role: change.role ?? old.role,
      isActive: change.is_active ?? old.isActive,
    };
    const changed = (
      [
        { event: "tier_granted", from: old.tierGrant, to: next.tierGrant },
        { event: "role_changed", from: old.role, to: next.role },
        { event: "activation_changed", from: old.isActive, to: next.isActive },
      ] as const
    ).filter(({ from, to }) => from !== to);
    if (changed.length === 0) return withSubscription(tx, old);
    const { isVerified } = old;
    if (administers(config, old) && !administers(config, { ...next, isVerified })) {
      await mustLeaveAdmin(tx, config, id);
    }
    const updatedAt = new Date(nowMs);
    await updateUser(tx, id, { ...next, updatedAt });
    for (const { event, ...details } of changed) {
      await audit(tx, nowMs, origin, { event, actorId: adminId, subjectId: id, details });
    }
    if (next.isActive) await renewSessions(tx, tell, id, nowMs);
    else {
      await endSessions(tx, tell, id, nowMs);
      // Let in again, the account is still that of whoever had it then.
      await voidTokens(tx, "verify_email", id, nowMs);
      await voidTokens(tx, "reset_password", id, nowMs);
    }
    tell({ kind: "user", id });
    const changedUser = { ...old, ...next, updatedAt };
    const manner = { nowMs, actorId: adminId, origin };
    return withSubscription(tx, await settleTier(tx, tell, changedUser, manner));
  });
}
