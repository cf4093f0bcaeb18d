import { z } from "@hono/zod-openapi";
import {
  messageStatuses,
  messageTypes,
  webhookReasons,
  type webhookMessages,
  type webhooks,
  webhookStatuses,
} from "../../../db/alpine/schema";
import { uuid } from "../../http/fields";
import { pageQuery, pageShape } from "../page";
import { isPrintable } from "../users/schema";

export type WebhookRow = typeof webhooks.$inferSelect;
export type MessageRow = typeof webhookMessages.$inferSelect;

/** Signals that one replay sends at most. */
export const replayMax = 10_000;
/** Signals that it looks through at most. */
export const replayLooksMax = 50_000;

const printable = (max: number) =>
  z.string().min(1).max(max).refine(isPrintable, { message: "must be printable text" });

const shape = {
  url: printable(2_048).openapi({
    description: "https, at an address that is public unless the operator allows others.",
    example: "https://bot.example.com/signals",
  }),
  description: printable(200).nullish(),
  symbol: printable(64).nullish(),
  strategy: printable(64).nullish(),
  min_confidence: z.number().min(0).max(100).nullish(),
};

export const NewWebhook = z
  .strictObject({ ...shape, premium_only: z.boolean().default(false) })
  .openapi("NewWebhook");
export type NewWebhook = z.infer<typeof NewWebhook>;

export const WebhookChange = z
  .strictObject({
    ...shape,
    url: shape.url.optional(),
    premium_only: z.boolean().optional(),
    status: z.enum(["enabled", "paused"]).optional().openapi({
      description:
        "Paused, nothing is sent and what waits is given up. Enabled again it goes on from the newest signal: replay what came meanwhile.",
    }),
  })
  .refine((change) => Object.values(change).some((value) => value !== undefined), {
    message: "must hold what is to be changed",
  })
  .openapi("WebhookChange");
export type WebhookChange = z.infer<typeof WebhookChange>;

const time = z.iso.datetime();
export const Webhook = z
  .object({
    id: z.uuid(),
    url: z.string(),
    description: z.string().nullable(),
    symbol: z.string().nullable(),
    strategy: z.string().nullable(),
    min_confidence: z.number().nullable(),
    premium_only: z.boolean(),
    status: z.enum(webhookStatuses),
    reason: z.enum(webhookReasons).nullable().openapi({
      description:
        "Why it is not enabled. Paused by its owner, or because the plan allows fewer or the account was shut out; disabled because the receiver answered 410 (gone), or all failed for days (failing).",
    }),
    last_signal_id: z.int().openapi({
      description: "All that is to be sent up to this id was handed over.",
    }),
    created_at: time,
    updated_at: time,
    failing_since: time.nullable().openapi({
      description: "The first failure since anything was delivered.",
    }),
    old_secret_until: time.nullable().openapi({
      description: "Until then secrets before the last rotation sign as well.",
    }),
  })
  .openapi("Webhook");
export type Webhook = z.infer<typeof Webhook>;

export const MadeWebhook = Webhook.extend({
  secret: z.string().openapi({ description: "To verify signatures with, this once." }),
}).openapi("MadeWebhook");
export type MadeWebhook = z.infer<typeof MadeWebhook>;

export const webhooksQuery = (pageSizeMax: number) => z.strictObject(pageQuery(pageSizeMax));
export const WebhookList = z
  .object({ webhooks: z.array(Webhook), ...pageShape })
  .openapi("WebhookList");

export const WebhookDelivery = z
  .object({
    id: z.uuid().openapi({ description: "The header webhook-id, the same in each attempt." }),
    webhook_id: z.uuid(),
    type: z.enum(messageTypes),
    signal_id: z.int().nullable(),
    status: z.enum(messageStatuses),
    attempts: z.int(),
    last_attempt_at: time.nullable(),
    last_status: z.int().nullable().openapi({ description: "What the receiver answered." }),
    last_error: z.string().nullable().openapi({ description: "Why there was no such answer." }),
    duration_ms: z.int().nullable().openapi({ description: "Of the last attempt." }),
    next_attempt_at: time.nullable(),
    created_at: time,
    ended_at: time.nullable(),
  })
  .openapi("WebhookDelivery");
export type WebhookDelivery = z.infer<typeof WebhookDelivery>;

export const deliveriesQuery = (pageSizeMax: number) =>
  z.strictObject({ ...pageQuery(pageSizeMax), status: z.enum(messageStatuses).optional() });
export const WebhookDeliveryList = z
  .object({ deliveries: z.array(WebhookDelivery), ...pageShape })
  .openapi("WebhookDeliveryList");

export const DeliveryParam = z.object({ id: uuid, delivery: uuid });

export const Replay = z
  .strictObject({ since_id: z.int().min(0).openapi({ description: "Signals after this id." }) })
  .openapi("WebhookReplay");
export const Replayed = z
  .object({
    queued: z.int().openapi({ description: "Signals that are sent, again or for the first time." }),
    last_id: z.int().openapi({ description: "Where it was read to: the since_id to go on with." }),
    has_more: z.boolean(),
  })
  .openapi("WebhookReplayed");
export type Replayed = z.infer<typeof Replayed>;

const timeOf = (at: Date | null): string | null => at?.toISOString() ?? null;

/** A webhook as every answer shows it. */
export const webhookOf = (row: WebhookRow): Webhook => ({
  id: row.id,
  url: row.url,
  description: row.description,
  symbol: row.symbol,
  strategy: row.strategy,
  min_confidence: row.minConfidence,
  premium_only: row.premiumOnly,
  status: row.status,
  reason: row.reason,
  last_signal_id: row.place,
  created_at: row.createdAt.toISOString(),
  updated_at: row.updatedAt.toISOString(),
  failing_since: timeOf(row.failingSince),
  old_secret_until: timeOf(row.oldSecretUntil),
});

/** A delivery as the log shows it. */
export const webhookDeliveryOf = (row: MessageRow): WebhookDelivery => ({
  id: row.id,
  webhook_id: row.webhookId,
  type: row.type,
  signal_id: row.signalId,
  status: row.status,
  attempts: row.attempts,
  last_attempt_at: timeOf(row.lastAttemptAt),
  last_status: row.lastStatus,
  last_error: row.lastError,
  duration_ms: row.durationMs,
  next_attempt_at: timeOf(row.nextAttemptAt),
  created_at: row.createdAt.toISOString(),
  ended_at: timeOf(row.endedAt),
});
