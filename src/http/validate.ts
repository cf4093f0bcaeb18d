import type { MiddlewareHandler } from "hono";
import type { z } from "zod";
import { AppError, type FieldError } from "../errors";
import type { AppEnv } from "./exchange";
import "./wording";

/** Faults that one answer names. */
const faultsMax = 100;

/** Faults of a zod result as field errors; an unknown key is named as the field it is. */
export function fieldErrors(error: z.core.$ZodError): FieldError[] {
  const faults = error.issues.flatMap((issue) => {
    const path = issue.path.map(String);
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => ({
        field: [...path, fieldName(key)].join("."),
        detail: "unknown field",
      }));
    }
    return [{ field: path.join(".") || "body", detail: issue.message }];
  });
  return faults.slice(0, faultsMax);
}

/** Each field once, whatever is wrong with it. */
export const namesOf = (errors: readonly FieldError[]): string =>
  [...new Set(errors.map(({ field }) => field))].join(", ");

/** A field may have been sent without a name. */
export const fieldName = (name: string): string => (name === "" ? "(empty)" : name);

type Failure = { success: false; error: z.core.$ZodError; target: string };

/**
 * What every validator does with a fault: 400 for path and query, 422 for a body.
 * The library's own answer is not a problem document.
 */
export function refuse(result: { success: true } | Failure): void {
  if (result.success) return;
  const errors = fieldErrors(result.error);
  const names = namesOf(errors);
  if (result.target === "json") {
    throw new AppError("unprocessable", `The body is not valid: ${names}.`, { errors });
  }
  throw new AppError("bad_request", `The request is not valid: ${names}.`, { errors });
}

/**
 * The query of a URL as a record. Strict where frameworks are lenient: each name once, every
 * escape valid UTF-8, no control characters.
 * @throws AppError 400 that names the field.
 */
export function readQuery(search: string): Record<string, string> {
  const query: Record<string, string> = Object.create(null);
  if (search === "" || search === "?") return query;
  const faults: FieldError[] = [];
  for (const pair of search.slice(1).split("&")) {
    if (pair === "") continue;
    const at = pair.indexOf("=");
    const name = unescape(at < 0 ? pair : pair.slice(0, at));
    const value = at < 0 ? "" : unescape(pair.slice(at + 1));
    const shown = fieldName(name ?? pair.slice(0, 64));
    if (name === null || value === null) {
      faults.push({ field: shown, detail: "is not valid percent-encoded UTF-8" });
    } else if (hasControl(value) || hasControl(name)) {
      faults.push({ field: shown, detail: "must not hold control characters" });
    } else if (name in query) {
      faults.push({ field: shown, detail: "is given more than once" });
    } else query[name] = value;
  }
  if (faults.length > 0) {
    const errors = faults.slice(0, faultsMax);
    throw new AppError("bad_request", `The query is not valid: ${namesOf(errors)}.`, { errors });
  }
  return query;
}

/** Reads the query of a URL by its schema. @throws AppError 400 that names the field. */
export function parseQuery<S extends z.ZodType>(schema: S, search: string): z.output<S> {
  const parsed = schema.safeParse({ ...readQuery(search) });
  if (!parsed.success) refuse({ success: false, error: parsed.error, target: "query" });
  return parsed.data as z.output<S>;
}

/** Refuses a query that Hono's own reading would let pass. */
export const strictQuery: MiddlewareHandler<AppEnv> = function strictQuery(c, next) {
  const { url } = c.req;
  const at = url.indexOf("?");
  if (at >= 0) readQuery(url.slice(at));
  return next();
};

function unescape(text: string): string | null {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch {
    return null;
  }
}

// oxlint-disable-next-line no-control-regex -- control characters are what is looked for
const hasControl = (text: string): boolean => /[\u0000-\u001f\u007f]/.test(text);
