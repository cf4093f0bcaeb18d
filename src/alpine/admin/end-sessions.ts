import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { endSessions } from "../auth/sessions";
import type { Plane } from "../plane";
import { lockForAdmin } from "./store";

/** Logs a user out everywhere. Their keys stay good. @throws AppError 404. */
export async function endSessionsOf(
  { alpine, now }: Plane,
  admin: Account,
  id: string,
  origin: Origin,
): Promise<void> {
  const nowMs = now();
  await alpine.changes.write(async (tx, tell) => {
    await lockForAdmin(tx, admin, id);
    const ended = await endSessions(tx, tell, id, nowMs);
    const details = { sessions: ended.length };
    await audit(tx, nowMs, origin, {
      event: "session_revoked",
      actorId: admin.userId,
      subjectId: id,
      details,
    });
  });
}
