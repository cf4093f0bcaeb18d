import type { InStatement, ResultSet, Row, Value } from "@libsql/client/http";
import { type Ledger, type Post } from "../signals/group";
import type { Draft, Drafts } from "../signals/ingest";
import { DEFAULT_STRATEGY } from "../signals/layout";
import { answerOf, type Idempotency, mustAgree, noSuch, type Remembered } from "../signals/ledger";
import type { Accepted } from "../signals/schema";
import { copied, copiedSql } from "./origin";
import { mustStand, type Place, standing } from "./rows";

type Accept = Accepted["signals"][number];
type Known = { row: Accept; supersedes: number | null };
type Added = { id: number; draft: Draft };
type Argument = string | number | null;

/** Results ahead of those whose number depends on the posts. */
const fixed = 4;

/** Rows of one statement: their values are bound, which keeps each number as it is. */
const rowsPerStatement = 500;

/**
 * The writes of one group of posts at the libSQL server, decided as the ledger of a file decides
 * them. All that they depend on is looked up first, in one round trip, and what they come to is
 * sent in one, which is void where anybody has written in between.
 */
export class OriginLedger implements Ledger {
  readonly #known = new Map<Draft, Known>();
  readonly #forgotten = new Map<string, Accept>();
  readonly #there = new Set<number>();
  readonly #remembered: Map<string, Remembered>;
  readonly #sayings: { key: string; value: Remembered }[] = [];
  readonly #added: Added[] = [];
  /** By our hash of the content, of this group. */
  readonly #fresh = new Map<string, Known>();
  #nextId: number;

  private constructor(
    headId: number,
    /** What was counted at the look. */
    private readonly writes: number,
    remembered: Map<string, Remembered>,
  ) {
    this.#nextId = headId + 1;
    this.#remembered = remembered;
  }

  /** Looks up what these posts depend on. @throws Backwards, AppError 503. */
  static async open(
    look: (statements: InStatement[]) => Promise<ResultSet[]>,
    place: Place,
    posts: readonly Post[],
    read: readonly Drafts[],
  ): Promise<OriginLedger> {
    const drafts = read.flatMap(({ drafts: own }) => own);
    const deduped = drafts.filter(({ dedupe }) => dedupe);
    const keys = posts.flatMap(({ key }) => (key === null ? [] : [key]));
    const named = drafts.flatMap(({ supersedes }) => (supersedes === null ? [] : [supersedes]));
    const same = chunks(deduped).map((some, at) => sameAs(some, at * rowsPerStatement));
    const results = await look([
      ...standing(place),
      {
        sql: `SELECT key, body_sha256, answer, created_at FROM argo_idempotency
              WHERE key IN (SELECT value FROM json_each(?))`,
        args: [JSON.stringify(keys)],
      },
      {
        sql: 'SELECT id FROM "signals" WHERE id IN (SELECT value FROM json_each(?))',
        args: [JSON.stringify(named)],
      },
      ...same,
      ...chunks(deduped).map(forgottenAmong),
    ]);
    const { headId, writes } = mustStand(place, results);
    const rows = (at: number): Row[] => results[at]?.rows ?? [];
    const remembered = new Map(rows(2).map((row) => [String(row["key"]), rememberedOf(row)]));
    const ledger = new OriginLedger(headId, writes, remembered);
    // After these: rows that say the same, then those that were deleted.
    const found = fixed + same.length;
    for (const row of results.slice(found).flatMap((result) => result.rows)) {
      const content = new Uint8Array(row["content"] as ArrayBuffer).toHex();
      const sha256 = text(row["sha256"]) ?? content;
      ledger.#forgotten.set(content, { id: Number(row["id"]), sha256, duplicate: true });
    }
    for (const row of rows(3)) ledger.#there.add(Number(row["id"]));
    for (const row of results.slice(fixed, found).flatMap((result) => result.rows)) {
      const draft = deduped[Number(row["n"])];
      const supersedes = row["supersedes"] == null ? null : Number(row["supersedes"]);
      const sha256 = text(row["sha256"]) ?? "";
      const known = { id: Number(row["id"]), sha256, duplicate: true };
      if (draft) ledger.#known.set(draft, { row: known, supersedes });
    }
    return ledger;
  }

