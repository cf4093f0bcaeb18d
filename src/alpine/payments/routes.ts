import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { NoQuery, UuidParam } from "../../http/fields";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { noteRefusals } from "../admin/refusals";
import { csvAnswer, jsonOrCsv } from "../csv";
import { allRows, pageStart, readPage, type TimePlace } from "../page";
import { accountOf, originOf, type Plane } from "../plane";
import { recordFailure } from "./failure";
import { recordPayment } from "./record";
import { refund } from "./refund";
import {
  AdminPayment,
  AdminPaymentList,
  adminPaymentOf,
  adminPaymentsQuery,
  Failure,
  NewPayment,
  Payment,
  PaymentList,
  paymentOf,
  paymentsQuery,
  Refund,
} from "./schema";
import { findPayments, paymentPlaceOf } from "./store";

/** Money: users see their own, administrators book it. */
export function paymentRoutes(plane: Plane) {
  const { admission, alpine, config } = plane;
  const noted = noteRefusals(plane);
  const tags = ["payments"];
  const own = [admission.holders("account"), strictQuery];
  const read = [noted, admission.holders("admin:read"), strictQuery];
  const write = [noted, admission.holders("admin:write"), strictQuery, ...strictJson];
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });
  const booked = {
    201: json(Payment, "As it is booked"),
    ...problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
  };

  const ownList = createRoute({
    method: "get",
    path: "/api/payments",
    tags,
    summary: "Your payments, newest first",
    middleware: own,
    request: { query: paymentsQuery(config.pageSizeMax) },
    responses: { 200: json(PaymentList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(ownList, async (c) => {
    const { userId } = accountOf(c);
    const { rows, ...page } = await readPage(
      alpine.cursors,
      ["payments", userId],
      c.req.valid("query"),
      (after, limit) => findPayments(alpine.db(), { userId }, after, limit),
      paymentPlaceOf,
    );
    return c.json({ payments: rows.map(paymentOf), ...page }, 200);
  });

  const list = createRoute({
    method: "get",
    path: "/api/admin/payments",
    tags,
    summary: "Payments, newest first",
    middleware: read,
    request: { query: adminPaymentsQuery(config.pageSizeMax) },
    responses: { 200: jsonOrCsv(AdminPaymentList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(list, async (c) => {
    const { cursor, limit, format, user_id: userId, kind } = c.req.valid("query");
    const filter = { userId, kind };
    const bound = ["admin payments", accountOf(c).userId, filter];
    const rowsOf = (after: TimePlace | null, limit: number) =>
      findPayments(alpine.db(), filter, after, limit);
    if (format === "csv") {
      const begin = pageStart<TimePlace>(alpine.cursors, bound, cursor);
      const pages = allRows(rowsOf, paymentPlaceOf, adminPaymentOf, begin);
      return csvAnswer(c, "payments", AdminPayment.keyof().options, pages);
    }
    const asked = { cursor, limit };
    const { rows, ...page } = await readPage(alpine.cursors, bound, asked, rowsOf, paymentPlaceOf);
    return c.json({ payments: rows.map(adminPaymentOf), ...page }, 200);
  });

  const record = createRoute({
    method: "post",
    path: "/api/admin/payments",
    tags,
    summary: "Book the payment of an open invoice",
    description: "The same reference again gives the same answer and books nothing.",
    middleware: write,
    request: { query: NoQuery, body: jsonBody(NewPayment) },
    responses: booked,
  });
  app.openapi(record, async (c) => {
    const given = c.req.valid("json");
    return c.json(
      paymentOf(await recordPayment(plane, accountOf(c), given, originOf(plane, c))),
      201,
    );
  });

  const failed = createRoute({
    method: "post",
    path: "/api/admin/payments/failure",
    tags,
    summary: "Write down that a payment did not come",
    middleware: write,
    request: { query: NoQuery, body: jsonBody(Failure) },
    responses: booked,
  });
  app.openapi(failed, async (c) => {
    const given = c.req.valid("json");
    return c.json(
      paymentOf(await recordFailure(plane, accountOf(c), given, originOf(plane, c))),
      201,
    );
  });

  const back = createRoute({
    method: "post",
    path: "/api/admin/payments/{id}/refund",
    tags,
    summary: "Book money that went back",
    description: "Never more than came. The subscription goes on unless `end` is true.",
    middleware: write,
    request: { params: UuidParam, query: NoQuery, body: jsonBody(Refund) },
    responses: booked,
  });
  app.openapi(back, async (c) => {
    const { id } = c.req.valid("param");
    const given = c.req.valid("json");
    const row = await refund(plane, accountOf(c), id, given, originOf(plane, c));
    return c.json(paymentOf(row), 201);
  });

  return app;
}
