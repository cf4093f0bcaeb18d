import type { z } from "@hono/zod-openapi";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { type User, userOf } from "../users/schema";
import { insertUser, knownAddress, newUser } from "../users/store";
import { limitTo, lookAt } from "./limits";
import type { Signup } from "./schema";
import { sendSignup, sendVerification } from "./verify";

/**
 * Makes an account of the lowest tier. Null where the address must be verified first: then the
 * answer is the same for every address, and whoever has the account already is told by mail.
 * @throws AppError 409 for a known address, 429, 503.
 */
export async function signup(
  plane: Plane,
  body: z.infer<typeof Signup>,
  origin: Origin,
): Promise<User | null> {
  const { alpine, config, now } = plane;
  const attempts = [await limitTo(plane, "signupAddress", origin.address, origin)];
  if (config.requireVerifiedEmail) {
    // Told, whoever has the address: without a mail of their own, all that an owner could answer
    // would be a stranger's.
    attempts.push(await limitTo(plane, "verificationAccount", body.email, origin));
  }
  // Before anything is looked up: it takes as long for a known address as for a new one.
  const passwordHash = await lookAt(attempts, () => alpine.passwords.hash(body.password));
  const nowMs = now();
  const user = newUser(nowMs, { email: body.email, fullName: body.full_name, passwordHash });
  const made = await alpine.changes.write(async (tx) => {
    const isNew = await insertUser(tx, user);
    // Either way something is written: a commit that costs nothing would tell who has an account.
    const event = isNew ? "signup" : "signup_refused";
    await audit(tx, nowMs, origin, { event, actorId: isNew ? user.id : null });
    return isNew;
  });
  if (config.requireVerifiedEmail) {
    sendSignup(plane, body.email, origin, { passwordHash, fullName: user.fullName });
    return null;
  }
  if (!made) throw knownAddress();
  await sendVerification(plane, body.email, origin);
  return userOf(user);
}
