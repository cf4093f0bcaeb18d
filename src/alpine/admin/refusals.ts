import type { Context, MiddlewareHandler } from "hono";
import { AppError } from "../../errors";
import type { AppEnv } from "../../http/exchange";
import type { Principal, Scope } from "../../http/guard";
import { audit } from "../audit";
import { originOf, type Plane } from "../plane";

/** One of which everybody has whose token is known. */
const anyScope: readonly Scope[] = ["account", "signals:read", "signals:write"];

/**
 * Writes down who was refused what administrators alone may (403), at most once a minute of each:
 * somebody tries what is not theirs, or holds what was an administrator's.
 */
export function noteRefusals(plane: Plane): MiddlewareHandler<AppEnv> {
  const { alpine, now } = plane;
  return async function noted(c, next) {
    await next();
    if (!(c.error instanceof AppError) || c.error.code !== "forbidden") return;
    try {
      const { id, account } = await whoever(plane, c);
      const { allowed } = await alpine.windows.refusalNoted.take(`admin:${id}`);
      if (!allowed) return;
      const { method, routePath: route } = c.req;
      const details = { method, route, ...(account?.keyId && { key_id: account.keyId }) };
      const entry = { event: "admin_refused", actorId: account?.userId ?? null, details } as const;
      await audit(alpine.db(), now(), originOf(plane, c), entry);
    } catch (error) {
      // The answer stands, whether it could be written down or not.
      plane.log.warn({ reason: String(error) }, "refused administration not written down");
    }
  };
}

async function whoever({ admission }: Plane, c: Context<AppEnv>): Promise<Principal> {
  if (c.env.principal) return c.env.principal;
  let refused: unknown;
  for (const scope of anyScope) {
    try {
      return await admission.holder(c.req.raw, c.env, scope);
    } catch (error) {
      refused = error;
    }
  }
  throw refused;
}
