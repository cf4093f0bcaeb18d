import type { Pending } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import { audit, type Origin } from "../audit";
import { isTaken } from "../database";
import type { Mail } from "../../platform/mail";
import type { Plane } from "../plane";
import { lockUser, lockUserByEmail, updateUser, userByEmail } from "../users/store";
import { handOver } from "./hand-over";
import { limitTo } from "./limits";
import { accountExistsMail, ownerMail, verificationMail } from "./mails";
import { issueToken, ownerOf, reissueVerification, useToken, voidTokens } from "./one-time";

/** Sends the mail that verifies the address of an account. Does not fail: the account is made. */
export async function sendVerification(plane: Plane, email: string, origin: Origin): Promise<void> {
  await afterwards(plane, email, origin, () => verificationFor(plane, email, origin, null));
}

/**
 * After a signup whose answer must not tell: sends the mail that verifies the address, or the one
 * that says that there is an account already. Everything that depends on the address happens after
 * the answer. Whoever has the mailbox decides whose signup counts: each mail makes the account what
 * its own signup asked for (`pending`). Does not fail, and is counted by the caller.
 */
export function sendSignup(plane: Plane, email: string, origin: Origin, pending: Pending): void {
  post(plane, () => verificationFor(plane, email, origin, pending));
}

function verificationFor(
  { alpine, config, now }: Plane,
  email: string,
  origin: Origin,
  pending: Pending | null,
): Promise<Mail | null> {
  return alpine.changes.write(async (tx) => {
    const nowMs = now();
    const user = await lockUserByEmail(tx, email);
    if (!user?.isActive) return null;
    if (user.isVerified) return pending && accountExistsMail(config, user.email);
    const token = await issueToken(tx, "verify_email", user.id, nowMs, {
      pending,
      beside: pending !== null,
    });
    await audit(tx, nowMs, origin, { event: "verification_sent", subjectId: user.id });
    return verificationMail(config, user.email, token, nowMs);
  });
}

/**
 * After a user asked for another address: sends the mail that gives it to them, or tells whoever
 * has it already. Does not fail: the answer is the same for every address.
 */
export async function sendMove(
  plane: Plane,
  userId: string,
  email: string,
  origin: Origin,
): Promise<void> {
  const { alpine, config, now } = plane;
  await afterwards(plane, email, origin, () =>
    alpine.changes.write(async (tx) => {
      const nowMs = now();
      const user = await lockUser(tx, userId);
      if (!user?.isActive) return null;
      // Whoever has the address: what becomes void, and what is written down, can be seen by whoever
      // asks, and would tell.
      await voidTokens(tx, "verify_email", userId, nowMs);
      await audit(tx, nowMs, origin, { event: "verification_sent", subjectId: userId });
      const holder = await userByEmail(tx, email);
      if (holder && holder.id !== userId) {
        return holder.isActive ? accountExistsMail(config, holder.email) : null;
      }
      const pending = { email };
      const token = await issueToken(tx, "verify_email", userId, nowMs, { pending, beside: true });
      return verificationMail(config, email, token, nowMs);
    }),
  );
}

async function afterwards(
  plane: Plane,
  email: string,
  origin: Origin,
  make: () => Promise<Mail | null>,
): Promise<void> {
  try {
    await limitTo(plane, "verificationAccount", email, origin);
    post(plane, make);
  } catch (error) {
    notSent(plane, error);
  }
}

function post(plane: Plane, make: () => Promise<Mail | null>): void {
  try {
    plane.alpine.outbox.post(make);
  } catch (error) {
    notSent(plane, error);
  }
}

function notSent({ log }: Plane, error: unknown): void {
  const reason = error instanceof AppError ? error.detail : String(error);
  log.warn({ reason }, "verification not sent");
}

/**
 * For whoever asks again. Where it is not certain whose sign-up is meant, the mail asks for a new
 * password instead: one that a stranger chose must not become that of the owner's account.
 * The answer is the same for every address. @throws AppError 429, 503.
 */
export async function resendVerification(
  plane: Plane,
  email: string,
  origin: Origin,
): Promise<void> {
  const { alpine, config, now } = plane;
  await limitTo(plane, "mailAddress", origin.address, origin);
  await limitTo(plane, "verificationAccount", email, origin);
  alpine.outbox.post(() =>
    alpine.changes.write(async (tx) => {
      const nowMs = now();
      const user = await lockUserByEmail(tx, email);
      if (!user?.isActive || user.isVerified) return null;
      const subjectId = user.id;
      const token = await reissueVerification(tx, user, nowMs, config.requireVerifiedEmail);
      if (token !== null) {
        await audit(tx, nowMs, origin, { event: "verification_sent", subjectId });
        return verificationMail(config, user.email, token, nowMs);
      }
      const reset = await issueToken(tx, "reset_password", user.id, nowMs);
      await audit(tx, nowMs, origin, { event: "password_reset_requested", subjectId });
      return ownerMail(config, user.email, reset);
    }),
  );
}

/**
 * Whoever has the token has the mailbox: the account becomes what the signup with this token asked
 * for, and nobody else's. @throws AppError 409 for an address that was taken since, 422, 429, 503.
 */
export async function verifyEmail(plane: Plane, token: string, origin: Origin): Promise<void> {
  const { alpine, now } = plane;
  await limitTo(plane, "tokenAddress", origin.address, origin);
  const nowMs = now();
  const at = new Date(nowMs);
  const id = await ownerOf(alpine.db(), "verify_email", token, nowMs);
  const write = alpine.changes.write(async (tx, tell) => {
    // The user before the token, as whoever issues one does: else two would wait for each other.
    await lockUser(tx, id);
    const pending = await useToken(tx, "verify_email", token, nowMs);
    await updateUser(tx, id, {
      ...pending,
      ...(pending.passwordHash !== undefined && { passwordChangedAt: at }),
      isVerified: true,
      updatedAt: at,
    });
    await voidTokens(tx, "verify_email", id, nowMs);
    // What was sent to an address that is theirs no more.
    if (pending.email !== undefined) await voidTokens(tx, "reset_password", id, nowMs);
    if (pending.passwordHash !== undefined) await handOver(tx, tell, id, nowMs);
    await audit(tx, nowMs, origin, { event: "email_verified", actorId: id });
    tell({ kind: "user", id });
  });
  await write.catch((error: unknown) => {
    if (!isTaken(error)) throw error;
    throw new AppError("conflict", "There is an account with this e-mail address.");
  });
}
