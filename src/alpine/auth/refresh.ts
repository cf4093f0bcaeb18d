import { eq } from "drizzle-orm";
import { refreshTokens, sessions } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { userById } from "../users/store";
import type { Tokens } from "./schema";
import { endSessions, insertRefreshToken, sessionMs, tokensOf } from "./sessions";
import { hashOf } from "./tokens";

/** A client that lost the answer, or asked twice at once, may come again for so long. */
export const graceMs = 10_000;
const notedEveryMs = 60_000;

/**
 * Trades a refresh token for the next one. Used again after the grace it was stolen, from this
 * client or by it: the session ends (RFC 9700 §4.14.2).
 * @throws AppError 401, 503.
 */
export async function refresh(plane: Plane, token: string, origin: Origin): Promise<Tokens> {
  const { alpine, now } = plane;
  const nowMs = now();
  const child = alpine.refreshTokens.child(token);
  const found = await alpine.changes.write(async (tx, tell) => {
    const [row] = await tx
      .select({ token: refreshTokens, session: sessions })
      .from(refreshTokens)
      .innerJoin(sessions, eq(sessions.id, refreshTokens.sessionId))
      .where(eq(refreshTokens.hash, hashOf(token)))
      .for("update");
    if (!row) return null;
    const { session } = row;
    // Read once the session is held: whoever changes rights after this voids what is given now, and
    // what was changed before is seen. Not locked, since others lock the user before the session.
    const user = await userById(tx, session.userId);
    const { usedAt } = row.token;
    const over = session.endedAt !== null || session.expiresAt.getTime() <= nowMs;
    if (over || !user?.isActive) return null;
    // A clock that was set back makes nothing old new.
    if (usedAt && Math.abs(nowMs - usedAt.getTime()) > graceMs) {
      await endSessions(tx, tell, user.id, nowMs, { sessionId: session.id });
      await audit(tx, nowMs, origin, { event: "refresh_reused", subjectId: user.id });
      return null;
    }
    const expiresAt = new Date(nowMs + sessionMs);
    if (!usedAt) {
      const used = { usedAt: new Date(nowMs) };
      await tx.update(refreshTokens).set(used).where(eq(refreshTokens.hash, row.token.hash));
      await tx
        .update(sessions)
        .set({ lastUsedAt: new Date(nowMs), expiresAt })
        .where(eq(sessions.id, session.id));
      // At most once a minute of each session: a client may renew one as often as it likes.
      if (Math.abs(nowMs - session.lastUsedAt.getTime()) >= notedEveryMs) {
        const details = { session_id: session.id };
        await audit(tx, nowMs, origin, { event: "refreshed", actorId: user.id, details });
      }
    }
    await insertRefreshToken(tx, { id: session.id, expiresAt }, child, nowMs);
    return { session, user };
  });
  if (found) return tokensOf(alpine, found.user, found.session, child);
  throw new AppError("unauthorized", "The refresh token is not good any more: log in again.", {
    headers: { "WWW-Authenticate": 'Bearer realm="argo"' },
  });
}
