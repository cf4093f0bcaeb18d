import { expect, test } from "bun:test";
import { openApp, signal } from "../harness/app.ts";
import { runScenarios, tokens, type Access, type As, type Scenario } from "../harness/scenario.ts";

/** Who may: everybody, who reads, who has a plan (nobody here), who writes, or who holds the token of metrics. */
type Right = "public" | "read" | "plan" | "write" | "metrics";

interface Route {
  right: Right;
  /** A path that this route answers. */
  path: string;
  /** Where the token is a part of the path, the parameter that it stands for. */
  token?: string;
  /** Its answer to who may. */
  status?: number;
}

const HASH = "0".repeat(64);

/** Every route there is: one that is missing here fails the test below. */
const ROUTES: Record<string, Route> = {
  "GET /api/signals/latest": { right: "read", path: "/api/signals/latest" },
  "GET /api/signals/subscribed": { right: "plan", path: "/api/signals/subscribed" },
  "GET /api/signals": { right: "read", path: "/api/signals" },
  "GET /api/signals/export": { right: "read", path: "/api/signals/export?since_id=3480" },
  // A stream would not end.
  "GET /api/signals/stream": {
    right: "read",
    path: "/api/signals/stream?since_id=x",
    status: 400,
  },
  // No upgrade.
  "GET /api/signals/ws": { right: "read", path: "/api/signals/ws", status: 400 },
  "POST /api/signals/ws-ticket": { right: "read", path: "/api/signals/ws-ticket", status: 201 },
  "GET /api/signals/hash/:sha256": {
    right: "read",
    path: `/api/signals/hash/${HASH}`,
    status: 404,
  },
  "GET /api/signals/:id": { right: "read", path: "/api/signals/1" },
  "GET /api/stats": { right: "read", path: "/api/stats" },
  "POST /api/signals": { right: "write", path: "/api/signals", status: 201 },
  "POST /api/hooks/:key": {
    right: "write",
    path: "/api/hooks/:key?template=signal",
    token: ":key",
    status: 201,
  },
  "POST /api/batch": { right: "public", path: "/api/batch", status: 422 },
  "GET /livez": { right: "public", path: "/livez" },
  "GET /readyz": { right: "public", path: "/readyz" },
  "GET /health": { right: "public", path: "/health" },
  "GET /version": { right: "public", path: "/version" },
  "GET /metrics": { right: "metrics", path: "/metrics" },
  "GET /openapi.json": { right: "public", path: "/openapi.json" },
  "GET /docs": { right: "public", path: "/docs" },
  "GET /docs/": { right: "public", path: "/docs/", status: 308 },
  "GET /docs/start.js": { right: "public", path: "/docs/start.js" },
  "GET /docs/swagger-ui-bundle.js": { right: "public", path: "/docs/swagger-ui-bundle.js" },
  "GET /docs/swagger-ui.css": { right: "public", path: "/docs/swagger-ui.css" },
  "GET /": { right: "public", path: "/" },
  "GET /start.js": { right: "public", path: "/start.js" },
  "GET /start.css": { right: "public", path: "/start.css" },
};

test("every route is in the matrix, and the matrix holds no other", async () => {
  await using app = await openApp({ fixture: null });
  const there = app.routes
    .filter(({ method }) => method !== "ALL")
    .map(({ method, path }) => `${method} ${path}`);
  expect([...new Set(there)].toSorted()).toEqual(Object.keys(ROUTES).toSorted());
});

const PROXIED: Record<string, string>[] = [
  { Forwarded: "for=192.0.2.1" },
  { "X-Forwarded-For": "192.0.2.1" },
  { "X-Forwarded-Proto": "https" },
  { "X-Forwarded-Whatever": "1" },
  { Via: "1.1 proxy" },
];

function statusFor(route: Route, as: As, readable: boolean): number {
  const yes = route.status ?? 200;
  if (route.right === "public") return yes;
  if (route.right === "metrics") return 401;
  if (route.right === "write") return as === "writer" ? yes : as === "reader" ? 403 : 401;
  if (route.right === "plan") return as === "reader" || as === "writer" ? 403 : 401;
  if (as === "guest") return readable ? yes : 401;
  return as === "reader" ? yes : as === "writer" ? 403 : 401;
}

function scenariosOf(access: Access, headers: Record<string, string>, readable: boolean) {
  const roles: As[] = ["guest", "reader", "writer", "wrong"];
  return Object.entries(ROUTES).flatMap(([name, route]) =>
    roles.map((as): Scenario => {
      const status = statusFor(route, as, readable);
      const [method = "GET"] = name.split(" ");
      const denied = status === 401 || status === 403;
      const through = Object.keys(headers).join("");
      return {
        name: `${as} ${name}${through === "" ? "" : ` through a proxy (${through})`}`,
        access,
        method,
        path: route.token ? route.path.replace(route.token, tokens[as] ?? "nobody") : route.path,
        as,
        headers,
        body: method === "POST" ? signal() : undefined,
        expect: {
          status,
          contains: denied ? [`"status":${status}`] : [],
          notContains: denied ? ["SPX", "entry_price"] : [],
          headers: {
            "WWW-Authenticate": status === 401 ? /^Bearer realm=/ : null,
            "X-Content-Type-Options": "nosniff",
            "X-Request-Id": /./,
          },
        },
      };
    }),
  );
}

runScenarios("who may do what", [
  ...scenariosOf("open", {}, true),
  ...PROXIED.flatMap((headers) => scenariosOf("open", headers, true)),
  ...scenariosOf("key", {}, false),
  ...scenariosOf("implied", {}, true),
  ...PROXIED.flatMap((headers) => scenariosOf("implied", headers, false)),
]);

runScenarios(
  "without a token configured nobody writes",
  (["guest", "writer", "wrong"] as const).map((as): Scenario => ({
    name: as,
    method: "POST",
    path: "/api/signals",
    as,
    body: signal(),
    expect: { status: 401, contains: ['"code":"unauthorized"'] },
  })),
  { env: { ARGO_WRITE_TOKEN: undefined } },
);

const malformed = [
  "Bearer",
  "Bearer ",
  "Basic cmVhZGVyOng=",
  "reader-token-0123456789",
  "Bearer a b",
];
runScenarios(
  "an Authorization header that is no good token is 401 where guests may read",
  malformed.map((authorization): Scenario => ({
    name: JSON.stringify(authorization),
    access: "open",
    path: "/api/signals/latest",
    headers: { authorization },
    expect: { status: 401, contains: ["The Bearer token is not known."] },
  })),
);
