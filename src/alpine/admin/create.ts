import { AppError } from "../../errors";
import { audit, type Origin } from "../audit";
import { handOver } from "../auth/hand-over";
import { voidTokens } from "../auth/one-time";
import { endSessions } from "../auth/sessions";
import type { Changes } from "../changes";
import { lockAdmins, type Transaction } from "../database";
import type { UserRow } from "../users/schema";
import { insertUser, lockUserByEmail, newUser, updateUser, knownAddress } from "../users/store";

/** What these decisions stand on: a command has no more of the control plane than that. */
type Ground = { changes: Changes; now: () => number };

export type NewAdmin = Pick<UserRow, "email" | "fullName" | "passwordHash">;

type Manner = {
  /** Null for a command: whoever runs it has no account. */
  origin: Origin | null;
  by: "command line" | "setup link";
  /** What must hold under the lock of administrators. What it throws takes everything back. */
  first?: (tx: Transaction, nowMs: number) => Promise<void>;
};

/**
 * Makes an administrator, whose address counts as verified. No two are made at once.
 * @throws AppError 409 for a known address; what `first` throws.
 */
export async function createAdmin(
  { changes, now }: Ground,
  given: NewAdmin,
  { origin, by, first }: Manner,
): Promise<UserRow> {
  const nowMs = now();
  const admin = newUser(nowMs, { ...given, role: "admin", isVerified: true });
  return changes.write(async (tx, tell) => {
    await lockAdmins(tx);
    await first?.(tx, nowMs);
    if (!(await insertUser(tx, admin))) {
      throw knownAddress();
    }
    const actorId = origin === null ? null : admin.id;
    const entry = {
      event: "admin_created",
      actorId,
      subjectId: admin.id,
      details: { by },
    } as const;
    await audit(tx, nowMs, origin, entry);
    tell({ kind: "user", id: admin.id });
    return admin;
  });
}

/**
 * Makes whoever has an account with this address an administrator. Their sessions end, so that
 * none from before has the new rights. Null when nobody has one. An address that nobody has
 * verified may be somebody else's account: it needs a new password, which ends all that was made
 * before, the second factor and the keys included. Otherwise both and the password stay theirs.
 * @throws AppError 409 for somebody who is shut out, which was decided and is not undone by this;
 * 422 for somebody who is not verified, without a password.
 */
export async function promoteToAdmin(
  { changes, now }: Ground,
  email: string,
  passwordHash: string | null,
): Promise<{ admin: UserRow; changed: boolean } | null> {
  const nowMs = now();
  const at = new Date(nowMs);
  return changes.write(async (tx, tell) => {
    await lockAdmins(tx);
    const old = await lockUserByEmail(tx, email);
    if (!old) return null;
    const { id, role, isActive, isVerified } = old;
    if (!isActive) throw new AppError("conflict", `${old.email} is shut out (user ${id}).`);
    if (!isVerified && passwordHash === null) {
      throw new AppError("unprocessable", `${old.email} has not been verified.`);
    }
    if (role === "admin" && passwordHash === null) return { admin: old, changed: false };
    const change = {
      role: "admin",
      isVerified: true,
      updatedAt: at,
      ...(passwordHash !== null && { passwordHash, passwordChangedAt: at }),
    } as const;
    await updateUser(tx, id, change);
    await voidTokens(tx, "verify_email", id, nowMs);
    await voidTokens(tx, "reset_password", id, nowMs);
    if (isVerified) await endSessions(tx, tell, id, nowMs);
    else await handOver(tx, tell, id, nowMs);
    const details = { by: "command line", was: { role, is_verified: isVerified } };
    await audit(tx, nowMs, null, { event: "admin_created", subjectId: id, details });
    tell({ kind: "user", id });
    return { admin: { ...old, ...change }, changed: true };
  });
}
