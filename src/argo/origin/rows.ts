import type { InArgs, InStatement, ResultSet } from "@libsql/client/http";
import { Backwards, copied, copiedSql } from "./origin";

/** How far a file is a copy, and of what; `rowSha256` is the mark of the row at `id`. */
export type Place = { origin: string; id: number; rowSha256: string; whole: boolean };

const rowSql =
  `SELECT ${copiedSql}, ` +
  `(SELECT received_at FROM argo_received WHERE id = "signals".id) AS received_at, ` +
  `(SELECT supersedes FROM argo_supersedes WHERE id = "signals".id) AS supersedes FROM "signals"`;

export type OriginRow = {
  id: number;
  /** As `copied` says. */
  values: (string | number | null | Uint8Array)[];
  receivedAt: string | null;
  supersedes: number | null;
};

/**
 * SQL of a value as JSON. SQLite itself would write 15 digits of a number, which is not always the
 * number: of 21 there is one nearest. Text that may be no UTF-8 would end the server's answer; GLOB
 * looks no further than to a NUL.
 */
const json = (value: string): string =>
  `CASE typeof(${value}) WHEN 'null' THEN 'null' WHEN 'integer' THEN ${value}
   WHEN 'text' THEN CASE WHEN ${value} GLOB '*[^ -~]*' OR instr(CAST(${value} AS BLOB), x'00')
     THEN '{"text":"' || hex(${value}) || '"}'
     ELSE json_quote(${value}) END
   WHEN 'blob' THEN '{"bytes":"' || hex(${value}) || '"}'
   ELSE CASE ${value} WHEN 9e999 THEN '9e999' WHEN -9e999 THEN '-9e999'
     ELSE printf('%!.20e', ${value}) END END`;

const rowJson = [...copied, "received_at", "supersedes"]
  .map((name) => json(`"${name}"`))
  .join(" || ',' || ");

/**
 * Asks for rows as one text: cell by cell they would take three times as long, and an infinite
 * number could not be told.
 */
export const page = (where: string, args: InArgs): InStatement => ({
  sql: `SELECT group_concat('[' || ${rowJson} || ']', ',') AS page FROM (${rowSql} WHERE ${where})`,
  args,
});

/** Asks for the next rows after an id. */
export const rowsAfter = (id: number, limit: number): InStatement =>
  page("id > ? ORDER BY id LIMIT ?", [id, limit]);

type Told = string | number | null | { text: string } | { bytes: string };

/** The rows of such a page. */
export function rowsOf(result: ResultSet | undefined): OriginRow[] {
  const page = result?.rows[0]?.["page"];
  if (typeof page !== "string") return [];
  return (JSON.parse(`[${page}]`) as Told[][]).map((told) => {
    const values = told.map(valueOf);
    const [receivedAt, supersedes] = values.splice(copied.length);
    return {
      id: Number(values[0]),
      values,
      receivedAt: typeof receivedAt === "string" ? receivedAt : null,
      supersedes: typeof supersedes === "number" ? supersedes : null,
    };
  });
}

function valueOf(told: Told): OriginRow["values"][number] {
  if (typeof told !== "object" || told === null) return told;
  if ("bytes" in told) return Uint8Array.fromHex(told.bytes);
  return new TextDecoder().decode(Uint8Array.fromHex(told.text));
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
  page("id = ?", [id]),
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
  const [row] = rowsOf(rows);
  // Of an empty copy there is none, and whatever bears the number 0 was never copied.
  if (row && rowSha256 !== "" && markOf(row) !== rowSha256) {
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
