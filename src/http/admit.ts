import type { Context, MiddlewareHandler } from "hono";
import { type RateLimitInfo, rateLimiter } from "hono-rate-limiter";
import type { Config } from "../config";
import { AppError } from "../errors";
import { type Quota, type View, viewFrom, viewHeader } from "./entitlement";
import type { AppEnv, Exchange } from "./exchange";
import { type Guard, mustHaveExport, type Principal, type Scope, viewOfReader } from "./guard";
import { limitExceeded, type SlidingWindow, type Verdict, windowMs } from "./limit";
import { addressKey, clientAddress } from "./policy";
import { asking } from "./rights";

/** Lets requests in: who they are, then whether they may come so often. */
export class Admission {
  constructor(
    private readonly config: Config,
    private readonly guard: Guard,
    readonly limiter: SlidingWindow,
  ) {}

  /**
   * Admits a reader, or throws 401, 403 or 429. The poll path calls it directly: a promise only
   * for a session that is met for the first time.
   */
  reader(request: Request, exchange: Exchange): void | Promise<void> {
    const key = this.#readerKey(request, exchange);
    if (key instanceof Promise) return key.then((found) => this.#admit(found, exchange));
    this.#admit(key, exchange);
  }

  /**
   * Whether a reader whose answer goes on is still let in, and as whom; not limited. By their
   * `Authorization` alone: without one nothing changes.
   * @throws AppError 401, 403 or 503.
   */
  again(authorization: string | null): Principal | null | Promise<Principal> {
    return authorization === null ? null : this.guard.holder(authorization);
  }

  /** The same, noted: `exchange.principal` is who it is by now. */
  async renew(exchange: Exchange): Promise<void> {
    const principal = await this.again(exchange.request.headers.get("authorization"));
    exchange.principal = principal ?? undefined;
  }

  /**
   * Lets in whoever may export. Gives what is to be awaited before each piece is sent: it rejects
   * once they may not any more, or their plan shows something else.
   * @throws AppError 403.
   */
  exporter(exchange: Exchange): () => Promise<void> {
    mustHaveExport(exchange);
    const view = viewOfReader(exchange);
    return async () => {
      await this.renew(exchange);
      mustHaveExport(exchange);
      if (viewOfReader(exchange) === view) return;
      throw new AppError("forbidden", "The plan of this account has changed.");
    };
  }

  /**
   * By whom is counted what goes on after it was let in: an account, or the address of whoever has
   * no credential. Null for the operator's tokens, which are not.
   */
  ownerOf(exchange: Exchange): string | null {
    const { principal, request } = exchange;
    if (principal) return principal.account?.userId ?? null;
    return this.#addressKey(request, exchange);
  }

  /**
   * Admits who holds the scope, unlimited: ingest is bounded by its queue. `authorization` where
   * it came by another way than the header. @throws 401 or 403.
   */
  holder(
    request: Request,
    exchange: Exchange,
    scope: Scope,
    authorization = request.headers.get("authorization"),
  ): Principal | Promise<Principal> {
    try {
      const asker = this.guard.asker(authorization, scope);
      if (!(asker instanceof Promise)) return this.#permit(asker, exchange, scope);
      return asker.then(
        (found) => this.#permit(found, exchange, scope),
        (error: unknown) => {
          throw this.refused(error, request, exchange);
        },
      );
    } catch (error) {
      throw this.refused(error, request, exchange);
    }
  }

  /** The same as `reader`, as middleware, for the routes that are not the poll. */
  readers(): MiddlewareHandler<AppEnv> {
    return asking(
      "signals:read",
      this.#limited(
        (c) => this.#readerKey(c.req.raw, c.env),
        (c) => this.#quotaOf(c.env.principal),
      ),
    );
  }

