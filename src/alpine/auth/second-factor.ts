import { and, eq, isNotNull, isNull } from "drizzle-orm";
import { recoveryCodes, users } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { confirmPassword, confirmSecondFactor, mustFind, refuseConfirmation } from "./confirm";
import { limitTo } from "./limits";
import { newSecret, replaceRecoveryCodes, stepOf } from "./totp";

type Confirmation = { password: string; totp: string };

/**
 * Begins a second factor: logins do not ask for it before a code has shown that the secret
 * arrived. Begun again, the earlier secret is void. @throws AppError 409, 422, 429, 503.
 */
export async function setUpTotp(
  plane: Plane,
  userId: string,
  password: string,
  origin: Origin,
): Promise<{ secret: string; otpauth_url: string }> {
  const { alpine, now } = plane;
  const user = await confirmPassword(plane, userId, password, origin);
  const { secret, url } = newSecret(user.email);
  const nowMs = now();
  await alpine.changes.write(async (tx) => {
    const begun = await tx
      .update(users)
      .set({ totpSecret: alpine.seal.seal(secret, userId), updatedAt: new Date(nowMs) })
      .where(and(eq(users.id, userId), isNull(users.totpEnabledAt)))
      .returning({ id: users.id });
    if (begun.length === 0) throw isOn();
    await audit(tx, nowMs, origin, { event: "totp_begun", actorId: userId });
  });
  return { secret, otpauth_url: url };
}

/**
 * Turns the second factor on. @returns the recovery codes, shown this once.
 * @throws AppError 409, 422, 429, 503.
 */
export async function enableTotp(
  plane: Plane,
  userId: string,
  code: string,
  origin: Origin,
): Promise<string[]> {
  const { alpine, now } = plane;
  const attempt = await limitTo(plane, "totpAccount", userId, origin);
  const user = await mustFind(plane, userId);
  if (user.totpEnabledAt) throw isOn();
  const { totpSecret } = user;
  if (!totpSecret) throw new AppError("conflict", "Begin with POST /api/auth/totp/setup.");
  const nowMs = now();
  const step = stepOf(plane, user, code, nowMs);
  if (step === null) return refuseConfirmation(plane, userId, "code", origin);
  const at = new Date(nowMs);
  const codes = await alpine.changes.write(async (tx, tell) => {
    const enabled = await tx
      .update(users)
      .set({ totpEnabledAt: at, totpLastStep: step, updatedAt: at })
      .where(
        and(
          eq(users.id, userId),
          isNull(users.totpEnabledAt),
          // The secret that the code was of, not one that was begun meanwhile.
          eq(users.totpSecret, totpSecret),
        ),
      )
      .returning({ id: users.id });
    if (enabled.length === 0) return null;
    await audit(tx, nowMs, origin, { event: "totp_enabled", actorId: userId });
    tell({ kind: "user", id: userId });
    return replaceRecoveryCodes(tx, userId);
  });
  if (!codes) throw isOn();
  await attempt.giveBack();
  return codes;
}

/** Turns the second factor off, recovery codes included. @throws AppError 409, 422, 429, 503. */
export async function disableTotp(
  plane: Plane,
  userId: string,
  given: Confirmation,
  origin: Origin,
): Promise<void> {
  const { alpine, now } = plane;
  await confirmBoth(plane, userId, given, origin);
  const nowMs = now();
  await alpine.changes.write(async (tx, tell) => {
    const disabled = await tx
      .update(users)
      .set({
        totpSecret: null,
        totpEnabledAt: null,
        totpLastStep: null,
        updatedAt: new Date(nowMs),
      })
      .where(and(eq(users.id, userId), isNotNull(users.totpEnabledAt)))
      .returning({ id: users.id });
    if (disabled.length === 0) throw isOff();
    await tx.delete(recoveryCodes).where(eq(recoveryCodes.userId, userId));
    await audit(tx, nowMs, origin, { event: "totp_disabled", actorId: userId });
    tell({ kind: "user", id: userId });
  });
}

/** New recovery codes in the place of the old ones. @throws AppError 409, 422, 429, 503. */
export async function renewRecoveryCodes(
  plane: Plane,
  userId: string,
  given: Confirmation,
  origin: Origin,
): Promise<string[]> {
  const { alpine, now } = plane;
  await confirmBoth(plane, userId, given, origin);
  const nowMs = now();
  return alpine.changes.write(async (tx) => {
    // Locks the row: of two at once the later codes count, and no others.
    const there = await tx
      .update(users)
      .set({ updatedAt: new Date(nowMs) })
      .where(and(eq(users.id, userId), isNotNull(users.totpEnabledAt)))
      .returning({ id: users.id });
    if (there.length === 0) throw isOff();
    await audit(tx, nowMs, origin, { event: "recovery_codes_renewed", actorId: userId });
    return replaceRecoveryCodes(tx, userId);
  });
}

async function confirmBoth(
  plane: Plane,
  userId: string,
  { password, totp }: Confirmation,
  origin: Origin,
): Promise<void> {
  const user = await confirmPassword(plane, userId, password, origin);
  if (!user.totpEnabledAt) throw isOff();
  await confirmSecondFactor(plane, user, totp, origin);
}

const isOn = () => new AppError("conflict", "The second factor is on already.");
const isOff = () => new AppError("conflict", "The second factor is not on.");
