import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { users } from "../../db/alpine/schema.ts";
import type { AccountsClient, Member } from "../harness/accounts.ts";
import { READ_TOKEN, signal, WRITE_TOKEN } from "../harness/app.ts";

/** Who may do what, for every route there is and everybody who may come (H1). */

/** What a route asks for; `anybody` asks for nothing. Signals are read by a plan or without one. */
type Right =
  | "anybody"
  | "read"
  | "plan"
  | "export"
  | "write"
  | "hook"
  | "metrics"
  | "account"
  | "admin:read"
  | "admin:write";

const SOMEBODY = "0190a7c0-0000-7000-8000-000000000000";
const HASH = "0".repeat(64);

/** The right of each route, and what it answers to who has it, on a harmless request. */
export const ROUTES: Record<string, [right: Right, status: number, path?: string]> = {
  "GET /api/signals/latest": ["read", 200],
  "GET /api/signals/subscribed": ["plan", 200],
  "GET /api/signals/delivered": ["plan", 200],
  // A stream would not end.
  "GET /api/signals/stream": ["read", 400, "/api/signals/stream?since_id=x"],
  // No upgrade.
  "GET /api/signals/ws": ["read", 400],
  "POST /api/signals/ws-ticket": ["read", 201],
  "GET /api/signals": ["read", 200],
  "GET /api/signals/export": ["export", 200, "/api/signals/export?since_id=0"],
  "GET /api/signals/hash/:sha256": ["read", 404, `/api/signals/hash/${HASH}`],
  "GET /api/signals/:id": ["read", 404, "/api/signals/999999"],
  "GET /api/stats": ["read", 200],
  "POST /api/signals": ["write", 201],
  "POST /api/hooks/:key": [
    "hook",
    201,
    "/api/hooks/:key?symbol=/symbol&action=/action&entry_price=/entry_price&confidence=/confidence",
  ],
  // Each request in it is let in for itself.
  "POST /api/batch": ["anybody", 422],
  "GET /livez": ["anybody", 200],
  "GET /readyz": ["anybody", 200],
  "GET /health": ["anybody", 200],
  "GET /version": ["anybody", 200],
  "GET /metrics": ["metrics", 200],
  "GET /docs": ["anybody", 200],
  "GET /docs/": ["anybody", 308],
  "GET /docs/start.js": ["anybody", 200],
  "GET /docs/swagger-ui-bundle.js": ["anybody", 200],
  "GET /docs/swagger-ui.css": ["anybody", 200],
  "GET /": ["anybody", 200],
  "GET /start.js": ["anybody", 200],
  "GET /start.css": ["anybody", 200],
  "GET /openapi.json": ["anybody", 200],
  "POST /api/auth/signup": ["anybody", 422],
  "POST /api/auth/login": ["anybody", 422],
  "POST /api/auth/refresh": ["anybody", 422],
  "POST /api/auth/setup": ["anybody", 422],
  "POST /api/auth/verify-email": ["anybody", 422],
  "POST /api/auth/verify-email/resend": ["anybody", 422],
  "POST /api/auth/password/forgot": ["anybody", 422],
  "POST /api/auth/password/reset": ["anybody", 422],
  "POST /api/auth/logout": ["account", 204],
  "POST /api/auth/logout-all": ["account", 204],
  "GET /api/auth/me": ["account", 200],
  "POST /api/auth/password/change": ["account", 422],
  "POST /api/auth/totp/setup": ["account", 422],
  "POST /api/auth/totp/enable": ["account", 422],
  "POST /api/auth/totp/disable": ["account", 422],
  "POST /api/auth/totp/recovery-codes": ["account", 422],
  "POST /api/keys": ["account", 422],
  "GET /api/keys": ["account", 200],
  "GET /api/keys/:id": ["account", 404, `/api/keys/${SOMEBODY}`],
  "POST /api/keys/:id/rotate": ["account", 404, `/api/keys/${SOMEBODY}/rotate`],
  "DELETE /api/keys/:id": ["account", 404, `/api/keys/${SOMEBODY}`],
  "GET /api/users/profile": ["account", 200],
  "PUT /api/users/profile": ["account", 422],
  "DELETE /api/users/account": ["account", 422],
  "GET /api/users/export": ["account", 200],
  "GET /api/users/sessions": ["account", 200],
  "DELETE /api/users/sessions/:id": ["account", 404, `/api/users/sessions/${SOMEBODY}`],
  "GET /api/notifications": ["account", 200],
  "GET /api/notifications/unread-count": ["account", 200],
  "POST /api/notifications/read-all": ["account", 200],
  "POST /api/notifications/:id/read": ["account", 404, `/api/notifications/${SOMEBODY}/read`],
  "GET /api/notifications/preferences": ["account", 200],
  "PUT /api/notifications/preferences": ["account", 422],
  "GET /api/admin/users": ["admin:read", 200],
  "GET /api/admin/users/:id": ["admin:read", 404, `/api/admin/users/${SOMEBODY}`],
  "PATCH /api/admin/users/:id": ["admin:write", 422, `/api/admin/users/${SOMEBODY}`],
  "DELETE /api/admin/users/:id/sessions": [
    "admin:write",
    404,
    `/api/admin/users/${SOMEBODY}/sessions`,
  ],
  "GET /api/admin/audit": ["admin:read", 200],
  "GET /api/plans": ["anybody", 200],
  "GET /api/admin/plans": ["admin:read", 200],
  "PATCH /api/admin/plans/:tier": ["admin:write", 422, "/api/admin/plans/starter"],
  "GET /api/users/usage": ["account", 200],
  "GET /api/admin/usage": ["admin:read", 200],
  "GET /api/admin/analytics": ["admin:read", 200],
  "GET /api/admin/security": ["admin:read", 200],
  "GET /api/subscriptions": ["account", 200],
  "POST /api/subscriptions": ["account", 422],
  "POST /api/subscriptions/change": ["account", 422],
  "POST /api/subscriptions/cancel": ["account", 409],
  "POST /api/subscriptions/resume": ["account", 409],
  "POST /api/subscriptions/portal": ["account", 409],
  "GET /api/invoices": ["account", 200],
  "GET /api/payments": ["account", 200],
  "GET /api/admin/payments": ["admin:read", 200],
  "GET /api/admin/subscriptions": ["admin:read", 200],
  "GET /api/admin/invoices": ["admin:read", 200],
  "POST /api/admin/payments": ["admin:write", 422],
  "POST /api/admin/payments/failure": ["admin:write", 422],
  "POST /api/admin/payments/:id/refund": [
    "admin:write",
    422,
    `/api/admin/payments/${SOMEBODY}/refund`,
  ],
  // A starter's plan has no webhooks: what is wrong with the body is said first.
  "POST /api/webhooks": ["account", 422],
  "GET /api/webhooks": ["account", 200],
  "GET /api/webhooks/:id": ["account", 404, `/api/webhooks/${SOMEBODY}`],
  "PATCH /api/webhooks/:id": ["account", 422, `/api/webhooks/${SOMEBODY}`],
  "DELETE /api/webhooks/:id": ["account", 404, `/api/webhooks/${SOMEBODY}`],
  "POST /api/webhooks/:id/secret": ["account", 404, `/api/webhooks/${SOMEBODY}/secret`],
  "POST /api/webhooks/:id/test": ["account", 404, `/api/webhooks/${SOMEBODY}/test`],
  "GET /api/webhooks/:id/deliveries": ["account", 404, `/api/webhooks/${SOMEBODY}/deliveries`],
  "POST /api/webhooks/:id/deliveries/:delivery/replay": [
    "account",
    404,
    `/api/webhooks/${SOMEBODY}/deliveries/${SOMEBODY}/replay`,
  ],
  "POST /api/webhooks/:id/replay": ["account", 422, `/api/webhooks/${SOMEBODY}/replay`],
  "POST /api/webhooks/stripe": ["anybody", 404],
  "GET /api/admin/revenue": ["admin:read", 200],
};

