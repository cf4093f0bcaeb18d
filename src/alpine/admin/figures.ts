import { z } from "@hono/zod-openapi";
import { word } from "../../http/fields";
import type { Found, Namespace } from "../../platform/cache";
import type { Plane } from "../plane";

const ttlSeconds = 300;
const refreshAfter = 0.8;
const key = "all";

/** Asks for figures as they are now: a field of a query. */
export const fresh = word.optional().openapi({
  description: `Count anew: else the figures are up to ${ttlSeconds / 60} minutes old.`,
});

type Options<T> = {
  /** Of its place in the cache. */
  name: string;
  schema: z.ZodType<T>;
  load: () => Promise<T>;
  /** What is done before they are counted anew for somebody who asks for that. */
  prepare?: () => Promise<void>;
};

/**
 * Figures that cost a walk over many rows: kept for five minutes, loaded once for all who ask,
 * refreshed before they end, and counted anew for who asks for it.
 */
export class Figures<T> {
  readonly #kept: Namespace<T>;
  #running: Promise<unknown> = Promise.resolve();
  #next: Promise<Found<T>> | null = null;

  constructor(
    { alpine }: Pick<Plane, "alpine">,
    private readonly options: Options<T>,
  ) {
    const { name, schema } = options;
    const { cache } = alpine.options;
    this.#kept = cache.namespace({ name, schema, ttlSeconds, refreshAfter });
  }

  /** At once where they are held in process. */
  get(anew = false): Found<T> | Promise<Found<T>> {
    return anew ? this.#anew() : this.#kept.take(key, this.options.load);
  }

  /** One at a time; all who ask while one runs share the next, which begins after they have asked. */
  #anew(): Promise<Found<T>> {
    this.#next ??= this.#running.then(async () => {
      this.#next = null;
      await this.options.prepare?.();
      await this.#kept.invalidate(key);
      return this.#kept.get(key, this.options.load);
    });
    this.#running = this.#next.catch(() => undefined);
    return this.#next;
  }
}
