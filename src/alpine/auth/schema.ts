import { z } from "@hono/zod-openapi";
import { Email, FullName, NewPassword } from "../users/schema";
import { accessSeconds } from "./tokens";

export const Signup = z
  .strictObject({ email: Email, password: NewPassword, full_name: FullName })
  .openapi("Signup");

export const Login = z
  .strictObject({
    email: z.string().min(1).max(254),
    password: z.string().min(1).max(256),
    totp: z.string().min(6).max(32).optional().openapi({
      description: "The code of the second factor, or a recovery code.",
    }),
  })
  .openapi("Login");

export const Refresh = z
  .strictObject({ refresh_token: z.string().min(1).max(128) })
  .openapi("Refresh");

export const Tokens = z
  .object({
    access_token: z.string(),
    refresh_token: z.string(),
    token_type: z.literal("Bearer"),
    expires_in: z.int().openapi({ example: accessSeconds }),
  })
  .openapi("Tokens");
export type Tokens = z.infer<typeof Tokens>;

export const Accepted = z.object({ detail: z.string() }).openapi("AcceptedRequest");
