import { desc, eq, isNotNull } from "drizzle-orm";
import { recoveryCodes, users, webhooks } from "../../db/alpine/schema";
import type { Queries } from "./database";
import type { Seal } from "./seal";

/** What is kept sealed, with the secrets that are given. */
type Seals = { readonly seal: Seal; readonly webhookSeal: Seal };

/**
 * What of these accounts cannot be read with the secrets given, which are others than those that
 * sealed it. One of each kind is tried, found by an index: whoever has a second factor has recovery
 * codes, and of webhooks the newest counts.
 */
export async function unsealed(db: Queries, { seal, webhookSeal }: Seals): Promise<string[]> {
  const [factor] = await db
    .select({ id: users.id, sealed: users.totpSecret })
    .from(recoveryCodes)
    .innerJoin(users, eq(users.id, recoveryCodes.userId))
    .where(isNotNull(users.totpSecret))
    .limit(1);
  const [webhook] = await db
    .select({ id: webhooks.id, sealed: webhooks.secret })
    .from(webhooks)
    .orderBy(desc(webhooks.id))
    .limit(1);
  const closed = (row: { id: string; sealed: Uint8Array | null } | undefined, by: Seal): boolean =>
    row?.sealed != null && by.open(row.sealed, row.id) === null;
  return [
    ...(closed(factor, seal) ? ["second factors"] : []),
    ...(closed(webhook, webhookSeal) ? ["secrets of webhooks"] : []),
  ];
}
