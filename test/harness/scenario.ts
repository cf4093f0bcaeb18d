/** Requests as tables: who asks for what, and what the answer must and must not hold. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openApp, READ_TOKEN, WRITE_TOKEN, type App, type AppOptions } from "./app.ts";

export type As = "guest" | "reader" | "writer" | "wrong";

/** `open` and `key` as said; `implied` is what a loopback host gets when nobody says anything. */
export type Access = "open" | "key" | "implied";

export interface Scenario {
  name: string;
  method?: string;
  path: string;
  /** An object is sent as JSON. */
  body?: unknown;
  headers?: Record<string, string>;
  as?: As;
  access?: Access;
  expect: {
    status: number;
    contains?: string[];
    notContains?: string[];
    /** Null: must not be there. */
    headers?: Record<string, string | RegExp | null>;
  };
}

export const tokens: Record<As, string | null> = {
  guest: null,
  reader: READ_TOKEN,
  writer: WRITE_TOKEN,
  wrong: "nobody-knows-this-token",
};

/** What nothing may ever show. */
const secrets = [READ_TOKEN, WRITE_TOKEN, "SQLITE_", "node_modules", ".worker.ts"];

/** The request of a scenario. */
export function requestOf(scenario: Scenario): Request {
  const { method = "GET", path, body } = scenario;
  const headers = new Headers(scenario.headers);
  const token = tokens[scenario.as ?? "guest"];
  if (token !== null && !headers.has("authorization")) {
    headers.set("Authorization", `Bearer ${token}`);
  }
  if (body !== undefined && !headers.has("content-type")) {
    headers.set("Content-Type", "application/json");
  }
  const text = typeof body === "string" || body === undefined ? body : JSON.stringify(body);
  return new Request(`http://argo.test${path}`, { method, headers, body: text ?? null });
}

/** Runs a table, each mode of access on one application. */
export function runScenarios(
  title: string,
  scenarios: readonly Scenario[],
  options: AppOptions = {},
): void {
  const modes = [...new Set(scenarios.map((scenario) => scenario.access ?? "implied"))];
  describe.each(modes)(`${title}, %s`, (access) => {
    let app: App;
    beforeAll(async () => {
      const said = access === "implied" ? {} : { SIGNALS_ACCESS: access };
      app = await openApp({ ...options, env: { ...options.env, ...said } });
    });
    afterAll(() => app[Symbol.asyncDispose]());

    for (const scenario of scenarios.filter((s) => (s.access ?? "implied") === access)) {
      test(scenario.name, async () => {
        const response = await app.send(requestOf(scenario));
        const text = await response.text();
        const { status, contains = [], notContains = [], headers = {} } = scenario.expect;
        expect(`${response.status} ${response.status === status ? "" : text}`).toBe(`${status} `);
        for (const part of contains) expect(text).toContain(part);
        for (const part of [...notContains, ...secrets]) expect(text).not.toContain(part);
        for (const [name, value] of Object.entries(headers)) {
          const got = response.headers.get(name);
          if (value instanceof RegExp) expect(got ?? "(none)").toMatch(value);
          else expect(got).toBe(value);
        }
      });
    }
  });
}
