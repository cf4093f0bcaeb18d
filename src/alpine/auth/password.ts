import type { z } from "@hono/zod-openapi";
import { and, eq } from "drizzle-orm";
import { users } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { lockUser, lockUserByEmail, updateUser } from "../users/store";
import { confirmPassword } from "./confirm";
import { handOver } from "./hand-over";
import { limitTo } from "./limits";
import { resetMail } from "./mails";
import { issueToken, ownerOf, useToken, voidMoves, voidTokens } from "./one-time";
import type { ChangePassword, ResetPassword } from "./schema";
import { endSessions } from "./sessions";

/**
 * Changes the password of whoever knows it. Their other sessions end, with all their tokens; this
 * one goes on as it is, and whoever distrusts it too logs out everywhere. An address that was asked
 * for before is not theirs any more.
 * @throws AppError 409, 422, 429, 503.
 */
export async function changePassword(
  plane: Plane,
  { userId, sessionId }: Account,
  body: z.infer<typeof ChangePassword>,
  origin: Origin,
): Promise<void> {
  const { alpine, now } = plane;
  const { current_password: current } = body;
  const user = await confirmPassword(plane, userId, current, origin, "current_password");
  const passwordHash = await alpine.passwords.hash(body.new_password);
  const nowMs = now();
  const at = new Date(nowMs);
  await alpine.changes.write(async (tx, tell) => {
    const changed = await tx
      .update(users)
      .set({ passwordHash, passwordChangedAt: at, updatedAt: at })
      .where(and(eq(users.id, userId), eq(users.passwordHash, user.passwordHash)))
      .returning({ id: users.id });
    if (changed.length === 0) throw new AppError("conflict", "The password was just changed.");
    await voidTokens(tx, "reset_password", userId, nowMs);
    // Whoever knew the old one may have asked for an address of theirs, to ask for a reset there.
    await voidMoves(tx, userId, nowMs);
    await endSessions(tx, tell, userId, nowMs, { except: sessionId });
    await audit(tx, nowMs, origin, { event: "password_changed", actorId: userId });
    tell({ kind: "user", id: userId });
  });
}

/**
 * Sends a token to the address if somebody has an account with it. Everything that depends on the
 * address happens after the answer. @throws AppError 429, 503.
 */
export async function forgotPassword(plane: Plane, email: string, origin: Origin): Promise<void> {
  const { alpine, config, now } = plane;
  await limitTo(plane, "mailAddress", origin.address, origin);
  await limitTo(plane, "resetAccount", email, origin);
  alpine.outbox.post(() =>
    alpine.changes.write(async (tx) => {
      const nowMs = now();
      const user = await lockUserByEmail(tx, email);
      const entry = { event: "password_reset_requested", subjectId: user?.id ?? null } as const;
      await audit(tx, nowMs, origin, entry);
      if (!user?.isActive) return null;
      const token = await issueToken(tx, "reset_password", user.id, nowMs);
      return resetMail(config, user.email, token);
    }),
  );
}

/**
 * Gives a password to whoever has the token, and with it the mailbox: the address is verified as
 * well. Every session ends; the second factor and the keys stay, unless the address was never
 * verified. @throws AppError 422, 429, 503.
 */
export async function resetPassword(
  plane: Plane,
  { token, new_password: password }: z.infer<typeof ResetPassword>,
  origin: Origin,
): Promise<void> {
  const { alpine, now } = plane;
  await limitTo(plane, "tokenAddress", origin.address, origin);
  // A token that does not count costs no hash.
  const id = await ownerOf(alpine.db(), "reset_password", token, now());
  const passwordHash = await alpine.passwords.hash(password);
  const nowMs = now();
  const at = new Date(nowMs);
  await alpine.changes.write(async (tx, tell) => {
    // The user before the token, as whoever issues one does: else two would wait for each other.
    const user = await lockUser(tx, id);
    await useToken(tx, "reset_password", token, nowMs);
    const change = { passwordHash, passwordChangedAt: at, updatedAt: at, isVerified: true };
    await updateUser(tx, id, change);
    await voidTokens(tx, "verify_email", id, nowMs);
    // Nobody has said yet that the address is theirs: it may be somebody else who made the account.
    if (user?.isVerified) await endSessions(tx, tell, id, nowMs);
    else await handOver(tx, tell, id, nowMs);
    await audit(tx, nowMs, origin, { event: "password_reset", actorId: id });
    tell({ kind: "user", id });
  });
}
