import { and, desc, eq, or, sql } from "drizzle-orm";
import type { PgColumn } from "drizzle-orm/pg-core";
import { users } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { lockAdmins, type Queries, type Transaction } from "../database";
import { olderThan, type TimePlace } from "../page";
import { subscriptionOf } from "../subscriptions/schema";
import { liveOf } from "../subscriptions/store";
import type { UserRow } from "../users/schema";
import { lockSelf, lockUser } from "../users/store";
import { type AdminUserDetails, adminUserOf, type UsersQuery } from "./schema";

export type UserFilter = Pick<UsersQuery, "search" | "tier" | "role" | "is_active">;

/** Newest first. */
export function findUsers(
  db: Queries,
  { search, tier, role, is_active: isActive }: UserFilter,
  after: TimePlace | null,
  limit: number,
): Promise<UserRow[]> {
  return db
    .select()
    .from(users)
    .where(
      and(
        search === undefined
          ? undefined
          : or(startsWith(users.email, search), startsWith(users.fullName, search)),
        tier === undefined ? undefined : eq(users.tier, tier),
        role === undefined ? undefined : eq(users.role, role),
        isActive === undefined ? undefined : eq(users.isActive, isActive),
        olderThan(users.createdAt, users.id, after),
      ),
    )
    .orderBy(desc(users.createdAt), desc(users.id))
    .limit(limit);
}

/** A user with what they have. */
export async function withSubscription(db: Queries, user: UserRow): Promise<AdminUserDetails> {
  const live = await liveOf(db, user.id);
  return Object.assign(adminUserOf(user), { subscription: live && subscriptionOf(live) });
}

/**
 * The user whom an administrator changes, held until the transaction ends. No two administrators
 * change anybody at once, and who asks must be one still: a request may have waited while its
 * sender was demoted. @throws AppError 401, 403, 404.
 */
export async function lockForAdmin(tx: Transaction, admin: Account, id: string): Promise<UserRow> {
  await mustAdminister(tx, admin);
  return (await lockUser(tx, id)) ?? missingUser();
}

/** The same of whoever asks alone, for what concerns no single user. @throws AppError 401, 403. */
export async function mustAdminister(tx: Transaction, admin: Account): Promise<void> {
  await lockAdmins(tx);
  const { role } = await lockSelf(tx, admin);
  if (role !== "admin") throw new AppError("forbidden", "This is for administrators.");
}

/** Whether there is any administrator, also one who is shut out. */
export async function hasAdmin(db: Queries): Promise<boolean> {
  const rows = await db
    .select({ id: users.id })
    .from(users)
    .where(eq(users.role, "admin"))
    .limit(1);
  return rows.length > 0;
}

export function missingUser(): never {
  throw new AppError("not_found", "There is no such user.");
}

/** As the index has it: an index of lower case, by bytes. */
const startsWith = (column: PgColumn, text: string) =>
  sql`lower(${column}) LIKE lower(${`${text.replaceAll(/[\\%_]/g, "\\$&")}%`})`;
