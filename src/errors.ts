/** Every way in which a request can fail, with its HTTP status. The set is closed. */
const statusOf = {
  bad_request: 400,
  unauthorized: 401,
  forbidden: 403,
  not_found: 404,
  method_not_allowed: 405,
  conflict: 409,
  payload_too_large: 413,
  unsupported_media_type: 415,
  unprocessable: 422,
  rate_limited: 429,
  internal: 500,
  unavailable: 503,
} as const;

const titles: Record<ErrorCode, string> = {
  bad_request: "Bad request",
  unauthorized: "Unauthorized",
  forbidden: "Forbidden",
  not_found: "Not found",
  method_not_allowed: "Method not allowed",
  conflict: "Conflict",
  payload_too_large: "Payload too large",
  unsupported_media_type: "Unsupported media type",
  unprocessable: "Unprocessable content",
  rate_limited: "Too many requests",
  internal: "Internal error",
  unavailable: "Service unavailable",
};

export type ErrorCode = keyof typeof statusOf;

/** A fault of one field; `index` is its row in a batch. */
export type FieldError = { field: string; detail: string; index?: number };

type Options = {
  errors?: FieldError[];
  /** Seconds after which a retry makes sense; sent as Retry-After. */
  retryAfterSeconds?: number;
  /** Extra response headers, such as WWW-Authenticate or Allow. */
  headers?: Record<string, string>;
  cause?: unknown;
};

/** The one error that a client may see. `detail` is shown, `cause` is only logged. */
export class AppError extends Error {
  override readonly name = "AppError";
  readonly errors: FieldError[] | undefined;
  readonly retryAfterSeconds: number | undefined;
  readonly headers: Record<string, string>;

  constructor(
    readonly code: ErrorCode,
    readonly detail: string,
    options: Options = {},
  ) {
    super(detail, { cause: options.cause });
    this.errors = options.errors;
    this.retryAfterSeconds = options.retryAfterSeconds ?? (code === "unavailable" ? 1 : undefined);
    this.headers = options.headers ?? {};
  }

  get status(): (typeof statusOf)[ErrorCode] {
    return statusOf[this.code];
  }

  get title(): string {
    return titles[this.code];
  }
}

/** A fault of the set-up, met before serving: printed as one line, exit code 1. `fix` says what to do. */
export class SetupError extends Error {
  override readonly name = "SetupError";

  constructor(
    message: string,
    readonly fix: string,
    options: { cause?: unknown } = {},
  ) {
    super(message, options);
  }
}
