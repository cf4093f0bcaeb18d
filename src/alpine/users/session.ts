import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { endSessions } from "../auth/sessions";
import type { Plane } from "../plane";

/** Ends one session of whoever asks, on any device. @throws AppError 404. */
export async function revokeSession(
  { alpine, now }: Plane,
  { userId }: Account,
  sessionId: string,
  origin: Origin,
): Promise<void> {
  const nowMs = now();
  await alpine.changes.write(async (tx, tell) => {
    const ended = await endSessions(tx, tell, userId, nowMs, { sessionId });
    if (ended.length === 0) throw new AppError("not_found", "There is no such session.");
    const details = { session_id: sessionId };
    await audit(tx, nowMs, origin, { event: "session_revoked", actorId: userId, details });
  });
}
