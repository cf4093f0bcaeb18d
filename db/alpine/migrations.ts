/** The migrations in their order, as texts: a compiled binary has no directory to read. */
import accounts from "./migrations/0000_accounts.sql" with { type: "text" };
import pending from "./migrations/0001_pending.sql" with { type: "text" };
import plans from "./migrations/0002_plans.sql" with { type: "text" };
import money from "./migrations/0003_money.sql" with { type: "text" };
import notices from "./migrations/0004_notices.sql" with { type: "text" };
import lists from "./migrations/0005_lists.sql" with { type: "text" };
import prices from "./migrations/0006_prices.sql" with { type: "text" };
import subscribers from "./migrations/0007_subscribers.sql" with { type: "text" };
import sales from "./migrations/0008_sales.sql" with { type: "text" };
import webhooks from "./migrations/0009_webhooks.sql" with { type: "text" };

export type Migration = { name: string; sql: string };

export const migrations: readonly Migration[] = [
  { name: "0000_accounts", sql: accounts },
  { name: "0001_pending", sql: pending },
  { name: "0002_plans", sql: plans },
  { name: "0003_money", sql: money },
  { name: "0004_notices", sql: notices },
  { name: "0005_lists", sql: lists },
  { name: "0006_prices", sql: prices },
  { name: "0007_subscribers", sql: subscribers },
  { name: "0008_sales", sql: sales },
  { name: "0009_webhooks", sql: webhooks },
];
