import type { MiddlewareHandler } from "hono";
import { AppError } from "../../errors";
import type { AppEnv } from "../../http/exchange";
import { audit } from "../audit";
import { originOf, type Plane } from "../plane";

/**
 * Writes down who was refused what administrators alone may (403), at most once a minute of each:
 * somebody tries what is not theirs, or holds what was an administrator's.
 */
export function noteRefusals(plane: Plane): MiddlewareHandler<AppEnv> {
  const { alpine, now } = plane;
  return async function noted(c, next) {
    await next();
    const { principal } = c.env;
    if (!principal || !(c.error instanceof AppError) || c.error.code !== "forbidden") return;
    const { id, account } = principal;
    try {
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
