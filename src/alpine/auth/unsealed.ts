import { eq, isNotNull } from "drizzle-orm";
import { recoveryCodes, users } from "../../../db/alpine/schema";
import type { Queries } from "../database";
import type { Seal } from "../seal";

/**
 * True when the second factor of somebody cannot be opened with the secrets given: they are others
 * than those of these accounts. One is tried, found by an index: whoever has one has recovery codes.
 */
export async function isSealedOtherwise(db: Queries, seal: Seal): Promise<boolean> {
  const [row] = await db
    .select({ id: users.id, sealed: users.totpSecret })
    .from(recoveryCodes)
    .innerJoin(users, eq(users.id, recoveryCodes.userId))
    .where(isNotNull(users.totpSecret))
    .limit(1);
  return row?.sealed != null && seal.open(row.sealed, row.id) === null;
}
