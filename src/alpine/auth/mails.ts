import type { Config } from "../../config";
import type { Mail } from "../../platform/mail";

type Place = Pick<Config, "host" | "port" | "publicUrl">;

/** Where users reach the server. Never what a request says it is: links would lead elsewhere. */
export function baseUrl({ host, port, publicUrl }: Place): string {
  if (publicUrl !== null) return publicUrl;
  const name = ["0.0.0.0", "::"].includes(host) ? "localhost" : host;
  return `http://${name.includes(":") ? `[${name}]` : name}:${port}`;
}

/** For whoever has given this address as theirs. `nowMs` tells one such mail from another. */
export function verificationMail(place: Place, to: string, token: string, nowMs: number): Mail {
  const base = baseUrl(place);
  // The part behind # is sent to no server, so that no log of one has the token.
  const link = `${base}/#verify-email=${token}`;
  const when = new Date(nowMs).toISOString().slice(0, 16).replace("T", " ");
  const text = `Somebody made an account with this e-mail address (${when} UTC). If that was you,
say so within 24 hours:

${link}

Or send the token yourself:

POST ${base}/api/auth/verify-email
Content-Type: application/json

{"token":"${token}"}

If it was not you, there is nothing to do; do not follow the link.
`;
  return { to, subject: "Is this your e-mail address?", text, link };
}

/** For whoever signs up again, where answers must not tell who has an account. */
export function accountExistsMail(place: Place, to: string): Mail {
  const base = baseUrl(place);
  const text = `Somebody wanted to make an account with this e-mail address, and there is one already.
If that was you, log in. If you forgot the password, ask for a new one:

POST ${base}/api/auth/password/forgot
Content-Type: application/json

{"email":"${to}"}

If it was not you, there is nothing to do.
`;
  return { to, subject: "You have an account already", text };
}

/** For whoever says that they forgot the password. */
export const resetMail = (place: Place, to: string, token: string): Mail =>
  passwordMail(place, to, token, {
    subject: "A new password",
    why: "Somebody asked for a new password of the account with this e-mail address.",
  });

/** For whoever wants to verify an address with which others may have signed up too. */
export const ownerMail = (place: Place, to: string, token: string): Mail =>
  passwordMail(place, to, token, {
    subject: "Is this your e-mail address?",
    why: `Somebody asked to verify this e-mail address. More than one may have signed up
with it, or it was too long ago: whoever chooses a new password has the account.`,
  });

function passwordMail(
  place: Place,
  to: string,
  token: string,
  { subject, why }: { subject: string; why: string },
): Mail {
  const base = baseUrl(place);
  const link = `${base}/#reset-password=${token}`;
  const text = `${why}
If that was you, choose one within an hour:

${link}

Or send the token yourself:

POST ${base}/api/auth/password/reset
Content-Type: application/json

{"token":"${token}","new_password":"…"}

If it was not you, there is nothing to do: the password stays as it is.
`;
  return { to, subject, text, link };
}
