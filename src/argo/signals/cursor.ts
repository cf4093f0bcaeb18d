import { timingSafeEqual } from "node:crypto";
import { AppError } from "../../errors";
import type { Key } from "./walk";

const macBytes = 9;

/**
 * Cursors of lists: a place in the order, bound to the filter they were made for and signed with
 * the file's secret, so that one that is forged, cut or used with another filter is told apart.
 */
export class Cursors {
  constructor(private readonly secret: () => Uint8Array) {}

  /** @returns base64url text. */
  write({ timestamp, id, exact }: Key, filter: string): string {
    const place = Buffer.from(JSON.stringify(exact ? [exact] : [timestamp, id]));
    return Buffer.concat([this.#mac(place, filter), place]).toString("base64url");
  }

  /** @throws AppError 400 for what this server did not write for this filter. */
  read(text: string, filter: string): Key {
    const bytes = Buffer.from(text, "base64url");
    const [mac, place] = [bytes.subarray(0, macBytes), bytes.subarray(macBytes)];
    const ours =
      bytes.toString("base64url") === text &&
      mac.length === macBytes &&
      timingSafeEqual(mac, this.#mac(place, filter));
    if (!ours) {
      throw new AppError("bad_request", "The request is not valid: cursor.", {
        errors: [{ field: "cursor", detail: "is not a cursor of this list and this filter" }],
      });
    }
    const key = JSON.parse(place.toString()) as [string] | [Key["timestamp"], number];
    if (key.length === 2) return { timestamp: key[0], id: key[1] };
    const [exact] = key;
    return { timestamp: exact.startsWith("null:") ? null : "", id: 0, exact };
  }

  #mac(place: Uint8Array, filter: string): Buffer {
    const hasher = new Bun.CryptoHasher("sha256", this.secret());
    return hasher.update(filter).update("\0").update(place).digest().subarray(0, macBytes);
  }
}
