import type { Config } from "../config";
import type { Logger } from "../platform/log";

/**
 * Warns once of a proxy that nobody told the server of: all of its clients would share the limits
 * of one address. `X-Forwarded-For` may as well be a client's own, so that it changes nothing.
 */
export function createForwardedWarning(
  { trustProxyHops }: Pick<Config, "trustProxyHops">,
  log: Logger,
): (headers: Headers) => void {
  let over = trustProxyHops > 0;
  return (headers) => {
    if (over || !headers.has("x-forwarded-for")) return;
    over = true;
    log.warn(
      "a request came with X-Forwarded-For, which is not believed: behind a proxy, where all clients would count as one, set TRUST_PROXY to the number of proxies",
    );
  };
}
