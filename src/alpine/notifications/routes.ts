import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { NoQuery, UuidParam } from "../../http/fields";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { readPage } from "../page";
import { accountOf, type Plane } from "../plane";
import { changePreferences } from "./preferences";
import {
  Notification,
  NotificationList,
  notificationOf,
  notificationsQuery,
  Preferences,
  PreferencesChange,
  preferencesOf,
  ReadCount,
  UnreadCount,
} from "./schema";
import {
  markAllRead,
  markRead,
  notificationPlaceOf,
  notificationsOf,
  unreadCountOf,
  wantedOf,
} from "./store";

/** What an account is told. */
export function notificationRoutes(plane: Plane) {
  const { admission, alpine, config, now } = plane;
  const tags = ["notifications"];
  const read = [admission.holders("account"), strictQuery];
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const list = createRoute({
    method: "get",
    path: "/api/notifications",
    tags,
    summary: "Your notifications, unread first, then newest",
    description:
      "Kept for 30 days once they were read, for 90 days until then. One that is read while pages are turned may come once more.",
    middleware: read,
    request: { query: notificationsQuery(config.pageSizeMax) },
    responses: { 200: json(NotificationList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(list, async (c) => {
    const { userId } = accountOf(c);
    const { unread, kind, ...query } = c.req.valid("query");
    const { rows, ...page } = await readPage(
      alpine.cursors,
      ["notifications", userId, unread ?? null, kind ?? null],
      query,
      (after, limit) => notificationsOf(alpine.db(), userId, { unread, kind }, after, limit),
      notificationPlaceOf,
    );
    const count = await unreadCountOf(alpine.db(), userId);
    return c.json({ notifications: rows.map(notificationOf), ...page, unread_count: count }, 200);
  });

  const unread = createRoute({
    method: "get",
    path: "/api/notifications/unread-count",
    tags,
    summary: "How many you have not read",
    middleware: read,
    request: { query: NoQuery },
    responses: { 200: json(UnreadCount, "The count"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(unread, async (c) =>
    c.json({ unread_count: await unreadCountOf(alpine.db(), accountOf(c).userId) }, 200),
  );

  const readAll = createRoute({
    method: "post",
    path: "/api/notifications/read-all",
    tags,
    summary: "Mark all of them read",
    middleware: read,
    request: { query: NoQuery },
    responses: { 200: json(ReadCount, "Done"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(readAll, async (c) =>
    c.json({ read: await markAllRead(alpine.db(), accountOf(c).userId, now()) }, 200),
  );

  const readOne = createRoute({
    method: "post",
    path: "/api/notifications/{id}/read",
    tags,
    summary: "Mark one of them read",
    middleware: read,
    request: { params: UuidParam, query: NoQuery },
    responses: {
      200: json(Notification, "The notification"),
      ...problems(400, 401, 403, 404, 429, 503),
    },
  });
  app.openapi(readOne, async (c) => {
    const { id } = c.req.valid("param");
    const row = await markRead(alpine.db(), accountOf(c).userId, id, now());
    return c.json(notificationOf(row), 200);
  });

  const preferences = createRoute({
    method: "get",
    path: "/api/notifications/preferences",
    tags,
    summary: "What you are told, and how",
    middleware: read,
    request: { query: NoQuery },
    responses: { 200: json(Preferences, "By kind"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(preferences, async (c) =>
    c.json(preferencesOf(await wantedOf(alpine.db(), accountOf(c).userId)), 200),
  );

  const change = createRoute({
    method: "put",
    path: "/api/notifications/preferences",
    tags,
    summary: "Say what you want to be told, and how",
    description:
      "Kinds that are left out stay as they are. Mails go to verified addresses alone, where the operator has set a mail server.",
    middleware: [...read, ...strictJson],
    request: { query: NoQuery, body: jsonBody(PreferencesChange) },
    responses: {
      200: json(Preferences, "As they are now"),
      ...problems(400, 401, 403, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(change, async (c) =>
    c.json(await changePreferences(plane, accountOf(c), c.req.valid("json")), 200),
  );

  return app;
}
