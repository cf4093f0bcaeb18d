import { and, desc, eq, gt, inArray, isNull, not, sql } from "drizzle-orm";
import { oneTimeTokens, type Pending, type TokenPurpose } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Queries, Transaction } from "../database";
import type { UserRow } from "../users/schema";
import { hashOf } from "./tokens";

/** How long a token counts, milliseconds. */
export const tokenMs = {
  verify_email: 24 * 3_600_000,
  reset_password: 3_600_000,
  setup_admin: 30 * 60_000,
} as const satisfies Partial<Record<TokenPurpose, number>>;

type Issue = {
  /** What the account becomes when the token is used. */
  pending?: Pending | null;
  /** Leaves the earlier tokens good: none of those who asked may make another's void. */
  beside?: boolean;
};

/**
 * Makes a token of a user, or of nobody, which makes all their earlier ones for the purpose void
 * unless it is `beside` them. The row of the user must be locked, or the administrators for one of
 * nobody: of two at once the later one counts. @returns the token; its hash is kept.
 */
export async function issueToken(
  tx: Transaction,
  purpose: keyof typeof tokenMs,
  userId: string | null,
  nowMs: number,
  { pending = null, beside = false }: Issue = {},
): Promise<string> {
  if (!beside) await voidTokens(tx, purpose, userId, nowMs);
  const token = Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64url");
  await tx.insert(oneTimeTokens).values({
    hash: hashOf(token),
    purpose,
    userId,
    createdAt: new Date(nowMs),
    expiresAt: new Date(nowMs + tokenMs[purpose]),
    pending,
  });
  return token;
}

/**
 * A token in the place of what verifies the address a user has, while every sign-up that waits is
 * the one that made the account. Null when somebody else may have asked, or `mustWait` and nothing
 * waits any more: nobody can tell then whose password whoever owns the address would make good.
 * The row of the user must be locked.
 */
export async function reissueVerification(
  tx: Transaction,
  { id, passwordHash }: Pick<UserRow, "id" | "passwordHash">,
  nowMs: number,
  mustWait: boolean,
): Promise<string | null> {
  const waiting = await tx
    .select({ hash: oneTimeTokens.hash, pending: oneTimeTokens.pending })
    .from(oneTimeTokens)
    .where(
      and(
        eq(oneTimeTokens.userId, id),
        eq(oneTimeTokens.purpose, "verify_email"),
        isNull(oneTimeTokens.usedAt),
        gt(oneTimeTokens.expiresAt, new Date(nowMs)),
        // One for another address goes to that address alone.
        not(isMove),
      ),
    )
    .orderBy(desc(oneTimeTokens.createdAt));
  const [newest] = waiting;
  if (!newest && mustWait) return null;
  const asked = waiting.map(({ pending }) => pending?.passwordHash ?? passwordHash);
  if (asked.some((hash) => hash !== passwordHash)) return null;
  const hashes = waiting.map(({ hash }) => hash);
  const usedAt = new Date(nowMs);
  await tx.update(oneTimeTokens).set({ usedAt }).where(inArray(oneTimeTokens.hash, hashes));
  const pending = newest?.pending ?? null;
  return issueToken(tx, "verify_email", id, nowMs, { pending, beside: true });
}

const isMove = sql`${oneTimeTokens.pending} -> 'email' IS NOT NULL`;

/** Makes every token void that would give a user another address. */
export async function voidMoves(tx: Transaction, userId: string, nowMs: number): Promise<void> {
  await tx
    .update(oneTimeTokens)
    .set({ usedAt: new Date(nowMs) })
    .where(
      and(
        eq(oneTimeTokens.userId, userId),
        eq(oneTimeTokens.purpose, "verify_email"),
        isNull(oneTimeTokens.usedAt),
        isMove,
      ),
    );
}

/** Makes every token of a user, or of nobody, for the purpose void. */
export async function voidTokens(
  tx: Transaction,
  purpose: TokenPurpose,
  userId: string | null,
  nowMs: number,
): Promise<void> {
  await tx
    .update(oneTimeTokens)
    .set({ usedAt: new Date(nowMs) })
    .where(
      and(
        userId === null ? isNull(oneTimeTokens.userId) : eq(oneTimeTokens.userId, userId),
        eq(oneTimeTokens.purpose, purpose),
        isNull(oneTimeTokens.usedAt),
      ),
    );
}

/** Whose token it is. @throws AppError 422 unless it counts. */
export async function ownerOf(
  db: Queries,
  purpose: keyof typeof tokenMs,
  token: string,
  nowMs: number,
): Promise<string> {
  const { userId } = await mustCount(db, purpose, token, nowMs);
  if (userId !== null) return userId;
  throw notGood(purpose);
}

/** Before what costs more. @throws AppError 422 unless the token counts. */
export async function mustCount(
  db: Queries,
  purpose: keyof typeof tokenMs,
  token: string,
  nowMs: number,
): Promise<{ userId: string | null }> {
  const [row] = await db
    .select({ userId: oneTimeTokens.userId })
    .from(oneTimeTokens)
    .where(counts(purpose, token, nowMs));
  if (row) return row;
  throw notGood(purpose);
}

/**
 * Uses a token up: of many at once one succeeds. @returns what the account becomes by it.
 * @throws AppError 422 unless it counts.
 */
export async function useToken(
  tx: Transaction,
  purpose: keyof typeof tokenMs,
  token: string,
  nowMs: number,
): Promise<Pending> {
  const [used] = await tx
    .update(oneTimeTokens)
    .set({ usedAt: new Date(nowMs) })
    .where(counts(purpose, token, nowMs))
    .returning({ pending: oneTimeTokens.pending });
  if (!used) throw notGood(purpose);
  return used.pending ?? {};
}

const counts = (purpose: TokenPurpose, token: string, nowMs: number) =>
  and(
    eq(oneTimeTokens.hash, hashOf(token)),
    eq(oneTimeTokens.purpose, purpose),
    isNull(oneTimeTokens.usedAt),
    gt(oneTimeTokens.expiresAt, new Date(nowMs)),
  );

const another = {
  verify_email: "ask for a new one",
  reset_password: "ask for a new one",
  setup_admin: "restart the server for a new link, or run argo-alpine admin create",
} as const;

const notGood = (purpose: keyof typeof tokenMs): AppError =>
  new AppError("unprocessable", `The token is not good any more: ${another[purpose]}.`, {
    errors: [{ field: "token", detail: "is used, expired or unknown" }],
  });
