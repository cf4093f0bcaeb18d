import { and, eq, isNull } from "drizzle-orm";
import { apiKeys, recoveryCodes, users } from "../../../db/alpine/schema";
import type { Tell } from "../changes";
import type { Transaction } from "../database";
import { endSessions } from "./sessions";

/**
 * Ends whatever lets somebody into an account who may have made it with an address that is not
 * theirs: sessions, keys and the second factor. For when its owner is known for the first time.
 */
export async function handOver(
  tx: Transaction,
  tell: Tell,
  userId: string,
  nowMs: number,
): Promise<void> {
  await endSessions(tx, tell, userId, nowMs);
  const keys = await tx
    .update(apiKeys)
    .set({ revokedAt: new Date(nowMs) })
    .where(and(eq(apiKeys.userId, userId), isNull(apiKeys.revokedAt)))
    .returning({ id: apiKeys.id });
  for (const { id } of keys) tell({ kind: "key", id, userId });
  await tx
    .update(users)
    .set({ totpSecret: null, totpEnabledAt: null, totpLastStep: null })
    .where(eq(users.id, userId));
  await tx.delete(recoveryCodes).where(eq(recoveryCodes.userId, userId));
}
