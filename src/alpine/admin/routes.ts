import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { NoQuery, UuidParam } from "../../http/fields";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { auditEntries, AuditRecord, recordOf } from "../audit";
import { csvAnswer, jsonOrCsv } from "../csv";
import { allRows, pageStart, readPage, type TimePlace, timePlaceOf } from "../page";
import { accountOf, originOf, type Plane } from "../plane";
import { userById } from "../users/store";
import { changeUser } from "./change-user";
import { endSessionsOf } from "./end-sessions";
import { noteRefusals } from "./refusals";
import {
  AdminUser,
  AdminUserDetails,
  AdminUserList,
  adminUserOf,
  AuditList,
  auditQuery,
  UserChange,
  usersQuery,
} from "./schema";
import { findUsers, missingUser, withSubscription } from "./store";

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
    responses: { 200: jsonOrCsv(AdminUserList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(list, async (c) => {
    const { cursor, limit, format, ...filter } = c.req.valid("query");
    const bound = ["admin users", accountOf(c).userId, filter];
    const rowsOf = (after: TimePlace | null, limit: number) =>
      findUsers(alpine.db(), filter, after, limit);
    if (format === "csv") {
      const begin = pageStart<TimePlace>(alpine.cursors, bound, cursor);
      const pages = allRows(rowsOf, timePlaceOf, adminUserOf, begin);
      return csvAnswer(c, "users", AdminUser.keyof().options, pages);
    }
    const asked = { cursor, limit };
    const { rows, ...page } = await readPage(alpine.cursors, bound, asked, rowsOf, timePlaceOf);
    return c.json({ users: rows.map(adminUserOf), ...page }, 200);
  });

  const single = createRoute({
    method: "get",
    path: "/api/admin/users/{id}",
    tags,
    summary: "One user",
    middleware: read,
    request: { params: UuidParam, query: NoQuery },
    responses: {
      200: json(AdminUserDetails, "The user and their subscription"),
      ...problems(400, 401, 403, 404, 429, 503),
    },
  });
  app.openapi(single, async (c) => {
    const row = await userById(alpine.db(), c.req.valid("param").id);
    return c.json(await withSubscription(alpine.db(), row ?? missingUser()), 200);
  });

  const change = createRoute({
    method: "patch",
    path: "/api/admin/users/{id}",
    tags,
    summary: "Change the tier or role of a user, or shut them out",
    middleware: [...write, ...strictJson],
    request: { params: UuidParam, query: NoQuery, body: jsonBody(UserChange) },
    responses: {
      200: json(AdminUserDetails, "The user as changed"),
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
    responses: { 200: jsonOrCsv(AuditList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(log, async (c) => {
    const { cursor, limit, format, event, user_id: userId } = c.req.valid("query");
    const bound = ["audit", accountOf(c).userId, event, userId];
    const rowsOf = (before: number | null, limit: number) =>
      auditEntries(alpine.db(), { event, userId }, before, limit);
    const placeOf = ({ id }: { id: number }) => id;
    if (format === "csv") {
      const begin = pageStart<number>(alpine.cursors, bound, cursor);
      const pages = allRows(rowsOf, placeOf, recordOf, begin);
      return csvAnswer(c, "audit", AuditRecord.keyof().options, pages);
    }
    const asked = { cursor, limit };
    const { rows, ...page } = await readPage(alpine.cursors, bound, asked, rowsOf, placeOf);
    return c.json({ entries: rows.map(recordOf), ...page }, 200);
  });

  return app;
}
