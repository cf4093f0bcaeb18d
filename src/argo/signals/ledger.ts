import type { Database, Statement } from "bun:sqlite";
import { AppError } from "../../errors";
import type { Draft } from "./ingest";
import { hashOf } from "./hash";
import { inspect, type Layout, strategyOf } from "./layout";
import type { Accepted } from "./schema";
import { seen } from "./sight";
import { columns, type Signal, tidy } from "./signal";

/** A post with an Idempotency-Key: what makes it the same post again. */
export type Idempotency = { key: string; bodySha256: string };

/** What is kept of a post with an Idempotency-Key. */
export type Remembered = { bodySha256: string; answer: string; createdAt: string };

/** How long an Idempotency-Key is known. */
export const rememberedMs = 24 * 3_600_000;

/** Idempotency keys from before this time are no longer known. */
export const forgottenBefore = (nowMs: number): string =>
  new Date(nowMs - rememberedMs).toISOString();

type Row = Accepted["signals"][number];
type Bindings = Record<string, string | number | null>;

/** The writes on one connection. Every method runs inside a transaction that the caller holds. */
export class SignalLedger implements Disposable {
  /** Rows that were tried to be inserted so far. */
  inserts = 0;
  readonly #statements: Statement[] = [];
  readonly #insert: Statement;
  readonly #same: Statement;
  readonly #setHash: Statement;
  readonly #exists: Statement;
  readonly #supersede: Statement;
  readonly #superseded: Statement;
  readonly #replay: Statement;
  readonly #remember: Statement;
  readonly #gone: Statement;
  readonly #oldest: Statement;
  readonly #bury: Statement;
  readonly #expire: Statement;
  readonly #delete: Statement;

  /** The writes of a file; null when its table is not there or not adopted. */
  static open(db: Database): SignalLedger | null {
    const layout = inspect(db);
    return layout?.tracked ? new SignalLedger(db, layout) : null;
  }

