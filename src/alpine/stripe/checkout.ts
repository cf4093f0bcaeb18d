import type { Tier } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import { baseUrl } from "../auth/mails";
import type { Plane } from "../plane";
import { lastAtStripe, readPlan } from "../subscriptions/store";
import { userById } from "../users/store";
import { askStripe } from "./client";

/**
 * Begins a checkout at Stripe. @returns where it is done.
 * @throws AppError 409 for a plan that is not sold there, 503.
 */
export async function startCheckout(
  plane: Plane,
  userId: string,
  tier: Tier,
  { withTrial }: { withTrial: boolean },
): Promise<string> {
  const { alpine, config } = plane;
  const { stripePriceId: price, trialDays } = await readPlan(alpine.db(), tier);
  if (price === null) throw new AppError("conflict", `The plan ${tier} is not sold at Stripe.`);
  const user = await userById(alpine.db(), userId);
  const before = await lastAtStripe(alpine.db(), userId);
  const back = `${baseUrl(config)}/`;
  // Their events come back with it: that is how we know whose they are, and what was sold.
  const metadata = { user_id: userId, tier, price_id: price };
  const session = await askStripe(plane, (stripe) =>
    stripe.checkout.sessions.create({
      mode: "subscription",
      client_reference_id: userId,
      metadata,
      line_items: [{ price, quantity: 1 }],
      subscription_data: {
        metadata,
        ...(withTrial && trialDays > 0 && { trial_period_days: trialDays }),
      },
      success_url: back,
      cancel_url: back,
      ...(before?.providerCustomer
        ? { customer: before.providerCustomer }
        : user && { customer_email: user.email }),
    }),
  );
  if (session.url !== null) return session.url;
  throw new AppError("unavailable", "Stripe gave no address to pay at. Try again.");
}
