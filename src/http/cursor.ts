import { timingSafeEqual } from "node:crypto";
import { AppError } from "../errors";

const macBytes = 9;

/**
 * Cursors of lists: a place in the order, bound to the filter they were made for and signed with
 * a secret, so that one that is forged, cut or used with another filter is told apart.
 */
export class Cursors {
  constructor(private readonly secret: () => Uint8Array) {}

  /** `place` is anything that JSON holds. @returns base64url text. */
  write(place: unknown, filter: string): string {
    const bytes = Buffer.from(JSON.stringify(place));
    return Buffer.concat([this.#mac(bytes, filter), bytes]).toString("base64url");
  }

  /**
   * The place that was written for this filter.
   * @throws AppError 400 for what this server did not write for it.
   */
  read<Place>(text: string, filter: string): Place {
    const bytes = Buffer.from(text, "base64url");
    const [mac, place] = [bytes.subarray(0, macBytes), bytes.subarray(macBytes)];
    const ours =
      bytes.toString("base64url") === text &&
      mac.length === macBytes &&
      timingSafeEqual(mac, this.#mac(place, filter));
    if (ours) return JSON.parse(place.toString()) as Place;
    throw new AppError("bad_request", "The request is not valid: cursor.", {
      errors: [{ field: "cursor", detail: "is not a cursor of this list and this filter" }],
    });
  }

  #mac(place: Uint8Array, filter: string): Buffer {
    const hasher = new Bun.CryptoHasher("sha256", this.secret());
    return hasher.update(filter).update("\0").update(place).digest().subarray(0, macBytes);
  }
}