  private constructor(
    db: Database,
    readonly layout: Layout,
  ) {
    // Said aloud where the table has a rule of its own, which might drop a row in silence.
    const { collation, conflicts, has, id } = layout;
    const kept = [
      "symbol",
      "action",
      "entry_price",
      ...(has.target ? ["target_price"] : []),
      ...(has.stop ? ["stop_price"] : []),
      "confidence",
      ...(has.strategy ? ["strategy"] : []),
      "timestamp",
      ...(has.sha256 ? ["sha256"] : []),
    ];
    const prepare = (sql: string): Statement => {
      const statement = db.prepare(sql);
      this.#statements.push(statement);
      return statement;
    };
    this.#insert = prepare(
      `INSERT ${conflicts ? "OR ABORT " : ""}INTO "signals" (${kept.map((name) => `"${name}"`).join(",")}) VALUES (${kept.map((name) => `$${name}`).join(",")})`,
    );
    const nullable = (there: boolean, name: string) => (there ? `"${name}" IS $${name}` : "1");
    const stored = has.sha256
      ? '"sha256"'
      : `(SELECT sha256 FROM argo_hashes WHERE id = "signals".${id})`;
    const index = layout.indexes.symbol ? `INDEXED BY "${layout.indexes.symbol}"` : "";
    this.#same = prepare(
      `SELECT ${id} AS id, ${stored} AS sha256 FROM "signals" ${index}
       WHERE "symbol"${collation} = $symbol AND ${layout.timestamp} = $timestamp
         AND "action"${collation} = $action
         AND "entry_price" = $entry_price AND "confidence" = $confidence
         AND ${nullable(has.target, "target_price")} AND ${nullable(has.stop, "stop_price")}
         AND ${has.strategy ? `${strategyOf(layout)}${collation} = $strategy` : "1"}
       ORDER BY ${id} LIMIT 1`,
    );
    this.#setHash = prepare("INSERT OR REPLACE INTO argo_hashes (id, sha256) VALUES (?, ?)");
    this.#exists = prepare(`SELECT 1 FROM "signals" WHERE ${id} = ?`);
    this.#supersede = prepare("INSERT INTO argo_supersedes (id, supersedes) VALUES (?, ?)");
    this.#superseded = prepare("SELECT supersedes FROM argo_supersedes WHERE id = ?");
    this.#replay = prepare(
      "SELECT body_sha256 AS bodySha256, answer, created_at AS createdAt FROM argo_idempotency WHERE key = ?",
    );
    this.#remember = prepare(
      "INSERT OR REPLACE INTO argo_idempotency (key, body_sha256, answer, created_at) VALUES (?, ?, ?, ?)",
    );
    this.#gone = prepare("SELECT id, sha256 FROM argo_forgotten WHERE content = ?");
    // The newest stays whatever its age: where ids are not kept by the table, the next one follows
    // from it.
    const arrived = seen(layout, { premium: true, until: "" }).join(" AND ");
    const every = { layout, corrections: false, received: false, sight: null };
    this.#oldest = prepare(
      `SELECT ${arrived} AS old, ${columns(every)}
       WHERE ${id} > $after AND ${id} < (SELECT max(${id}) FROM "signals") ORDER BY ${id} LIMIT $rows`,
    );
    this.#bury = prepare(
      "INSERT OR IGNORE INTO argo_forgotten (content, id, sha256) VALUES (?, ?, ?)",
    );
    this.#expire = prepare("UPDATE argo_expired SET id = max(id, ?)");
    this.#delete = prepare(`DELETE FROM "signals" WHERE ${id} = ?`);
  }

  /**
   * The answer (JSON) that this key was given since that time; null when it is new.
   * @throws AppError 422.
   */
  replay(idempotency: Idempotency, sinceMs: number): string | null {
    return answerOf(this.#replay.get(idempotency.key) as Remembered | null, idempotency, sinceMs);
  }

  remember({ key, bodySha256 }: Idempotency, answer: string, nowMs: number): void {
    this.#remember.run(key, bodySha256, answer, new Date(nowMs).toISOString());
  }

  /**
   * Writes one signal, or finds the row that already says the same.
   * @throws AppError 422 for a `supersedes` that names no signal, 409 for one that contradicts.
   */
  write(draft: Draft, index: number | null): Row {
    const { supersedes } = draft;
    const place = index === null ? {} : { index };
    const values = bindings(this.layout, draft);
    const known = this.#known(values, draft);
    const gone = known ? null : this.#forgotten(draft, draft.sha256);
    // What it superseded may be gone as well.
    if (gone) return gone;
    if (supersedes !== null && !this.#exists.get(supersedes)) {
      throw noSuch(supersedes, place);
    }
    if (known && supersedes !== null) {
      const row = this.#superseded.get(known.id) as { supersedes: number } | null;
      mustAgree(known.id, row?.supersedes ?? null, supersedes, place);
    }
    return known ?? this.#add(values, draft);
  }

  /**
   * Writes one row of a history, or finds the row that already says the same. Its hash is kept,
   * whoever made it, and a row that is there stands as it is.
   */
  keep(draft: Draft): Row {
    const values = bindings(this.layout, draft);
    const known = this.#known(values, draft) ?? this.#forgotten(draft, hashOf(draft.content));
    return known ?? this.#add(values, draft);
  }

  /**
   * Deletes those of the next `rows` rows after an id that arrived by a time (UTC, as
   * `received_at` is written; their own timestamp where nobody noted it, and what is no date is
   * old). Their content stays known. `lastId` is the last row looked at; null at the end.
   */
  forgetOld(
    before: string,
    after: number,
    rows: number,
  ): { deleted: number; lastId: number | null } {
    const found = this.#oldest.all({ seenUntil: before, after, rows }) as (Signal & {
      old: number;
    })[];
    const old = found.filter((row) => row.old === 1).map((row) => tidy(row));
    for (const row of old) {
      const content = hashOfRow(row);
      // The first one of equal ones is what a post was told of.
      this.#bury.run(
        Buffer.from(content, "hex"),
        row.id,
        row.sha256 === content ? null : row.sha256,
      );
      this.#delete.run(row.id);
    }
    const last = old.at(-1);
    if (last) this.#expire.run(last.id);
    return { deleted: old.length, lastId: found.at(-1)?.id ?? null };
  }

  [Symbol.dispose](): void {
    for (const statement of this.#statements) statement.finalize();
  }

  #known(values: Bindings, { dedupe }: Draft): Row | null {
    if (!dedupe) return null;
    const row = this.#same.get(values) as { id: number; sha256: string | null } | null;
    return row && { id: row.id, sha256: row.sha256 ?? "", duplicate: true };
  }

  /** By our hash of its content: what was deleted for its age. */
  #forgotten({ dedupe }: Draft, content: string): Row | null {
    if (!dedupe) return null;
    const row = this.#gone.get(Buffer.from(content, "hex")) as {
      id: number;
      sha256: string | null;
    } | null;
    return row && { id: row.id, sha256: row.sha256 ?? content, duplicate: true };
  }

  #add(values: Bindings, { sha256, supersedes }: Draft): Row {
    const written = this.layout.has.sha256 ? { ...values, sha256 } : values;
    this.inserts += 1;
    const id = Number(this.#insert.run(written).lastInsertRowid);
    if (!this.layout.has.sha256) this.#setHash.run(id, sha256);
    if (supersedes !== null) this.#supersede.run(id, supersedes);
    return { id, sha256, duplicate: false };
  }
}

