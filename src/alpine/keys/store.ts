import { and, count, desc, eq, gt, inArray, isNotNull, isNull, lte, or } from "drizzle-orm";
import { apiKeys } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Queries, Transaction } from "../database";
import { olderThan, type TimePlace } from "../page";
import { hashOf } from "../auth/tokens";
import { prefixOf } from "./format";
import type { KeyRow } from "./schema";

/** Keys of which no more are good at once; a rotation may bring the double, while both are. */
export const liveMax = 50;
/** Of those that are good no more the newest are kept, to be looked at. */
const deadMax = 100;

/** Newest first. */
export function keysOf(
  db: Queries,
  userId: string,
  after: TimePlace | null,
  limit: number,
): Promise<KeyRow[]> {
  return db
    .select()
    .from(apiKeys)
    .where(and(eq(apiKeys.userId, userId), olderThan(apiKeys.createdAt, apiKeys.id, after)))
    .orderBy(desc(apiKeys.createdAt), desc(apiKeys.id))
    .limit(limit);
}

/** @throws AppError 404, for a key of somebody else as well. */
export async function keyOfUser(db: Queries, userId: string, id: string): Promise<KeyRow> {
  const [row] = await db.select().from(apiKeys).where(owned(userId, id));
  return row ?? missing();
}

/** The same, held until the transaction ends. @throws AppError 404. */
export async function lockKey(tx: Transaction, userId: string, id: string): Promise<KeyRow> {
  const [row] = await tx.select().from(apiKeys).where(owned(userId, id)).for("update");
  return row ?? missing();
}

export async function insertKey(
  tx: Transaction,
  secret: string,
  given: Pick<KeyRow, "userId" | "name" | "scopes" | "expiresAt">,
  nowMs: number,
): Promise<KeyRow> {
  const row: KeyRow = {
    ...given,
    id: Bun.randomUUIDv7("hex", nowMs),
    prefix: prefixOf(secret),
    hash: hashOf(secret),
    createdAt: new Date(nowMs),
    revokedAt: null,
    lastUsedAt: null,
    successorId: null,
  };
  await tx.insert(apiKeys).values(row);
  return row;
}

export async function updateKey(
  tx: Transaction,
  id: string,
  change: Partial<Pick<KeyRow, "expiresAt" | "revokedAt" | "successorId">>,
): Promise<void> {
  await tx.update(apiKeys).set(change).where(eq(apiKeys.id, id));
}

/**
 * Lets go of a user's oldest keys that are good no more. The user is locked, so that nobody
 * counts beside it. @throws AppError 409 when as many as may be are good.
 */
export async function makeRoom(
  tx: Transaction,
  userId: string,
  nowMs: number,
  max: number,
): Promise<void> {
  const now = new Date(nowMs);
  const dead = tx
    .select({ id: apiKeys.id })
    .from(apiKeys)
    .where(
      and(
        eq(apiKeys.userId, userId),
        or(isNotNull(apiKeys.revokedAt), lte(apiKeys.expiresAt, now)),
      ),
    )
    .orderBy(desc(apiKeys.createdAt), desc(apiKeys.id))
    .offset(deadMax);
  await tx.delete(apiKeys).where(inArray(apiKeys.id, dead));
  const [live] = await tx
    .select({ keys: count() })
    .from(apiKeys)
    .where(
      and(
        eq(apiKeys.userId, userId),
        isNull(apiKeys.revokedAt),
        or(isNull(apiKeys.expiresAt), gt(apiKeys.expiresAt, now)),
      ),
    );
  if ((live?.keys ?? 0) < max) return;
  throw new AppError("conflict", `An account has at most ${max} keys. Revoke one first.`);
}

const owned = (userId: string, id: string) => and(eq(apiKeys.id, id), eq(apiKeys.userId, userId));

function missing(): never {
  throw new AppError("not_found", "There is no such key.");
}
