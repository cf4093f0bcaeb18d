import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import { lockKey, updateKey } from "./store";

/** Ends a key at once; once more changes nothing. @throws AppError 404. */
export async function revokeKey(
  { alpine, now }: Plane,
  { userId }: Account,
  id: string,
  origin: Origin,
): Promise<void> {
  const nowMs = now();
  await alpine.changes.write(async (tx, tell) => {
    const { prefix, revokedAt } = await lockKey(tx, userId, id);
    if (revokedAt) return;
    await updateKey(tx, id, { revokedAt: new Date(nowMs) });
    const details = { key_id: id, prefix };
    await audit(tx, nowMs, origin, { event: "key_revoked", actorId: userId, details });
    tell({ kind: "key", id, userId });
  });
}