/** What a key was answered since that time; null when it is new. @throws AppError 422. */
export function answerOf(
  row: Remembered | null | undefined,
  { bodySha256 }: Idempotency,
  sinceMs: number,
): string | null {
  if (!row || row.createdAt < new Date(sinceMs).toISOString()) return null;
  if (row.bodySha256 === bodySha256) return row.answer;
  throw new AppError(
    "unprocessable",
    "This Idempotency-Key was used with another body. Nothing was written.",
    { errors: [{ field: "Idempotency-Key", detail: "was used with another body" }] },
  );
}

/** For a `supersedes` that names no signal. */
export const noSuch = (supersedes: number, place: { index?: number }): AppError =>
  new AppError("unprocessable", "Nothing was written: supersedes not valid.", {
    errors: [{ field: "supersedes", detail: `there is no signal ${supersedes}`, ...place }],
  });

/** A repeated signal that names another predecessor is not the same signal. @throws AppError 409. */
export function mustAgree(
  id: number,
  known: number | null,
  supersedes: number,
  place: { index?: number },
): void {
  if (known === supersedes) return;
  throw new AppError(
    "conflict",
    `Signal ${id} has this content and supersedes ${known ?? "nothing"}.`,
    {
      errors: [
        { field: "supersedes", detail: `signal ${id} says ${known ?? "nothing"}`, ...place },
      ],
    },
  );
}

/** Our hash of a row's content, as a post of the same would have. */
export function hashOfRow(row: Signal): string {
  return hashOf({
    symbol: row.symbol,
    action: row.action as "BUY",
    confidence: row.confidence ?? 0,
    entry_price: row.entry_price ?? 0,
    stop_price: row.stop_loss,
    target_price: row.target_price,
    strategy: row.strategy,
    timestamp: row.timestamp ?? "",
  });
}

function bindings({ has }: Layout, { content }: Draft): Bindings {
  return {
    symbol: content.symbol,
    action: content.action,
    entry_price: content.entry_price,
    confidence: content.confidence,
    timestamp: content.timestamp,
    ...(has.target && { target_price: content.target_price ?? null }),
    ...(has.stop && { stop_price: content.stop_price ?? null }),
    ...(has.strategy && { strategy: content.strategy }),
  };
}
