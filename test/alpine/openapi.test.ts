import { afterAll, beforeAll, expect, test } from "bun:test";
import { openAccounts, type Accounts } from "../harness/accounts.ts";
import { openApp } from "../harness/app.ts";
import { ROUTES } from "./matrix.ts";

type Security = Record<string, string[]>[];
type Document = {
  components: { securitySchemes: Record<string, { description: string; scheme: string }> };
  paths: Record<string, Record<string, { security?: Security }>>;
};

/** What each right of the matrix, which is tried with everybody, must be described as. */
const SECURITY: Record<string, Security | undefined> = {
  anybody: undefined,
  metrics: undefined,
  read: [{ session: [] }, { key: ["signals:read"] }, { operator: ["ARGO_READ_TOKEN"] }],
  plan: [{ session: [] }, { key: ["signals:read"] }, { operator: ["ARGO_SERVICE_TOKEN"] }],
  export: [{ session: [] }, { key: ["signals:read"] }, { operator: ["ARGO_READ_TOKEN"] }],
  write: [{ key: ["signals:write"] }, { operator: ["ARGO_WRITE_TOKEN"] }],
  // Its key is a parameter of the path.
  hook: undefined,
  account: [{ session: [] }],
  "admin:read": [{ session: ["admin"] }, { key: ["admin:read"] }],
  "admin:write": [{ session: ["admin"] }],
};

let at: Accounts;
beforeAll(async () => {
  at = await openAccounts({ env: { SIGNALS_ACCESS: "key" } });
});
afterAll(() => at[Symbol.asyncDispose]());

test("every route is described with what it asks for", async () => {
  const { components, paths } = await at.app.json<Document>("/openapi.json");
  const schemes = Object.keys(components.securitySchemes);
  expect(schemes.toSorted()).toEqual(["key", "operator", "session"]);
  for (const scheme of Object.values(components.securitySchemes)) {
    expect(scheme).toMatchObject({ scheme: "bearer", description: expect.stringMatching(/.{20}/) });
  }
  let described = 0;
  for (const [name, [right]] of Object.entries(ROUTES)) {
    const [method = "", path = ""] = name.split(" ");
    const operation = paths[path.replaceAll(/:(\w+)/g, "{$1}")]?.[method.toLowerCase()];
    if (!operation) continue;
    described += 1;
    expect([name, operation.security]).toEqual([name, SECURITY[right]]);
  }
  expect(described).toBe(Object.values(paths).flatMap((path) => Object.keys(path)).length);
});

test("without accounts there are the operator's tokens alone, and nobody needs one to read what is open", async () => {
  await using app = await openApp({ fixture: null, env: { SIGNALS_ACCESS: "open" } });
  const { components, paths } = await app.json<Document>("/openapi.json");
  expect(Object.keys(components.securitySchemes)).toEqual(["operator"]);
  expect(paths["/api/signals/latest"]?.["get"]?.security).toEqual([
    {},
    { operator: ["ARGO_READ_TOKEN"] },
  ]);
  expect(paths["/api/signals"]?.["post"]?.security).toEqual([{ operator: ["ARGO_WRITE_TOKEN"] }]);
});

test("revenue says which period its figures are of, and nothing of pages", async () => {
  type Described = { name?: string; description?: string; schema?: { description?: string } };
  const { components, paths } = await at.app.json<{
    components: { schemas: Record<string, { properties: Record<string, Described> }> };
    paths: Record<string, { get: { parameters: Described[] } }>;
  }>("/openapi.json");
  const flows = ["new_minor", "churned_minor", "new_count", "received_minor", "refunded_minor"];
  for (const name of flows) {
    const said = (of: string) => components.schemas[of]?.properties[name]?.description;
    expect(said("CurrencyRevenue")).toMatch(/in this month \(UTC\)/i);
    expect(said("RevenueMonth")).toMatch(/in that month/i);
  }
  for (const path of ["/api/admin/revenue", "/api/admin/security"]) {
    const { parameters } = (paths[path] as { get: { parameters: Described[] } }).get;
    expect(parameters.map(({ name }) => name)).toEqual(["fresh", "format"]);
    expect(JSON.stringify(parameters)).not.toMatch(/cursor|limit/);
  }
  expect(JSON.stringify(paths["/api/admin/invoices"])).toContain("from the cursor on");
});

test("a named shape that may be null is described as that shape or null, and keeps its own", async () => {
  type Described = { type?: unknown; allOf?: { type?: unknown }[] };
  const { components } = await at.app.json<{
    components: { schemas: Record<string, Described & { properties?: Record<string, Described> }> };
  }>("/openapi.json");
  const wrong = Object.entries(components.schemas).flatMap(([name, schema]) => {
    const both = Object.values(schema.properties ?? {}).some(({ allOf = [] }) =>
      allOf.some(({ type }) => Array.isArray(type)),
    );
    return Array.isArray(schema.type) || both ? [name] : [];
  });
  expect(wrong).toEqual([]);
});
