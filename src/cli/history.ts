import { hashOf } from "../argo/signals/hash";
import type { Draft } from "../argo/signals/ingest";
import { DEFAULT_STRATEGY, type Layout } from "../argo/signals/layout";
import { ACTIONS } from "../argo/signals/schema";

/** One row as its file has it, by the names of ingest or those of answers. */
export type Fields = Record<string, unknown>;

/** A row ready to be written, with what its own file calls it and what it corrects there. */
export type HistoryRow = { draft: Draft; id: number | null; supersedes: number | null };

const charactersMax = 256;

/** Names that answers use beside those of ingest. */
export const aliases = [
  ["entry_price", "price"],
  ["stop_price", "stop_loss"],
  ["target_price", "take_profit"],
] as const;

export const numericFields: ReadonlySet<string> = new Set([
  "confidence",
  "id",
  "supersedes",
  ...aliases.flat(),
]);

/** Every field with a meaning; others are passed over. */
export const knownFields: ReadonlySet<string> = new Set([
  ...numericFields,
  "symbol",
  "action",
  "timestamp",
  "strategy",
  "sha256",
  "received_at",
]);

/**
 * Reads one row of a history. It keeps the hash that it brings, and gets the canonical one when
 * it brings none.
 * @param lenient rows of an engine's own file, whatever they say, as long as they can be stored.
 * @returns why it cannot be written, where it cannot.
 */
export function readHistory(
  fields: Fields,
  { has }: Pick<Layout, "has">,
  lenient: boolean,
): HistoryRow | string {
  for (const [name, alias] of aliases) {
    const [value, other] = [fields[name] ?? null, fields[alias] ?? null];
    if (value !== null && other !== null && value !== other) {
      return `${name} and ${alias} differ`;
    }
  }
  const { symbol, action, confidence, timestamp } = fields;
  const entry = fields["entry_price"] ?? fields["price"];
  const stop = fields["stop_price"] ?? fields["stop_loss"] ?? null;
  const target = fields["target_price"] ?? fields["take_profit"] ?? null;
  const strategy = fields["strategy"] ?? DEFAULT_STRATEGY;
  const sha256 = fields["sha256"] ?? "";

  if (!isText(symbol) || (symbol === "" && !lenient)) return mustBeText("symbol");
  if (!isText(action) || (!isAction(action) && !lenient)) {
    return "action must be BUY, SELL or HOLD";
  }
  if (!isFinite(entry) || (entry <= 0 && !lenient)) return "entry_price must be a positive number";
  if (!isFinite(confidence) || (!lenient && (confidence < 0 || confidence > 100))) {
    return "confidence must be a number from 0 to 100";
  }
  if (!isText(timestamp) || (timestamp === "" && !lenient)) return mustBeText("timestamp");
  if (stop !== null && !isFinite(stop)) return "stop_price must be a number";
  if (target !== null && !isFinite(target)) return "target_price must be a number";
  if (!isText(strategy)) return mustBeText("strategy");
  if (!isText(sha256)) return mustBeText("sha256");

  const lacks = "cannot be kept: the table has no such column";
  if (stop !== null && !has.stop) return `stop_price ${lacks}`;
  if (target !== null && !has.target) return `target_price ${lacks}`;
  if (strategy !== DEFAULT_STRATEGY && !has.strategy) return `strategy ${lacks}`;

  const content = {
    symbol,
    // An engine's own row may say something else: it is stored as it is.
    action: action as (typeof ACTIONS)[number],
    confidence,
    entry_price: entry,
    stop_price: stop,
    target_price: target,
    strategy,
    timestamp,
  };
  const draft = { content, sha256: sha256 || hashOf(content), supersedes: null, dedupe: true };
  return { draft, id: wholeOrNull(fields["id"]), supersedes: wholeOrNull(fields["supersedes"]) };
}

const isAction = (text: string): boolean => (ACTIONS as readonly string[]).includes(text);

const mustBeText = (name: string) => `${name} must be text of at most ${charactersMax} characters`;

/** Bounded text that is stored as it is: lone surrogates and bytes that were no UTF-8 are not. */
const isText = (value: unknown): value is string =>
  typeof value === "string" &&
  value.length <= charactersMax &&
  value.isWellFormed() &&
  !value.includes("\ufffd");

const isFinite = (value: unknown): value is number => Number.isFinite(value);

const wholeOrNull = (value: unknown): number | null =>
  Number.isSafeInteger(value) ? (value as number) : null;

/**
 * What the ids of a file became here. Both ascend, mostly side by side, so runs of them are held
 * instead of each one; what comes out of order is held by itself.
 */
export class IdMap {
  readonly #runs: { from: number; to: number; length: number }[] = [];
  readonly #strays = new Map<number, number>();

  set(old: number, now: number): void {
    const last = this.#runs.at(-1);
    const end = last ? last.from + last.length : -Infinity;
    if (last && old === end && now === last.to + last.length) last.length += 1;
    else if (old >= end) this.#runs.push({ from: old, to: now, length: 1 });
    else this.#strays.set(old, now);
  }

  get(old: number): number | null {
    const stray = this.#strays.get(old);
    if (stray !== undefined) return stray;
    let [low, high] = [0, this.#runs.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#runs[middle]?.from ?? Infinity) <= old) low = middle + 1;
      else high = middle;
    }
    const run = this.#runs[low - 1];
    return run && old < run.from + run.length ? run.to + (old - run.from) : null;
  }
}
