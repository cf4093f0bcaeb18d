import { z } from "@hono/zod-openapi";
import { Email, FullName, isPrintable, NewPassword } from "../users/schema";
import { accessSeconds } from "./tokens";

export const Signup = z
  .strictObject({ email: Email, password: NewPassword, full_name: FullName })
  .openapi("Signup");

/** As it was chosen: what is wrong with it is for whoever chooses one. */
const Password = z.string().min(1).max(256);

const Totp = z.string().min(6).max(32).openapi({
  description: "The code of the second factor, or a recovery code.",
});

/** As it is looked up, which Postgres refuses with a NUL in it. */
const KnownEmail = z
  .string()
  .min(1)
  .max(254)
  .refine(isPrintable, { message: "must be printable text" });

export const Login = z
  .strictObject({ email: KnownEmail, password: Password, totp: Totp.optional() })
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

export const EmailAddress = z.strictObject({ email: Email }).openapi("EmailAddress");

const Token = z.string().min(1).max(128).openapi({ description: "As it came by mail." });
export const OneTimeToken = z.strictObject({ token: Token }).openapi("OneTimeToken");

export const ChangePassword = z
  .strictObject({ current_password: Password, new_password: NewPassword })
  .openapi("ChangePassword");

export const ResetPassword = z
  .strictObject({ token: Token, new_password: NewPassword })
  .openapi("ResetPassword");

export const ConfirmPassword = z.strictObject({ password: Password }).openapi("ConfirmPassword");

export const ConfirmBoth = z
  .strictObject({ password: Password, totp: Totp })
  .openapi("ConfirmPasswordAndSecondFactor");

export const TotpCode = z
  .strictObject({ code: z.string().regex(/^\d{6}$/, "must be six digits") })
  .openapi("TotpCode");

export const TotpSetup = z
  .object({
    secret: z.string().openapi({ description: "In base32, to be typed." }),
    otpauth_url: z.string().openapi({ description: "To be shown as a QR code." }),
  })
  .openapi("TotpSetup");

export const RecoveryCodes = z
  .object({ recovery_codes: z.array(z.string()) })
  .openapi("RecoveryCodes");
