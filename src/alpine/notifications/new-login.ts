import { and, eq, sql } from "drizzle-orm";
import { sessions } from "../../../db/alpine/schema";
import type { Origin } from "../audit";
import type { Transaction } from "../database";
import { notify } from "./notify";

/** Whether somebody has a session of the same program at the same address, open or not. */
export async function isKnownOrigin(
  tx: Transaction,
  userId: string,
  { address, userAgent }: Origin,
): Promise<boolean> {
  const [row] = await tx
    .select({ id: sessions.id })
    .from(sessions)
    .where(
      and(
        eq(sessions.userId, userId),
        eq(sessions.address, address),
        sql`${sessions.userAgent} IS NOT DISTINCT FROM ${userAgent}::text`,
      ),
    )
    .limit(1);
  return row !== undefined;
}

/** Tells a user of a login, by mail only where it came from somewhere new. */
export async function notifyLogin(
  tx: Transaction,
  nowMs: number,
  { id, userId }: { id: string; userId: string },
  { address, userAgent }: Origin,
  known: boolean,
): Promise<void> {
  const program = userAgent ?? "a program that does not say its name";
  await notify(tx, nowMs, {
    userId,
    kind: "new_login",
    reference: id,
    title: "New login",
    body: `Somebody logged in from ${address} with ${program}.\nIf that was not you, change your password and end all sessions.`,
    details: { session_id: id, address, user_agent: userAgent },
    quiet: known,
  });
}
