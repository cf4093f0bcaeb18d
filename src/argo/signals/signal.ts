import { type Layout, strategyOf } from "./layout";
import { seen, type Sight } from "./sight";

/** A signal as every answer shows it, keys in wire order. */
export type Signal = {
  id: number;
  symbol: string;
  action: string;
  confidence: number | null;
  price: number | null;
  entry_price: number | null;
  stop_loss: number | null;
  take_profit: number | null;
  target_price: number | null;
  timestamp: string | null;
  strategy: string;
  sha256: string;
  supersedes: number | null;
};
export type ReceivedSignal = Signal & { received_at: string | null };

type Shown = {
  layout: Layout;
  /** False while no row corrects another. */
  corrections: boolean;
  received: boolean;
  sight: Sight;
};

/** The columns of an answer in wire order, from the columns that are there. */
export function columns({ layout, corrections, received, sight }: Shown, by = ""): string {
  const { has, id } = layout;
  // Unwatched, what is noted may be of other rows than these.
  const books = layout.books && layout.tracked;
  const target = has.target ? '"target_price"' : "NULL";
  const own = (table: string, column: string) =>
    books ? `(SELECT ${column} FROM ${table} WHERE id = "signals".${id})` : "NULL";
  const shown = [
    `${id} AS id`,
    '"symbol" AS symbol',
    '"action" AS action',
    '"confidence" AS confidence',
    '"entry_price" AS price',
    '"entry_price" AS entry_price',
    `${has.stop ? '"stop_price"' : "NULL"} AS stop_loss`,
    `${target} AS take_profit`,
    `${target} AS target_price`,
    `${layout.timestamp} AS timestamp`,
    `${strategyOf(layout)} AS strategy`,
    `coalesce(${has.sha256 ? '"sha256"' : own("argo_hashes", "sha256")},'') AS sha256`,
    `${corrections ? own("argo_supersedes", superseded(layout, sight)) : "NULL"} AS supersedes`,
  ];
  if (received) shown.push(`${own("argo_received", "received_at")} AS received_at`);
  return `${shown.join(", ")} FROM "signals" ${by}`;
}

/** The row that is corrected is not named to whom it is not shown. */
function superseded(layout: Layout, sight: Sight): string {
  const shown = seen(layout, sight, '"other"');
  if (shown.length === 0) return "supersedes";
  const is = [`"other".${layout.id} = supersedes`, ...shown].join(" AND ");
  return `iif(EXISTS (SELECT 1 FROM "signals" AS "other" WHERE ${is}), supersedes, NULL)`;
}

const numeric = [
  "confidence",
  "price",
  "entry_price",
  "stop_loss",
  "take_profit",
  "target_price",
] as const;
const textual = ["symbol", "action", "strategy", "sha256"] as const;

/** An engine nobody controls may leave any type in any column: here a number is one or null. */
export function tidy<T extends Signal>(row: T): T {
  for (const name of numeric) {
    const value: unknown = row[name];
    if (value !== null && !Number.isFinite(value)) row[name] = null;
  }
  for (const name of textual) if (typeof row[name] !== "string") row[name] = text(row[name]);
  if (row.timestamp !== null && typeof row.timestamp !== "string")
    row.timestamp = text(row.timestamp);
  return row;
}

function text(value: unknown): string {
  if (value instanceof Uint8Array) return new TextDecoder().decode(value);
  return value === null ? "" : String(value);
}
