/** A year of a small business, day by day, beside a plain model of it. */
import { expect, test } from "bun:test";
import { sql } from "drizzle-orm";
import { openAccounts, type Member } from "../harness/accounts.ts";
import { randomNumbers, SEED, tellSeed } from "../harness/seed.ts";
import type { Analytics } from "../../src/alpine/admin/analytics.ts";
import { Business, type Customer, type TierName, TIERS } from "./business.ts";
import { DAY, Shop } from "./money.ts";
import { alpineOf, person } from "./people.ts";

const ACCOUNTS = 40;
const DAYS = 366;
/** The leap day is in it, and so is a month of 31 days on each side of a shorter one. */
const BEGIN = Date.UTC(2027, 11, 20);

const random = randomNumbers();
const below = (n: number): number => Math.floor(random() * n);
const chance = (part: number): boolean => random() < part;
const pick = <T>(values: readonly T[]): T => values[below(values.length)] as T;

interface Account {
  member: Member;
  key: string;
  is: Customer;
  /** Ids of the payments, as the model numbers them. */
  payments: string[];
}

test(`a year of ${ACCOUNTS} accounts: revenue, numbers and rights are those of the model on every day`, async () => {
  tellSeed();
  await using at = await openAccounts({ now: BEGIN });
  const shop = new Shop(at);
  const alpine = alpineOf(at);
  const model = new Business(
    {
      starter: { cents: 4_900, currency: "USD", every: "month", trialDays: 0 },
      pro: { cents: 14_900, currency: "USD", every: "month", trialDays: 0 },
      elite: { cents: 49_900, currency: "USD", every: "month", trialDays: 0 },
    },
    7,
  );
  const accounts: Account[] = [];
  const done = new Map<string, number>();
  const count = (what: string, status: number) => {
    const name = `${what} ${status}`;
    done.set(name, (done.get(name) ?? 0) + 1);
  };

  /** Asks the server; it must answer as the model does. */
  const ask = async (
    what: string,
    status: number,
    path: string,
    body: unknown,
    by: string,
    method = "POST",
  ): Promise<Record<string, string>> => {
    const answer = await at.call(method, path, body, by);
    const text = await answer.text();
    const when = new Date(at.clock.ms).toISOString();
    if (answer.status !== status) {
      throw new Error(
        `TEST_SEED=${SEED} ${when} ${what}: ${answer.status}, not ${status}: ${text}`,
      );
    }
    count(what, status);
    return (text === "" ? {} : JSON.parse(text)) as Record<string, string>;
  };

  const join = async (): Promise<void> => {
    const member = await person(at);
    const key = await at.key(member);
    accounts.push({ member, key, is: model.join(at.clock.ms), payments: [] });
  };

  const editPlan = async (): Promise<void> => {
    const tier = pick(TIERS);
    const offer = model.offers[tier];
    const usual = { starter: 4_900, pro: 14_900, elite: 49_900 }[tier];
    const kind = below(10);
    if (kind < 5) offer.cents = Math.round(usual * (0.8 + random() * 0.5)) + below(7);
    else if (kind < 7) offer.trialDays = pick([0, 7, 14, 30]);
    else if (kind < 9) {
      offer.every = offer.every === "month" ? "year" : "month";
      // A year is a twelfth a month: most prices are near the half.
      offer.cents = offer.every === "month" ? usual : 12 * below(usual) + pick([5, 6, 6, 7]);
    } else offer.currency = offer.currency === "USD" ? "EUR" : "USD";
    const { cents, currency, every, trialDays } = offer;
    const body = { price_minor: cents, currency, interval: every, trial_days: trialDays };
    await ask("plan", 200, `/api/admin/plans/${tier}`, body, await shop.boss(), "PATCH");
  };

  const act = async ({ member, is, payments }: Account): Promise<void> => {
    const now = at.clock.ms;
    const own = (path: string) => `/api/subscriptions${path}`;
    const owed = is.contract?.bill;
    const kind = owed && chance(0.5) ? 0 : below(16);
    if (kind <= 3 && owed) {
      const { open_invoice: invoice } = await shop.current(member);
      const boss = await shop.boss();
      const body = {
        invoice_id: invoice?.id,
        amount_minor: owed.cents,
        currency: owed.currency,
        reference: shop.reference(),
      };
      if (chance(0.15)) {
        const { invoice_id, reference } = body;
        return void (await ask(
          "failure",
          201,
          "/api/admin/payments/failure",
          { invoice_id, reference },
          boss,
        ));
      }
      if (chance(0.1)) {
        await ask(
          "wrong amount",
          422,
          "/api/admin/payments",
          { ...body, amount_minor: owed.cents + 1 },
          boss,
        );
      }
      const paid = await ask("pay", 201, "/api/admin/payments", body, boss);
      payments.push(paid["id"] ?? "");
      model.pay(is, now);
      if (chance(0.2)) {
        const again = await ask("pay again", 201, "/api/admin/payments", body, await shop.boss());
        expect(again).toEqual(paid);
      }
    } else if (kind <= 5) {
      const tier = pick(TIERS);
      await ask(
        "subscribe",
        model.subscribe(is, tier, now),
        own(""),
        { tier },
        await shop.token(member),
      );
    } else if (kind <= 9) {
      const tier = pick(TIERS);
      await ask(
        "change",
        model.change(is, tier, now),
        own("/change"),
        { tier },
        await shop.token(member),
      );
    } else if (kind === 10) {
      if (chance(0.6))
        await ask(
          "cancel",
          model.cancel(is, now),
          own("/cancel"),
          undefined,
          await shop.token(member),
        );
    } else if (kind === 11) {
      await ask("resume", model.resume(is), own("/resume"), undefined, await shop.token(member));
    } else if (kind === 12 && payments.length > 0) {
      const charge = below(payments.length);
      const { cents } = is.charges[charge] ?? { cents: 0 };
      const amount_minor = Math.max(1, Math.ceil(cents * pick([0.25, 0.5, 1])));
      const end = chance(0.3);
      const status = model.refund(is, charge, amount_minor, end, now);
      const body = { amount_minor, end, reference: shop.reference() };
      await ask(
        "refund",
        status,
        `/api/admin/payments/${payments[charge]}/refund`,
        body,
        await shop.boss(),
      );
    } else if (kind === 13 && chance(0.3)) {
      is.grant = is.grant ? null : pick(TIERS);
      await ask(
        "grant",
        200,
        `/api/admin/users/${member.id}`,
        { tier: is.grant },
        await shop.boss(),
        "PATCH",
      );
    } else if (kind === 14 && chance(0.03)) {
      const body = { password: member.password };
      await ask("leave", 204, "/api/users/account", body, await shop.token(member), "DELETE");
      model.leave(is, now);
    }
  };

  const compare = async (): Promise<void> => {
    const now = at.clock.ms;
    const boss = await shop.boss();
    const when = `TEST_SEED=${SEED}, ${new Date(now).toISOString()}`;
    const { currencies } = await shop.revenue();
    expect({ when, currencies }).toEqual({ when, currencies: model.report(now) as never });

    const { rows } = await at
      .db()
      .execute<{ id: string; tier: TierName }>(sql`SELECT id, tier FROM users WHERE role = 'user'`);
    const there = accounts.filter(({ is }) => !is.left);
    const tiers = Object.fromEntries(there.map(({ member, is }) => [member.id, model.tierOf(is)]));
    expect({ when, tiers: Object.fromEntries(rows.map((r) => [r.id, r.tier])) }).toEqual({
      when,
      tiers,
    });
    const { rows: contracts } = await at.db().execute<{ contract: string }>(sql`
      SELECT concat_ws(' ', s.user_id, s.status, s.tier, s.next_tier, s.cancel_at_period_end,
        extract(epoch FROM s.period_end) * 1000, i.reason, i.tier, i.amount_minor) AS contract
      FROM subscriptions s
      LEFT JOIN invoices i ON i.subscription_id = s.id AND i.status = 'open'
      WHERE s.status <> 'ended'`);
    const words = { waiting: "incomplete", trial: "trialing", paid: "active", late: "past_due" };
    const written = there.flatMap(({ member, is: { contract } }) => {
      if (!contract) return [];
      const { state, tier, next, cancelled, end, bill } = contract;
      const owes = bill && [bill.for, bill.tier, `${bill.cents}`];
      // Nobody knows when a period ends that has not begun.
      const until = state === "waiting" ? [] : [`${end}.000000`];
      const is = [member.id, words[state], tier, next ?? [], cancelled ? "t" : "f", until];
      return is
        .concat(owes ?? [])
        .flat()
        .join(" ");
    });
    const known = contracts.map(({ contract }) =>
      contract.replace(/( incomplete .* )\d+\.0+ /, "$1"),
    );
    expect({ when, contracts: known.toSorted() }).toEqual({ when, contracts: written.toSorted() });
    for (const { key, member } of there) {
      const held = alpine.credentials.identify(key, `Bearer ${key}`);
      const account = held instanceof Promise ? undefined : held?.account;
      const tier = tiers[member.id] ?? "starter";
      const given = account?.entitlement === alpine.plans.entitlementOf(tier, "user");
      expect({ when, tier: account?.tier, given }).toEqual({ when, tier, given: true });
    }

    const path = "/api/admin/analytics?fresh=1";
    const numbers = await at.must<Analytics>(200, "GET", path, undefined, boss);
    const sinceWhen = (from: number) => there.filter(({ is }) => is.joined >= from).length;
    const today = now - (now % DAY);
    const weekday = (new Date(now).getUTCDay() + 6) % 7;
    const of = (tier: TierName) => Object.values(tiers).filter((t) => t === tier).length;
    const admins = 1;
    expect({ when, ...numbers }).toMatchObject({
      when,
      total_users: there.length + admins,
      active_users: there.length + admins,
      users_by_tier: { starter: of("starter") + admins, pro: of("pro"), elite: of("elite") },
      new_users_today: sinceWhen(today),
      new_users_this_week: sinceWhen(today - weekday * DAY),
      new_users_this_month: sinceWhen(Date.parse(`${new Date(now).toISOString().slice(0, 7)}-01`)),
    });
  };

  at.clock.ms = BEGIN - 40 * DAY;
  let daysAway = 0;
  await shop.boss();
  for (let day = 0, away = 0; day < DAYS; day += 1, away -= 1) {
    // Sometimes nothing runs for days: what was due meanwhile is done afterwards, as of then.
    if (away <= 0 && chance(0.015)) away = 1 + below(10);
    if (away > 0 && day < DAYS - 1) {
      model.advance(BEGIN + (day + 1) * DAY - 1);
      model.close(BEGIN + (day + 1) * DAY - 1);
      daysAway += 1;
      continue;
    }
    const moments = [below(DAY), below(DAY), below(DAY)].toSorted((a, b) => a - b);
    for (const moment of moments) {
      at.clock.ms = BEGIN + day * DAY + moment;
      await shop.settle();
      model.advance(at.clock.ms);
      if (accounts.length < ACCOUNTS && chance(0.12)) await join();
      if (chance(0.02)) await editPlan();
      for (const account of accounts) {
        if (!account.is.left && chance(0.06)) await act(account);
      }
    }
    at.clock.ms = BEGIN + (day + 1) * DAY - 1;
    await shop.settle();
    model.advance(at.clock.ms);
    model.close(at.clock.ms);
    await compare();
  }
  // All that ever changed revenue, to the millisecond.
  const { rows } = await at.db().execute<{ moved: string }>(sql`
    SELECT concat_ws(' ', user_id, kind, round(extract(epoch FROM at) * 1000), currency,
      abs(sum(delta_minor))) AS moved
    FROM revenue_movements GROUP BY user_id, subscription_id, kind, at, currency`);
  const noted = model.movements.map(({ customer, kind, at: when, currency, cents }) => {
    const word = kind === "churned" ? "churn" : kind;
    return [accounts[customer]?.member.id, word, when, currency, cents].join(" ");
  });
  expect(rows.map(({ moved }) => moved).toSorted()).toEqual(noted.toSorted());
  const lines = [...done].toSorted().map(([what, times]) => `${what}×${times}`);
  console.log(
    `${DAYS} days, ${daysAway} of them off, ${accounts.length} accounts: ${lines.join(", ")}`,
  );
  expect(model.movements.length).toBeGreaterThan(100);
});
