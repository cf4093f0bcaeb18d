import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { NoQuery, UuidParam } from "../../http/fields";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { auditEntries, recordOf } from "../audit";
import { readPage, timePlaceOf } from "../page";
import { accountOf, originOf, type Plane } from "../plane";
import { userById } from "../users/store";
import { changeUser } from "./change-user";
import { endSessionsOf } from "./end-sessions";
import { noteRefusals } from "./refusals";
import {
  AdminUser,
  AdminUserList,
  adminUserOf,
  AuditList,
  auditQuery,
  UserChange,
  usersQuery,
} from "./schema";
import { findUsers, missingUser } from "./store";

/** What administrators see and do. Keys may look, sessions alone may change. */
export function adminRoutes(plane: Plane) {
  const { admission, alpine, config } = plane;
  const tags = ["admin"];
  const noted = noteRefusals(plane);
  const read = [noted, admission.holders("admin:read"), strictQuery];
  const write = [noted, admission.holders("admin:write"), strictQuery];
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const list = createRoute({
    method: "get",
    path: "/api/admin/users",
    tags,
    summary: "Users, newest first",
    middleware: read,
    request: { query: usersQuery(config.pageSizeMax) },
    responses: { 200: json(AdminUserList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(list, async (c) => {
    const { cursor, limit, ...filter } = c.req.valid("query");
    const { rows, ...page } = await readPage(
      alpine.cursors,
      ["admin users", accountOf(c).userId, filter],
      { cursor, limit },
      (after, limit) => findUsers(alpine.db(), filter, after, limit),
      timePlaceOf,
    );
    return c.json({ users: rows.map(adminUserOf), ...page }, 200);
  });

  const single = createRoute({
    method: "get",
    path: "/api/admin/users/{id}",
    tags,
    summary: "One user",
    middleware: read,
    request: { params: UuidParam, query: NoQuery },
    responses: { 200: json(AdminUser, "The user"), ...problems(400, 401, 403, 404, 429, 503) },
  });
  app.openapi(single, async (c) => {
    const row = await userById(alpine.db(), c.req.valid("param").id);
    return c.json(adminUserOf(row ?? missingUser()), 200);
  });

  const change = createRoute({
    method: "patch",
    path: "/api/admin/users/{id}",
    tags,
    summary: "Change the tier or role of a user, or shut them out",
    middleware: [...write, ...strictJson],
    request: { params: UuidParam, query: NoQuery, body: jsonBody(UserChange) },
    responses: {
      200: json(AdminUser, "The user as changed"),
      ...problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(change, async (c) => {
    const { id } = c.req.valid("param");
    const changed = c.req.valid("json");
    return c.json(await changeUser(plane, accountOf(c), id, changed, originOf(plane, c)), 200);
  });

  const endSessions = createRoute({
    method: "delete",
    path: "/api/admin/users/{id}/sessions",
    tags,
    summary: "Log a user out everywhere",
    middleware: write,
    request: { params: UuidParam, query: NoQuery },
    responses: {
      204: { description: "Their tokens are void" },
      ...problems(400, 401, 403, 404, 429, 503),
    },
  });
  app.openapi(endSessions, async (c) => {
    await endSessionsOf(plane, accountOf(c), c.req.valid("param").id, originOf(plane, c));
    return c.body(null, 204);
  });

  const log = createRoute({
    method: "get",
    path: "/api/admin/audit",
    tags,
    summary: "What happened to accounts, keys and roles, newest first",
    middleware: read,
    request: { query: auditQuery(config.pageSizeMax) },
    responses: { 200: json(AuditList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(log, async (c) => {
    const { cursor, limit, event, user_id: userId } = c.req.valid("query");
    const { rows, ...page } = await readPage(
      alpine.cursors,
      ["audit", accountOf(c).userId, event, userId],
      { cursor, limit },
      (before: number | null, limit) => auditEntries(alpine.db(), { event, userId }, before, limit),
      ({ id }) => id,
    );
    return c.json({ entries: rows.map(recordOf), ...page }, 200);
  });

  return app;
}
