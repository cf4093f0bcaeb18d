import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { NoQuery } from "../../http/fields";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { readPage, timePlaceOf } from "../page";
import { accountOf, originOf, type Plane } from "../plane";
import { openPortal } from "../stripe/portal";
import { cancel, resume } from "./cancel";
import { changeTier } from "./change";
import { currentOf } from "./own";
import {
  CurrentSubscription,
  InvoiceList,
  invoiceOf,
  invoicesQuery,
  NewSubscription,
  Portal,
  StartedSubscription,
  SubscriptionChange,
} from "./schema";
import { findInvoices } from "./store";
import { subscribe } from "./subscribe";

/** What users do with their own subscription. */
export function subscriptionRoutes(plane: Plane) {
  const { admission, alpine, config } = plane;
  const tags = ["subscriptions"];
  const read = [admission.holders("account"), strictQuery];
  const write = [...read, ...strictJson];
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const current = createRoute({
    method: "get",
    path: "/api/subscriptions",
    tags,
    summary: "Your subscription, what you owe and what comes next",
    middleware: read,
    request: { query: NoQuery },
    responses: {
      200: json(CurrentSubscription, "The live one, or null"),
      ...problems(400, 401, 403, 429, 503),
    },
  });
  app.openapi(current, async (c) => c.json(await currentOf(alpine.db(), accountOf(c).userId), 200));

  const start = createRoute({
    method: "post",
    path: "/api/subscriptions",
    tags,
    summary: "Subscribe to a plan",
    middleware: write,
    request: { query: NoQuery, body: jsonBody(NewSubscription) },
    responses: {
      201: json(StartedSubscription, "Begun, or where to pay"),
      ...problems(400, 401, 403, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(start, async (c) =>
    c.json(await subscribe(plane, accountOf(c), c.req.valid("json"), originOf(plane, c)), 201),
  );

  const change = createRoute({
    method: "post",
    path: "/api/subscriptions/change",
    tags,
    summary: "Change the tier of your subscription",
    description:
      "A dearer tier counts once its part of the running period is paid, a cheaper one from the next period on. The present one takes back what was to come.",
    middleware: write,
    request: { query: NoQuery, body: jsonBody(SubscriptionChange) },
    responses: {
      200: json(CurrentSubscription, "As it is now"),
      ...problems(400, 401, 403, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(change, async (c) => {
    const { tier } = c.req.valid("json");
    return c.json(await changeTier(plane, accountOf(c), tier, originOf(plane, c)), 200);
  });

  const acts = [
    { name: "cancel", act: cancel, summary: "Cancel your subscription at the end of its period" },
    { name: "resume", act: resume, summary: "Take the cancellation of your subscription back" },
  ] as const;
  for (const { name, act, summary } of acts) {
    const route = createRoute({
      method: "post",
      path: `/api/subscriptions/${name}`,
      tags,
      summary,
      middleware: read,
      request: { query: NoQuery },
      responses: {
        200: json(CurrentSubscription, "As it is now"),
        ...problems(400, 401, 403, 409, 429, 503),
      },
    });
    app.openapi(route, async (c) =>
      c.json(await act(plane, accountOf(c), originOf(plane, c)), 200),
    );
  }

  const portal = createRoute({
    method: "post",
    path: "/api/subscriptions/portal",
    tags,
    summary: "Where to change cards and plans at Stripe",
    middleware: read,
    request: { query: NoQuery },
    responses: { 200: json(Portal, "The portal"), ...problems(400, 401, 403, 409, 429, 503) },
  });
  app.openapi(portal, async (c) => c.json({ url: await openPortal(plane, accountOf(c)) }, 200));

  const list = createRoute({
    method: "get",
    path: "/api/invoices",
    tags,
    summary: "What you were asked for, newest first",
    middleware: read,
    request: { query: invoicesQuery(config.pageSizeMax) },
    responses: { 200: json(InvoiceList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(list, async (c) => {
    const { userId } = accountOf(c);
    const { rows, ...page } = await readPage(
      alpine.cursors,
      ["invoices", userId],
      c.req.valid("query"),
      (after, limit) => findInvoices(alpine.db(), { userId }, after, limit),
      timePlaceOf,
    );
    return c.json({ invoices: rows.map(invoiceOf), ...page }, 200);
  });

  return app;
}
