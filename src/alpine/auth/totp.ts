import { and, eq, isNotNull, isNull, lt, or } from "drizzle-orm";
import { Secret, TOTP } from "otpauth";
import { recoveryCodes, users } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import { audit, type Origin } from "../audit";
import type { Transaction } from "../database";
import type { Plane } from "../plane";
import type { UserRow } from "../users/schema";
import { limitTo, lookAt } from "./limits";
import { hashOf } from "./tokens";

/** What every authenticator application takes (RFC 6238 §5.2): others fail in some of them. */
const periodSeconds = 30;
/** A clock may be one step off to either side. */
const stepsAside = 1;
const secretBytes = 20;
const recoveryCodeCount = 10;
/** Crockford's base32: nothing that is mistaken for something else when it is typed. */
const letters = "0123456789abcdefghjkmnpqrstvwxyz";
const recoveryCodeLength = 16;

/**
 * The second factor of a login, after the password was right.
 * @throws AppError 401 that names the field, 429 after five attempts, 503.
 */
export async function checkSecondFactor(
  plane: Plane,
  user: UserRow,
  totp: string | undefined,
  origin: Origin,
): Promise<void> {
  if (totp === undefined) {
    throw refused("A code of the second factor is needed to log in.", "is needed");
  }
  const fault = await useSecondFactor(plane, user, totp, origin);
  if (fault === null) return;
  const { alpine, now } = plane;
  const entry = { event: "login_failed", subjectId: user.id, details: { at: "totp" } } as const;
  await audit(alpine.db(), now(), origin, entry);
  throw refused(`The code of the second factor ${fault}.`, fault);
}

const refused = (detail: string, fault: string): AppError =>
  new AppError("unauthorized", detail, {
    headers: { "WWW-Authenticate": 'Bearer realm="argo"' },
    errors: [{ field: "totp", detail: fault }],
  });

/** What is wrong with a code. */
export type CodeFault = "is not right" | "was used already: wait for the next one";

/**
 * Uses up a code, as an attempt that is counted before it is looked at. Null when it was good.
 * @throws AppError 429, 503.
 */
export async function useSecondFactor(
  plane: Plane,
  user: UserRow,
  code: string,
  origin: Origin,
): Promise<CodeFault | null> {
  const attempt = await limitTo(plane, "totpAccount", user.id, origin);
  const fault = await lookAt([attempt], () => useCode(plane, user, code, origin));
  if (fault === null) await attempt.giveBack();
  return fault;
}

/**
 * Uses up a code of the authenticator or a recovery code: of many at once one succeeds, and gives
 * null.
 */
export async function useCode(
  plane: Pick<Plane, "alpine" | "log" | "now">,
  user: UserRow,
  code: string,
  origin: Origin,
): Promise<CodeFault | null> {
  const { alpine, now } = plane;
  const nowMs = now();
  if (/^\d{6}$/.test(code)) {
    const step = stepOf(plane, user, code, nowMs);
    if (step === null) return "is not right";
    const fresh = await alpine.changes.write((tx) => useStep(tx, user, step));
    return fresh ? null : "was used already: wait for the next one";
  }
  return alpine.changes.write(async (tx) => {
    if (!(await useRecoveryCode(tx, user.id, code, nowMs))) return "is not right";
    await audit(tx, nowMs, origin, { event: "recovery_code_used", actorId: user.id });
    return null;
  });
}

/** A secret that no authenticator has yet, in base32, and the URL that one reads. */
export function newSecret(email: string): { secret: string; url: string } {
  const totp = totpOf(new Secret({ size: secretBytes }), email);
  return { secret: totp.secret.base32, url: totp.toString() };
}

/**
 * The time step whose code this is; null when it is that of none near now.
 * @throws AppError 503 when the secret is sealed with a key that is gone.
 */
export function stepOf(
  { alpine, log }: Pick<Plane, "alpine" | "log">,
  { id, totpSecret }: Pick<UserRow, "id" | "totpSecret">,
  code: string,
  nowMs: number,
): number | null {
  const secret = totpSecret && alpine.seal.open(totpSecret, id);
  if (secret === null) {
    log.error("a second factor cannot be read: JWT_SECRET must list the secret that sealed it");
    throw new AppError("unavailable", "Codes cannot be checked: use a recovery code.");
  }
  const totp = totpOf(Secret.fromBase32(secret));
  const aside = totp.validate({ token: code, timestamp: nowMs, window: stepsAside });
  return aside === null ? null : totp.counter({ timestamp: nowMs }) + aside;
}

function totpOf(secret: Secret, label = ""): TOTP {
  const common = { algorithm: "SHA1", digits: 6, period: periodSeconds };
  return new TOTP({ issuer: "argo-alpine", label, secret, ...common });
}

/** No step counts twice, nor one before it (RFC 6238 §5.2). @returns false when it did before. */
async function useStep(tx: Transaction, user: UserRow, step: number): Promise<boolean> {
  const used = await tx
    .update(users)
    .set({ totpLastStep: step })
    .where(
      and(
        eq(users.id, user.id),
        isNotNull(users.totpEnabledAt),
        user.totpSecret ? eq(users.totpSecret, user.totpSecret) : undefined,
        or(isNull(users.totpLastStep), lt(users.totpLastStep, step)),
      ),
    )
    .returning({ id: users.id });
  return used.length > 0;
}

async function useRecoveryCode(
  tx: Transaction,
  userId: string,
  code: string,
  nowMs: number,
): Promise<boolean> {
  const used = await tx
    .update(recoveryCodes)
    .set({ usedAt: new Date(nowMs) })
    .where(
      and(
        eq(recoveryCodes.userId, userId),
        eq(recoveryCodes.hash, hashOf(plain(code))),
        isNull(recoveryCodes.usedAt),
      ),
    )
    .returning({ userId: recoveryCodes.userId });
  return used.length > 0;
}

/** Puts new recovery codes in the place of all there were. @returns them, as they are shown. */
export async function replaceRecoveryCodes(tx: Transaction, userId: string): Promise<string[]> {
  const codes = Array.from({ length: recoveryCodeCount }, newRecoveryCode);
  await tx.delete(recoveryCodes).where(eq(recoveryCodes.userId, userId));
  await tx.insert(recoveryCodes).values(codes.map((code) => ({ userId, hash: hashOf(code) })));
  return codes.map((code) => code.replace(/.{4}(?=.)/g, "$&-"));
}

/** 80 bits: nothing is gained by hashing them slowly. */
function newRecoveryCode(): string {
  const random = crypto.getRandomValues(new Uint8Array(recoveryCodeLength));
  return Array.from(random, (byte) => letters[byte % letters.length]).join("");
}

/** A recovery code as it is hashed, however somebody copied it down. */
const plain = (code: string): string =>
  code.toLowerCase().replace(/[\s-]/g, "").replaceAll("o", "0").replace(/[il]/g, "1");
