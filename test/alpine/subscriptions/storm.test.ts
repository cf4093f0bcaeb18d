/** Everything at once, on two servers whose clocks are apart: the books are whole all the time. */
import { expect, test } from "bun:test";
import { type SQL, sql } from "drizzle-orm";
import { subscriptions } from "../../../db/alpine/schema.ts";
import { recurringOf } from "../../../src/alpine/subscriptions/movements.ts";
import { openAccounts, type Accounts, type Member } from "../../harness/accounts.ts";
import { randomNumbers, tellSeed } from "../../harness/seed.ts";
import { DAY, Shop } from "../money.ts";
import { people } from "../people.ts";

const ROUNDS = Number(process.env["STORM_ROUNDS"] ?? 40);
const ACTS = 6;

/** What must find nothing, whatever has happened. */
const WRONG: Record<string, SQL> = {
  "owes two things": sql`SELECT subscription_id FROM invoices WHERE status = 'open'
    GROUP BY subscription_id HAVING count(*) > 1`,
  "has ended and owes": sql`SELECT i.id FROM invoices i JOIN subscriptions s ON s.id = subscription_id
    WHERE i.status = 'open' AND s.status = 'ended'`,
  "is late and owes nothing": sql`SELECT id FROM subscriptions s WHERE status = 'past_due' AND NOT
    EXISTS (SELECT 1 FROM invoices WHERE subscription_id = s.id AND status = 'open')`,
  "is paid without a payment, or the other way round": sql`SELECT i.id FROM invoices i
    LEFT JOIN payments p ON p.invoice_id = i.id AND p.kind = 'charge'
    WHERE (i.status = 'paid' AND i.amount_minor > 0) <> (p.id IS NOT NULL)`,
  "was paid twice": sql`SELECT invoice_id FROM payments WHERE kind = 'charge'
    GROUP BY invoice_id HAVING count(*) > 1`,
  "gave back more than came": sql`SELECT invoice_id FROM payments WHERE kind IN ('charge', 'refund')
    GROUP BY invoice_id
    HAVING sum(CASE kind WHEN 'charge' THEN amount_minor ELSE -amount_minor END) < 0`,
  "costs less than nothing, or more than all": sql`SELECT id FROM invoices
    WHERE amount_minor < 0 OR amount_minor > price_minor OR period_end <= period_start`,
  "has another tier than is due": sql`SELECT u.id FROM users u
    LEFT JOIN subscriptions s ON s.user_id = u.id AND s.status IN ('trialing', 'active', 'past_due')
    WHERE u.tier <> coalesce(u.tier_grant, s.tier, 'starter')`,
  "pays after they have left": sql`SELECT id FROM subscriptions s
    WHERE status <> 'ended' AND NOT EXISTS (SELECT 1 FROM users WHERE id = s.user_id)`,
  "was new twice": sql`SELECT user_id FROM revenue_movements WHERE kind = 'new'
    GROUP BY user_id HAVING count(DISTINCT subscription_id) > 1`,
};

async function mustBeWhole(at: Accounts): Promise<void> {
  for (const [what, query] of Object.entries(WRONG)) {
    expect({ what, rows: (await at.db().execute(query)).rows }).toEqual({ what, rows: [] });
  }
  const held = (await at.db().select().from(subscriptions)).flatMap((row) => {
    const { tier, currency, minor } = recurringOf(row) ?? { minor: 0 };
    return minor === 0 ? [] : [`${row.id} ${tier} ${currency} ${minor}`];
  });
  type Sum = { id: string; tier: string; currency: string; minor: string };
  const { rows: moved } = await at.db().execute<Sum>(sql`
    SELECT subscription_id AS id, tier, currency, sum(delta_minor) AS minor
    FROM revenue_movements GROUP BY subscription_id, tier, currency HAVING sum(delta_minor) <> 0`);
  const sums = moved.map(({ id, tier, currency, minor }) => `${id} ${tier} ${currency} ${minor}`);
  expect(sums.toSorted()).toEqual(held.toSorted());
}

