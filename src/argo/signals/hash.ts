import { DEFAULT_STRATEGY } from "./layout";
import type { SignalIn } from "./schema";

export type Content = Omit<SignalIn, "sha256" | "supersedes" | "timestamp"> & { timestamp: string };

/**
 * The RFC 8785 canonical JSON of a signal's content: keys in order, numbers and strings as
 * ECMAScript writes them, absent prices null, an absent strategy the default one.
 */
export function canonicalJson(content: Content): string {
  const price = (value: number | null | undefined) =>
    value === null || value === undefined ? "null" : JSON.stringify(value);
  return (
    `{"action":${JSON.stringify(content.action)},"confidence":${JSON.stringify(content.confidence)},` +
    `"entry_price":${price(content.entry_price)},"stop_price":${price(content.stop_price)},` +
    `"strategy":${JSON.stringify(content.strategy ?? DEFAULT_STRATEGY)},` +
    `"symbol":${JSON.stringify(content.symbol)},"target_price":${price(content.target_price)},` +
    `"timestamp":${JSON.stringify(content.timestamp)}}`
  );
}

/** Lower-case hex SHA-256 of the canonical JSON. */
export function hashOf(content: Content): string {
  return new Bun.CryptoHasher("sha256").update(canonicalJson(content)).digest("hex");
}
