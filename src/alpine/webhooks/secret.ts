import { randomBytes } from "node:crypto";
import { Webhook as Signer } from "standardwebhooks";
import type { Seal } from "../seal";
import type { MessageRow, WebhookRow } from "./schema";

/** For so long after a rotation the secrets before it sign beside the new one. */
const overlapMs = 86_400_000;
/** Of them so many: past that the oldest ends at once. */
const oldSecretsMax = 3;

/** A new secret, as receivers are given it. */
export const makeSecret = (): string => `whsec_${randomBytes(32).toString("base64")}`;

type Sealed = Pick<WebhookRow, "id" | "secret" | "oldSecret" | "oldSecretUntil">;

/** The secrets that are good at a time, the newest first; those that cannot be opened are left out. */
function secretsAt(seal: Seal, webhook: Sealed, nowMs: number): string[] {
  const { id, secret, oldSecret, oldSecretUntil } = webhook;
  const old = oldSecretUntil && oldSecretUntil.getTime() > nowMs ? oldSecret : null;
  return [secret, old].flatMap((sealed) => (sealed && seal.open(sealed, id))?.split(" ") ?? []);
}

/**
 * What a webhook has instead of its secret by a rotation. Whoever lost the new one before it was
 * kept rotates again: the receiver still knows one of those before, so they all go on for a while.
 */
export function rotated(seal: Seal, webhook: Sealed, secret: string, nowMs: number): Sealed {
  const { id } = webhook;
  const old = secretsAt(seal, webhook, nowMs).slice(0, oldSecretsMax);
  return {
    id,
    secret: seal.seal(secret, id),
    oldSecret: old.length > 0 ? seal.seal(old.join(" "), id) : null,
    oldSecretUntil: old.length > 0 ? new Date(nowMs + overlapMs) : null,
  };
}

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
  const secrets = secretsAt(seal, webhook, nowMs);
  if (secrets.length === 0) return null;
  const at = new Date(nowMs);
  return {
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(nowMs / 1_000)),
    "webhook-signature": secrets.map((each) => new Signer(each).sign(id, at, body)).join(" "),
  };
}
