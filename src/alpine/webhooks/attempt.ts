import { and, eq, gt, isNotNull, isNull, ne, or, sql } from "drizzle-orm";
import { webhookMessages, webhooks } from "../../../db/alpine/schema";
import { PREMIUM_CONFIDENCE } from "../../argo/signals/layout";
import type { ReceivedSignal } from "../../argo/signals/signal";
import type { View } from "../../http/entitlement";
import { Unanswered, type Outbound } from "../../platform/outbound";
import { version } from "../../version";
import type { Database } from "../database";
import type { Seal } from "../seal";
import { askedMsOf, nextAttemptMs } from "./schedule";
import type { MessageRow, WebhookRow } from "./schema";
import { signed } from "./secret";
import { disableWebhook } from "./stop";

/** How long a receiver may take to answer. */
const timeoutMs = 15_000;
const hourMs = 3_600_000;
/**
 * Nothing was delivered for so long: with a message that has used up its attempts, which takes 68
 * hours at least, and without one, which so many new ones may keep from being tried again.
 */
const failingMsMin = 60 * hourMs;
const failingMsMax = 84 * hourMs;
/** Of a receiver that has failed for an hour no more may wait; looked at now and then. */
const waitingMax = 100_000;
const waitingLookEvery = 100;

/** What came of an attempt: the answer's status, or why there was none. */
export type Outcome = {
  atMs: number;
  durationMs: number;
  status: number | null;
  error: string | null;
  /** For how long the receiver asks to be left alone. */
  askedMs: number | null;
};
export const isDelivered = ({ status }: Outcome): boolean =>
  status !== null && status >= 200 && status < 300;

type Means = { outbound: Outbound; seal: Seal; now: () => number };

/** Signs a message and posts it once. What is wrong is in the outcome; null when it was given up. */
export async function attempt(
  { outbound, seal, now }: Means,
  webhook: Pick<WebhookRow, "id" | "url" | "secret" | "oldSecret" | "oldSecretUntil">,
  message: Pick<MessageRow, "id" | "body">,
  signal?: AbortSignal,
): Promise<Outcome | null> {
  const atMs = now();
  const begunAt = performance.now();
  const ended = (status: number | null, error: string | null, retryAfter: string | null = null) => {
    const asks = status === 429 || status === 503;
    const askedMs = asks ? askedMsOf(retryAfter, atMs) : null;
    return { atMs, durationMs: Math.round(performance.now() - begunAt), status, error, askedMs };
  };
  const signature = signed(seal, webhook, message, atMs);
  if (!signature) return ended(null, "the secret cannot be read here: rotate it");
  const headers = {
    "Content-Type": "application/json",
    "User-Agent": `argo-alpine/${version}`,
    ...signature,
  };
  try {
    const { url } = webhook;
    const posted = { url, headers, body: message.body, timeoutMs, ...(signal && { signal }) };
    const { status, retryAfter } = await outbound.post(posted);
    return ended(status, null, retryAfter);
  } catch (error) {
    if (signal?.aborted) return null;
    if (!(error instanceof Unanswered)) throw error;
    return ended(null, error.message);
  }
}

/** What a message that waits has become by an attempt. */
export type Settled = "delivered" | "again" | "failed";

/**
 * Writes down what came of an attempt: when it is tried again, whether the receiver is there at
 * all. One that has refused everything for days, or says 410, is sent nothing any more. Null where
 * it failed and the `lease` was lost meanwhile: whoever has it now makes the same attempt.
 */
