import { getPath } from "hono/utils/url";

/** Where alerts are posted; its last part is a secret. */
export const hookPath = "/api/hooks/:key";

/** Where several reads are asked for at once. */
export const batchPath = "/api/batch";

/**
 * The path of a request, as the router reads it. A request of HTTP/1.0 may come without a host,
 * and then its URL is a path alone.
 */
export function pathOf(request: Request): string {
  const { url } = request;
  return getPath(url.startsWith("/") ? ({ url: `http://host${url}` } as Request) : request);
}

/** A path as it may be told: without the key of a hook, however it was misspelt. */
export const shownPath = (path: string): string =>
  path.replace(/((?:\/|%2f)hooks)(?:\/|\\|%2f|%5c).*/is, "$1/:key");
