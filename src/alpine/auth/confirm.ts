import { AppError } from "../../errors";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import type { UserRow } from "../users/schema";
import { userById } from "../users/store";
import { limitTo, lookAt } from "./limits";
import { type CodeFault, useSecondFactor } from "./totp";

/**
 * Whoever holds a session says the password again before what a stolen session must not do.
 * `field` is where it was sent. @returns the user. @throws AppError 404, 422, 429, 503.
 */
export async function confirmPassword(
  plane: Plane,
  userId: string,
  password: string,
  origin: Origin,
  field = "password",
): Promise<UserRow> {
  const attempt = await limitTo(plane, "passwordAccount", userId, origin);
  const { user, right } = await lookAt([attempt], async () => {
    const found = await mustFind(plane, userId);
    const same = await plane.alpine.passwords.verify(password, found.passwordHash);
    return { user: found, right: same };
  });
  if (!right) return refuseConfirmation(plane, userId, field, origin);
  await attempt.giveBack();
  return user;
}

/** The same with a code of the second factor. @throws AppError 422, 429, 503. */
export async function confirmSecondFactor(
  plane: Plane,
  user: UserRow,
  totp: string,
  origin: Origin,
): Promise<void> {
  const fault = await useSecondFactor(plane, user, totp, origin);
  if (fault !== null) await refuseConfirmation(plane, user.id, "totp", origin, fault);
}

/** The user of a session. @throws AppError 404, 503. */
export async function mustFind({ alpine }: Plane, userId: string): Promise<UserRow> {
  const user = await userById(alpine.db(), userId);
  if (user) return user;
  throw new AppError("not_found", "There is no such account.");
}

/** Writes it down. @throws AppError 422. */
export async function refuseConfirmation(
  { alpine, now }: Plane,
  userId: string,
  field: string,
  origin: Origin,
  fault: CodeFault = "is not right",
): Promise<never> {
  const entry = { event: "confirmation_failed", actorId: userId, details: { field } } as const;
  await audit(alpine.db(), now(), origin, entry);
  throw notRight(field, fault);
}

export const wrongPassword = (): AppError => notRight("password");

/** Not a 401: the session is good, and clients would throw it away. */
const notRight = (field: string, detail: CodeFault = "is not right"): AppError =>
  new AppError("unprocessable", `The body is not valid: ${field}.`, {
    errors: [{ field, detail }],
  });
