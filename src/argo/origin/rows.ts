import type { InStatement, ResultSet, Row, Value } from "@libsql/client/http";
import { Backwards } from "./origin";

/** How far a file is a copy, and of what; `rowSha256` is the mark of the row at `id`. */
export type Place = { origin: string; id: number; rowSha256: string; whole: boolean };

/** The columns of a row as they are copied, in this order. */
export const copied = [
  "id",
  "symbol",
  "action",
  "entry_price",
  "target_price",
  "stop_price",
  "confidence",
  "strategy",
  "timestamp",
  "sha256",
] as const;

const numbers: ReadonlySet<string> = new Set([
  "entry_price",
  "target_price",
  "stop_price",
  "confidence",
]);
const infinity = "9e999";

/**
 * Text that may be no UTF-8, and numbers that JSON has no word for, would end the server's whole
 * answer: such texts are asked for as bytes, and those numbers as text.
 */
const sent = (name: string): string => {
  const column = `"${name}"`;
  if (name === "id") return column;
  const odd = numbers.has(name)
    ? `WHEN ${column} IN (${infinity}, -${infinity}) THEN CASE WHEN ${column} > 0 THEN '${infinity}' ELSE '-${infinity}' END`
    : `WHEN ${column} GLOB '*[^ -~]*' THEN CAST(${column} AS BLOB)`;
  return `CASE ${odd} ELSE ${column} END AS ${column}`;
};

export const rowSql =
  `SELECT ${copied.map(sent).join(", ")}, ` +
  `(SELECT received_at FROM argo_received WHERE id = "signals".id) AS received_at, ` +
  `(SELECT supersedes FROM argo_supersedes WHERE id = "signals".id) AS supersedes FROM "signals"`;

export type OriginRow = {
  id: number;
  /** As `copied` says. */
  values: (string | number | null | Uint8Array)[];
  receivedAt: string | null;
  supersedes: number | null;
};

/** Asks for the next rows after an id. */
export const rowsAfter = (id: number, limit: number): InStatement => ({
  sql: `${rowSql} WHERE id > ? ORDER BY id LIMIT ?`,
  args: [id, limit],
});

export function rowOf(row: Row): OriginRow {
  const receivedAt = row["received_at"];
  const supersedes = row["supersedes"];
  return {
    id: Number(row[0]),
    values: copied.map((name, i) => plain(name, row[i] ?? null)),
    receivedAt: typeof receivedAt === "string" ? receivedAt : null,
    supersedes: typeof supersedes === "number" ? supersedes : null,
  };
}

function plain(name: string, value: Value): OriginRow["values"][number] {
  if (value instanceof ArrayBuffer) {
    return numbers.has(name) ? new Uint8Array(value) : new TextDecoder().decode(value);
  }
  if (typeof value === "bigint") return Number(value);
  if (value === infinity || value === `-${infinity}`) return Number(value);
  return value;
}

/**
 * What a row is known again by: when it arrived tells it from any other of its id, also where
 * somebody has changed it since; without that, what it says.
 */
export function markOf({ values, receivedAt, supersedes }: OriginRow): string {
  const told = values.map((value) => (value instanceof Uint8Array ? value.toHex() : value));
  const known = receivedAt === null ? [...told, supersedes] : [values[0], receivedAt];
  return Bun.SHA256.hash(JSON.stringify(known), "hex");
}

/** Asks what `mustStand` looks at: to be read in one moment with whatever follows from it. */
export const standing = ({ id }: Pick<Place, "id">): InStatement[] => [
  `SELECT name, writes, expired, max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'signals'), 0),
     coalesce((SELECT max(id) FROM "signals"), 0)) AS head FROM argo_origin`,
  { sql: `${rowSql} WHERE id = ?`, args: [id] },
];

/** The highest id that the server ever gave, how often it was written, and up to where it forgot. */
export type Standing = { headId: number; writes: number; expiredId: number };

/**
 * How the server stands, once it is clear that it still holds what was copied.
 * A row that is gone says nothing: it may have been deleted for its age.
 * @throws Backwards when the database is another or an older one.
 */
export function mustStand({ origin, id, rowSha256 }: Place, results: ResultSet[]): Standing {
  const [facts, rows] = results;
  const name = facts?.rows[0]?.["name"];
  const headId = Number(facts?.rows[0]?.["head"] ?? 0);
  if (name !== origin) throw new Backwards("holds another database than before");
  if (headId < id) {
    throw new Backwards(
      `ends at signal ${headId}, and signal ${id} was copied from it: it was restored to an older state`,
    );
  }
  const row = rows?.rows[0];
  if (row && markOf(rowOf(row)) !== rowSha256) {
    throw new Backwards(
      `holds another signal ${id} than the one that was copied: it was restored or changed`,
    );
  }
  return {
    headId,
    writes: Number(facts?.rows[0]?.["writes"]),
    expiredId: Number(facts?.rows[0]?.["expired"]),
  };
}
