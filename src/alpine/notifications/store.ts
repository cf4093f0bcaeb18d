import { and, count, desc, eq, sql } from "drizzle-orm";
import {
  type NotificationKind,
  notificationPreferences,
  notifications,
} from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Queries } from "../database";
import { olderThan } from "../page";
import { usual, type Wanted } from "./notify";
import type { NotificationRow } from "./schema";

export type NotificationFilter = {
  unread?: boolean | undefined;
  kind?: NotificationKind | undefined;
};

/** A place in a list of which the unread come first, then the newest. */
export type NotificationPlace = [isRead: boolean, createdAt: string, id: string];

export const notificationPlaceOf = (row: NotificationRow): NotificationPlace => [
  row.isRead,
  row.createdAt.toISOString(),
  row.id,
];

/** Unread first, then newest: each half in the order of its index, the second where rows lack. */
export async function notificationsOf(
  db: Queries,
  userId: string,
  { unread, kind }: NotificationFilter,
  after: NotificationPlace | null,
  limit: number,
): Promise<NotificationRow[]> {
  const half = (isRead: boolean, rows: number): Promise<NotificationRow[]> => {
    const from = after?.[0] === isRead ? ([after[1], after[2]] as [string, string]) : null;
    return db
      .select()
      .from(notifications)
      .where(
        and(
          eq(notifications.userId, userId),
          eq(notifications.isRead, isRead),
          eq(notifications.inApp, true),
          kind === undefined ? undefined : eq(notifications.kind, kind),
          olderThan(notifications.createdAt, notifications.id, from),
        ),
      )
      .orderBy(desc(notifications.createdAt), desc(notifications.id))
      .limit(rows);
  };
  const first = unread === false || after?.[0] === true ? [] : await half(false, limit);
  if (unread === true || first.length === limit) return first;
  return [...first, ...(await half(true, limit - first.length))];
}

export async function unreadCountOf(db: Queries, userId: string): Promise<number> {
  const [row] = await db.select({ unread: count() }).from(notifications).where(unreadOf(userId));
  return row?.unread ?? 0;
}

/** Once more changes nothing. @throws AppError 404, for one of somebody else as well. */
export async function markRead(
  db: Queries,
  userId: string,
  id: string,
  nowMs: number,
): Promise<NotificationRow> {
  const [row] = await db
    .update(notifications)
    .set({
      isRead: true,
      readAt: sql`coalesce(${notifications.readAt}, ${new Date(nowMs).toISOString()}::timestamptz)`,
    })
    .where(
      and(
        eq(notifications.id, id),
        eq(notifications.userId, userId),
        eq(notifications.inApp, true),
      ),
    )
    .returning();
  if (row) return row;
  throw new AppError("not_found", "There is no such notification.");
}

/** @returns how many were unread. */
export async function markAllRead(db: Queries, userId: string, nowMs: number): Promise<number> {
  const { rowCount } = await db
    .update(notifications)
    .set({ isRead: true, readAt: new Date(nowMs) })
    .where(unreadOf(userId));
  return rowCount ?? 0;
}

const unreadOf = (userId: string) =>
  and(eq(notifications.userId, userId), eq(notifications.isRead, false));

/** What a user wants of each kind, said or not. */
export async function wantedOf(
  db: Queries,
  userId: string,
): Promise<Record<NotificationKind, Wanted>> {
  const rows = await db
    .select()
    .from(notificationPreferences)
    .where(eq(notificationPreferences.userId, userId));
  const wanted = { ...usual };
  for (const { kind, inApp, email } of rows) wanted[kind] = { inApp, email };
  return wanted;
}

/** Kinds that are not named stay as they are. */
export async function setWanted(
  db: Queries,
  userId: string,
  change: [kind: NotificationKind, wanted: Wanted][],
): Promise<void> {
  await db
    .insert(notificationPreferences)
    .values(change.map(([kind, wanted]) => ({ userId, kind, ...wanted })))
    .onConflictDoUpdate({
      target: [notificationPreferences.userId, notificationPreferences.kind],
      set: { inApp: sql`excluded.in_app`, email: sql`excluded.email` },
    });
}