  replay(idempotency: Idempotency, sinceMs: number): string | null {
    return answerOf(this.#remembered.get(idempotency.key), idempotency, sinceMs);
  }

  remember({ key, bodySha256 }: Idempotency, answer: string, nowMs: number): void {
    const value = { bodySha256, answer, createdAt: new Date(nowMs).toISOString() };
    this.#remembered.set(key, value);
    this.#sayings.push({ key, value });
  }

  write(draft: Draft, index: number | null): Accept {
    const { supersedes, sha256 } = draft;
    const place = index === null ? {} : { index };
    const known = draft.dedupe ? (this.#known.get(draft) ?? this.#fresh.get(sha256)) : undefined;
    const gone = known || !draft.dedupe ? undefined : this.#forgotten.get(sha256);
    if (gone) return gone;
    if (supersedes !== null && !this.#there.has(supersedes)) throw noSuch(supersedes, place);
    if (known) {
      if (supersedes !== null) mustAgree(known.row.id, known.supersedes, supersedes, place);
      return { ...known.row, duplicate: true };
    }
    const id = this.#nextId;
    this.#nextId += 1;
    this.#added.push({ id, draft });
    this.#there.add(id);
    const row = { id, sha256, duplicate: false };
    if (!this.#fresh.has(sha256)) this.#fresh.set(sha256, { row, supersedes });
    return row;
  }

  /** Takes back what was written since there were so many rows. */
  undo(rows: number): void {
    for (const { id, draft } of this.#added.splice(rows)) {
      this.#there.delete(id);
      if (this.#fresh.get(draft.sha256)?.row.id === id) this.#fresh.delete(draft.sha256);
      this.#nextId = Math.min(this.#nextId, id);
    }
  }

  get rows(): number {
    return this.#added.length;
  }

  /** What this node is to send; nothing where all was there. */
  statements(claimant: string): InStatement[] {
    if (this.#added.length === 0 && this.#sayings.length === 0) return [];
    const corrections = this.#added.filter(({ draft }) => draft.supersedes !== null);
    return [
      {
        sql: `UPDATE argo_origin SET writes = writes + 1, claimed_by = NULL,
                turn = (writes = ? AND (claimed_by = ? OR ${unclaimed}))`,
        args: [this.writes, claimant],
      },
      ...chunks(this.#added).map((some) => ({
        sql: `INSERT INTO "signals" (${copiedSql}) VALUES ${tuples(some.length, copied.length)}`,
        args: some.flatMap(({ id, draft }) => valuesOf(id, draft)),
      })),
      ...chunks(corrections).map((some) => ({
        sql: `INSERT INTO argo_supersedes (id, supersedes) VALUES ${tuples(some.length, 2)}`,
        args: some.flatMap(({ id, draft }) => [id, draft.supersedes]),
      })),
      ...chunks(this.#sayings).map((some) => ({
        sql: `INSERT OR REPLACE INTO argo_idempotency (key, body_sha256, answer, created_at) VALUES ${tuples(some.length, 4)}`,
        args: some.flatMap(({ key, value }) => [
          key,
          value.bodySha256,
          value.answer,
          value.createdAt,
        ]),
      })),
    ];
  }
}

const serverNow = (later: string): string => `strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '${later}')`;

/** For so long the server keeps a turn: a node that is cut off meanwhile holds up nobody for longer. */
const claimFor = "+1 seconds";

/** A claim that lasts longer than one can is of a clock that was set back. */
const unclaimed = `(claimed_by IS NULL OR claimed_until NOT BETWEEN ${serverNow("+0 seconds")} AND ${serverNow(claimFor)})`;

/** Takes the next turn, unless another node has it. */
export const claim = (claimant: string): InStatement => ({
  sql: `UPDATE argo_origin SET claimed_by = ?, claimed_until = ${serverNow(claimFor)} WHERE ${unclaimed}`,
  args: [claimant],
});

const rememberedOf = (row: Row): Remembered => ({
  bodySha256: String(row["body_sha256"]),
  answer: String(row["answer"]),
  createdAt: String(row["created_at"]),
});

const text = (value: Value | undefined): string | null =>
  typeof value === "string" ? value : null;

/** In the order of `copied`. */
const valuesOf = (id: number, { content, sha256 }: Draft): Argument[] => [
  id,
  content.symbol,
  content.action,
  content.entry_price,
  content.target_price ?? null,
  content.stop_price ?? null,
  content.confidence,
  content.strategy,
  content.timestamp,
  sha256,
];

/** Finds the first row that says the same as each of these, whoever wrote it. */
function sameAs(drafts: readonly Draft[], from: number): InStatement {
  return {
    sql: `WITH asked (n, symbol, timestamp, action, entry_price, confidence, target_price, stop_price, strategy)
            AS (VALUES ${tuples(drafts.length, 9)})
          SELECT asked.n, found.id, found.sha256, noted.supersedes FROM asked
          JOIN "signals" AS found ON found.id = (
            SELECT id FROM "signals" AS other
            WHERE other.symbol = asked.symbol AND other.timestamp = asked.timestamp
              AND other.action = asked.action AND other.entry_price = asked.entry_price
              AND other.confidence = asked.confidence AND other.target_price IS asked.target_price
              AND other.stop_price IS asked.stop_price
              AND coalesce(other.strategy, '${DEFAULT_STRATEGY}') = asked.strategy
            ORDER BY id LIMIT 1)
          LEFT JOIN argo_supersedes AS noted ON noted.id = found.id`,
    args: drafts.flatMap(({ content }, i): Argument[] => [
      from + i,
      content.symbol,
      content.timestamp,
      content.action,
      content.entry_price,
      content.confidence,
      content.target_price ?? null,
      content.stop_price ?? null,
      content.strategy,
    ]),
  };
}

/** Finds which of these were deleted for their age. */
const forgottenAmong = (drafts: readonly Draft[]): InStatement => ({
  sql: `SELECT content, id, sha256 FROM argo_forgotten WHERE content IN (${drafts.map(() => "?").join(",")})`,
  args: drafts.map(({ sha256 }) => Uint8Array.fromHex(sha256)),
});

const tuples = (rows: number, columns: number): string => {
  const one = `(${Array.from({ length: columns }, () => "?").join(",")})`;
  return Array.from({ length: rows }, () => one).join(",");
};

function chunks<T>(all: readonly T[]): T[][] {
  const count = Math.ceil(all.length / rowsPerStatement);
  return Array.from({ length: count }, (_, i) =>
    all.slice(i * rowsPerStatement, (i + 1) * rowsPerStatement),
  );
}
