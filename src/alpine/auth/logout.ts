import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { endSessions } from "./sessions";

/** Ends the session of whoever asks, or all of their sessions. */
export async function logout(
  { alpine, now }: Plane,
  { userId, sessionId }: Account,
  origin: Origin,
  all: boolean,
): Promise<void> {
  const nowMs = now();
  await alpine.changes.write(async (tx, tell) => {
    await endSessions(tx, tell, userId, nowMs, all ? {} : { sessionId });
    await audit(tx, nowMs, origin, { event: all ? "logout_all" : "logout", actorId: userId });
  });
}
