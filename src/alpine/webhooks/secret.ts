import { randomBytes } from "node:crypto";
import { Webhook as Signer } from "standardwebhooks";
import type { Seal } from "../seal";
import type { MessageRow, WebhookRow } from "./schema";

/** For so long the secret before a rotation signs beside the new one. */
export const overlapMs = 86_400_000;

/** A new secret, as receivers are given it. */
export const makeSecret = (): string => `whsec_${randomBytes(32).toString("base64")}`;

type Sealed = Pick<WebhookRow, "id" | "secret" | "oldSecret" | "oldSecretUntil">;

/**
 * The headers that sign a message by Standard Webhooks, with each secret that is good at the time;
 * null when none can be opened with what this server was given.
 */
export function signed(
  seal: Seal,
  webhook: Sealed,
  { id, body }: Pick<MessageRow, "id" | "body">,
  nowMs: number,
): Record<string, string> | null {
  const { secret, oldSecret, oldSecretUntil } = webhook;
  const old = oldSecretUntil && oldSecretUntil.getTime() > nowMs ? oldSecret : null;
  const secrets = [secret, old].flatMap((sealed) => {
    const opened = sealed && seal.open(sealed, webhook.id);
    return opened ? [opened] : [];
  });
  if (secrets.length === 0) return null;
  const at = new Date(nowMs);
  return {
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(nowMs / 1_000)),
    "webhook-signature": secrets.map((each) => new Signer(each).sign(id, at, body)).join(" "),
  };
}
