import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { accountOf, fresh, originOf, type Plane } from "../plane";
import { changePassword, forgotPassword, resetPassword } from "./password";
import {
  Accepted,
  ChangePassword,
  ConfirmBoth,
  ConfirmPassword,
  EmailAddress,
  OneTimeToken,
  RecoveryCodes,
  ResetPassword,
  TotpCode,
  TotpSetup,
} from "./schema";
import { disableTotp, enableTotp, renewRecoveryCodes, setUpTotp } from "./second-factor";
import { resendVerification, verifyEmail } from "./verify";

/** How an account is kept and got back: its address, its password, its second factor. */
export function recoveryRoutes(plane: Plane) {
  const { admission } = plane;
  const tags = ["auth"];
  const checks = [fresh(plane), strictQuery, ...strictJson];
  const open = [admission.strangers(), ...checks];
  const own = [admission.holders("account"), ...checks];
  const openProblems = problems(400, 413, 415, 422, 429, 503);
  const ownProblems = problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503);
  const none = (description: string) => ({ 204: { description } });
  const sent = { detail: "If there is something to send, a mail is on its way." };
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const verify = createRoute({
    method: "post",
    path: "/api/auth/verify-email",
    tags,
    summary: "Verify an e-mail address",
    middleware: open,
    request: { body: jsonBody(OneTimeToken) },
    responses: { ...none("The address is verified"), ...openProblems, ...problems(409) },
  });
  app.openapi(verify, async (c) => {
    await verifyEmail(plane, c.req.valid("json").token, originOf(plane, c));
    return c.body(null, 204);
  });

  const resend = createRoute({
    method: "post",
    path: "/api/auth/verify-email/resend",
    tags,
    summary: "Send the mail that verifies an address again",
    description:
      "The answer is the same whoever has the address. Where a sign-up must be verified and more than one may wait, the mail asks for a new password instead.",
    middleware: open,
    request: { body: jsonBody(EmailAddress) },
    responses: { 202: json(Accepted, "Taken"), ...openProblems },
  });
  app.openapi(resend, async (c) => {
    await resendVerification(plane, c.req.valid("json").email, originOf(plane, c));
    return c.json(sent, 202);
  });

  const change = createRoute({
    method: "post",
    path: "/api/auth/password/change",
    tags,
    summary: "Change the password",
    description: "This session goes on; all others of the account end.",
    middleware: own,
    request: { body: jsonBody(ChangePassword) },
    responses: { ...none("The password is changed"), ...ownProblems },
  });
  app.openapi(change, async (c) => {
    await changePassword(plane, accountOf(c), c.req.valid("json"), originOf(plane, c));
    return c.body(null, 204);
  });

  const forgot = createRoute({
    method: "post",
    path: "/api/auth/password/forgot",
    tags,
    summary: "Ask for a token that sets a new password",
    description: "The answer is the same whoever has the address.",
    middleware: open,
    request: { body: jsonBody(EmailAddress) },
    responses: { 202: json(Accepted, "Taken"), ...openProblems },
  });
  app.openapi(forgot, async (c) => {
    await forgotPassword(plane, c.req.valid("json").email, originOf(plane, c));
    return c.json(sent, 202);
  });

  const reset = createRoute({
    method: "post",
    path: "/api/auth/password/reset",
    tags,
    summary: "Set a new password with a token",
    description:
      "All sessions end and the address is verified. The second factor and the keys stay, unless the address was verified for the first time.",
    middleware: open,
    request: { body: jsonBody(ResetPassword) },
    responses: { ...none("The password is set"), ...openProblems },
  });
  app.openapi(reset, async (c) => {
    await resetPassword(plane, c.req.valid("json"), originOf(plane, c));
    return c.body(null, 204);
  });

  const setup = createRoute({
    method: "post",
    path: "/api/auth/totp/setup",
    tags,
    summary: "Begin a second factor",
    description: "It is asked for once a code of it has been sent to /api/auth/totp/enable.",
    middleware: own,
    request: { body: jsonBody(ConfirmPassword) },
    responses: { 200: json(TotpSetup, "For the authenticator, shown once"), ...ownProblems },
  });
  app.openapi(setup, async (c) => {
    const { password } = c.req.valid("json");
    const begun = await setUpTotp(plane, accountOf(c).userId, password, originOf(plane, c));
    return c.json(begun, 200);
  });

  const enable = createRoute({
    method: "post",
    path: "/api/auth/totp/enable",
    tags,
    summary: "Turn the second factor on",
    middleware: own,
    request: { body: jsonBody(TotpCode) },
    responses: { 200: json(RecoveryCodes, "Shown once, each good once"), ...ownProblems },
  });
  app.openapi(enable, async (c) => {
    const { code } = c.req.valid("json");
    const codes = await enableTotp(plane, accountOf(c).userId, code, originOf(plane, c));
    return c.json({ recovery_codes: codes }, 200);
  });

  const disable = createRoute({
    method: "post",
    path: "/api/auth/totp/disable",
    tags,
    summary: "Turn the second factor off",
    middleware: own,
    request: { body: jsonBody(ConfirmBoth) },
    responses: { ...none("It is off"), ...ownProblems },
  });
  app.openapi(disable, async (c) => {
    await disableTotp(plane, accountOf(c).userId, c.req.valid("json"), originOf(plane, c));
    return c.body(null, 204);
  });

  const renew = createRoute({
    method: "post",
    path: "/api/auth/totp/recovery-codes",
    tags,
    summary: "Replace the recovery codes",
    middleware: own,
    request: { body: jsonBody(ConfirmBoth) },
    responses: { 200: json(RecoveryCodes, "Shown once, each good once"), ...ownProblems },
  });
  app.openapi(renew, async (c) => {
    const given = c.req.valid("json");
    const codes = await renewRecoveryCodes(plane, accountOf(c).userId, given, originOf(plane, c));
    return c.json({ recovery_codes: codes }, 200);
  });

  return app;
}
