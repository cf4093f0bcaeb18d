import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { baseUrl } from "../auth/mails";
import type { Plane } from "../plane";
import { lastAtStripe } from "../subscriptions/store";
import { askStripe, stripeOf } from "./client";

/** Where somebody changes cards and plans at Stripe. @throws AppError 409 for who never paid there. */
export async function openPortal(plane: Plane, { userId }: Account): Promise<string> {
  await stripeOf(plane);
  const customer = (await lastAtStripe(plane.alpine.db(), userId))?.providerCustomer;
  if (!customer) throw new AppError("conflict", "You have bought nothing at Stripe.");
  const { url } = await askStripe(plane, (stripe) =>
    stripe.billingPortal.sessions.create({ customer, return_url: `${baseUrl(plane.config)}/` }),
  );
  return url;
}

/** Has a subscription end with its period, or go on. @throws AppError 503. */
export async function cancelAtStripe(
  plane: Plane,
  subscription: string,
  cancelled: boolean,
): Promise<void> {
  await askStripe(plane, (stripe) =>
    stripe.subscriptions.update(subscription, { cancel_at_period_end: cancelled }),
  );
}
