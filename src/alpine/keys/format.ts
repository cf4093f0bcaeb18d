import { crc32 } from "node:zlib";

const start = "argo_live_";
const randomChars = 32;
const sumChars = 6;
/** How much of a key is shown, so that its holder can tell it from others. */
const shownChars = start.length + 6;
const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const pattern = new RegExp(`^${start}[${alphabet}]{${randomChars + sumChars}}$`);

/**
 * A new key: 190 random bits, then a checksum, by which scanners tell a leaked key from noise and
 * this server refuses noise without a look-up (as GitHub's tokens are made).
 */
export function makeKey(): string {
  const random = start + randomText(randomChars);
  return random + checksum(random);
}

export const prefixOf = (key: string): string => key.slice(0, shownChars);

/** True for what looks like a key at all. */
export const isKey = (text: string): boolean => text.startsWith(start);

/** True for what may have been made by `makeKey`. */
export function isWellFormed(text: string): boolean {
  if (!pattern.test(text)) return false;
  const random = text.slice(0, -sumChars);
  return text.slice(-sumChars) === checksum(random);
}

/** Every character equally likely: bytes beyond the last whole alphabet are drawn again. */
function randomText(length: number): string {
  const fair = 256 - (256 % alphabet.length);
  let text = "";
  while (text.length < length) {
    for (const byte of crypto.getRandomValues(new Uint8Array(length))) {
      if (byte < fair && text.length < length) text += alphabet[byte % alphabet.length];
    }
  }
  return text;
}

function checksum(text: string): string {
  let value = crc32(text);
  let digits = "";
  for (let i = 0; i < sumChars; i += 1) {
    digits = alphabet[value % alphabet.length] + digits;
    value = Math.floor(value / alphabet.length);
  }
  return digits;
}
