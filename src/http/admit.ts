import type { Context, MiddlewareHandler } from "hono";
import { type RateLimitInfo, rateLimiter } from "hono-rate-limiter";
import type { Config } from "../config";
import { AppError } from "../errors";
import type { AppEnv, Exchange } from "./exchange";
import type { Guard, Principal } from "./guard";
import { limitExceeded, type SlidingWindow, type Verdict } from "./limit";
import { addressKey, clientAddress } from "./policy";

/** Lets requests in: who they are, then whether they may come so often. */
export class Admission {
  constructor(
    private readonly config: Config,
    private readonly guard: Guard,
    readonly limiter: SlidingWindow,
  ) {}

  /** Admits a reader, or throws 401, 403 or 429. Synchronous: the poll path calls it directly. */
  reader(request: Request, exchange: Exchange): void {
    const key = this.#readerKey(request, exchange);
    const verdict = this.limiter.take(key);
    exchange.verdict = verdict;
    if (!verdict.allowed) throw limitExceeded(this.limiter.options, verdict);
  }

  /** Admits a writer, or throws 401 or 403. Ingest is bounded by its queue, not by this limit. */
  writer(request: Request, exchange: Exchange): Principal {
    try {
      const principal = this.guard.writer(request.headers);
      exchange.principalId = principal.id;
      return principal;
    } catch (error) {
      throw this.#refused(error, request, exchange);
    }
  }

  /** The same as `reader`, as middleware, for the routes that are not the poll. */
  readers(): MiddlewareHandler<AppEnv> {
    const { options } = this.limiter;
    const note = (c: Context<AppEnv>): Verdict => {
      const { limit, used, remaining, resetTime } = c.get("rateLimit" as never) as RateLimitInfo;
      const resetAtSeconds = Math.ceil((resetTime?.getTime() ?? 0) / 1000);
      const resetSeconds = Math.max(1, resetAtSeconds - Math.floor(options.now() / 1000));
      const allowed = used <= limit;
      const windowSeconds = Math.ceil(options.windowMs / 1000);
      const shown = allowed ? Math.min(resetSeconds, windowSeconds) : resetSeconds;
      return (c.env.verdict = { allowed, limit, remaining, resetSeconds: shown, resetAtSeconds });
    };
    const limit = rateLimiter<AppEnv>({
      limit: options.limit,
      windowMs: options.windowMs,
      // Written from the verdict with all the other headers, on refusals too.
      standardHeaders: false,
      keyGenerator: (c) => this.#readerKey(c.req.raw, c.env),
      store: this.limiter,
      handler: (c) => {
        throw limitExceeded(options, note(c));
      },
    });
    return async function readers(c, next) {
      return limit(c, async () => {
        note(c);
        await next();
      });
    };
  }

  #readerKey(request: Request, exchange: Exchange): string {
    const principal = this.#reader(request, exchange);
    exchange.principalId = principal?.id;
    return principal?.id ?? this.#addressKey(request, exchange);
  }

  #reader(request: Request, exchange: Exchange): Principal | null {
    try {
      return this.guard.reader(request.headers);
    } catch (error) {
      throw this.#refused(error, request, exchange);
    }
  }

  /** A refused token counts against its address: guessing is bounded like reading. */
  #refused(error: unknown, request: Request, exchange: Exchange): unknown {
    if (!(error instanceof AppError) || error.code !== "unauthorized") return error;
    const verdict = this.limiter.take(this.#addressKey(request, exchange));
    exchange.verdict = verdict;
    return verdict.allowed ? error : limitExceeded(this.limiter.options, verdict);
  }

  #addressKey(request: Request, exchange: Exchange): string {
    return `address:${addressKey(clientAddress(this.config, request, exchange))}`;
  }
}
