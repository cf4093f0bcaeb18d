import { eq } from "drizzle-orm";
import { users } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { lockUserByEmail } from "../users/store";
import { limitTo } from "./limits";
import { accountExistsMail, verificationMail } from "./mails";
import { issueToken, ownerOf, useToken, voidTokens } from "./one-time";

/**
 * After a signup: sends the mail that verifies the address or, where the answer must not tell,
 * the one that says that there is an account already. Everything that depends on the address
 * happens after the answer. Does not fail: the account is made.
 */
export async function sendVerification(plane: Plane, email: string, origin: Origin): Promise<void> {
  try {
    await limitTo(plane, "mailAccount", email, origin);
    postVerification(plane, email, origin, plane.config.requireVerifiedEmail);
  } catch (error) {
    const reason = error instanceof AppError ? error.detail : String(error);
    plane.log.warn({ reason }, "verification not sent");
  }
}

/** For whoever asks again. The same for every address. @throws AppError 429, 503. */
export async function resendVerification(
  plane: Plane,
  email: string,
  origin: Origin,
): Promise<void> {
  await limitTo(plane, "mailAddress", origin.address, origin);
  await limitTo(plane, "mailAccount", email, origin);
  postVerification(plane, email, origin, false);
}

function postVerification(
  { alpine, config, now }: Plane,
  email: string,
  origin: Origin,
  tellIfVerified: boolean,
): void {
  alpine.outbox.post(() =>
    alpine.changes.write(async (tx) => {
      const nowMs = now();
      const user = await lockUserByEmail(tx, email);
      if (!user?.isActive) return null;
      if (user.isVerified) return tellIfVerified ? accountExistsMail(config, user.email) : null;
      const token = await issueToken(tx, "verify_email", user.id, nowMs);
      await audit(tx, nowMs, origin, { event: "verification_sent", subjectId: user.id });
      return verificationMail(config, user.email, token);
    }),
  );
}

/** Whoever has the token has the mailbox. @throws AppError 422, 429, 503. */
export async function verifyEmail(plane: Plane, token: string, origin: Origin): Promise<void> {
  const { alpine, now } = plane;
  await limitTo(plane, "tokenAddress", origin.address, origin);
  const nowMs = now();
  const id = await ownerOf(alpine.db(), "verify_email", token, nowMs);
  await alpine.changes.write(async (tx, tell) => {
    // The user before the token, as whoever issues one does: else two would wait for each other.
    const at = new Date(nowMs);
    await tx.update(users).set({ isVerified: true, updatedAt: at }).where(eq(users.id, id));
    await useToken(tx, "verify_email", token, nowMs);
    await voidTokens(tx, "verify_email", id, nowMs);
    await audit(tx, nowMs, origin, { event: "email_verified", actorId: id });
    tell({ kind: "user", id });
  });
}
