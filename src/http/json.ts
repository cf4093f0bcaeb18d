import type { Context, MiddlewareHandler } from "hono";
import { bodyLimit } from "hono/body-limit";
import { AppError } from "../errors";
import type { AppEnv } from "./exchange";

const smallBytesMax = 64 * 1024;

/** Refuses bodies above a size, however they come; and for now those that a room has no place for. */
export function limitedBody(bytesMax: number, room?: Room): MiddlewareHandler<AppEnv> {
  const limit = bodyLimit({
    maxSize: bytesMax,
    onError: () => {
      throw new AppError("payload_too_large", `The body is larger than ${bytesMax / 1024} KiB.`);
    },
  });
  if (!room) return limit;
  return async function roomy(c, next) {
    const announced = Number(c.req.raw.headers.get("content-length"));
    const leave = room.enter(announced > 0 ? Math.min(announced, bytesMax) : bytesMax);
    try {
      return await limit(c, next);
    } finally {
      leave();
    }
  };
}

/**
 * What bodies that are received or worked on may hold in memory together. Each counts as long as it
 * says it is, before anything of it has come.
 */
export class Room {
  #bytes = 0;

  constructor(private readonly bytesMax: number) {}

  /** @throws AppError 503 while there is no room; whoever comes alone has it. */
  enter(bytes: number): () => void {
    if (this.#bytes > 0 && this.#bytes + bytes > this.bytesMax) {
      throw new AppError(
        "unavailable",
        "Too much is being posted. Nothing was written: try again.",
      );
    }
    this.#bytes += bytes;
    return () => void (this.#bytes -= bytes);
  }
}

/**
 * Before the validator of a small JSON body: refuses what it would read leniently. 415 for another
 * type, 413 above 64 KiB, 400 for what is no JSON in UTF-8 or names a field twice.
 */
export const strictJson: MiddlewareHandler<AppEnv>[] = [
  limitedBody(smallBytesMax),
  async function strict(c, next) {
    mustBeStrict(c, new Uint8Array(await c.req.arrayBuffer()));
    await next();
  },
];

/** The same where nothing at all may be sent as well; Hono's own check is then passed by. */
export const optionalJson: MiddlewareHandler<AppEnv>[] = [
  limitedBody(smallBytesMax),
  async function optional(c, next) {
    const bytes = new Uint8Array(await c.req.arrayBuffer());
    const nothing = bytes.length === 0 && c.req.header("content-type") === undefined;
    if (!nothing) mustBeStrict(c, bytes);
    await next();
  },
];

function mustBeStrict(c: Context<AppEnv>, bytes: Uint8Array): void {
  mustBeJson(c.req.header("content-type"), c.req.header("content-encoding"));
  const text = utf8(bytes);
  if (countKeys(readJson(text)) !== countColons(text)) throw fieldTwice();
}

/** @throws AppError 415 unless the body is plain JSON. */
export function mustBeJson(contentType: string | undefined, encoding: string | undefined): void {
  mustBePlain(encoding);
  if (/^application\/json\s*(;\s*charset="?utf-8"?\s*)?$/i.test(contentType ?? "")) return;
  const detail =
    contentType === undefined
      ? "A body is needed, with Content-Type: application/json."
      : "The body must be application/json in UTF-8.";
  throw new AppError("unsupported_media_type", detail, { headers: { Accept: "application/json" } });
}

/** @throws AppError 415 for a body that is packed. */
export function mustBePlain(encoding: string | undefined): void {
  if (encoding === undefined || encoding === "identity") return;
  throw new AppError("unsupported_media_type", "The body must be sent without encoding.", {
    headers: { "Accept-Encoding": "identity" },
  });
}

/** @throws AppError 400: what is not UTF-8 must not be stored as something else. */
export function utf8(bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes);
  } catch (cause) {
    throw new AppError("bad_request", "The body is not valid UTF-8.", { cause });
  }
}

const decoder = new TextDecoder("utf-8", { fatal: true });

/** @throws AppError 400. */
export function readJson(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch (cause) {
    throw new AppError("bad_request", "The body is not valid JSON.", { cause });
  }
}

const [QUOTE, BACKSLASH, COLON] = [0x22, 0x5c, 0x3a];

export const fieldTwice = (): AppError =>
  new AppError("bad_request", "The body names a field of one object more than once.");

/** How many fields the objects of a value have in all. No recursion: it may be deep. */
export function countKeys(value: unknown): number {
  const left = [value];
  let keys = 0;
  while (left.length > 0) {
    const item = left.pop();
    if (typeof item !== "object" || item === null) continue;
    const inner = Object.values(item);
    for (const value of inner) left.push(value);
    if (!Array.isArray(item)) keys += inner.length;
  }
  return keys;
}

/**
 * Fields that a JSON text writes down. JSON.parse keeps the last of two equal ones in silence: by
 * this count they are found.
 */
export function countColons(body: string): number {
  let colons = 0;
  let inText = false;
  for (let at = 0; at < body.length; at += 1) {
    const unit = body.charCodeAt(at);
    if (unit === QUOTE) inText = !inText;
    else if (inText) at += unit === BACKSLASH ? 1 : 0;
    else if (unit === COLON) colons += 1;
  }
  return colons;
}
