import type { Stripe } from "stripe";
import type { Config } from "../../config";
import { AppError } from "../../errors";
import type { Plane } from "../plane";

type Place = Pick<Plane, "config" | "log">;

const clients = new WeakMap<Config, Promise<Stripe>>();

/** The way to Stripe; loaded when it is first needed. @throws AppError 409 where none is set up. */
export function stripeOf({ config }: Pick<Place, "config">): Promise<Stripe> {
  const { stripeSecretKey, stripeApiBase } = config;
  if (stripeSecretKey === null) {
    throw new AppError("conflict", "Nothing is sold at Stripe here: use the provider manual.");
  }
  const held = clients.get(config);
  if (held) return held;
  const opened = open(stripeSecretKey, stripeApiBase);
  clients.set(config, opened);
  return opened;
}

async function open(key: string, base: string | null): Promise<Stripe> {
  const { Stripe } = await import("stripe");
  const url = base === null ? null : new URL(base);
  return new Stripe(key, {
    httpClient: Stripe.createFetchHttpClient(),
    timeout: 10_000,
    maxNetworkRetries: 2,
    telemetry: false,
    ...(url && {
      host: url.hostname,
      port: url.port || (url.protocol === "https:" ? 443 : 80),
      protocol: url.protocol === "https:" ? "https" : "http",
    }),
  });
}

/**
 * Asks Stripe for something. What it says is for the operator's log: it may name prices and keys.
 * @throws AppError 409 where it is not set up, 503.
 */
export async function askStripe<T>(place: Place, ask: (stripe: Stripe) => Promise<T>): Promise<T> {
  const stripe = await stripeOf(place);
  try {
    return await ask(stripe);
  } catch (cause) {
    place.log.warn({ reason: String(cause) }, "Stripe did not do what it was asked for");
    throw new AppError("unavailable", "Stripe cannot be asked at the moment. Try again.", {
      retryAfterSeconds: 5,
      cause,
    });
  }
}
