import { z } from "@hono/zod-openapi";
import { roles, type sessions, tiers, type users } from "../../../db/alpine/schema";
import { pageQuery, pageShape } from "../page";

export type UserRow = typeof users.$inferSelect;
export type SessionRow = typeof sessions.$inferSelect;

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

export const ProfileChange = z
  .strictObject({
    full_name: FullName.optional(),
    email: Email.optional(),
    password: z.string().min(1).max(256).optional().openapi({
      description: "The password of the account: needed for another e-mail address.",
    }),
  })
  .refine(({ full_name, email }) => full_name !== undefined || email !== undefined, {
    message: "must hold full_name or email",
  })
  .openapi("ProfileChange");
export type ProfileChange = z.infer<typeof ProfileChange>;

export const Deletion = z
  .strictObject({ password: z.string().min(1).max(256) })
  .openapi("Deletion");

const time = z.iso.datetime();
const sessionShape = {
  id: z.uuid(),
  created_at: time,
  last_used_at: time,
  expires_at: time,
  user_agent: z.string().nullable(),
  address: z.string().nullable(),
};
export const Session = z.object({
  ...sessionShape,
  current: z.boolean().openapi({ description: "True for the one that asks." }),
});
export const PastSession = z.object({ ...sessionShape, ended_at: time.nullable() });

export const sessionsQuery = (pageSizeMax: number) => z.strictObject(pageQuery(pageSizeMax));
export const SessionList = z
  .object({ sessions: z.array(Session.openapi("Session")), ...pageShape })
  .openapi("SessionList");

/** A session as its user sees it. */
export const sessionOf = (row: SessionRow) => ({
  id: row.id,
  created_at: row.createdAt.toISOString(),
  last_used_at: row.lastUsedAt.toISOString(),
  expires_at: row.expiresAt.toISOString(),
  user_agent: row.userAgent,
  address: row.address,
});

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
