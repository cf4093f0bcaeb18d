import type { z } from "@hono/zod-openapi";
import { and, eq } from "drizzle-orm";
import { users } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import { audit, type Origin } from "../audit";
import { isKnownOrigin, notifyLogin } from "../notifications/new-login";
import type { Plane } from "../plane";
import { Email } from "../users/schema";
import { userByEmail } from "../users/store";
import { limitTo, lookAt } from "./limits";
import type { Login, Tokens } from "./schema";
import { openSession, tokensOf } from "./sessions";
import { checkSecondFactor } from "./totp";

/**
 * Opens a session. Somebody unknown, shut out or not verified and a wrong password get one answer,
 * after the same work (A2). Attempts are counted before they are looked at (A3).
 * @throws AppError 401, 429, 503.
 */
export async function login(
  plane: Plane,
  { email, password, totp }: z.infer<typeof Login>,
  origin: Origin,
): Promise<Tokens> {
  const { alpine, config, now } = plane;
  const attempts = [
    await limitTo(plane, "loginAddress", origin.address, origin),
    await limitTo(plane, "loginAccount", email, origin),
  ];
  const { user, right } = await lookAt(attempts, async () => {
    // What no signup takes is nobody's: else many spellings of one address, which the database
    // folds into one, would each have attempts of their own.
    const found = Email.safeParse(email).success
      ? await userByEmail(alpine.db(), email)
      : undefined;
    const same = await alpine.passwords.verify(password, found?.passwordHash ?? null);
    return { user: found, right: same };
  });
  const allowed = user?.isActive === true && (user.isVerified || !config.requireVerifiedEmail);
  if (!user || !right || !allowed) {
    await audit(alpine.db(), now(), origin, { event: "login_failed", subjectId: user?.id ?? null });
    throw refused();
  }
  if (user.totpEnabledAt && totp === undefined) {
    // Half a login, and no guess: counted by itself, so that nobody who knows the password and asks
    // for the code next is locked out by doing so.
    await Promise.all(attempts.map((attempt) => attempt.giveBack()));
    await limitTo(plane, "loginBegun", user.id, origin);
  }
  if (user.totpEnabledAt) await checkSecondFactor(plane, user, totp, origin);
  const nowMs = now();
  const opened = await alpine.changes.write(async (tx, tell) => {
    // Locks the row: whoever changes rights or the password meanwhile ends this session as well.
    const [locked] = await tx
      .update(users)
      .set({ lastLoginAt: new Date(nowMs) })
      .where(
        and(
          eq(users.id, user.id),
          eq(users.isActive, true),
          eq(users.passwordHash, user.passwordHash),
        ),
      )
      .returning({ id: users.id, tier: users.tier, role: users.role });
    if (!locked) return null;
    await audit(tx, nowMs, origin, { event: "login", actorId: user.id });
    const known = await isKnownOrigin(tx, user.id, origin);
    const made = await openSession(alpine, tx, tell, locked, origin, nowMs);
    // The first login of an account is no news to whoever has just made it.
    if (user.lastLoginAt) await notifyLogin(tx, nowMs, made.session, origin, known);
    return { user: locked, ...made };
  });
  if (!opened) throw refused();
  await Promise.all(attempts.map((attempt) => attempt.giveBack()));
  return tokensOf(alpine, opened.user, opened.session, opened.refreshToken);
}

const refused = (): AppError =>
  new AppError("unauthorized", "The e-mail address or the password is wrong.", {
    headers: { "WWW-Authenticate": 'Bearer realm="argo"' },
  });
