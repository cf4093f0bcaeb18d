import type { Tier } from "../../../db/alpine/schema";
import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, type Origin } from "../audit";
import type { Plane } from "../plane";
import type { PlanRow } from "../plans/schema";
import { type Books, openInvoice, saveSubscription, voidOpenInvoices } from "./ledger";
import { changeOwn, mustHave } from "./own";
import { monthlyMinor, periodEndOf, prorated } from "./period";
import type { CurrentSubscription, SubscriptionRow } from "./schema";
import { openInvoiceOf, readPlan } from "./store";
import { askForStart } from "./subscribe";

/**
 * Changes the tier of somebody's own subscription. A dearer one counts from when its part of the
 * running period is paid, a cheaper one from the next period on; so does one of another interval
 * or currency, and any during a trial, after which a dearer one is to be paid first: there is
 * nothing to prorate. The present one takes back what was to come.
 * @throws AppError 409, 429, 503.
 */
export const changeTier = (
  plane: Plane,
  account: Account,
  tier: Tier,
  origin: Origin,
): Promise<CurrentSubscription> =>
  changeOwn(plane, account, origin, async (books, held) => {
    const row = mustHave(held);
    if (row.provider === "stripe") {
      throw new AppError("conflict", "This is sold at Stripe: change it in the portal.");
    }
    if (row.cancelAtPeriodEnd) {
      throw new AppError("conflict", "The subscription was cancelled. Resume it first.");
    }
    const plan = await readPlan(books.tx, tier);
    const to = await (row.status === "incomplete"
      ? beginOther(books, row, plan)
      : tier === row.tier
        ? stay(books, row)
        : isUpgrade(row, plan)
          ? upgrade(books, row, plan)
          : changeLater(books, row, plan));
    const details = { subscription_id: row.id, from: row.tier, to: tier, counts: to };
    const entry = { event: "subscription_changed", actorId: account.userId, details } as const;
    await audit(books.tx, books.nowMs, origin, entry);
  });

type Counts = "at once" | "when paid" | "next period";

/** What nobody has paid for yet is another one at once. */
async function beginOther(books: Books, row: SubscriptionRow, plan: PlanRow): Promise<Counts> {
  if (plan.tier === row.tier) throw sameTier();
  const now = new Date(books.nowMs);
  const { tier, priceMinor, currency, interval } = plan;
  const period = { periodStart: now, periodEnd: periodEndOf(now, now, interval), anchorAt: now };
  const status = priceMinor === 0 ? "active" : "incomplete";
  const next = { ...row, tier, priceMinor, currency, interval, status, ...period } as const;
  await voidOpenInvoices(books.tx, row.id);
  await saveSubscription(books, row, next, now);
  await askForStart(books, next);
  return "at once";
}

/** Takes back what was to come. */
async function stay(books: Books, row: SubscriptionRow): Promise<Counts> {
  const upgrading = await openUpgradeOf(books, row);
  if (row.nextTier === null && !upgrading) throw sameTier();
  if (upgrading) await voidOpenInvoices(books.tx, row.id);
  await saveSubscription(books, row, { ...row, nextTier: null }, new Date(books.nowMs));
  return "at once";
}

const isUpgrade = (row: SubscriptionRow, plan: PlanRow): boolean =>
  row.status !== "trialing" &&
  plan.interval === row.interval &&
  plan.currency === row.currency &&
  monthlyMinor(plan.priceMinor, plan.interval) > monthlyMinor(row.priceMinor, row.interval);

async function upgrade(books: Books, row: SubscriptionRow, plan: PlanRow): Promise<Counts> {
  const { tx, nowMs } = books;
  const open = await openInvoiceOf(tx, row.id);
  if (open) {
    const detail =
      open.reason === "upgrade"
        ? `An upgrade to ${open.tier} waits for its payment already.`
        : "An invoice is open: it is to be paid first.";
    throw new AppError("conflict", detail);
  }
  const now = new Date(nowMs);
  const [start, end] = [row.periodStart.getTime(), row.periodEnd.getTime()];
  const { tier, priceMinor } = plan;
  // Never for nothing: the last seconds of a period would begin a tier whose grace comes after them.
  const amountMinor = Math.max(1, prorated(priceMinor - row.priceMinor, end - nowMs, end - start));
  const asked = { reason: "upgrade", tier, priceMinor, amountMinor } as const;
  const period = { periodStart: now, periodEnd: row.periodEnd, createdAt: now };
  await openInvoice(tx, row, { ...asked, ...period });
  return "when paid";
}

async function changeLater(books: Books, row: SubscriptionRow, plan: PlanRow): Promise<Counts> {
  if (row.nextTier === plan.tier) {
    throw new AppError("conflict", `The tier ${plan.tier} comes with the next period already.`);
  }
  if (await openUpgradeOf(books, row)) await voidOpenInvoices(books.tx, row.id);
  await saveSubscription(books, row, { ...row, nextTier: plan.tier }, new Date(books.nowMs));
  return "next period";
}

async function openUpgradeOf({ tx }: Books, { id }: SubscriptionRow): Promise<boolean> {
  return (await openInvoiceOf(tx, id))?.reason === "upgrade";
}

const sameTier = () => new AppError("conflict", "This is the tier of the subscription already.");
