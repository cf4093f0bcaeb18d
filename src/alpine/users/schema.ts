import { z } from "@hono/zod-openapi";
import { roles, tiers, type users } from "../../../db/alpine/schema";

export type UserRow = typeof users.$inferSelect;

/** An address as RFC 5321 bounds it. Kept as it is written, found whatever its case. */
export const Email = z
  .email("must be an e-mail address")
  .max(254)
  .openapi({ example: "ada@example.com" });

/** False for control characters, breaks of lines and halves of characters. */
export function isPrintable(text: string): boolean {
  return text.isWellFormed() && !/[\p{Cc}\p{Zl}\p{Zp}]/u.test(text);
}

export const FullName = z
  .string()
  .min(1)
  .max(200)
  .refine(isPrintable, { message: "must be printable text" })
  .openapi({ example: "Ada Lovelace" });

/** NIST SP 800-63B: length counts, composition does not. The upper bound keeps a hash cheap. */
export const NewPassword = z
  .string()
  .min(8)
  .max(256)
  .refine((text) => text.isWellFormed(), { message: "must be valid text" })
  .openapi({ example: "correct horse battery staple" });

export const User = z
  .object({
    id: z.uuid(),
    email: z.string(),
    full_name: z.string(),
    tier: z.enum(tiers),
    role: z.enum(roles),
    is_active: z.boolean(),
    is_verified: z.boolean(),
    totp_enabled: z.boolean(),
    created_at: z.iso.datetime(),
  })
  .openapi("User");
export type User = z.infer<typeof User>;

/** A user as every answer shows it. The hash of the password never leaves its row. */
export function userOf(row: Omit<UserRow, "passwordHash" | "totpSecret">): User {
  return {
    id: row.id,
    email: row.email,
    full_name: row.fullName,
    tier: row.tier,
    role: row.role,
    is_active: row.isActive,
    is_verified: row.isVerified,
    totp_enabled: row.totpEnabledAt !== null,
    created_at: row.createdAt.toISOString(),
  };
}
