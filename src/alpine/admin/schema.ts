import { z } from "@hono/zod-openapi";
import { roles, tiers } from "../../../db/alpine/schema";
import { orNull, uuid, word } from "../../http/fields";
import { auditEvents, AuditRecord } from "../audit";
import { format } from "../csv";
import { pageQuery, pageShape } from "../page";
import { Subscription } from "../subscriptions/schema";
import { Email, FullName, NewPassword, User, userOf, type UserRow } from "../users/schema";

export const AdminUser = User.extend({
  tier_grant: z.enum(tiers).nullable().openapi({
    description: "Given by an administrator: outranks the subscription and earns nothing.",
  }),
  last_login_at: z.iso.datetime().nullable(),
}).openapi("AdminUser");
export type AdminUser = z.infer<typeof AdminUser>;

/** One user, with what they have. */
export const AdminUserDetails = AdminUser.extend({
  subscription: orNull(Subscription).openapi({ description: "Null without a live one." }),
}).openapi("AdminUserDetails");
export type AdminUserDetails = z.infer<typeof AdminUserDetails>;

export const AdminUserList = z
  .object({ users: z.array(AdminUser), ...pageShape })
  .openapi("AdminUserList");

export const usersQuery = (pageSizeMax: number) =>
  z.strictObject({
    ...pageQuery(pageSizeMax),
    search: z.string().min(1).max(254).optional().openapi({
      description: "How the e-mail address or the full name begins, whatever its case.",
    }),
    tier: z.enum(tiers).optional(),
    role: z.enum(roles).optional(),
    is_active: word.optional(),
    format,
  });
export type UsersQuery = z.infer<ReturnType<typeof usersQuery>>;

export const UserChange = z
  .strictObject({
    tier: z.enum(tiers).nullable().optional().openapi({
      description: "A grant without revenue; null clears it.",
    }),
    role: z.enum(roles).optional(),
    is_active: z.boolean().optional(),
  })
  .refine((change) => Object.values(change).some((value) => value !== undefined), {
    message: "must hold tier, role or is_active",
  })
  .openapi("UserChange");
export type UserChange = z.infer<typeof UserChange>;

export const SetUp = z
  .strictObject({
    token: z.string().min(1).max(128).openapi({ description: "Of the link in the server's log." }),
    email: Email,
    password: NewPassword,
    full_name: FullName,
  })
  .openapi("SetUp");

export const auditQuery = (pageSizeMax: number) =>
  z.strictObject({
    ...pageQuery(pageSizeMax),
    event: z.enum(auditEvents).optional(),
    user_id: uuid.optional().openapi({ description: "Who did it, or whom it concerns." }),
    format,
  });

export const AuditList = z
  .object({ entries: z.array(AuditRecord), ...pageShape })
  .openapi("AuditList");

/** A user as administrators see them. */
export const adminUserOf = (row: UserRow): AdminUser =>
  Object.assign(userOf(row), {
    tier_grant: row.tierGrant,
    last_login_at: row.lastLoginAt?.toISOString() ?? null,
  });
