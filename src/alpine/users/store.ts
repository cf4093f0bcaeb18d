import { and, desc, eq, gt, isNull, ne, sql } from "drizzle-orm";
import { sessions, users } from "../../../db/alpine/schema";
import type { Config } from "../../config";
import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import type { Queries, Transaction } from "../database";
import { olderThan, type TimePlace } from "../page";
import type { SessionRow, UserRow } from "./schema";

export const knownAddress = (): AppError =>
  new AppError("conflict", "There is an account with this e-mail address.", {
    errors: [{ field: "email", detail: "is taken" }],
  });

/** Whatever the case, as the index has it. */
export async function userByEmail(db: Queries, email: string): Promise<UserRow | undefined> {
  const [row] = await db
    .select()
    .from(users)
    .where(sql`lower(${users.email}) = lower(${email})`)
    .limit(1);
  return row;
}

/** The same, kept from changing until the transaction ends. */
export async function lockUserByEmail(
  tx: Transaction,
  email: string,
): Promise<UserRow | undefined> {
  const [row] = await tx
    .select()
    .from(users)
    .where(sql`lower(${users.email}) = lower(${email})`)
    .for("no key update");
  return row;
}

export async function userById(db: Queries, id: string): Promise<UserRow | undefined> {
  const [row] = await db.select().from(users).where(eq(users.id, id)).limit(1);
  return row;
}

/** A user, held until the transaction ends; undefined for nobody. */
export async function lockUser(tx: Transaction, id: string): Promise<UserRow | undefined> {
  const [row] = await tx.select().from(users).where(eq(users.id, id)).for("no key update");
  return row;
}

/**
 * Whoever asks, held in the same way. A request may have waited while its sender was shut out or
 * its session was ended: nothing that ends sessions is outlived by what one of them still makes.
 * @throws AppError 401.
 */
export async function lockSelf(
  tx: Transaction,
  { userId, sessionId }: Pick<Account, "userId" | "sessionId">,
): Promise<UserRow> {
  const row = await lockUser(tx, userId);
  if (!row?.isActive) throw askedTooLate("The account is gone or shut out.");
  if (sessionId === undefined) return row;
  // Asked by itself: beside the lock it would be answered as of before the wait.
  const [open] = await tx
    .select({ id: sessions.id })
    .from(sessions)
    .where(and(eq(sessions.id, sessionId), isNull(sessions.endedAt)));
  if (open) return row;
  throw askedTooLate("The session has ended: log in again.");
}

const askedTooLate = (detail: string): AppError =>
  new AppError("unauthorized", detail, { headers: { "WWW-Authenticate": 'Bearer realm="argo"' } });

/** @returns false when the address is taken; then nothing was written. */
export async function insertUser(db: Queries, user: UserRow): Promise<boolean> {
  const rows = await db
    .insert(users)
    .values(user)
    .onConflictDoNothing()
    .returning({ id: users.id });
  return rows.length > 0;
}

export async function updateUser(
  tx: Transaction,
  id: string,
  change: Partial<UserRow>,
): Promise<void> {
  await tx.update(users).set(change).where(eq(users.id, id));
}

export async function deleteUser(tx: Transaction, id: string): Promise<void> {
  await tx.delete(users).where(eq(users.id, id));
}

/** Whether somebody can log in, and administer then. */
export const administers = (
  { requireVerifiedEmail }: Pick<Config, "requireVerifiedEmail">,
  { role, isActive, isVerified }: Pick<UserRow, "role" | "isActive" | "isVerified">,
): boolean => role === "admin" && isActive && (isVerified || !requireVerifiedEmail);

/**
 * Called under the lock of administrators, before this one is one no more.
 * @throws AppError 409 when nobody else could log in and administer.
 */
export async function mustLeaveAdmin(
  tx: Transaction,
  { requireVerifiedEmail }: Pick<Config, "requireVerifiedEmail">,
  id: string,
): Promise<void> {
  const [other] = await tx
    .select({ id: users.id })
    .from(users)
    .where(
      and(
        eq(users.role, "admin"),
        eq(users.isActive, true),
        requireVerifiedEmail ? eq(users.isVerified, true) : undefined,
        ne(users.id, id),
      ),
    )
    .limit(1);
  if (other) return;
  throw new AppError("conflict", "This is the last administrator: make another one first.");
}

/** Sessions of a user, newest first; those that are open at a time where one is given. */
export function sessionsOf(
  db: Queries,
  userId: string,
  openAtMs: number | null,
  after: TimePlace | null,
  limit: number,
): Promise<SessionRow[]> {
  const open =
    openAtMs === null
      ? undefined
      : and(isNull(sessions.endedAt), gt(sessions.expiresAt, new Date(openAtMs)));
  return db
    .select()
    .from(sessions)
    .where(
      and(eq(sessions.userId, userId), open, olderThan(sessions.createdAt, sessions.id, after)),
    )
    .orderBy(desc(sessions.createdAt), desc(sessions.id))
    .limit(limit);
}

/** A user as they begin: the lowest tier, no rights, not verified. */
export function newUser(
  nowMs: number,
  given: Pick<UserRow, "email" | "fullName" | "passwordHash"> & Partial<UserRow>,
): UserRow {
  const at = new Date(nowMs);
  return {
    id: Bun.randomUUIDv7("hex", nowMs),
    tier: "starter",
    tierGrant: null,
    role: "user",
    isActive: true,
    isVerified: false,
    createdAt: at,
    updatedAt: at,
    lastLoginAt: null,
    passwordChangedAt: at,
    totpSecret: null,
    totpEnabledAt: null,
    totpLastStep: null,
    ...given,
  };
}