  /**
   * Those who hold the scope, who are then `c.env.principal`. Limited like anonymous readers and
   * apart from their polls: a bot that is too fast must not keep its owner from their account.
   */
  holders(scope: Scope): MiddlewareHandler<AppEnv> {
    const limited = this.#limited((c) => {
      const principal = this.holder(c.req.raw, c.env, scope);
      return principal instanceof Promise ? principal.then(holderKey) : holderKey(principal);
    });
    return asking(scope, limited);
  }

  /** Limited like readers, by address: those whom nobody knows yet. */
  strangers(): MiddlewareHandler<AppEnv> {
    return this.#limited((c) => this.#addressKey(c.req.raw, c.env));
  }

  #limited(
    keyOf: (c: Context<AppEnv>) => string | Promise<string>,
    quotaOf: (c: Context<AppEnv>) => Quota = () => this.limiter.quota,
  ): MiddlewareHandler<AppEnv> {
    const { limiter } = this;
    const note = (c: Context<AppEnv>): Verdict => {
      const { limit, used, remaining, resetTime } = c.get("rateLimit" as never) as RateLimitInfo;
      const resetAtSeconds = Math.ceil((resetTime?.getTime() ?? 0) / 1000);
      const untilReset = Math.max(1, resetAtSeconds - Math.floor(limiter.options.now() / 1000));
      const allowed = used <= limit;
      const resetSeconds = allowed ? Math.min(untilReset, windowMs / 1000) : untilReset;
      const quota = quotaOf(c);
      return (c.env.verdict = { allowed, quota, remaining, resetSeconds, resetAtSeconds });
    };
    const keys = new WeakMap<Exchange, string>();
    const limit = rateLimiter<AppEnv>({
      // Asked first: who it is tells whether they are limited at all.
      skip: async (c) => {
        const key = await keyOf(c);
        if (c.env.view) return true;
        limiter.assign(key, quotaOf(c));
        keys.set(c.env, key);
        return false;
      },
      limit: (c) => quotaOf(c).limit,
      windowMs,
      // Written from the verdict with all the other headers, on refusals too.
      standardHeaders: false,
      keyGenerator: (c) => keys.get(c.env) ?? "",
      store: limiter,
      handler: (c) => {
        throw limitExceeded(note(c));
      },
    });
    return function limited(c, next) {
      return limit(c, () => {
        if (!c.env.view) note(c);
        return next();
      });
    };
  }

  /** Noted first: whoever is refused is known by then, to the log as well. */
  #permit(principal: Principal, exchange: Exchange, scope: Scope): Principal {
    exchange.principal = principal;
    return this.guard.permit(principal, scope);
  }

  #admit(key: string, exchange: Exchange): void {
    if (exchange.view) return;
    const verdict = this.limiter.take(key, this.#quotaOf(exchange.principal));
    exchange.verdict = verdict;
    if (!verdict.allowed) throw limitExceeded(verdict);
  }

  #quotaOf(principal: Principal | undefined): Quota {
    return principal?.account?.entitlement.quota ?? this.limiter.quota;
  }

  #readerKey(request: Request, exchange: Exchange): string | Promise<string> {
    try {
      const principal = this.guard.reader(request.headers);
      if (!(principal instanceof Promise)) return this.#keyOf(principal, request, exchange);
      return principal.then(
        (found) => this.#keyOf(found, request, exchange),
        (error: unknown) => {
          throw this.refused(error, request, exchange);
        },
      );
    } catch (error) {
      throw this.refused(error, request, exchange);
    }
  }

  #keyOf(principal: Principal | null, request: Request, exchange: Exchange): string {
    if (principal === null) return this.#addressKey(request, exchange);
    exchange.principal = principal;
    if (principal.speaksForOthers) exchange.view = askedView(request.headers);
    return principal.id;
  }

  /** A refused token counts against its address: guessing is bounded like reading. */
  refused(error: unknown, request: Request, exchange: Exchange): unknown {
    if (!(error instanceof AppError) || error.code !== "unauthorized") return error;
    const verdict = this.limiter.take(this.#addressKey(request, exchange));
    exchange.verdict = verdict;
    return verdict.allowed ? error : limitExceeded(verdict);
  }

  #addressKey(request: Request, exchange: Exchange): string {
    return `address:${addressKey(clientAddress(this.config, request, exchange))}`;
  }
}

/**
 * The view that another server reads with, for readers whom it has let in, and limited, itself. Of
 * anybody else the header is not looked at.
 * @throws AppError 400.
 */
function askedView(headers: Headers): View | undefined {
  const text = headers.get(viewHeader);
  return text === null ? undefined : viewFrom(text);
}

const holderKey = ({ id, account }: Principal): string => (account ? `${id}/account` : id);
