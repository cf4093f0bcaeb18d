import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from "node:crypto";
import { AppError } from "../errors";
import type { Redis } from "../platform/redis";

export const ticketSeconds = 60;
const ticketsMax = 100_000;
const nonceBytes = 12;
const tagBytes = 16;

/** Where tickets wait until they are used, each once, or their time has passed. */
export type TicketStore = {
  /** False when it is not known to be kept: then another place is tried, with another ticket. */
  put(key: string, sealed: string): Promise<boolean>;
  /** Takes it away. Null when there is none. @throws AppError 503 when that cannot be known. */
  take(key: string): Promise<string | null>;
};

/**
 * Tickets stand for an `Authorization` that a browser cannot send with a WebSocket: each is good
 * once, for a minute. Where they are kept there is nothing but their hashes and what is sealed with
 * the tickets themselves.
 */
export class Tickets {
  /** Each ticket is in one place alone, so that none can be used twice. */
  constructor(private readonly stores: readonly TicketStore[]) {}

  /** @throws AppError 503. */
  async issue(authorization: string): Promise<string> {
    for (const store of this.stores) {
      const ticket = randomBytes(32).toString("base64url");
      if (await store.put(keyOf(ticket), seal(ticket, authorization))) return ticket;
    }
    throw new AppError("unavailable", "No ticket can be given at the moment. Try again.");
  }

  /** The `Authorization` that it stands for; null for one that is not good, or was. @throws AppError 503. */
  async redeem(ticket: string): Promise<string | null> {
    const key = keyOf(ticket);
    let fault: unknown;
    for (const store of this.stores) {
      try {
        const sealed = await store.take(key);
        if (sealed !== null) return open(ticket, sealed);
      } catch (error) {
        fault = error;
      }
    }
    if (fault !== undefined) throw fault;
    return null;
  }
}

/** Keeps tickets in this process. */
export class OwnTickets implements TicketStore {
  readonly #kept = new Map<string, { sealed: string; untilMs: number }>();

  constructor(private readonly now: () => number) {}

  put(key: string, sealed: string): Promise<boolean> {
    const nowMs = this.now();
    // They end in the order in which they came.
    for (const [oldest, { untilMs }] of this.#kept) {
      if (untilMs > nowMs && this.#kept.size < ticketsMax) break;
      this.#kept.delete(oldest);
    }
    this.#kept.set(key, { sealed, untilMs: nowMs + ticketSeconds * 1000 });
    return Promise.resolve(true);
  }

  take(key: string): Promise<string | null> {
    const kept = this.#kept.get(key);
    this.#kept.delete(key);
    return Promise.resolve(kept && kept.untilMs > this.now() ? kept.sealed : null);
  }
}

/** Keeps tickets in Redis, so that any process may be shown them. */
export class SharedTickets implements TicketStore {
  constructor(private readonly redis: Redis) {}

  async put(key: string, sealed: string): Promise<boolean> {
    const reply = await this.redis.attempt((client) =>
      client.set(`ticket:${key}`, sealed, "PX", ticketSeconds * 1000, "NX"),
    );
    return reply === "OK";
  }

  async take(key: string): Promise<string | null> {
    const sealed = await this.redis.attempt((client) => client.getdel(`ticket:${key}`));
    if (sealed !== undefined) return sealed;
    throw new AppError("unavailable", "The ticket cannot be looked up at the moment. Try again.");
  }
}

const keyOf = (ticket: string): string => createHash("sha256").update(ticket).digest("hex");

/** Not what `keyOf` gives: who reads the store must not be able to open what is in it. */
const sealingKey = (ticket: string): Buffer => createHmac("sha256", ticket).update("seal").digest();

function seal(ticket: string, text: string): string {
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv("aes-256-gcm", sealingKey(ticket), nonce);
  const sealed = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
  return Buffer.concat([nonce, sealed, cipher.getAuthTag()]).toString("base64");
}

/** Null for what was changed. */
function open(ticket: string, sealed: string): string | null {
  const bytes = Buffer.from(sealed, "base64");
  if (bytes.length < nonceBytes + tagBytes) return null;
  const end = bytes.length - tagBytes;
  const nonce = bytes.subarray(0, nonceBytes);
  const decipher = createDecipheriv("aes-256-gcm", sealingKey(ticket), nonce, {
    authTagLength: tagBytes,
  }).setAuthTag(bytes.subarray(end));
  try {
    const text = decipher.update(bytes.subarray(nonceBytes, end));
    return Buffer.concat([text, decipher.final()]).toString("utf8");
  } catch {
    return null;
  }
}
