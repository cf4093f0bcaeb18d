import type { components } from "./api.ts";

type AnswerHead = Pick<Response, "status" | "statusText" | "headers">;

export type Problem = components["schemas"]["Problem"];

/** What the server refused, and why: its problem document (RFC 9457). */
export class ArgoError extends Error {
  override readonly name = "ArgoError";

  private constructor(
    readonly status: number,
    /** Such as `unauthorized`, `rate_limited`, `unprocessable`; `http` when something else answered. */
    readonly code: string,
    detail: string,
    /** The fields at fault, with their row in a batch. */
    readonly errors: NonNullable<Problem["errors"]>,
    /** Seconds after which a retry makes sense, where the server said so. */
    readonly retryAfterSeconds: number | null,
    /** What the server's log calls this request. */
    readonly requestId: string | null,
  ) {
    super(`${status} ${code}: ${detail}`);
  }

  /** @param body what came with the answer: a problem document, or what a proxy made up. */
  static of({ status, statusText, headers }: AnswerHead, body: unknown): ArgoError {
    const problem = typeof body === "object" && body !== null ? (body as Partial<Problem>) : {};
    const location = headers.get("Location");
    // Browsers tell no more of a redirection than a status of 0.
    const elsewhere = status === 0 ? "leads elsewhere" : location && `leads to ${location}`;
    const { code = "http", detail = elsewhere ?? statusText, errors = [] } = problem;
    const requestId = headers.get("X-Request-Id");
    return new ArgoError(status, code, detail, errors, retryAfter(headers), requestId);
  }

  /** True when the same request may succeed later. */
  get temporary(): boolean {
    const { status } = this;
    return status === 429 || status >= 500 || (status === 409 && this.retryAfterSeconds !== null);
  }
}

/** A stream that the server ended for good; `cursor` is where another one may resume. */
export class StreamEndedError extends Error {
  override readonly name = "StreamEndedError";

  constructor(
    /** `replaced`: the plan allows fewer streams than are open. `unauthorized`: the key is revoked. */
    readonly reason: "replaced" | "unauthorized",
    readonly cursor: number | null,
  ) {
    super(
      reason === "replaced"
        ? "A newer stream of this account took the place of this one: its plan allows no more."
        : "The key was revoked or the session ended.",
    );
  }
}

/** False for what no waiting mends. */
export const isTemporary = (error: unknown): boolean =>
  error instanceof ArgoError ? error.temporary : !(error instanceof StreamEndedError);

/** Reads Retry-After, which is seconds or a date. */
export function retryAfter(headers: Headers): number | null {
  const text = headers.get("Retry-After");
  if (text === null) return null;
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : null;
}
