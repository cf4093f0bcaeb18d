import { and, asc, eq, gt, isNull, lte, sql } from "drizzle-orm";
import { apiKeys, users } from "../../../db/alpine/schema";
import type { Database } from "../database";
import { notify, timeText } from "./notify";

const aheadMs = 7 * 86_400_000;
/** In one transaction: others wait for it in the embedded database. */
const keysAtOnce = 50;

/** Tells of keys that end within a week, once for each key and end. A key that was rotated has another. */
export async function tellExpiring(
  db: () => Database,
  nowMs: number,
  signal: AbortSignal,
): Promise<void> {
  let after: { expiresAt: Date | null; id: string } | null = null;
  for (;;) {
    signal.throwIfAborted();
    const keys: ExpiringKey[] = await expiring(db(), nowMs, after);
    if (keys.length === 0) return;
    await db().transaction(async (tx) => {
      for (const { id, userId, name, prefix, expiresAt } of keys) {
        if (expiresAt === null) continue;
        const ends = expiresAt.toISOString();
        await notify(tx, nowMs, {
          userId,
          kind: "key_expiring",
          reference: `${id} ${ends}`,
          title: `The key "${name}" expires soon`,
          body: `The key "${name}" (${prefix}…) expires on ${timeText(expiresAt)}.\nMake a new one in time, or rotate this one.`,
          details: { key_id: id, name, prefix, expires_at: ends },
        });
      }
    });
    after = keys.at(-1) ?? null;
  }
}

type ExpiringKey = Awaited<ReturnType<typeof expiring>>[number];

function expiring(
  db: Database,
  nowMs: number,
  after: { expiresAt: Date | null; id: string } | null,
) {
  return db
    .select({
      id: apiKeys.id,
      userId: apiKeys.userId,
      name: apiKeys.name,
      prefix: apiKeys.prefix,
      expiresAt: apiKeys.expiresAt,
    })
    .from(apiKeys)
    .innerJoin(users, and(eq(users.id, apiKeys.userId), eq(users.isActive, true)))
    .where(
      and(
        gt(apiKeys.expiresAt, new Date(nowMs)),
        lte(apiKeys.expiresAt, new Date(nowMs + aheadMs)),
        isNull(apiKeys.revokedAt),
        isNull(apiKeys.successorId),
        after?.expiresAt
          ? sql`(${apiKeys.expiresAt}, ${apiKeys.id}) > (${after.expiresAt.toISOString()}::timestamptz, ${after.id}::uuid)`
          : undefined,
      ),
    )
    .orderBy(asc(apiKeys.expiresAt), asc(apiKeys.id))
    .limit(keysAtOnce);
}
