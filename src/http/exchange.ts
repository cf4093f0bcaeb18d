import type { Server } from "bun";
import type { TypedResponse } from "hono";
import type { View } from "./entitlement";
import type { Principal } from "./guard";
import type { Verdict } from "./limit";

/** What one request carries through Hono as `c.env`. */
export type Exchange = {
  /** As it came. */
  request: Request;
  /** The one that the listener knows: the same, or the batch that it is a part of. */
  carrier: Request;
  /** The listener; null where a test calls the application without one. */
  server: Server<unknown> | null;
  requestId: string;
  /** `performance.now()` at arrival, milliseconds. */
  startedAt: number;
  /** Set by a handler that puts every header on its answer and measures it, before it returns. */
  dressed: boolean;
  /** Puts every header on an answer and measures it: for the errors of such a handler. */
  dress: (response: Response, exchange: Exchange) => Promise<Response>;
  /** Set by a handler whose body is produced while it is sent. */
  streamed: boolean;
  /** Who asked; set once it is known. */
  principal: Principal | undefined;
  /** The view with which another server reads on behalf of somebody; set with the principal. */
  view: View | undefined;
  /** What the limiter said, for the headers; set on limited routes. */
  verdict: Verdict | undefined;
  /** The path as routes are written; absent for what never meets the router. */
  path: string | undefined;
  /** The answer that `cached` made, on which its headers are already. */
  headed: Response | undefined;
  /**
   * The answer of a limited route that is asked for often and answers from a cache: JSON with all
   * of its headers at once, `X-Cache` among them. Setting each would cost half of the whole answer.
   */
  cached: <T>(value: T, hit: boolean, exchange: Exchange) => JsonAnswer<T>;
  /**
   * Counts signals that are sent with status 200: called once for each answer, or for each piece of
   * a streamed one. The array must never change: one that was given before costs least.
   */
  deliver: (ids: readonly number[], exchange: Exchange) => void;
};

/** What Hono knows as a JSON answer of status 200. */
export type JsonAnswer<T> = Response & TypedResponse<T, 200, "json">;

/** Environment of every Hono application here. */
export type AppEnv = { Bindings: Exchange };
