import { AppError } from "../../errors";
import { audit, type Origin } from "../audit";
import { renewSessions } from "../auth/sessions";
import type { Changes } from "../changes";
import { lockAdmins, type Transaction } from "../database";
import type { UserRow } from "../users/schema";
import { insertUser, lockUserByEmail, newUser, updateUser } from "../users/store";

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
      throw new AppError("conflict", "There is an account with this e-mail address.");
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
 * Makes whoever has an account with this address an administrator, whose address counts as
 * verified. The password and the second factor stay theirs. Null when nobody has one.
 * @throws AppError 409 for somebody who is shut out: that was decided, and is not undone by this.
 */
export async function promoteToAdmin(
  { changes, now }: Ground,
  email: string,
): Promise<{ admin: UserRow; changed: boolean; verified: boolean } | null> {
  const nowMs = now();
  return changes.write(async (tx, tell) => {
    await lockAdmins(tx);
    const old = await lockUserByEmail(tx, email);
    if (!old) return null;
    const { id, role, isActive, isVerified } = old;
    if (!isActive) throw new AppError("conflict", `${old.email} is shut out (user ${id}).`);
    const verified = !isVerified;
    if (role === "admin" && isVerified) return { admin: old, changed: false, verified };
    const change = { role: "admin", isVerified: true, updatedAt: new Date(nowMs) } as const;
    await updateUser(tx, id, change);
    await renewSessions(tx, tell, id, nowMs);
    const details = { by: "command line", was: { role, is_verified: isVerified } };
    await audit(tx, nowMs, null, { event: "admin_created", subjectId: id, details });
    tell({ kind: "user", id });
    return { admin: { ...old, ...change }, changed: true, verified };
  });
}
