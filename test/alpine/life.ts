/** All that can happen to accounts, with every secret that is handed out or typed on the way. */
import { expect } from "bun:test";
import { Secret, TOTP } from "otpauth";
import type { AccountsClient, Member } from "../harness/accounts.ts";
import type { SmtpSink } from "../harness/smtp.ts";

export interface LifeOptions {
  at: AccountsClient;
  sink: SmtpSink;
  /** By the clock of the server, milliseconds. */
  now: () => number;
  /** Makes the first administrator. */
  setupToken: () => Promise<string>;
}

type Tokens = { access_token: string; refresh_token: string };

/** A password that is found wherever it turns up. */
export const canary = (where: string): string =>
  `CANARY-${where}-${crypto.randomUUID().replaceAll("-", "")}`;

/** Lives it once. @returns the secrets by their names, and who is left. */
export async function liveOnce({ at, sink, now, setupToken }: LifeOptions) {
  const secrets: Record<string, string> = {};
  const keep = <T extends Record<string, string>>(named: T): T =>
    Object.assign(secrets, named) && named;
  const auth = <T>(status: number, path: string, body: unknown, token?: string): Promise<T> =>
    at.must<T>(status, "POST", `/api/auth${path}`, body, token);
  const code = (secret: string, aside = 0): string =>
    new TOTP({ secret: Secret.fromBase32(secret) }).generate({ timestamp: now() + aside * 30_000 });
  const mailed = async (email: string, name: string): Promise<string> => {
    const { text } = await sink.mailFor(email);
    const [, token = ""] = /"token":"([^"]+)"/.exec(text) ?? [];
    expect(token).not.toBe("");
    sink.clear();
    return (secrets[name] = token);
  };

  const setup = keep({ setupToken: await setupToken(), adminPassword: canary("admin") });
  const admin = { email: "admin@example.com", password: setup.adminPassword };
  await auth(201, "/setup", { ...admin, token: setup.setupToken, full_name: "An Admin" });
  const adminTokens = await auth<Tokens>(200, "/login", admin);
  keep({ adminAccess: adminTokens.access_token, adminRefresh: adminTokens.refresh_token });

  const email = "somebody@example.com";
  const { first } = keep({ first: canary("first") });
  const { id } = await auth<{ id: string }>(201, "/signup", {
    email,
    password: first,
    full_name: "Somebody",
  });
  await auth(204, "/verify-email", { token: await mailed(email, "verifyToken") });
  const { guess } = keep({ guess: canary("guess") });
  await auth(401, "/login", { email, password: guess });
  await auth(401, "/login", { email: "nobody@example.com", password: guess });
  let session = await auth<Tokens>(200, "/login", { email, password: first });
  keep({ access1: session.access_token, refresh1: session.refresh_token });
  session = await auth<Tokens>(200, "/refresh", { refresh_token: session.refresh_token });
  keep({ access2: session.access_token, refresh2: session.refresh_token });
  await at.must(200, "GET", "/api/auth/me", undefined, session.access_token);

  type Made = { id: string; key: string };
  const body = { name: "a bot", scopes: ["signals:read"] };
  const key = await at.must<Made>(201, "POST", "/api/keys", body, session.access_token);
  const rotated = await at.must<Made>(
    201,
    "POST",
    `/api/keys/${key.id}/rotate`,
    {},
    session.access_token,
  );
  keep({ key: key.key, rotatedKey: rotated.key });
  await at.must(200, "GET", "/api/signals/latest", undefined, rotated.key);
  await at.must(204, "DELETE", `/api/keys/${key.id}`, undefined, session.access_token);
  await at.must(401, "GET", "/api/signals/latest", undefined, key.key);

  const { second } = keep({ second: canary("second") });
  const changed = { current_password: first, new_password: second };
  await auth(
    422,
    "/password/change",
    { ...changed, current_password: guess },
    session.access_token,
  );
  await auth(204, "/password/change", changed, session.access_token);
  const { third } = keep({ third: canary("third") });
  sink.clear();
  await auth(202, "/password/forgot", { email });
  const token = await mailed(email, "resetToken");
  await auth(204, "/password/reset", { token, new_password: third });
  session = await auth<Tokens>(200, "/login", { email, password: third });
  keep({ access3: session.access_token, refresh3: session.refresh_token });

  const bearer = session.access_token;
  const { secret } = await auth<{ secret: string }>(
    200,
    "/totp/setup",
    { password: third },
    bearer,
  );
  keep({
    totpSecret: secret,
    totpBytes: Buffer.from(Secret.fromBase32(secret).bytes).toString("latin1"),
  });
  const recovery = { recovery_codes: [] as string[] };
  Object.assign(recovery, await auth(200, "/totp/enable", { code: code(secret) }, bearer));
  const [used = "", other = ""] = recovery.recovery_codes;
  keep({ usedCode: used, otherCode: other, plainCode: other.replaceAll("-", "") });
  await auth(401, "/login", { email, password: third });
  const withCode = await auth<Tokens>(200, "/login", { email, password: third, totp: used });
  keep({ access4: withCode.access_token, refresh4: withCode.refresh_token });
  await auth(200, "/totp/recovery-codes", { password: third, totp: code(secret, 1) }, bearer).then(
    (renewed) => {
      const [renewedCode = ""] = (renewed as typeof recovery).recovery_codes;
      keep({ renewedCode });
    },
  );

  await auth(204, "/logout", undefined, withCode.access_token);
  const profile = { email: "else@example.com", password: third };
  await at.must(200, "PUT", "/api/users/profile", profile, bearer);
  await mailed(profile.email, "verifyAgainToken");
  const patch = (change: unknown) =>
    at.must(200, "PATCH", `/api/admin/users/${id}`, change, adminTokens.access_token);
  await patch({ tier: "elite" });
  session = await auth<Tokens>(200, "/refresh", { refresh_token: session.refresh_token });
  keep({ access5: session.access_token, refresh5: session.refresh_token });
  await at.must(200, "GET", "/api/users/export", undefined, session.access_token);
  const { leaver } = keep({ leaver: canary("leaver") });
  const gone = await at.member({ email: "leaver@example.com", password: leaver });
  keep({ goneAccess: gone.access, goneRefresh: gone.refresh });
  await at.must(204, "DELETE", "/api/users/account", { password: leaver }, gone.access);
  // Limits are kept somewhere, too.
  const statuses: number[] = [];
  for (let i = 0; i < 12; i += 1) {
    const given = { email: "nobody@example.com", password: guess };
    statuses.push((await at.call("POST", "/api/auth/login", given)).status);
  }
  expect(statuses.at(-1)).toBe(429);
  const member: Member = {
    id,
    email: profile.email,
    password: third,
    access: session.access_token,
    refresh: session.refresh_token,
  };
  return { secrets, member, key: rotated.key, admin: adminTokens.access_token };
}

