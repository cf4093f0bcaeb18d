import { z } from "@hono/zod-openapi";
import { whole } from "../../http/fields";
import { countColons, countKeys, fieldTwice, utf8 } from "../../http/json";
import { AppError, type FieldError } from "../../errors";
import { refuseSignals } from "./ingest";

/** What an alert is asked for, named as a post names it. */
export const alertFields = [
  "symbol",
  "action",
  "entry_price",
  "confidence",
  "stop_price",
  "target_price",
  "timestamp",
  "strategy",
] as const;
type AlertField = (typeof alertFields)[number];

/** Where each field comes from: a constant or, beginning with "/", a pointer into the alert. */
export type Mapping = Partial<Record<AlertField, string>>;

/** What is sent in an alert under other names than those of a post. */
export const alertTemplates: Record<"signal" | "tradingview", Mapping> = {
  signal: Object.fromEntries(alertFields.map((field) => [field, `/${field}`])),
  tradingview: {
    symbol: "/ticker",
    action: "/action",
    entry_price: "/price",
    confidence: "/confidence",
    stop_price: "/stop",
    target_price: "/target",
    timestamp: "/time",
    strategy: "/strategy",
  },
};

const source = z
  .string()
  .min(1)
  .max(256)
  .refine((text) => !text.startsWith("/") || !/~(?![01])/.test(text), {
    message: "is no JSON Pointer: ~ is written ~0, and / in a name ~1",
  })
  .optional();
const sources = Object.fromEntries(alertFields.map((field) => [field, source]));
const templateNames = Object.keys(alertTemplates) as (keyof typeof alertTemplates)[];

/** How a hook reads its alerts. */
export const HookQuery = z.strictObject({
  template: z.enum(templateNames).optional().openapi({
    description: "Where fields are found that are not named here.",
  }),
  ...(sources as Record<keyof Mapping, typeof source>),
  max_lag_seconds: whole(1, 86_400).default(300).openapi({
    description: "An alert whose own time is longer ago is refused.",
  }),
  dedupe_seconds: whole(10, 86_400).default(45).openapi({
    description: "The same body within this time is the same signal.",
  }),
});
export const HookParam = z.object({
  key: z.string().openapi({ description: "A key that writes signals, or ARGO_WRITE_TOKEN." }),
});

const needed: ReadonlySet<AlertField> = new Set(["symbol", "action", "entry_price", "confidence"]);

const actions: Record<string, string> = {
  buy: "BUY",
  long: "BUY",
  sell: "SELL",
  short: "SELL",
  hold: "HOLD",
  flat: "HOLD",
  exit: "HOLD",
  close: "HOLD",
};

/** Of a chart that knows no such name, or of a test without a chart. */
const unfilled = /\{\{.*\}\}/;
/** What charts write where they have no number. */
const noNumber = /^(na|nan|null)?$/i;
const decimal = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i;
/** From here on a number of seconds since the epoch is one of milliseconds: it is in 5138. */
const secondsMax = 1e11;
const instantMax = 8.64e15;

/**
 * Makes the body of a post of an alert. Nothing is added to it: what is neither in the alert nor
 * in the mapping is absent.
 * @throws AppError 400 for what is not UTF-8 or names a field twice, 422 that names what is missing.
 */
export function postOf(body: Uint8Array, mapping: Mapping): Uint8Array {
  const alert = readAlert(utf8(body));
  const faults: FieldError[] = [];
  const signal: Record<string, unknown> = {};
  for (const field of alertFields) {
    const source = mapping[field];
    const found = source?.startsWith("/") ? pointed(alert, source) : source;
    if (typeof found === "string" && unfilled.test(found)) {
      faults.push({ field, detail: "holds a placeholder that was not filled" });
      continue;
    }
    const value = readers[field](typeof found === "string" ? found.trim() : found);
    if (value !== undefined) signal[field] = value;
    else if (needed.has(field)) faults.push({ field, detail: missing(field, source) });
  }
  if (faults.length > 0) refuseSignals(faults);
  return new TextEncoder().encode(JSON.stringify(signal));
}

function readAlert(text: string): unknown {
  let alert: unknown;
  try {
    alert = JSON.parse(text);
  } catch (cause) {
    throw new AppError("unprocessable", "Nothing was written: the alert is not JSON.", {
      errors: [{ field: "body", detail: "is plain text: make the alert's message valid JSON" }],
      cause,
    });
  }
  if (countKeys(alert) !== countColons(text)) throw fieldTwice();
  return alert;
}

function missing(field: string, source: string | undefined): string {
  if (source === undefined) {
    return `is missing: add ${field}= to the hook's address, a constant or a pointer such as /${field}`;
  }
  return `is missing: the alert has nothing at ${source}; add ${field}= to the hook's address`;
}

/** RFC 6901; undefined where there is nothing. */
function pointed(document: unknown, pointer: string): unknown {
  let value = document;
  for (const part of pointer.slice(1).split("/")) {
    if (typeof value !== "object" || value === null) return undefined;
    const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
    if (Array.isArray(value) && !/^(0|[1-9]\d{0,15})$/.test(name)) return undefined;
    if (!Object.hasOwn(value, name)) return undefined;
    value = (value as Record<string, unknown>)[name];
  }
  return value;
}

/** Absent, or as a post has it; what cannot be read is left as it is, to be refused by name. */
const readers: Record<AlertField, (value: unknown) => unknown> = {
  symbol: label,
  action: (value) => {
    if (typeof value !== "string") return value ?? undefined;
    const word = value.toLowerCase();
    return Object.hasOwn(actions, word) ? actions[word] : value || undefined;
  },
  entry_price: number,
  confidence: number,
  stop_price: number,
  target_price: number,
  timestamp: (value) => {
    const seconds = number(value);
    if (typeof seconds !== "number") return seconds;
    const atMs = Math.abs(seconds) < secondsMax ? seconds * 1000 : seconds;
    return Math.abs(atMs) <= instantMax ? new Date(atMs).toISOString() : String(value);
  },
  strategy: label,
};

/** A ticker may be a number. */
function label(value: unknown): unknown {
  if (value === null || value === "") return undefined;
  return typeof value === "number" ? String(value) : value;
}

function number(value: unknown): unknown {
  if (value === null || value === undefined) return undefined;
  if (typeof value === "string" && noNumber.test(value)) return undefined;
  const read = typeof value === "string" && decimal.test(value) ? Number(value) : value;
  // One beyond numbers would be null in a post, as if the alert had none.
  return typeof read === "number" && !Number.isFinite(read) ? String(value) : read;
}