export async function settleAttempt(
  db: Database,
  webhook: WebhookRow,
  message: Pick<MessageRow, "id" | "attempts" | "signalId" | "nextAttemptAt">,
  outcome: Outcome & { lease: Date },
  random: number,
): Promise<Settled | null> {
  const { atMs, status, error: lastError, durationMs, askedMs, lease } = outcome;
  const at = new Date(atMs);
  const attempts = message.attempts + 1;
  const sent = eq(webhookMessages.id, message.id);
  const { nextAttemptAt: dueAt } = message;
  const asItWas = dueAt === null ? undefined : eq(webhookMessages.nextAttemptAt, dueAt);
  const last = { attempts, lastStatus: status, lastError, durationMs, lastAttemptAt: at };
  if (isDelivered(outcome)) {
    const done = { ...last, status: "delivered", nextAttemptAt: null, endedAt: at } as const;
    await db
      .update(webhookMessages)
      .set(done)
      // One that is to be sent again since then still is.
      .where(and(sent, or(ne(webhookMessages.status, "waiting"), asItWas)));
    if (webhook.failingSince) {
      await db.update(webhooks).set({ failingSince: null }).where(eq(webhooks.id, webhook.id));
    }
    return "delivered";
  }
  const gone = status === 410;
  const nextMs = gone ? null : nextAttemptMs(attempts, askedMs, atMs, random);
  const failedSince = webhook.failingSince?.getTime() ?? atMs;
  const failingMs = atMs - failedSince;
  const failing =
    failingMs >= (nextMs === null ? failingMsMin : failingMsMax) ||
    (failingMs >= hourMs && isLookedAt(message) && (await tooManyWait(db, webhook.id)));
  const failed =
    nextMs === null
      ? ({ ...last, status: "failed", nextAttemptAt: null, endedAt: at } as const)
      : { ...last, lane: 1, nextAttemptAt: new Date(nextMs) };
  return db.transaction(async (tx) => {
    const { id, url } = webhook;
    const [held] = await tx
      .select({ url: webhooks.url })
      .from(webhooks)
      .where(
        and(
          eq(webhooks.id, id),
          eq(webhooks.leasedUntil, lease),
          gt(webhooks.leasedUntil, sql`clock_timestamp()`),
        ),
      )
      .for("no key update");
    if (!held) return null;
    await tx
      .update(webhookMessages)
      .set(failed)
      // One that was given up meanwhile stays so, and one that is to be sent again is sent.
      .where(and(sent, eq(webhookMessages.status, "waiting"), asItWas));
    const settled = nextMs === null ? "failed" : "again";
    // What this receiver said is nothing to the one that took its place meanwhile.
    if (held.url !== url) return settled;
    if (!webhook.failingSince) {
      await tx
        .update(webhooks)
        .set({ failingSince: at })
        .where(and(eq(webhooks.id, id), isNull(webhooks.failingSince)));
    }
    if (askedMs !== null) {
      const notBefore = new Date(atMs + askedMs);
      await tx.update(webhooks).set({ notBefore }).where(eq(webhooks.id, id));
    }
    if (gone || failing) await disableWebhook(tx, webhook, gone ? "gone" : "failing", atMs);
    return settled;
  });
}

const isLookedAt = ({ attempts, signalId }: Pick<MessageRow, "attempts" | "signalId">): boolean =>
  attempts === 0 && signalId !== null && signalId % waitingLookEvery === 0;

async function tooManyWait(db: Database, webhookId: string): Promise<boolean> {
  const beyond = await db
    .select({ id: webhookMessages.id })
    .from(webhookMessages)
    .where(and(eq(webhookMessages.webhookId, webhookId), isNotNull(webhookMessages.nextAttemptAt)))
    .offset(waitingMax)
    .limit(1);
  return beyond.length > 0;
}

/**
 * What the plan of the owner says to a message now, which may have waited while it changed: from
 * when on it may be sent, milliseconds since the epoch; null when it is shown no more.
 */
export function shownFromMs({ type, body }: MessageRow, view: View): number | null {
  if (type !== "signal.created") return -Infinity;
  const { data } = JSON.parse(body) as { data: ReceivedSignal };
  const { confidence, received_at: receivedAt, timestamp } = data;
  if (!view.premium && !(confidence !== null && confidence < PREMIUM_CONFIDENCE)) return null;
  if (view.delaySeconds === 0) return -Infinity;
  const arrivedMs = Date.parse(receivedAt ?? timestamp ?? "");
  return Number.isNaN(arrivedMs) ? -Infinity : arrivedMs + view.delaySeconds * 1_000;
}

/** Puts a message off that is not shown yet, or gives it up that is shown no more. */
export async function withhold(
  db: Database,
  { id }: Pick<MessageRow, "id">,
  fromMs: number | null,
  nowMs: number,
): Promise<void> {
  const change =
    fromMs === null
      ? ({
          status: "failed",
          nextAttemptAt: null,
          endedAt: new Date(nowMs),
          lastError: "not sent: the plan shows it no more",
        } as const)
      : { nextAttemptAt: sql`${new Date(fromMs).toISOString()}::timestamptz` };
  await db.update(webhookMessages).set(change).where(eq(webhookMessages.id, id));
}
