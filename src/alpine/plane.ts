import type { ReceivedSignal } from "../argo/signals/signal";
import type { Config } from "../config";
import { AppError } from "../errors";
import type { Admission } from "../http/admit";
import type { AppEnv, Exchange } from "../http/exchange";
import type { Account } from "../http/guard";
import { clientAddress } from "../http/policy";
import type { Logger } from "../platform/log";
import type { Metrics } from "../platform/metrics";
import type { Context, MiddlewareHandler } from "hono";
import type { Alpine } from "./alpine";
import type { Origin } from "./audit";

/** What the routes of the control plane stand on. */
export type Plane = {
  config: Config;
  log: Logger;
  metrics: Metrics;
  now: () => number;
  admission: Admission;
  alpine: Alpine;
};

/** Signals by their ids, wherever they are, as whoever asks sees them; others are left out. */
export type SignalsById = (
  ids: readonly number[],
  exchange: Exchange,
) => Promise<Map<number, ReceivedSignal>>;

/** Where a request came from. */
export function originOf({ config }: Pick<Plane, "config">, c: Context<AppEnv>): Origin {
  const { request, requestId } = c.env;
  return {
    address: clientAddress(config, request, c.env),
    requestId,
    userAgent: request.headers.get("user-agent")?.slice(0, 256) ?? null,
  };
}

/** Who asks, where `admission.holders` has let them in. */
export function accountOf(c: Context<AppEnv>): Account {
  const account = c.env.principal?.account;
  if (account) return account;
  throw new AppError("forbidden", "This is for accounts, not for the operator's tokens.");
}

/**
 * Refuses strangers while accounts are starting, or while nobody knows who was shut out elsewhere.
 * Those who hold a scope are asked after by the guard.
 */
export const fresh = ({ alpine }: Pick<Plane, "alpine">): MiddlewareHandler<AppEnv> =>
  function fresh(_c, next) {
    alpine.mustBeFresh();
    return next();
  };
