import { ArgoError, isTemporary, retryAfter } from "./errors.ts";

export type ArgoOptions = {
  /** Where the server is, such as `https://signals.example.com`. */
  url: string;
  /** A key or token; a function is asked before each request, for tokens that are renewed. */
  token?: string | (() => string | Promise<string>);
  /** How long one attempt may take, milliseconds. */
  timeoutMs?: number;
  /** How long a call may take with all its attempts, milliseconds. */
  deadlineMs?: number;
  /** Nothing for so long on a stream means that the connection is dead, milliseconds. */
  muteMs?: number;
  /** The first wait between two attempts is at most this, milliseconds; each next one twice that. */
  backoffMs?: number;
  backoffMsMax?: number;
  /** Instead of the global one. */
  fetch?: (request: Request) => Promise<Response>;
  /** From 0 up to 1, instead of Math.random. */
  random?: () => number;
};

export type CallOptions = {
  signal?: AbortSignal | undefined;
  /** Instead of the client's. */
  deadlineMs?: number | undefined;
};

/** Whoever asks for more is asked after this all the same; timers know no more than 24 days. */
const askedSecondsMax = 86_400;

/** Sends requests: who asks, how long, how often. */
export class Transport {
  readonly muteMs: number;
  readonly deadlineMs: number;
  readonly url: string;
  readonly #timeoutMs: number;

  constructor(private readonly options: ArgoOptions) {
    this.url = new URL(options.url).href.replace(/\/+$/, "");
    this.muteMs = options.muteMs ?? 40_000;
    this.deadlineMs = options.deadlineMs ?? 30_000;
    this.#timeoutMs = options.timeoutMs ?? 10_000;
  }

  /** A request to a path of the server. Parameters that are undefined are left out. */
  request(path: string, query: Record<string, unknown> = {}, init: RequestInit = {}): Request {
    const text = searchOf(query);
    return new Request(`${this.url}${path}${text && `?${text}`}`, init);
  }

  /**
   * Sends a request until it is answered for good, or the deadline is near; what may not be sent
   * twice is sent once. The whole body is there when it returns.
   * @param waitMs how long the server may take on purpose. @param repeatable what the method does
   * not tell.
   * @returns also answers that refuse. @throws what fetch threw last.
   */
  async send(
    request: Request,
    options: CallOptions & { waitMs?: number; repeatable?: boolean } = {},
  ): Promise<Response> {
    const { waitMs = 0, deadlineMs = this.deadlineMs + waitMs } = options;
    const untilMs = performance.now() + deadlineMs;
    const { method, headers, signal } = request;
    const { repeatable = ["GET", "HEAD"].includes(method) || headers.has("Idempotency-Key") } =
      options;
    for (let failures = 0; ; failures += 1) {
      const leftMs = Math.max(1, untilMs - performance.now());
      const { late, stop } = deadline(Math.min(leftMs, this.#timeoutMs + waitMs));
      let outcome: { response: Response } | { error: unknown };
      try {
        outcome = { response: await whole(await this.#fetch(request.clone() as Request, late)) };
      } catch (error) {
        signal.throwIfAborted();
        outcome = { error };
      } finally {
        stop();
      }
      const response = "response" in outcome ? outcome.response : null;
      const done = response !== null && !ArgoError.of(response, null).temporary;
      const pauseMs = this.pauseMs(failures, response ? retryAfter(response.headers) : null);
      if (done || !repeatable || performance.now() + pauseMs > untilMs) {
        if ("error" in outcome) throw outcome.error;
        return outcome.response;
      }
      await sleep(pauseMs, signal);
      signal.throwIfAborted();
    }
  }

  /** Sends once and gives the answer as soon as its head is there. @throws ArgoError */
  async open(request: Request): Promise<Response> {
    const { late, stop } = deadline(this.#timeoutMs);
    try {
      const response = await this.#fetch(request, late);
      if (response.ok) return response;
      throw ArgoError.of(response, await json(response));
    } finally {
      stop();
    }
  }

  /**
   * How long to wait after so many failures in a row, milliseconds: full jitter below a ceiling
   * that doubles, so that a thousand bots do not come back at once, after what the server asked.
   */
  pauseMs(failures: number, askedSeconds: number | null, firstMs?: number): number {
    const { backoffMs = 1_000, backoffMsMax = 30_000, random = Math.random } = this.options;
    const ceilingMs = Math.min(backoffMsMax, (firstMs ?? backoffMs) * 2 ** Math.min(failures, 20));
    return Math.min(askedSeconds ?? 0, askedSecondsMax) * 1_000 + random() * ceilingMs;
  }

  /** The same for an iterator that meets an error. @throws the error when no waiting mends it. */
  async pauseAfter(error: unknown, failures: number, signal?: AbortSignal): Promise<void> {
    if (!isTemporary(error)) throw error;
    const asked = error instanceof ArgoError ? error.retryAfterSeconds : null;
    await sleep(this.pauseMs(failures, asked), signal);
  }

  /** True when a new token may be had by asking for it. */
  get renews(): boolean {
    return typeof this.options.token === "function";
  }

  async #fetch(request: Request, signal: AbortSignal): Promise<Response> {
    const { token, fetch = globalThis.fetch } = this.options;
    const secret = typeof token === "function" ? await token() : token;
    const sent = new Request(request, {
      signal: AbortSignal.any([request.signal, signal]),
      // A token is meant for one place: what leads elsewhere is an answer that refuses.
      redirect: "manual",
    });
    if (secret !== undefined) sent.headers.set("Authorization", `Bearer ${secret}`);
    return fetch(sent);
  }
}

/** A query as it is sent, the same for equal ones. */
export function searchOf(query: Record<string, unknown>): string {
  const text = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) text.set(name, String(value));
  }
  text.sort();
  return text.toString();
}

/** As AbortSignal.timeout, but it can be stopped: polls are many. */
function deadline(ms: number): { late: AbortSignal; stop: () => void } {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(timedOut()), ms);
  return { late: controller.signal, stop: () => clearTimeout(timer) };
}

export const timedOut = (): DOMException => new DOMException("It took too long.", "TimeoutError");

/** Waits; an abort ends the wait early. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted || ms <= 0) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done);
  });
}

/** The JSON of an answer; null for what is none. */
export async function json(response: Response): Promise<unknown> {
  try {
    return JSON.parse(await response.text());
  } catch {
    return null;
  }
}

/** Reads the body, so that one that breaks off is a failed attempt like any other. */
async function whole(response: Response): Promise<Response> {
  const { status, statusText, headers } = response;
  // What leads elsewhere, as browsers tell it.
  if (status === 0) return response;
  const bytes = await response.arrayBuffer();
  const bare = [204, 205, 304].includes(status);
  return new Response(bare ? null : bytes, { status, statusText, headers });
}
