import { afterAll, beforeAll, expect, test } from "bun:test";
import { viewFrom, viewOf, viewText } from "../../src/http/entitlement.ts";
import {
  fieldsOf,
  openApp,
  READ_TOKEN,
  SERVICE_TOKEN,
  WRITE_TOKEN,
  type App,
} from "../harness/app.ts";

/** The header by which a server without signals of its own reads with somebody's view. */

const HEADER = "Argo-View";
const PATHS = [
  "/api/signals/latest",
  "/api/signals",
  "/api/signals/export",
  "/api/signals/1",
  `/api/signals/hash/${"0".repeat(64)}`,
  "/api/stats",
];

let app: App;
beforeAll(async () => {
  app = await openApp({ env: { RATE_LIMIT_PER_MINUTE: "5", SIGNALS_ACCESS: "key" } });
});
afterAll(() => app[Symbol.asyncDispose]());

const ask = (path: string, view: string, token = SERVICE_TOKEN): Promise<Response> =>
  app.get(path, { Authorization: `Bearer ${token}`, [HEADER]: view });

test("a view is written in one way", () => {
  for (const view of [viewOf(true, 0), viewOf(false, 900), viewOf(false, 999_999_999)]) {
    expect(viewFrom(viewText(view))).toBe(view);
  }
});

test("every route of readers says whose view it answers, whatever it answers", async () => {
  for (const path of [...PATHS, "/api/signals/latest?limit=0", "/api/signals?cursor=x"]) {
    const view = "premium=false, delay_seconds=900";
    const response = await ask(path, view);
    await response.text();
    expect(`${path} ${response.headers.get(HEADER)}`).toBe(`${path} ${view}`);
  }
});

test("one that is not written so is refused, and no other is answered in its place", async () => {
  const bad = ["", "premium=no", "premium=true,delay_seconds=0", "premium=true, delay_seconds=-1"];
  bad.push("premium=true, delay_seconds=1e3", "premium=true, delay_seconds=00", "delay_seconds=1");
  for (const view of bad) {
    for (const path of PATHS) {
      const response = await ask(path, view);
      expect(`${view} ${response.status}`).toBe(`${view} 400`);
      expect(await fieldsOf(response)).toEqual([HEADER]);
    }
  }
});

test("who asks so has limited its readers itself, and no other token is let through by it", async () => {
  for (let i = 0; i < 20; i += 1) {
    for (const path of ["/api/signals/latest", "/api/stats"]) {
      const response = await ask(path, "premium=true, delay_seconds=0");
      await response.text();
      expect(response.status).toBe(200);
      expect(response.headers.get("RateLimit")).toBeNull();
    }
  }
  const others = [WRITE_TOKEN, "nobodys-token-0123456789"];
  for (const token of others) {
    const response = await ask("/api/signals/latest", "premium=true, delay_seconds=0", token);
    expect([401, 403]).toContain(response.status);
    expect(response.headers.get(HEADER)).toBeNull();
  }
  // A reader's token is limited as ever, whatever it says.
  const statuses: number[] = [];
  for (let i = 0; i < 6; i += 1) {
    const response = await ask(PATHS[0] ?? "", "premium=true, delay_seconds=0", READ_TOKEN);
    expect(response.headers.get(HEADER)).toBeNull();
    statuses.push(response.status);
  }
  expect(statuses).toEqual([200, 200, 200, 200, 200, 429]);
});
