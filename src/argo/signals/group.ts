import { AppError } from "../../errors";
import { sqliteCode } from "../../platform/sqlite";
import { type Mapping, postOf } from "./alert";
import { type Draft, type Drafts, readDrafts, refuseSignals } from "./ingest";
import type { Layout } from "./layout";
import { type Idempotency, rememberedMs } from "./ledger";
import type { Accepted } from "./schema";

/**
 * The body as it came, and the hash of what makes it the same post again where there is that:
 * producer and Idempotency-Key, or of an alert the hook and its body.
 */
export type Post = { body: Uint8Array; key: string | null; hook?: Hook };
/** How an alert is read; it is the same again for so long, and refused when it is older than that. */
export type Hook = { mapping: Mapping; dedupeMs: number; maxLagMs: number };
/** What was done, `answer` being the JSON that the client gets, `headId` the highest id in it. */
export type Done = {
  answer: string;
  headId: number;
  written: number;
  duplicates: number;
  replayed: boolean;
};
export type Refusal = {
  error: {
    code: AppError["code"];
    detail: string;
    errors: AppError["errors"];
    retryAfterSeconds: number | undefined;
  };
};
export type Outcome = Done | Refusal;
/** What a group of posts came to; `durationMs` is that of its one commit. */
export type GroupOutcome = { outcomes: Outcome[]; durationMs: number };

/** Where posts are written, inside a transaction that the caller holds. */
export type Ledger = {
  /** The answer (JSON) that this key was given since then; null when it is new. @throws AppError 422. */
  replay(idempotency: Idempotency, sinceMs: number): string | null;
  remember(idempotency: Idempotency, answer: string, nowMs: number): void;
  /** @throws AppError 409, 422. */
  write(draft: Draft, index: number | null): Accepted["signals"][number];
};

/** Reads a post. @throws AppError 400, 422. */
export const readPost = ({ body, hook }: Post, nowMs: number, layout: Layout): Drafts =>
  readDrafts(hook ? postOf(body, hook.mapping) : body, nowMs, layout);

/** Writes one post, or finds what it was answered before. */
export function writePost(
  writer: Ledger,
  { body, key, hook }: Post,
  { drafts, batch }: Drafts,
  nowMs: number,
): Done {
  const idempotency = key === null ? null : { key, bodySha256: Bun.SHA256.hash(body, "hex") };
  const sinceMs = nowMs - (hook?.dedupeMs ?? rememberedMs);
  const before = idempotency && writer.replay(idempotency, sinceMs);
  if (before) {
    const answer = hook ? asDuplicate(before) : before;
    const headId = highest((JSON.parse(before) as Accepted).signals);
    return { answer, headId, written: 0, duplicates: drafts.length, replayed: true };
  }
  // After that: what was written in time is told as such, however late it is sent again.
  if (hook) for (const draft of drafts) mustBeFresh(draft, hook, nowMs);
  const signals = drafts.map((draft, i) => writer.write(draft, batch ? i : null));
  const answer = JSON.stringify({ signals } satisfies Accepted);
  if (idempotency) writer.remember(idempotency, answer, nowMs);
  const duplicates = signals.filter((signal) => signal.duplicate).length;
  const written = signals.length - duplicates;
  return { answer, headId: highest(signals), written, duplicates, replayed: false };
}

const highest = (signals: Accepted["signals"]): number =>
  signals.reduce((highestId, { id }) => Math.max(highestId, id), 0);

/** Whoever sends an alert again knows by the body alone that it was there before. */
function asDuplicate(answer: string): string {
  const { signals } = JSON.parse(answer) as Accepted;
  for (const signal of signals) signal.duplicate = true;
  return JSON.stringify({ signals } satisfies Accepted);
}

/** @throws AppError 422 for an alert whose own time is too long ago. */
function mustBeFresh({ content, dedupe }: Draft, { maxLagMs }: Hook, nowMs: number): void {
  const lagMs = nowMs - Date.parse(content.timestamp);
  if (!dedupe || lagMs <= maxLagMs) return;
  const seconds = Math.floor(lagMs / 1000);
  const detail = `is ${seconds} s ago, more than max_lag_seconds=${maxLagMs / 1000}`;
  refuseSignals([{ field: "timestamp", detail }]);
}

/** Runs `work`; what is this post's own fault becomes its outcome, what concerns all is thrown. */
export function attempt<T>(work: () => T): { value: T } | Refusal {
  try {
    return { value: work() };
  } catch (error) {
    const own = sqliteCode(error) === "SQLITE_CONSTRAINT" ? constraint(error) : error;
    if (!(own instanceof AppError)) throw error;
    const { code, detail, errors, retryAfterSeconds } = own;
    return { error: { code, detail, errors, retryAfterSeconds } };
  }
}

/** A rule of the adopted table that this server does not know of. */
function constraint(error: unknown): AppError {
  return new AppError(
    "conflict",
    `The signal table refused the row: ${error instanceof Error ? error.message : "constraint"}.`,
    { cause: error },
  );
}
