import { limitExceeded } from "../../http/limit";
import { addressKey } from "../../http/policy";
import type { Plane } from "../plane";

/** What protects passwords and mailboxes: attempts in a sliding window, by account or address. */
export const authLimits = {
  loginAccount: { limit: 10, windowMs: 15 * 60_000 },
  loginAddress: { limit: 100, windowMs: 15 * 60_000 },
  signupAddress: { limit: 30, windowMs: 60 * 60_000 },
  mailAccount: { limit: 5, windowMs: 60 * 60_000 },
  mailAddress: { limit: 30, windowMs: 60 * 60_000 },
  tokenAddress: { limit: 30, windowMs: 15 * 60_000 },
  totpAccount: { limit: 5, windowMs: 15 * 60_000 },
} as const;
export type AuthLimit = keyof typeof authLimits;

/** Counts an attempt. @throws AppError 429 when it is one too many. */
export async function limitTo(plane: Plane, name: AuthLimit, key: string): Promise<void> {
  const window = plane.alpine.windows[name];
  const verdict = await window.take(shortKey(name, key));
  if (!verdict.allowed) throw limitExceeded(window.options, verdict);
}

/** Takes an attempt back that was none: a login that succeeded. */
export async function forgive(plane: Plane, name: AuthLimit, key: string): Promise<void> {
  await plane.alpine.windows[name].forgive(shortKey(name, key));
}

/** Accounts by a hash of what was typed: whatever its length, and no addresses in Redis. */
function shortKey(name: AuthLimit, key: string): string {
  if (name.endsWith("Address")) return addressKey(key);
  return Bun.SHA256.hash(key.toLowerCase(), "base64url").slice(0, 22);
}
