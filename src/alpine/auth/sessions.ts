import { and, desc, eq, gt, inArray, isNotNull, isNull, ne, sql } from "drizzle-orm";
import { refreshTokens, revocations, sessions } from "../../../db/alpine/schema";
import type { Origin } from "../audit";
import type { Alpine } from "../alpine";
import type { Tell } from "../changes";
import { clocksApartMs } from "../clocks";
import type { Queries, Transaction } from "../database";
import type { UserRow } from "../users/schema";
import type { Tokens } from "./schema";
import { accessSeconds, hashOf } from "./tokens";

/** A session that nobody refreshes for so long has ended. */
export const sessionMs = 30 * 86_400_000;
/** Open sessions of one user; a login beyond them ends the oldest. As many ended ones are kept. */
const sessionsMax = 100;
const rowsAtOnce = 1_000;
/** No access token outlives its session by more, on any clock. */
const revocationMs = (accessSeconds + 60) * 1000 + clocksApartMs;

export type SessionRow = typeof sessions.$inferSelect;

/** Opens a session of a user. @returns its tokens. */
export async function openSession(
  alpine: Alpine,
  tx: Transaction,
  tell: Tell,
  user: Pick<UserRow, "id" | "tier" | "role">,
  origin: Origin,
  nowMs: number,
): Promise<{ session: SessionRow; refreshToken: string }> {
  const at = new Date(nowMs);
  const session: SessionRow = {
    id: Bun.randomUUIDv7("hex", nowMs),
    userId: user.id,
    generation: 0,
    createdAt: at,
    lastUsedAt: at,
    expiresAt: new Date(nowMs + sessionMs),
    endedAt: null,
    userAgent: origin.userAgent,
    address: origin.address,
  };
  const refreshToken = alpine.refreshTokens.first();
  await tx.insert(sessions).values(session);
  await insertRefreshToken(tx, session, refreshToken, nowMs);
  await makeRoom(tx, tell, user.id, nowMs);
  return { session, refreshToken };
}

/** Bounds what has to be written at once when all of a user's sessions end. */
async function makeRoom(tx: Transaction, tell: Tell, userId: string, nowMs: number): Promise<void> {
  const surplus = (ended: boolean) =>
    tx
      .select({ id: sessions.id })
      .from(sessions)
      .where(
        and(
          eq(sessions.userId, userId),
          ended ? isNotNull(sessions.endedAt) : isNull(sessions.endedAt),
        ),
      )
      .orderBy(desc(sessions.createdAt), desc(sessions.id))
      .offset(sessionsMax);
  const oldest = await tx
    .update(sessions)
    .set({ endedAt: new Date(nowMs) })
    .where(inArray(sessions.id, surplus(false)))
    .returning({ id: sessions.id });
  await revoke(
    tx,
    tell,
    oldest.map(({ id }) => ({ id, generation: null })),
    nowMs,
  );
  await tx.delete(sessions).where(inArray(sessions.id, surplus(true)));
}

export async function insertRefreshToken(
  db: Queries,
  { id, expiresAt }: Pick<SessionRow, "id" | "expiresAt">,
  token: string,
  nowMs: number,
): Promise<void> {
  await db
    .insert(refreshTokens)
    .values({ hash: hashOf(token), sessionId: id, createdAt: new Date(nowMs), expiresAt })
    .onConflictDoNothing();
}

/** What a login and a refresh answer. */
export async function tokensOf(
  alpine: Alpine,
  user: Pick<UserRow, "id" | "tier" | "role">,
  session: Pick<SessionRow, "id" | "generation">,
  refreshToken: string,
): Promise<Tokens> {
  const subject = {
    userId: user.id,
    sessionId: session.id,
    generation: session.generation,
    tier: user.tier,
    role: user.role,
  };
  return {
    access_token: await alpine.tokens.sign(subject),
    refresh_token: refreshToken,
    token_type: "Bearer",
    expires_in: accessSeconds,
  };
}

export type Ended = { sessionId?: string; except?: string };

/**
 * Ends sessions of a user: one, all, or all but one. Their tokens are void everywhere.
 * @returns the ids of those that were open.
 */
export async function endSessions(
  tx: Transaction,
  tell: Tell,
  userId: string,
  nowMs: number,
  { sessionId, except }: Ended = {},
): Promise<string[]> {
  const at = new Date(nowMs);
  const ended = await tx
    .update(sessions)
    .set({ endedAt: at })
    .where(
      and(
        eq(sessions.userId, userId),
        isNull(sessions.endedAt),
        gt(sessions.expiresAt, new Date(nowMs - clocksApartMs)),
        sessionId === undefined ? undefined : eq(sessions.id, sessionId),
        except === undefined ? undefined : ne(sessions.id, except),
      ),
    )
    .returning({ id: sessions.id });
  const ids = ended.map(({ id }) => id);
  await revoke(
    tx,
    tell,
    ids.map((id) => ({ id, generation: null })),
    nowMs,
  );
  return ids;
}

/**
 * Makes the access tokens of a user void while the sessions go on: what they carry of tier and
 * role is no longer so, and the next refresh gives others.
 */
export async function renewSessions(
  tx: Transaction,
  tell: Tell,
  userId: string,
  nowMs: number,
): Promise<void> {
  const renewed = await tx
    .update(sessions)
    .set({ generation: sql`${sessions.generation} + 1` })
    .where(
      and(
        eq(sessions.userId, userId),
        isNull(sessions.endedAt),
        gt(sessions.expiresAt, new Date(nowMs - clocksApartMs)),
      ),
    )
    .returning({ id: sessions.id, generation: sessions.generation });
  await revoke(tx, tell, renewed, nowMs);
}

/**
 * Durable here, then told to everybody. A session (`sid`) or one token (`jti`) is void, or its
 * tokens before a generation are. What was revoked once is never less so.
 */
export async function revoke(
  tx: Transaction,
  tell: Tell,
  revoked: readonly { id: string; generation: number | null }[],
  nowMs: number,
): Promise<void> {
  const [createdAt, expiresAt] = [new Date(nowMs), new Date(nowMs + revocationMs)];
  for (let from = 0; from < revoked.length; from += rowsAtOnce) {
    const rows = revoked
      .slice(from, from + rowsAtOnce)
      .map(({ id, generation }) => ({ id, fromGeneration: generation, createdAt, expiresAt }));
    await tx
      .insert(revocations)
      .values(rows)
      .onConflictDoUpdate({
        target: revocations.id,
        set: {
          // NULL is void whatever the generation, and wins over any.
          fromGeneration: sql`CASE WHEN ${revocations.fromGeneration} IS NULL OR excluded.from_generation IS NULL
            THEN NULL ELSE greatest(${revocations.fromGeneration}, excluded.from_generation) END`,
          expiresAt: sql`greatest(${revocations.expiresAt}, excluded.expires_at)`,
        },
      });
  }
  const expiresAtMs = expiresAt.getTime();
  for (const { id, generation } of revoked) {
    tell({ kind: "session", id, fromGeneration: generation, expiresAtMs });
  }
}