/** Everybody who may come, and the rights that they have. */
const WHO: Record<string, Right[]> = {
  "somebody without a token": [],
  "the holder of an unknown key": [],
  "the holder of a revoked key": [],
  "the holder of a session that was ended": [],
  "the holder of a session of somebody disabled": [],
  "the holder of the key of somebody disabled": [],
  "a starter": ["read", "plan", "account"],
  "a pro": ["read", "plan", "account"],
  "an elite": ["read", "plan", "export", "account"],
  "a bot with a key": ["read", "plan"],
  "a bot with a key that has no scope of reading": ["admin:read"],
  "an administrator": ["read", "plan", "export", "account", "admin:read", "admin:write"],
  "a producer with the key of an administrator": ["write", "hook", "admin:read"],
  "the key of somebody who was an administrator": ["read", "plan"],
  "the operator's reading token": ["read", "export"],
  "the operator's writing token": ["write", "hook"],
};
const REFUSED_AS_UNKNOWN = new Set(Object.keys(WHO).slice(0, 6));

/** Sessions that a route may end are made anew. */
const ENDS_SESSIONS = new Set(["POST /api/auth/logout", "POST /api/auth/logout-all"]);

function statusFor(who: string, right: Right, yes: number): number {
  if (right === "anybody") return yes;
  if (WHO[who]?.includes(right)) return yes;
  return REFUSED_AS_UNKNOWN.has(who) ? 401 : 403;
}

