import { z } from "@hono/zod-openapi";
import {
  type NotificationKind,
  notificationKinds,
  type notifications,
} from "../../../db/alpine/schema";
import { word } from "../../http/fields";
import { pageQuery, pageShape } from "../page";
import type { Wanted } from "./notify";

export type NotificationRow = typeof notifications.$inferSelect;

const time = z.iso.datetime();
export const Notification = z
  .object({
    id: z.uuid(),
    kind: z.enum(notificationKinds),
    title: z.string(),
    body: z.string(),
    details: z.record(z.string(), z.unknown()).openapi({
      description: "What it is about, such as signal_id or key_id; by kind.",
    }),
    is_read: z.boolean(),
    created_at: time,
    read_at: time.nullable(),
  })
  .openapi("Notification");
export type Notification = z.infer<typeof Notification>;

export const NotificationList = z
  .object({ notifications: z.array(Notification), ...pageShape, unread_count: z.int() })
  .openapi("NotificationList");

export const notificationsQuery = (pageSizeMax: number) =>
  z.strictObject({
    ...pageQuery(pageSizeMax),
    unread: word.optional().openapi({ description: "true: unread ones alone; false: read ones." }),
    kind: z.enum(notificationKinds).optional(),
  });
export type NotificationsQuery = z.infer<ReturnType<typeof notificationsQuery>>;

export const UnreadCount = z.object({ unread_count: z.int() }).openapi("UnreadCount");
export const ReadCount = z
  .object({ read: z.int().openapi({ description: "How many were unread until now." }) })
  .openapi("ReadCount");

const flags = { in_app: z.boolean(), email: z.boolean() };
const each = <T extends z.ZodType>(shape: T): Record<NotificationKind, T> => ({
  premium_signal: shape,
  payment_failed: shape,
  key_expiring: shape,
  new_login: shape,
  webhook_disabled: shape,
});

export const Preferences = z.object(each(z.object(flags))).openapi("NotificationPreferences");
export type Preferences = z.infer<typeof Preferences>;

export const PreferencesChange = z
  .strictObject(each(z.strictObject(flags).optional()))
  .refine((change) => Object.values(change).some((value) => value !== undefined), {
    message: "must hold at least one kind",
  })
  .openapi("NotificationPreferencesChange");
export type PreferencesChange = z.infer<typeof PreferencesChange>;

/** A notification as every answer shows it. */
export const notificationOf = (row: NotificationRow): Notification => ({
  id: row.id,
  kind: row.kind,
  title: row.title,
  body: row.body,
  details: row.details,
  is_read: row.isRead,
  created_at: row.createdAt.toISOString(),
  read_at: row.readAt?.toISOString() ?? null,
});

export const preferencesOf = (wanted: Record<NotificationKind, Wanted>): Preferences => {
  const shown = (kind: NotificationKind) => ({
    in_app: wanted[kind].inApp,
    email: wanted[kind].email,
  });
  return {
    premium_signal: shown("premium_signal"),
    payment_failed: shown("payment_failed"),
    key_expiring: shown("key_expiring"),
    new_login: shown("new_login"),
    webhook_disabled: shown("webhook_disabled"),
  };
};
