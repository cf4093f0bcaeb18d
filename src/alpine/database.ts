import { sql } from "drizzle-orm";
import type { NodePgDatabase } from "drizzle-orm/node-postgres";
import type { Transaction as SomeTransaction } from "../platform/postgres";
import { migrations } from "../../db/alpine/migrations";
import type * as schema from "../../db/alpine/schema";
import { SetupError } from "../errors";

export type Database = NodePgDatabase<typeof schema>;
export type Transaction = SomeTransaction<typeof schema>;
/** What runs a query: the pool, or a transaction that is under way. */
export type Queries = Database | Transaction;

/** Names of advisory locks; any numbers, but each its own. */
const migrationLock = 7_310_001;
const changeLock = 7_310_002;
const adminLock = 7_310_003;

/**
 * Brings the schema up to date, in one transaction: killed half-way, nothing has happened; run
 * twice at once, one waits for the other.
 * @throws SetupError for a database that a later release has changed.
 */
export async function migrate(db: Database): Promise<string[]> {
  return db.transaction(async (tx) => {
    await tx.execute(sql`SELECT pg_advisory_xact_lock(${migrationLock})`);
    await tx.execute(sql`CREATE SCHEMA IF NOT EXISTS argo_alpine`);
    await tx.execute(
      sql`CREATE TABLE IF NOT EXISTS argo_alpine.migrations
          (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())`,
    );
    const { missing, unknown } = await compare(tx);
    if (unknown.length > 0) throw changedLater(unknown);
    for (const { name, sql: text } of missing) {
      for (const statement of text.split("--> statement-breakpoint")) {
        await tx.execute(sql.raw(statement));
      }
      await tx.execute(sql`INSERT INTO argo_alpine.migrations (name) VALUES (${name})`);
    }
    return missing.map(({ name }) => name);
  });
}

/** Names of migrations, in their order. */
export type MigrationState = {
  missing: string[];
  /** What a later release has done. */
  unknown: string[];
};

/** How far a database is, which may be empty. Changes nothing. */
export async function migrationState(db: Queries): Promise<MigrationState> {
  const { rows } = await db.execute<{ there: boolean }>(
    sql`SELECT to_regclass('argo_alpine.migrations') IS NOT NULL AS there`,
  );
  if (!first(rows)?.there) return { missing: migrations.map(({ name }) => name), unknown: [] };
  const { missing, unknown } = await compare(db);
  return { missing: missing.map(({ name }) => name), unknown };
}

async function compare(db: Queries) {
  const { rows } = await db.execute<{ name: string }>(
    sql`SELECT name FROM argo_alpine.migrations ORDER BY name`,
  );
  const applied = new Set(rows.map((row) => row.name));
  return {
    missing: migrations.filter(({ name }) => !applied.has(name)),
    unknown: [...applied].filter((name) => !migrations.some((m) => m.name === name)),
  };
}

export const changedLater = (unknown: readonly string[]): SetupError =>
  new SetupError(
    `The database was changed by a later release: ${unknown.join(", ")}.`,
    "Run that release, or restore the backup that was taken before it.",
  );

/** Held until the transaction ends: the numbers of changes become visible in their order. */
export const lockChanges = (tx: Transaction) =>
  tx.execute(sql`SELECT pg_advisory_xact_lock(${changeLock})`);

/** Held until the transaction ends: the first administrator is made once. */
export const lockAdmins = (tx: Transaction) =>
  tx.execute(sql`SELECT pg_advisory_xact_lock(${adminLock})`);

/** True for a row that must be unique and is there already (SQLSTATE 23505). */
export const isTaken = (error: unknown): boolean =>
  error instanceof Error && "code" in error && error.code === "23505";

/** The first row of a query. */
export const first = <T>(rows: T[]): T | undefined => rows[0];
