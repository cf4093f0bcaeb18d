import { expect, test } from "bun:test";
import { openAccounts } from "../harness/accounts.ts";
import { ROUTES, testMatrix } from "./matrix.ts";

test("every route is in the matrix, and the matrix holds no other", async () => {
  await using at = await openAccounts();
  const there = at.app.routes
    .filter(({ method }) => method !== "ALL")
    .map(({ method, path }) => `${method} ${path}`);
  expect([...new Set(there)].toSorted()).toEqual(Object.keys(ROUTES).toSorted());
});

testMatrix("in process", () => openAccounts({ env: { SIGNALS_ACCESS: "key" } }), 401);
