import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { limitWrites } from "../auth/limits";
import { mayHold } from "../credentials";
import type { Plane } from "../plane";
import { lockSelf } from "../users/store";
import { makeKey } from "./format";
import { keyOf, type MadeKey, type NewKey } from "./schema";
import { insertKey, liveMax, makeRoom } from "./store";

/**
 * Makes a key. Its secret is in the answer and nowhere else.
 * @throws AppError 403 for a scope that the role may not give, 409 for one too many, 422, 429.
 */
export async function createKey(
  plane: Plane,
  account: Account,
  { name, scopes, expires_at: until }: NewKey,
  origin: Origin,
): Promise<MadeKey> {
  const { alpine, now } = plane;
  const { userId } = account;
  await limitWrites(plane, account, origin);
  const nowMs = now();
  const expiresAt = typeof until === "string" ? new Date(until) : null;
  if (expiresAt && expiresAt.getTime() <= nowMs) {
    throw new AppError("unprocessable", "The body is not valid: expires_at.", {
      errors: [{ field: "expires_at", detail: "must be in the future" }],
    });
  }
  const secret = makeKey();
  const row = await alpine.changes.write(async (tx, tell) => {
    // What the token says of the role may be older than a change of it.
    const { role } = await lockSelf(tx, account);
    const above = scopes.filter((scope) => !mayHold(scope, role));
    if (above.length > 0) {
      throw new AppError("forbidden", `For administrators alone: ${above.join(", ")}.`, {
        errors: [{ field: "scopes", detail: `must not hold ${above.join(", ")}` }],
      });
    }
    await makeRoom(tx, userId, nowMs, liveMax);
    const made = await insertKey(tx, secret, { userId, name, scopes, expiresAt }, nowMs);
    const details = { key_id: made.id, prefix: made.prefix, scopes };
    await audit(tx, nowMs, origin, { event: "key_created", actorId: userId, details });
    tell({ kind: "key", id: made.id, userId });
    return made;
  });
  return { ...keyOf(row), key: secret };
}