/** How a secret may be written: as it is, encoded, or as the bytes that it stands for. */
function spellings(secret: string): string[] {
  const bytes = [Buffer.from(secret, "latin1")];
  // What looks like base64url may be kept as its bytes.
  const decoded = Buffer.from(secret, "base64url");
  if (decoded.toString("base64url") === secret) bytes.push(decoded);
  const all = bytes.flatMap((raw) => {
    // Inside of something longer the same bytes are spelled in three ways.
    const shifted = [0, 1, 2].flatMap((shift) => {
      const padded = Buffer.concat([Buffer.alloc(shift), raw]).toString("base64");
      const whole = padded.slice(shift === 0 ? 0 : 4, Math.floor((raw.length + shift) / 3) * 4);
      return [whole, whole.replaceAll("+", "-").replaceAll("/", "_")];
    });
    const [text, hex] = [raw.toString("latin1"), raw.toString("hex")];
    return shifted.concat(text, encodeURIComponent(text), hex, hex.toUpperCase());
  });
  // What is cut to almost nothing is found in anything.
  return all.filter((spelling) => spelling.length >= 6);
}

/** A hash that is made in no time tells a password to whoever can guess. */
function quickHashes(password: string): string[] {
  return ["md5", "sha1", "sha256", "sha512"].flatMap((name) => {
    const hash = () => new Bun.CryptoHasher(name as "sha256").update(password);
    return [hash().digest("hex"), hash().digest("base64").slice(0, 20)];
  });
}

/** Which secrets, or good parts of them, are somewhere in these texts. */
export function leaks(secrets: Record<string, string>, texts: Record<string, string>): string[] {
  return Object.entries(secrets).flatMap(([name, secret]) => {
    // The first characters of a key are shown; a token is as good as its signature.
    const told = secret.startsWith("argo_live_") ? secret.slice(16) : secret;
    const parts = secret.split(".").length === 3 ? [secret, secret.split(".")[2] ?? ""] : [told];
    const forms = parts.flatMap(spellings);
    if (secret.startsWith("CANARY")) forms.push(secret.slice(-24), ...quickHashes(secret));
    return Object.entries(texts).flatMap(([place, text]) =>
      forms.some((form) => text.includes(form)) ? [`${name} in ${place}`] : [],
    );
  });
}
