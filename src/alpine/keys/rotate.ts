import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { limitWrites } from "../auth/limits";
import type { Plane } from "../plane";
import { lockSelf } from "../users/store";
import { makeKey } from "./format";
import { keyOf, type MadeKey } from "./schema";
import { insertKey, liveMax, lockKey, makeRoom, updateKey } from "./store";

/**
 * Makes a key that takes another one's place: its name, scopes and expiry. The old one is good
 * for the overlap, so that bots can be given the new one meanwhile.
 * @throws AppError 404, 409 for a key that was rotated before or is good no more, 429.
 */
export async function rotateKey(
  plane: Plane,
  account: Account,
  id: string,
  overlapSeconds: number,
  origin: Origin,
): Promise<MadeKey> {
  const { alpine, now } = plane;
  const { userId } = account;
  await limitWrites(plane, account, origin);
  const nowMs = now();
  const secret = makeKey();
  const row = await alpine.changes.write(async (tx, tell) => {
    await lockSelf(tx, account);
    const old = await lockKey(tx, userId, id);
    if (old.successorId) throw new AppError("conflict", "The key was rotated already.");
    const endsMs = old.expiresAt?.getTime() ?? Infinity;
    if (old.revokedAt || endsMs <= nowMs) {
      throw new AppError("conflict", "The key is good no more: make a new one.");
    }
    await makeRoom(tx, userId, nowMs, 2 * liveMax);
    const { name, scopes, expiresAt } = old;
    const made = await insertKey(tx, secret, { userId, name, scopes, expiresAt }, nowMs);
    const overlapEndsMs = Math.min(endsMs, nowMs + overlapSeconds * 1000);
    await updateKey(tx, id, { successorId: made.id, expiresAt: new Date(overlapEndsMs) });
    const details = { key_id: id, successor_id: made.id, overlap_seconds: overlapSeconds };
    await audit(tx, nowMs, origin, { event: "key_rotated", actorId: userId, details });
    tell({ kind: "key", id, userId });
    tell({ kind: "key", id: made.id, userId });
    return made;
  });
  return { ...keyOf(row), key: secret };
}
