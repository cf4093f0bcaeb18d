import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { confirmPassword, wrongPassword } from "../auth/confirm";
import { endSessions } from "../auth/sessions";
import { lockAdmins } from "../database";
import type { Plane } from "../plane";
import { administers, deleteUser, lockSelf, mustLeaveAdmin } from "./store";

/**
 * Deletes an account for good, with everything that is its own. What was written down about it
 * stays, without its name.
 * @throws AppError 409 for the last administrator, 422 for a wrong password, 429, 503.
 */
export async function deleteAccount(
  plane: Plane,
  { userId }: Account,
  password: string,
  origin: Origin,
): Promise<void> {
  const { alpine, config, now } = plane;
  const confirmed = await confirmPassword(plane, userId, password, origin);
  const nowMs = now();
  await alpine.changes.write(async (tx, tell) => {
    await lockAdmins(tx);
    const user = await lockSelf(tx, userId);
    if (confirmed.passwordHash !== user.passwordHash) throw wrongPassword();
    if (administers(config, user)) await mustLeaveAdmin(tx, config, userId);
    // Before the rows are gone: what is void must be known for as long as tokens last.
    await endSessions(tx, tell, userId, nowMs);
    await deleteUser(tx, userId);
    await audit(tx, nowMs, origin, { event: "account_deleted", actorId: userId });
    tell({ kind: "user", id: userId });
  });
}