/** Runs the whole matrix against accounts that are served somehow. */
export function testMatrix(
  title: string,
  open: () => Promise<AccountsClient & AsyncDisposable>,
  /** What /metrics answers: 200 to whoever asks directly from this machine. */
  metrics: 200 | 401,
  routes = ROUTES,
): void {
  describe(title, () => {
    let at: AccountsClient & AsyncDisposable;
    const tokens = new Map<string, string | null>();

    const MEMBERS = new Map<string, Member>();

    async function withTier(tier: "starter" | "pro" | "elite"): Promise<Member> {
      const member = await at.member();
      await at.db().update(users).set({ tier }).where(eq(users.id, member.id));
      return at.login(member.email);
    }

    beforeAll(async () => {
      at = await open();
      const admin = await at.admin();
      const patch = (id: string, change: unknown) =>
        at.must(200, "PATCH", `/api/admin/users/${id}`, change, admin.access);
      const key = async (member: Member, scopes: string[]) => at.key(member, scopes);

      tokens.set("somebody without a token", null);
      tokens.set("the holder of an unknown key", `argo_live_${"a".repeat(38)}`);

      const starter = await withTier("starter");
      const revoked = await at.must<{ id: string; key: string }>(
        201,
        "POST",
        "/api/keys",
        { name: "to be revoked", scopes: ["signals:read"] },
        starter.access,
      );
      await at.must(204, "DELETE", `/api/keys/${revoked.id}`, undefined, starter.access);
      tokens.set("the holder of a revoked key", revoked.key);

      const ended = await at.member();
      await at.must(204, "POST", "/api/auth/logout", undefined, ended.access);
      tokens.set("the holder of a session that was ended", ended.access);

      const disabled = await at.member();
      tokens.set(
        "the holder of the key of somebody disabled",
        await key(disabled, ["signals:read"]),
      );
      await patch(disabled.id, { is_active: false });
      tokens.set("the holder of a session of somebody disabled", disabled.access);

      for (const [who, member] of [
        ["a starter", starter],
        ["a pro", await withTier("pro")],
        ["an elite", await withTier("elite")],
        ["an administrator", admin],
      ] as const) {
        MEMBERS.set(who, member);
        tokens.set(who, member.access);
      }
      tokens.set("a bot with a key", await key(starter, ["signals:read"]));
      tokens.set("a bot with a key that has no scope of reading", await key(admin, ["admin:read"]));
      tokens.set(
        "a producer with the key of an administrator",
        await key(admin, ["signals:write", "admin:read"]),
      );
      const was = await at.admin();
      const wasKey = await key(was, ["signals:read", "signals:write", "admin:read"]);
      await patch(was.id, { role: "user" });
      tokens.set("the key of somebody who was an administrator", wasKey);
      tokens.set("the operator's reading token", READ_TOKEN);
      tokens.set("the operator's writing token", WRITE_TOKEN);
    });
    afterAll(() => at[Symbol.asyncDispose]());

    describe.each(Object.keys(WHO))("%s", (who) => {
      test.each(Object.entries(routes))("%s", async (name, [right, yes, given]) => {
        const [method = "GET", pattern = ""] = name.split(" ");
        let token = tokens.get(who);
        // The key of a hook is a part of its path.
        const path = (given ?? pattern).replace(":key", token ?? "nobody");
        const member = MEMBERS.get(who);
        if (member && ENDS_SESSIONS.has(name)) {
          token = (await at.login(member.email)).access;
        }
        const body =
          right === "write" || right === "hook"
            ? signal()
            : ["POST", "PUT", "PATCH"].includes(method) && !ENDS_SESSIONS.has(name)
              ? {}
              : name === "DELETE /api/users/account"
                ? {}
                : undefined;
        const response = await at.call(method, path, body, token);
        const text = await response.text();
        const status = right === "metrics" ? metrics : statusFor(who, right, yes);
        expect(`${response.status} ${response.status === status ? "" : text}`).toBe(`${status} `);
        expect(response.headers.has("www-authenticate")).toBe(status === 401);
        expect(text).not.toContain("$argon2");
        if (status === 401 || status === 403) {
          expect(response.headers.get("content-type")).toBe("application/problem+json");
        }
        // Those who were logged out everywhere come back.
        if (member && name === "POST /api/auth/logout-all") {
          tokens.set(who, (await at.login(member.email)).access);
        }
      });
    });
  });
}
