import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { noteRefusals } from "../admin/refusals";
import { csvAnswer, jsonOrCsv } from "../csv";
import { allRows, pageStart, readPage, type TimePlace, timePlaceOf } from "../page";
import { accountOf, type Plane } from "../plane";
import {
  AdminInvoice,
  AdminInvoiceList,
  adminInvoiceOf,
  adminInvoicesQuery,
  AdminSubscription,
  AdminSubscriptionList,
  adminSubscriptionOf,
  adminSubscriptionsQuery,
} from "./schema";
import { findInvoices, findSubscriptions } from "./store";

/** What everybody has and owes, for administrators. */
export function soldRoutes(plane: Plane) {
  const { admission, alpine, config } = plane;
  const tags = ["subscriptions"];
  const read = [noteRefusals(plane), admission.holders("admin:read"), strictQuery];
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const sold = createRoute({
    method: "get",
    path: "/api/admin/subscriptions",
    tags,
    summary: "Subscriptions, newest first",
    middleware: read,
    request: { query: adminSubscriptionsQuery(config.pageSizeMax) },
    responses: {
      200: jsonOrCsv(AdminSubscriptionList, "A page"),
      ...problems(400, 401, 403, 429, 503),
    },
  });
  app.openapi(sold, async (c) => {
    const { cursor, limit, format, user_id: userId, ...others } = c.req.valid("query");
    const filter = { userId, ...others };
    const bound = ["admin subscriptions", accountOf(c).userId, filter];
    const rowsOf = (after: TimePlace | null, limit: number) =>
      findSubscriptions(alpine.db(), filter, after, limit);
    if (format === "csv") {
      const begin = pageStart<TimePlace>(alpine.cursors, bound, cursor);
      const pages = allRows(rowsOf, timePlaceOf, adminSubscriptionOf, begin);
      return csvAnswer(c, "subscriptions", AdminSubscription.keyof().options, pages);
    }
    const asked = { cursor, limit };
    const { rows, ...page } = await readPage(alpine.cursors, bound, asked, rowsOf, timePlaceOf);
    return c.json({ subscriptions: rows.map(adminSubscriptionOf), ...page }, 200);
  });

  const owed = createRoute({
    method: "get",
    path: "/api/admin/invoices",
    tags,
    summary: "Invoices, newest first: the open ones are what is to be paid",
    middleware: read,
    request: { query: adminInvoicesQuery(config.pageSizeMax) },
    responses: { 200: jsonOrCsv(AdminInvoiceList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(owed, async (c) => {
    const { cursor, limit, format, user_id: userId, status } = c.req.valid("query");
    const filter = { userId, status };
    const bound = ["admin invoices", accountOf(c).userId, filter];
    const rowsOf = (after: TimePlace | null, limit: number) =>
      findInvoices(alpine.db(), filter, after, limit);
    if (format === "csv") {
      const begin = pageStart<TimePlace>(alpine.cursors, bound, cursor);
      const pages = allRows(rowsOf, timePlaceOf, adminInvoiceOf, begin);
      return csvAnswer(c, "invoices", AdminInvoice.keyof().options, pages);
    }
    const asked = { cursor, limit };
    const { rows, ...page } = await readPage(alpine.cursors, bound, asked, rowsOf, timePlaceOf);
    return c.json({ invoices: rows.map(adminInvoiceOf), ...page }, 200);
  });

  return app;
}
