import { z } from "@hono/zod-openapi";
import type { apiKeys } from "../../../db/alpine/schema";
import { keyScopes } from "../credentials";
import { pageQuery, pageShape } from "../page";
import { isPrintable } from "../users/schema";

export type KeyRow = typeof apiKeys.$inferSelect;

const overlapSecondsDefault = 86_400;
const overlapSecondsMax = 604_800;
/** With an offset a time of four digits' year may be later, which nothing here could write. */
const timeEndMs = Date.UTC(10_000, 0, 1);

export const NewKey = z
  .strictObject({
    name: z
      .string()
      .min(1)
      .max(100)
      .refine(isPrintable, { message: "must be printable text" })
      .openapi({ example: "trading bot" }),
    scopes: z
      .array(z.enum(keyScopes))
      .min(1)
      .refine((scopes) => new Set(scopes).size === scopes.length, {
        message: "must name each scope once",
      })
      .openapi({
        description: "signals:write and admin:read are for administrators.",
        uniqueItems: true,
      }),
    expires_at: z.iso
      .datetime({ offset: true, message: "must be a time as RFC 3339 writes it" })
      .refine((text) => !(Date.parse(text) >= timeEndMs), {
        message: "must be before the year 10000",
      })
      .nullish()
      .openapi({ description: "In the future; without it the key is good until revoked." }),
  })
  .openapi("NewKey");
export type NewKey = z.infer<typeof NewKey>;

export const Rotation = z
  .strictObject({
    overlap_seconds: z.int().min(0).max(overlapSecondsMax).default(overlapSecondsDefault).openapi({
      description: "For so long the old key is good beside the new one.",
    }),
  })
  .openapi("Rotation");

const time = z.iso.datetime();
export const Key = z
  .object({
    id: z.uuid(),
    prefix: z.string().openapi({ description: "How the key begins, to tell it from others." }),
    name: z.string(),
    scopes: z.array(z.string()),
    created_at: time,
    expires_at: time.nullable(),
    last_used_at: time.nullable().openapi({ description: "At most half a minute late." }),
    revoked_at: time.nullable(),
    successor_id: z.uuid().nullable().openapi({ description: "The key it was rotated to." }),
  })
  .openapi("Key");
export type Key = z.infer<typeof Key>;

export const MadeKey = Key.extend({
  key: z.string().openapi({ description: "The secret itself, this once." }),
}).openapi("MadeKey");
export type MadeKey = z.infer<typeof MadeKey>;

export const keysQuery = (pageSizeMax: number) => z.strictObject(pageQuery(pageSizeMax));
export const KeyList = z.object({ keys: z.array(Key), ...pageShape }).openapi("KeyList");

/** A key as every answer shows it. */
export function keyOf(row: Omit<KeyRow, "hash">): Key {
  return {
    id: row.id,
    prefix: row.prefix,
    name: row.name,
    scopes: row.scopes,
    created_at: row.createdAt.toISOString(),
    expires_at: row.expiresAt?.toISOString() ?? null,
    last_used_at: row.lastUsedAt?.toISOString() ?? null,
    revoked_at: row.revokedAt?.toISOString() ?? null,
    successor_id: row.successorId,
  };
}
