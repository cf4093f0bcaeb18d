import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { mustAdminister } from "../admin/store";
import type { Origin } from "../audit";
import type { Plane } from "../plane";
import { settleTier } from "../plans/settle-tier";
import type { Books } from "../subscriptions/ledger";
import { catchUp, graceMsOf } from "../subscriptions/renew";
import type { SubscriptionRow } from "../subscriptions/schema";
import { lockLiveOf } from "../subscriptions/store";
import { lockUser } from "../users/store";
import type { PaymentRow } from "./schema";
import { bookedAs } from "./store";

/**
 * Runs what an administrator books for a user, whose subscription is brought up to the time of the
 * clock first; then the user's tier follows. Bookings are made one after the other.
 * @param work its `row` is null where there is no live subscription. @throws what it throws, 401, 403.
 */
export function bookFor(
  { alpine, config, now }: Plane,
  admin: Account,
  userId: string,
  origin: Origin,
  work: (books: Books, row: SubscriptionRow | null) => Promise<PaymentRow>,
): Promise<PaymentRow> {
  const nowMs = now();
  return alpine.changes.write(async (tx, tell) => {
    await mustAdminister(tx, admin);
    const graceMs = graceMsOf(config);
    const books: Books = { tx, tell, nowMs, graceMs, actorId: admin.userId, origin };
    // Money is booked for those, too, who have deleted their account.
    const owner = await lockUser(tx, userId);
    const held = owner ? await lockLiveOf(tx, userId) : null;
    const caught = owner && held ? await catchUp(books, owner, held) : null;
    const payment = await work(books, caught?.row ?? null);
    const user = caught?.user ?? owner;
    if (user) await settleTier(tx, tell, user, books);
    return payment;
  });
}

type Named = Pick<PaymentRow, "kind" | "reference" | "invoiceId" | "amountMinor" | "currency">;

/** What was booked under this reference already. @throws AppError 409 when that was something else. */
export async function replayed({ tx }: Books, given: Named): Promise<PaymentRow | undefined> {
  const booked = await bookedAs(tx, given.kind, given.reference);
  if (!booked) return undefined;
  const same =
    booked.invoiceId === given.invoiceId &&
    booked.amountMinor === given.amountMinor &&
    booked.currency === given.currency;
  if (same) return booked;
  throw new AppError("conflict", "Something else was booked under this reference.", {
    errors: [{ field: "reference", detail: "is taken" }],
  });
}

/** @throws AppError 422 that names one field of the body. */
export function wrong(field: string, detail: string): never {
  throw new AppError("unprocessable", `The body is not valid: ${field}.`, {
    errors: [{ field, detail }],
  });
}