test("whatever is asked at once, the books add up", async () => {
  tellSeed();
  // Just before a month that is shorter.
  await using at = await openAccounts({ now: Date.UTC(2027, 0, 31, 23, 59, 59, 500) });
  await using beside = await openAccounts({ beside: at, now: at.clock.ms });
  const random = randomNumbers();
  const below = (n: number): number => Math.floor(random() * n);
  const pick = <T>(values: readonly T[]): T => values[below(values.length)] as T;
  const shops = (at.backend === "embedded" ? [at] : [at, beside]).map((door) => new Shop(door));
  for (const shop of shops) await shop.boss();
  await shops[0]?.plan("starter", { trialDays: 14 });
  let crowd: Member[] = [];
  let references = 0;
  let done = 0;

  /** One thing that somebody does, chosen now and done later. */
  const act = (owed: Owed[], paid: Paid[]): (() => Promise<unknown>) => {
    const [shop, who, tier] = [pick(shops), pick(crowd), pick(["starter", "pro", "elite"])];
    const ask = async (by: Member | null, method: string, path: string, body?: unknown) => {
      // Whoever has left asks for nothing.
      const token = by ? await shop.token(by).catch(() => null) : await shop.boss();
      const { status } = await shop.at.call(method, path, body, token);
      expect({ path, status, failed: status >= 500 }).toMatchObject({ failed: false });
      if (status < 300) done += 1;
    };
    const own = (path: string, body?: unknown) => () =>
      ask(who, "POST", `/api/subscriptions${path}`, body);
    const boss = (method: string, path: string, body: unknown) => () =>
      ask(null, method, `/api/admin/${path}`, body);
    const [invoice, charge] = [owed[below(owed.length)], paid[below(paid.length)]];
    const pay = () => {
      if (!invoice) return own("", { tier });
      const { id: invoice_id, amount_minor, currency } = invoice;
      const reference = `paid ${(references += below(3))}`;
      return boss("POST", "payments", { invoice_id, amount_minor, currency, reference });
    };
    const refund = () => {
      if (!charge) return own("", { tier });
      const reference = `back ${(references += 1)}`;
      const amount_minor = 1 + below(charge.amount_minor);
      const body = { amount_minor, reference, end: below(3) === 0 };
      return boss("POST", `payments/${charge.id}/refund`, body);
    };
    const reprice = () =>
      boss("PATCH", `plans/${tier}`, {
        price_minor: pick([0, 1, 4_900, 9_999, 100_000_000]),
        interval: pick(["month", "month", "year"]),
        currency: pick(["USD", "USD", "EUR"]),
      });
    const kinds = [
      () => own("", { tier }),
      () => own("", { tier }),
      () => own("/change", { tier }),
      () => own("/change", { tier }),
      () => own("/cancel"),
      () => own("/resume"),
      pay,
      pay,
      pay,
      pay,
      refund,
      reprice,
      () => boss("PATCH", `users/${who.id}`, { tier: pick([null, "pro", "elite"]) }),
      () => () => shop.settle(),
      () => () =>
        below(4) === 0
          ? ask(who, "DELETE", "/api/users/account", { password: who.password })
          : shop.settle(),
    ];
    return pick(kinds)();
  };

  for (let round = 0; round < ROUNDS; round += 1) {
    at.clock.ms += pick([0, 0, 0, 0, 1_000, DAY, 6 * DAY, 7 * DAY, 13 * DAY, 31 * DAY, 70 * DAY]);
    beside.clock.ms = at.clock.ms + pick([0, 0, -3_000, 2_000]);
    if (round % 8 === 0) crowd = await people(at, 4);
    const { rows: owed } = await at.db().execute<Owed>(sql`SELECT id, amount_minor, currency
      FROM invoices WHERE amount_minor > 0 ORDER BY status = 'open' DESC, created_at DESC LIMIT 3`);
    const { rows: paid } = await at.db().execute<Paid>(sql`SELECT id, amount_minor
      FROM payments WHERE kind = 'charge' ORDER BY at DESC LIMIT 3`);
    await Promise.all(Array.from({ length: ACTS }, () => act(owed, paid)()));
    await mustBeWhole(at);
  }
  expect(done).toBeGreaterThan(ROUNDS / 4);
});

type Owed = { id: string; amount_minor: number; currency: string };
type Paid = { id: string; amount_minor: number };
