import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { confirmPassword, wrongPassword } from "../auth/confirm";
import { limitWrites } from "../auth/limits";
import { voidTokens } from "../auth/one-time";
import { sendMove, sendVerification } from "../auth/verify";
import { isTaken } from "../database";
import type { Plane } from "../plane";
import { type ProfileChange, type User, userOf } from "./schema";
import { lockSelf, updateUser, userById, knownAddress } from "./store";

/**
 * Changes a profile. Another address needs the password and is unverified until its owner says
 * so; tokens that were sent to the old one are void. Where addresses must be verified the old one
 * stays until then, and the answer does not tell whether somebody has the other.
 * @throws AppError 409 for an address that is taken, 422 also for a wrong password, 429, 503.
 */
export async function changeProfile(
  plane: Plane,
  account: Account,
  { email, full_name: fullName, password }: ProfileChange,
  origin: Origin,
): Promise<User> {
  const { alpine, config, now } = plane;
  const { userId } = account;
  await limitWrites(plane, account, origin);
  const before = await userById(alpine.db(), userId);
  const moves = email !== undefined && email !== before?.email;
  if (moves && password === undefined) {
    throw new AppError("unprocessable", "The body is not valid: password.", {
      errors: [{ field: "password", detail: "is needed to change the e-mail address" }],
    });
  }
  const confirmed = moves ? await confirmPassword(plane, userId, password ?? "", origin) : null;
  const nowMs = now();
  const write = alpine.changes.write(async (tx, tell) => {
    const old = await lockSelf(tx, account);
    if (confirmed && confirmed.passwordHash !== old.passwordHash) throw wrongPassword();
    const renamed = fullName !== undefined && fullName !== old.fullName;
    const asked = moves && email !== old.email;
    const moved = asked && !config.requireVerifiedEmail;
    if (!renamed && !asked) return old;
    const change = {
      ...(renamed && { fullName }),
      ...(moved && { email, isVerified: false }),
      updatedAt: new Date(nowMs),
    };
    await updateUser(tx, userId, change);
    if (moved) {
      await voidTokens(tx, "verify_email", userId, nowMs);
      await voidTokens(tx, "reset_password", userId, nowMs);
    }
    const fields = [...(renamed ? ["full_name"] : []), ...(asked ? ["email"] : [])];
    const details = { fields };
    await audit(tx, nowMs, origin, { event: "profile_changed", actorId: userId, details });
    tell({ kind: "user", id: userId });
    return { ...old, ...change };
  });
  const user = await write.catch((error: unknown) => {
    if (!isTaken(error)) throw error;
    throw knownAddress();
  });
  if (moves && config.requireVerifiedEmail) await sendMove(plane, userId, email, origin);
  else if (moves) await sendVerification(plane, user.email, origin);
  return userOf(user);
}
