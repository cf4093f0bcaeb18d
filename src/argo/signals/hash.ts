import { DEFAULT_STRATEGY } from "./layout";
import type { SignalIn } from "./schema";

export type Content = Omit<SignalIn, "sha256" | "supersedes" | "timestamp"> & { timestamp: string };

/**
 * The RFC 8785 canonical JSON of a signal's content. JSON.stringify writes numbers and strings as
 * the RFC does (§3.2.2); the keys stand here in its order. Absent prices are null, an absent
 * strategy the default one.
 */
export function canonicalJson(content: Content): string {
  return JSON.stringify({
    action: content.action,
    confidence: content.confidence,
    entry_price: content.entry_price,
    stop_price: content.stop_price ?? null,
    strategy: content.strategy ?? DEFAULT_STRATEGY,
    symbol: content.symbol,
    target_price: content.target_price ?? null,
    timestamp: content.timestamp,
  });
}

/** Lower-case hex SHA-256 of the canonical JSON. */
export function hashOf(content: Content): string {
  return Bun.SHA256.hash(canonicalJson(content), "hex");
}
