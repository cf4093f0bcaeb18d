import { expect, test } from "bun:test";
import type { Revenue } from "../../../src/alpine/revenue/schema.ts";
import { openAccounts } from "../../harness/accounts.ts";
import { Shop } from "../money.ts";
import { person } from "../people.ts";

test("revenue is kept for five minutes, counted anew for who asks, and given as a table", async () => {
  await using at = await openAccounts({ now: Date.UTC(2027, 0, 31, 23) });
  const shop = new Shop(at);
  const read = async (query = "") =>
    at.must<Revenue>(200, "GET", `/api/admin/revenue${query}`, undefined, await shop.boss());
  expect((await read()).currencies).toEqual([]);
  const who = await person(at);
  await shop.subscribe(who, "pro");
  await shop.pay(who);
  expect((await read()).currencies).toEqual([]);
  const { currencies } = await read("?fresh=1");
  expect(currencies).toMatchObject([
    {
      currency: "USD",
      mrr_minor: 14_900,
      arr_minor: 178_800,
      new_count: 1,
      received_minor: 14_900,
    },
  ]);
  expect(await read()).toMatchObject({ currencies });

  // The next month has nothing new; the months before had nothing at all.
  at.clock.ms += 2 * 3_600_000;
  const [later] = (await read("?fresh=true")).currencies;
  expect(later).toMatchObject({ mrr_minor: 14_900, new_minor: 0, received_minor: 0 });
  expect(later?.months.map(({ month, mrr_minor }) => `${month} ${mrr_minor}`).slice(-3)).toEqual([
    "2026-12 0",
    "2027-01 14900",
    "2027-02 14900",
  ]);
  const path = "/api/admin/revenue?format=csv";
  const table = await at.call("GET", path, undefined, await shop.boss());
  expect(table.headers.get("content-type")).toBe("text/csv; charset=utf-8");
  const [head, ...lines] = (await table.text()).trim().split("\r\n");
  expect(head).toMatch(/^currency,month,mrr_minor,new_minor/);
  expect(lines).toHaveLength(12);
  expect(lines.at(-1)).toMatch(/^USD,2027-02,14900,0/);
  expect((await at.call("GET", `${path}&fresh=maybe`, undefined, await shop.boss())).status).toBe(
    400,
  );
  expect((await at.call("GET", path, undefined, await shop.token(who))).status).toBe(403);
});
