import { AppError, type FieldError } from "../../errors";
import { countColons, fieldTwice, readJson, utf8 } from "../../http/json";
import { fieldErrors } from "../../http/validate";
import { type Content, hashOf } from "./hash";
import { DEFAULT_STRATEGY, type Layout } from "./layout";
import { SIGNALS_PER_POST_MAX, SignalIn, TIMESTAMP_AHEAD_SECONDS_MAX } from "./schema";

/** One signal, checked and hashed, ready to be written. */
export type Draft = {
  content: Content & { strategy: string };
  sha256: string;
  supersedes: number | null;
  /** The producer gave the timestamp: then the same content is the same signal. */
  dedupe: boolean;
};

/** The signals of one post, and whether they came as an array. */
export type Drafts = { drafts: Draft[]; batch: boolean };

/** RFC 3339 in UTC, upper case, as it sorts by bytes. */
const utc = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|\+00:00)$/;

/**
 * Reads the body of a post: one signal or an array of up to 1,000.
 * @param nowMs the server's clock, milliseconds since the epoch.
 * @throws AppError 400 when it cannot be read, 422 with each fault's field and row.
 */
export function readDrafts(body: Uint8Array, nowMs: number, layout: Layout): Drafts {
  const text = utf8(body);
  const value = readJson(text);
  const batch = Array.isArray(value);
  const rows: unknown[] = batch ? value : [value];
  if (rows.length === 0) refuseSignals([{ field: "body", detail: "holds no signal" }]);
  if (rows.length > SIGNALS_PER_POST_MAX) {
    refuseSignals([{ field: "body", detail: `holds more than ${SIGNALS_PER_POST_MAX} signals` }]);
  }
  const faults: FieldError[] = [];
  const drafts: Draft[] = [];
  let keys = 0;
  if (!batch && isWrapped(value)) {
    refuseSignals([
      { field: "signals", detail: "is not sent: post one signal, or an array of them" },
    ]);
  }
  for (const [index, row] of rows.entries()) {
    const place = batch ? { index } : {};
    const parsed = SignalIn.safeParse(row);
    const errors = parsed.success
      ? faultsOf(parsed.data, nowMs, layout)
      : fieldErrors(parsed.error).map(withHint);
    for (const error of errors) faults.push({ ...error, ...place });
    if (!parsed.success || errors.length > 0) continue;
    keys += Object.keys(parsed.data).length;
    const draft = draftOf(parsed.data, nowMs);
    drafts.push(draft);
    if (parsed.data.sha256 !== undefined && parsed.data.sha256 !== draft.sha256) {
      faults.push({ field: "sha256", detail: "is not the hash of this content", ...place });
    }
  }
  if (faults.length > 0) refuseSignals(faults);
  if (keys !== countColons(text)) throw fieldTwice();
  return { drafts, batch };
}

/** What reads show under another name than writes take. */
const writtenAs: Record<string, string> = {
  stop_loss: "stop_price",
  take_profit: "target_price",
  price: "entry_price",
};

function withHint(error: FieldError): FieldError {
  const other = Object.hasOwn(writtenAs, error.field) ? writtenAs[error.field] : undefined;
  return other ? { ...error, detail: `${error.detail}: write it as ${other}` } : error;
}

const isWrapped = (value: unknown): boolean =>
  typeof value === "object" && value !== null && Object.hasOwn(value, "signals");

/** @throws AppError 422 that names the fields. */
export function refuseSignals(errors: FieldError[]): never {
  const shown = errors.slice(0, 100);
  const names = [...new Set(shown.map((e) => e.field))].slice(0, 5).join(", ");
  throw new AppError("unprocessable", `Nothing was written: ${names} not valid.`, {
    errors: shown,
  });
}

function faultsOf(signal: SignalIn, nowMs: number, layout: Layout): FieldError[] {
  const faults: FieldError[] = [];
  const fault = (field: string, detail: string) => faults.push({ field, detail });
  const { action, entry_price: entry, stop_price: stop, target_price: target } = signal;
  const side = action === "BUY" ? 1 : action === "SELL" ? -1 : 0;
  if (stop != null && (entry - stop) * side <= 0 && side !== 0) {
    fault("stop_price", `is on the wrong side of entry_price for a ${action}`);
  }
  if (target != null && (target - entry) * side <= 0 && side !== 0) {
    fault("target_price", `is on the wrong side of entry_price for a ${action}`);
  }
  if (signal.timestamp !== undefined) {
    const at = instantOf(signal.timestamp);
    if (at === null) {
      fault("timestamp", "is not RFC 3339 in UTC, such as 2026-01-05T21:00:00Z");
    } else if (at > nowMs + TIMESTAMP_AHEAD_SECONDS_MAX * 1000) {
      fault("timestamp", `is more than ${TIMESTAMP_AHEAD_SECONDS_MAX} s ahead`);
    }
  }
  const { has } = layout;
  const lacks = "cannot be kept: the table has no such column";
  if (!has.stop && stop != null) fault("stop_price", lacks);
  if (!has.target && target != null) fault("target_price", lacks);
  if (!has.strategy && (signal.strategy ?? DEFAULT_STRATEGY) !== DEFAULT_STRATEGY) {
    fault("strategy", lacks);
  }
  return faults;
}

/** Milliseconds since the epoch; null for what is no instant, such as the 30th of February. */
function instantOf(timestamp: string): number | null {
  if (!utc.test(timestamp)) return null;
  const at = Date.parse(timestamp);
  if (Number.isNaN(at)) return null;
  return new Date(at).toISOString().slice(0, 19) === timestamp.slice(0, 19) ? at : null;
}

function draftOf(signal: SignalIn, nowMs: number): Draft {
  const { sha256: _, supersedes, timestamp, ...rest } = signal;
  const content = {
    ...rest,
    strategy: signal.strategy ?? DEFAULT_STRATEGY,
    // In the engine's own form, so that by bytes both sort as they happened.
    timestamp: timestamp ?? new Date(nowMs).toISOString().replace("Z", "000+00:00"),
  };
  return {
    content,
    sha256: hashOf(content),
    supersedes: supersedes ?? null,
    dedupe: timestamp !== undefined,
  };
}
