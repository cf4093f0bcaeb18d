import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { addressKey } from "../../http/policy";
import { ExactWindow, type Taken, type WindowOptions } from "../../http/window";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";

const minuteMs = 60_000;

/** What protects passwords and mailboxes: attempts in a sliding window, by account or address. */
const limits = {
  loginAccount: { limit: 10, windowMs: 15 * minuteMs },
  loginAddress: { limit: 100, windowMs: 15 * minuteMs },
  /** Right passwords without the code of the second factor that they need. */
  loginBegun: { limit: 60, windowMs: 15 * minuteMs },
  signupAddress: { limit: 30, windowMs: 60 * minuteMs },
  /** One for each purpose: who is sent resets by somebody else can still verify an address. */
  resetAccount: { limit: 5, windowMs: 60 * minuteMs },
  verificationAccount: { limit: 5, windowMs: 60 * minuteMs },
  mailAddress: { limit: 30, windowMs: 60 * minuteMs },
  tokenAddress: { limit: 30, windowMs: 15 * minuteMs },
  passwordAccount: { limit: 10, windowMs: 15 * minuteMs },
  totpAccount: { limit: 5, windowMs: 15 * minuteMs },
  /** What writes to the log of events each time, however little it changes. */
  writesAccount: { limit: 60, windowMs: 60 * minuteMs },
  /** Refusals come by the thousand: one a minute of each is written down. */
  refusalNoted: { limit: 1, windowMs: minuteMs },
} as const;
export type AuthLimit = keyof typeof limits;
/** What each counts, as whoever is refused is told. */
const counted: Record<AuthLimit, string> = {
  loginAccount: "failed logins of this account",
  loginAddress: "failed logins from this address",
  loginBegun: "logins without the code of the second factor",
  signupAddress: "sign-ups from this address",
  resetAccount: "mails asked for to this e-mail address",
  verificationAccount: "mails asked for to this e-mail address",
  mailAddress: "mails asked for from this address",
  tokenAddress: "tokens sent from this address",
  passwordAccount: "wrong passwords",
  totpAccount: "wrong codes",
  writesAccount: "changes",
  refusalNoted: "refusals",
};
/** Those whose key is the id of a user. */
const ofUser: ReadonlySet<AuthLimit> = new Set([
  "loginBegun",
  "passwordAccount",
  "totpAccount",
  "writesAccount",
]);
export type AuthWindows = Record<AuthLimit, ExactWindow>;

export function authWindows(common: Pick<WindowOptions, "redis" | "now">): AuthWindows {
  const windows = Object.entries(limits).map(([name, bounds]) => [
    name,
    new ExactWindow({ name, ...bounds, ...common }),
  ]);
  return Object.fromEntries(windows) as AuthWindows;
}

/**
 * Counts an attempt, before anything is looked at. `giveBack` uncounts one that was none, such as
 * a login that succeeded. @throws AppError 429 when it is one too many.
 */
export async function limitTo(
  plane: Plane,
  name: AuthLimit,
  key: string,
  origin: Origin,
): Promise<Taken> {
  const window = plane.alpine.windows[name];
  const taken = await window.take(shortKey(name, key));
  if (taken.allowed) return taken;
  const noted = await plane.alpine.windows.refusalNoted.take(`${name}:${shortKey(name, key)}`);
  if (noted.allowed) {
    const subjectId = ofUser.has(name) ? key : null;
    const entry = { event: "limit_exceeded", subjectId, details: { limit: name } } as const;
    await audit(plane.alpine.db(), plane.now(), origin, entry);
  }
  const { limit, windowMs } = window.options;
  const { resetSeconds: retryAfterSeconds } = taken;
  throw new AppError(
    "rate_limited",
    `Too many ${counted[name]}: ${limit} in ${windowMs / minuteMs} minutes. Try again in ${retryAfterSeconds} s.`,
    { retryAfterSeconds },
  );
}

/**
 * Looks at what was counted. What nobody could look at, for want of time or of the database, was
 * no attempt: whoever is told to come back may. @throws what `look` throws.
 */
export async function lookAt<T>(attempts: readonly Taken[], look: () => Promise<T>): Promise<T> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof AppError && error.code === "unavailable") {
      await Promise.all(attempts.map((attempt) => attempt.giveBack()));
    }
    throw error;
  }
}

/** Counts a write of a user, each of which grows the log of events. @throws AppError 429. */
export const limitWrites = (plane: Plane, { userId }: Account, origin: Origin): Promise<Taken> =>
  limitTo(plane, "writesAccount", userId, origin);

/** Accounts by a hash of what was typed: whatever its length, and no addresses in Redis. */
function shortKey(name: AuthLimit, key: string): string {
  if (name.endsWith("Address")) return addressKey(key);
  return Bun.SHA256.hash(key.toLowerCase(), "base64url").slice(0, 22);
}
