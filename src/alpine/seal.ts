import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { deriveKey, type Use } from "./secrets";

const algorithm = "aes-256-gcm";
const nonceBytes = 12;
const tagBytes = 16;

/** Keeps secrets that must be read again, with a key that is not where they are kept. */
export class Seal {
  readonly #keys: readonly Buffer[];

  /** The first secret seals, all of them open: one can be replaced. */
  constructor(secrets: readonly string[], use: Use) {
    this.#keys = secrets.map((secret) => deriveKey(secret, use));
  }

  /** `owner` is part of the seal: what is copied to somebody else does not open. */
  seal(text: string, owner: string): Uint8Array {
    const [key] = this.#keys;
    if (!key) throw new Error("There is no secret to seal with.");
    const nonce = randomBytes(nonceBytes);
    const cipher = createCipheriv(algorithm, key, nonce).setAAD(Buffer.from(owner));
    const sealed = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
    return Buffer.concat([nonce, sealed, cipher.getAuthTag()]);
  }

  /** Null when no secret opens it, or it was changed. */
  open(sealed: Uint8Array, owner: string): string | null {
    if (sealed.length < nonceBytes + tagBytes) return null;
    for (const key of this.#keys) {
      const text = openWith(key, sealed, owner);
      if (text !== null) return text;
    }
    return null;
  }
}

function openWith(key: Buffer, sealed: Uint8Array, owner: string): string | null {
  const end = sealed.length - tagBytes;
  const decipher = createDecipheriv(algorithm, key, sealed.subarray(0, nonceBytes), {
    authTagLength: tagBytes,
  })
    .setAAD(Buffer.from(owner))
    .setAuthTag(sealed.subarray(end));
  try {
    const body = decipher.update(sealed.subarray(nonceBytes, end));
    return Buffer.concat([body, decipher.final()]).toString("utf8");
  } catch {
    return null;
  }
}
