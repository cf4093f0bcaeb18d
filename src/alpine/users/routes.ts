import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { NoQuery, UuidParam } from "../../http/fields";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { readPage, timePlaceOf } from "../page";
import { accountOf, originOf, type Plane } from "../plane";
import { deleteAccount } from "./delete";
import { AccountExport, exportAccount } from "./export";
import { lookUpUser } from "./lookup";
import { changeProfile } from "./profile";
import { Deletion, ProfileChange, SessionList, sessionOf, sessionsQuery, User } from "./schema";
import { revokeSession } from "./session";
import { sessionsOf } from "./store";

/** What users do with their own account. */
export function userRoutes(plane: Plane) {
  const { admission, alpine, config, now } = plane;
  const tags = ["users"];
  const read = [admission.holders("account"), strictQuery];
  const write = [...read, ...strictJson];
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const profile = createRoute({
    method: "get",
    path: "/api/users/profile",
    tags,
    summary: "Your profile",
    middleware: read,
    request: { query: NoQuery },
    responses: { 200: json(User, "The user"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(profile, async (c) => {
    const { value, hit } = await lookUpUser(plane, accountOf(c).userId);
    return c.env.cached(value, hit, c.env);
  });

  const change = createRoute({
    method: "put",
    path: "/api/users/profile",
    tags,
    summary: "Change your name or e-mail address",
    description:
      "What is left out stays. Another address needs the password and must be verified; where that is required, the account keeps the old one until then.",
    middleware: write,
    request: { query: NoQuery, body: jsonBody(ProfileChange) },
    responses: {
      200: json(User, "The user as changed"),
      ...problems(400, 401, 403, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(change, async (c) =>
    c.json(await changeProfile(plane, accountOf(c), c.req.valid("json"), originOf(plane, c)), 200),
  );

  const remove = createRoute({
    method: "delete",
    path: "/api/users/account",
    tags,
    summary: "Delete your account for good",
    middleware: write,
    request: { query: NoQuery, body: jsonBody(Deletion) },
    responses: {
      204: { description: "It is gone, its sessions and keys with it" },
      ...problems(400, 401, 403, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(remove, async (c) => {
    const { password } = c.req.valid("json");
    await deleteAccount(plane, accountOf(c), password, originOf(plane, c));
    return c.body(null, 204);
  });

  const exported = createRoute({
    method: "get",
    path: "/api/users/export",
    tags,
    summary: "Everything that is kept about you",
    middleware: read,
    request: { query: NoQuery },
    responses: {
      200: json(AccountExport, "A file"),
      ...problems(400, 401, 403, 404, 429, 503),
    },
  });
  app.openapi(exported, async (c) => {
    const body = await exportAccount(plane, accountOf(c), originOf(plane, c));
    c.env.streamed = true;
    return c.body(body, 200, {
      "Content-Type": "application/json",
      "Content-Disposition": 'attachment; filename="account.json"',
    }) as never;
  });

  const list = createRoute({
    method: "get",
    path: "/api/users/sessions",
    tags,
    summary: "Your open sessions, newest first",
    middleware: read,
    request: { query: sessionsQuery(config.pageSizeMax) },
    responses: { 200: json(SessionList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(list, async (c) => {
    const { userId, sessionId } = accountOf(c);
    const { rows, ...page } = await readPage(
      alpine.cursors,
      ["sessions", userId],
      c.req.valid("query"),
      (after, limit) => sessionsOf(alpine.db(), userId, now(), after, limit),
      timePlaceOf,
    );
    const sessions = rows.map((row) =>
      Object.assign(sessionOf(row), { current: row.id === sessionId }),
    );
    return c.json({ sessions, ...page }, 200);
  });

  const revoke = createRoute({
    method: "delete",
    path: "/api/users/sessions/{id}",
    tags,
    summary: "End one of your sessions",
    middleware: read,
    request: { params: UuidParam, query: NoQuery },
    responses: {
      204: { description: "Its tokens are void" },
      ...problems(400, 401, 403, 404, 429, 503),
    },
  });
  app.openapi(revoke, async (c) => {
    await revokeSession(plane, accountOf(c), c.req.valid("param").id, originOf(plane, c));
    return c.body(null, 204);
  });

  return app;
}
