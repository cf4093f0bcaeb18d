import { z } from "@hono/zod-openapi";
import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { streamOf } from "../../http/stream";
import { audit, auditEntries, AuditRecord, type Origin, recordOf } from "../audit";
import { limitWrites } from "../auth/limits";
import { Key, keyOf } from "../keys/schema";
import { keysOf } from "../keys/store";
import { Notification, notificationOf, Preferences, preferencesOf } from "../notifications/schema";
import {
  type NotificationPlace,
  notificationPlaceOf,
  notificationsOf,
  wantedOf,
} from "../notifications/store";
import { allRows, type TimePlace, timePlaceOf } from "../page";
import { Payment, paymentOf } from "../payments/schema";
import { findPayments, paymentPlaceOf } from "../payments/store";
import type { Plane } from "../plane";
import { Invoice, invoiceOf, Subscription, subscriptionOf } from "../subscriptions/schema";
import { findInvoices, findSubscriptions } from "../subscriptions/store";
import { deliveryOf, Delivery, UsageDay, usageDayOf } from "../usage/schema";
import {
  deliveriesOf,
  type DeliveryPlace,
  deliveryPlaceOf,
  usageOf,
  type UsagePlace,
  usagePlaceOf,
} from "../usage/store";
import { WebhookDelivery, webhookDeliveryOf, Webhook, webhookOf } from "../webhooks/schema";
import { messagesOf, webhooksOf } from "../webhooks/store";
import { PastSession, sessionOf, User, userOf } from "./schema";
import { sessionsOf, userById } from "./store";

const time = z.iso.datetime();
export const AccountExport = z
  .object({
    exported_at: time,
    profile: User.extend({ last_login_at: time.nullable(), password_changed_at: time }),
    sessions: z.array(PastSession),
    keys: z.array(Key),
    usage: z.array(UsageDay),
    deliveries: z.array(Delivery),
    notifications: z.array(Notification),
    notification_preferences: Preferences,
    subscriptions: z.array(Subscription),
    invoices: z.array(Invoice),
    payments: z.array(Payment),
    webhooks: z.array(Webhook),
    webhook_deliveries: z.array(WebhookDelivery),
    audit: z.array(AuditRecord),
  })
  .openapi("AccountExport");
export type AccountExport = z.infer<typeof AccountExport>;

/**
 * Everything that is kept about a user, but for what would let somebody else in, as JSON
 * (`AccountExport`). It is read while it is sent, some rows at a time, however much there is.
 * @throws AppError 404, 429, 503.
 */
export async function exportAccount(
  plane: Plane,
  account: Account,
  origin: Origin,
): Promise<ReadableStream<Uint8Array>> {
  const { alpine, now } = plane;
  const { userId } = account;
  await limitWrites(plane, account, origin);
  const user = await userById(alpine.db(), userId);
  if (!user) throw new AppError("not_found", "There is no such account.");
  const nowMs = now();
  await audit(alpine.db(), nowMs, origin, { event: "data_exported", actorId: userId });
  const head: Pick<AccountExport, "exported_at" | "profile" | "notification_preferences"> = {
    exported_at: new Date(nowMs).toISOString(),
    profile: {
      ...userOf(user),
      last_login_at: user.lastLoginAt?.toISOString() ?? null,
      password_changed_at: user.passwordChangedAt.toISOString(),
    },
    notification_preferences: preferencesOf(await wantedOf(alpine.db(), userId)),
  };
  const lists = {
    sessions: allRows(
      (after, limit) => sessionsOf(alpine.db(), userId, null, after, limit),
      timePlaceOf,
      (row) => ({ ...sessionOf(row), ended_at: row.endedAt?.toISOString() ?? null }),
    ),
    keys: allRows((after, limit) => keysOf(alpine.db(), userId, after, limit), timePlaceOf, keyOf),
    usage: allRows(
      (after: UsagePlace | null, limit) => usageOf(alpine.db(), userId, {}, after, limit),
      usagePlaceOf,
      usageDayOf,
    ),
    deliveries: allRows(
      (after: DeliveryPlace | null, limit) => deliveriesOf(alpine.db(), userId, null, after, limit),
      deliveryPlaceOf,
      deliveryOf,
    ),
    notifications: allRows(
      (after: NotificationPlace | null, limit) =>
        notificationsOf(alpine.db(), userId, {}, after, limit),
      notificationPlaceOf,
      notificationOf,
    ),
    subscriptions: allRows(
      (after, limit) => findSubscriptions(alpine.db(), { userId }, after, limit),
      timePlaceOf,
      subscriptionOf,
    ),
    invoices: allRows(
      (after, limit) => findInvoices(alpine.db(), { userId }, after, limit),
      timePlaceOf,
      invoiceOf,
    ),
    payments: allRows(
      (after, limit) => findPayments(alpine.db(), { userId }, after, limit),
      paymentPlaceOf,
      paymentOf,
    ),
    webhooks: allRows(
      (after, limit) => webhooksOf(alpine.db(), userId, after, limit),
      timePlaceOf,
      webhookOf,
    ),
    webhook_deliveries: sentTo(plane, userId),
    audit: allRows(
      (after: number | null, limit) =>
        auditEntries(alpine.db(), { subjectId: userId }, after, limit),
      ({ id }) => id,
      (row) => withoutOthers(recordOf(row), userId),
    ),
  };
  return streamOf(textsOf(head, lists));
}

async function* sentTo({ alpine }: Plane, userId: string): AsyncGenerator<WebhookDelivery[]> {
  const hooks = (after: TimePlace | null, limit: number) =>
    webhooksOf(alpine.db(), userId, after, limit);
  for await (const page of allRows(hooks, timePlaceOf, ({ id }) => id)) {
    for (const id of page) {
      yield* allRows(
        (after: TimePlace | null, limit) => messagesOf(alpine.db(), id, undefined, after, limit),
        timePlaceOf,
        webhookDeliveryOf,
      );
    }
  }
}

/** Where an administrator came from is theirs to tell. */
function withoutOthers(record: AuditRecord, userId: string): AuditRecord {
  if (record.actor_id === null || record.actor_id === userId) return record;
  return { ...record, actor_id: null, address: null, request_id: null };
}

async function* textsOf(
  head: object,
  lists: Record<string, AsyncGenerator<unknown[]>>,
): AsyncGenerator<string> {
  yield JSON.stringify(head).slice(0, -1);
  for (const [name, pages] of Object.entries(lists)) {
    let before = `,"${name}":[`;
    for await (const rows of pages) {
      yield before + rows.map((row) => JSON.stringify(row)).join(",");
      before = ",";
    }
    yield before === "," ? "]" : `${before}]`;
  }
  yield "}\n";
}
