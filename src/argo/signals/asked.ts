import { AppError } from "../../errors";
import { fieldErrors, parseQuery } from "../../http/validate";
import type { EventFilter } from "./event";
import { PREMIUM_CONFIDENCE } from "./layout";
import { LastEventId, StreamQuery } from "./schema";

/** What a request for a stream asks for; `sinceId` is null for what comes from now on. */
export type StreamAsked = { sinceId: number | null; filter: EventFilter };

type Filters = {
  symbol?: string | undefined;
  strategy?: string | undefined;
  min_confidence?: number | undefined;
  premium_only: boolean;
};

/** Understands what is asked of a stream. @throws AppError 400 that names the field. */
export function askStream({ url, headers }: Pick<Request, "url" | "headers">): StreamAsked {
  const at = url.indexOf("?");
  const query = parseQuery(StreamQuery, at < 0 ? "" : url.slice(at));
  return { sinceId: lastEventId(headers) ?? query.since_id ?? null, filter: filterOf(query) };
}

/** In one order of its fields, so that equal filters are written equally. */
export function filterOf({ symbol, strategy, ...asked }: Filters): EventFilter {
  const floor = asked.premium_only ? PREMIUM_CONFIDENCE : 0;
  return { symbol, strategy, minConfidence: Math.max(asked.min_confidence ?? 0, floor) };
}

function lastEventId(headers: Headers): number | null {
  const text = headers.get("last-event-id");
  if (text === null) return null;
  const parsed = LastEventId.safeParse(text);
  if (parsed.success) return parsed.data;
  const field = "Last-Event-ID";
  const [fault] = fieldErrors(parsed.error);
  throw new AppError("bad_request", `The request is not valid: ${field}.`, {
    errors: [{ field, detail: fault?.detail ?? "must be a whole number" }],
  });
}
