import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import { confirmPassword, wrongPassword } from "../auth/confirm";
import { endSessions } from "../auth/sessions";
import { lockAdmins } from "../database";
import type { Plane } from "../plane";
import type { Books } from "../subscriptions/ledger";
import { catchUp, end, graceMsOf } from "../subscriptions/renew";
import { lockLiveOf } from "../subscriptions/store";
import type { UserRow } from "./schema";
import { administers, deleteUser, lockSelf, mustLeaveAdmin } from "./store";

/**
 * Ends what the account pays for. Invoices and payments stay: books must add up.
 * @throws AppError 409 for what Stripe would go on charging for.
 */
async function endOwn(books: Books, user: UserRow): Promise<void> {
  const held = await lockLiveOf(books.tx, user.id);
  // What time has ended before has ended then.
  const row = held && (await catchUp(books, user, held)).row;
  if (!row) return;
  if (row.provider === "stripe") {
    throw new AppError(
      "conflict",
      "The account has a subscription at Stripe. End it in the portal first, then delete.",
    );
  }
  await end(books, row, new Date(books.nowMs), "account deleted");
}

/**
 * Deletes an account for good, with everything that is its own. What was written down about it
 * stays, without its name.
 * @throws AppError 409 for the last administrator and for a subscription at Stripe, 422 for a wrong password, 429, 503.
 */
export async function deleteAccount(
  plane: Plane,
  account: Account,
  password: string,
  origin: Origin,
): Promise<void> {
  const { alpine, config, now } = plane;
  const { userId } = account;
  const confirmed = await confirmPassword(plane, userId, password, origin);
  const nowMs = now();
  await alpine.changes.write(async (tx, tell) => {
    await lockAdmins(tx);
    const user = await lockSelf(tx, account);
    if (confirmed.passwordHash !== user.passwordHash) throw wrongPassword();
    if (administers(config, user)) await mustLeaveAdmin(tx, config, userId);
    const graceMs = graceMsOf(config);
    await endOwn({ tx, tell, nowMs, graceMs, actorId: userId, origin }, user);
    // Before the rows are gone: what is void must be known for as long as tokens last.
    await endSessions(tx, tell, userId, nowMs);
    await deleteUser(tx, userId);
    await audit(tx, nowMs, origin, { event: "account_deleted", actorId: userId });
    tell({ kind: "user", id: userId });
  });
}
