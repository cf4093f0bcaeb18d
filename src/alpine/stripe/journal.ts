import { z } from "zod";
import { AppError } from "../../errors";
import { providerEvents } from "../../../db/alpine/schema";
import type { Plane } from "../plane";
import { applyEvents } from "./apply";
import { subjectOf, unixSeconds } from "./events";

const Event = z.looseObject({
  id: z.string().min(1).max(255),
  type: z.string().min(1).max(255),
  created: unixSeconds,
});

/** How old a signature may be, seconds: what Stripe itself recommends. */
const toleranceSeconds = 300;

/**
 * Takes an event of Stripe: it is journaled before anything else, and applied if that is possible
 * now. @throws AppError 400 for what Stripe has not signed, 404 where nothing is sold there, 503.
 */
export async function takeEvent(
  plane: Plane,
  body: string,
  signature: string | undefined,
): Promise<void> {
  const { alpine, config, log, now } = plane;
  const secret = config.stripeWebhookSecret;
  if (secret === null) throw new AppError("not_found", "Nothing is sold at Stripe here.");
  const { Stripe } = await import("stripe");
  const { webhooks } = Stripe;
  const event = await webhooks
    .constructEventAsync(body, signature ?? "", secret, toleranceSeconds, undefined, now())
    .catch((cause: unknown) => {
      throw new AppError("bad_request", "This is not signed by Stripe, or was long ago.", {
        cause,
      });
    });
  // A name with half a character in it must not keep its payment from being written down.
  const told: unknown = JSON.parse(JSON.stringify(event), (_, value: unknown) =>
    typeof value === "string" ? storable(value) : value,
  );
  const parsed = Event.safeParse(told);
  if (!parsed.success) throw new AppError("bad_request", "This is no event of Stripe.");
  const { id, type, created } = parsed.data;
  const subject = subjectOf(type, told);
  const receivedAt = new Date(now());
  const row = { provider: "stripe", id, type, subject, receivedAt, body: parsed.data } as const;
  // What counts for nothing here is kept all the same: somebody may ask what came.
  const appliedAt = subject === null ? receivedAt : null;
  await alpine
    .db()
    .insert(providerEvents)
    .values({ ...row, createdAt: new Date(created * 1000), appliedAt })
    .onConflictDoNothing();
  if (subject === null) return;
  const ground = { db: () => alpine.db(), changes: alpine.changes, now, log, config };
  try {
    await applyEvents(ground, subject);
  } catch (error) {
    // It is journaled, and tried again within half a minute.
    log.warn({ event: id, reason: String(error) }, "an event of Stripe is not applied yet");
  }
}

/** Text as Postgres can hold it: neither NUL nor lone surrogates. */
const storable = (text: string): string => text.toWellFormed().replaceAll("\0", "\uFFFD");
