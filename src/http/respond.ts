import type { AppError } from "../errors";

/** Renders an error as RFC 9457 problem+json. */
export function problem(error: AppError, instance: string): Response {
  const headers = new Headers(error.headers);
  headers.set("Content-Type", "application/problem+json");
  headers.set("Cache-Control", "no-store");
  if (error.retryAfterSeconds !== undefined) {
    headers.set("Retry-After", String(error.retryAfterSeconds));
  }
  const body = {
    type: `urn:argo-alpine:problem:${error.code}`,
    title: error.title,
    status: error.status,
    detail: error.detail,
    instance,
    code: error.code,
    ...(error.errors && { errors: error.errors }),
  };
  return new Response(asciiJson(body), { status: error.status, headers });
}

// oxlint-disable-next-line no-control-regex -- everything outside ASCII is what is looked for
const beyondAscii = /[^\x00-\x7f]/g;

/** JSON in ASCII alone: Bun sends such a string without transcoding it at each answer. */
export function asciiJson(value: unknown): string {
  const json = JSON.stringify(value);
  // Counting bytes is native, and many times faster than a search by regular expression.
  if (Buffer.byteLength(json) === json.length) return json;
  const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return json.replace(beyondAscii, escaped);
}
