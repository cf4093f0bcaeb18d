import type { Exchange } from "./exchange";
import type { Quota } from "./entitlement";
import { setQuota, setRemaining, setReset } from "./limit";

/**
 * The headers of answers that are asked for often: one object that each answer copies as a whole.
 * Setting them on every answer anew would cost more than all the rest of it.
 */
export class StampedHeaders {
  readonly headers: Headers;
  #quota: Quota | null = null;
  #resetAtSeconds = -1;

  constructor(shared: Headers, own: Record<string, string> = {}) {
    this.headers = new Headers(shared);
    for (const name in own) this.headers.set(name, own[name] as string);
  }

  /**
   * The same object at each call, with this request's id and quota: to be copied into a Response
   * before the next request is stamped. One that is not limited has no place among those that are.
   */
  stamp({ requestId, verdict }: Pick<Exchange, "requestId" | "verdict">): Headers {
    const { headers } = this;
    headers.set("X-Request-Id", requestId);
    if (!verdict) return headers;
    if (this.#quota !== verdict.quota) {
      this.#quota = verdict.quota;
      setQuota(headers, verdict);
    }
    setRemaining(headers, verdict);
    if (this.#resetAtSeconds !== verdict.resetAtSeconds) {
      this.#resetAtSeconds = verdict.resetAtSeconds;
      setReset(headers, verdict);
    }
    return headers;
  }
}
