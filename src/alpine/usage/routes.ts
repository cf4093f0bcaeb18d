import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { Context, Next } from "hono";
import type { AppEnv } from "../../http/exchange";
import { mustHavePlan } from "../../http/guard";
import { json, limitedProblems, problems } from "../../http/openapi";
import { asking } from "../../http/rights";
import { refuse, strictQuery } from "../../http/validate";
import { csvAnswer, jsonOrCsv } from "../csv";
import { allRows, pageStart, readPage } from "../page";
import { accountOf, type Plane, type SignalsById } from "../plane";
import {
  deliveryOf,
  DeliveryList,
  deliveriesQuery,
  UsageDay,
  usageDayOf,
  UsageList,
  usageQuery,
} from "./schema";
import {
  deliveriesOf,
  type DeliveryPlace,
  deliveryPlaceOf,
  type UsagePlace,
  usageOf,
  usagePlaceOf,
} from "./store";
import { usageIntervalSeconds } from "./usage";

const dayMs = 86_400_000;

/** What accounts see of what they did. */
export function usageRoutes(plane: Plane & { signalsById: SignalsById }) {
  const { admission, alpine, config, now, signalsById } = plane;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const used = createRoute({
    method: "get",
    path: "/api/users/usage",
    tags: ["users"],
    summary: "Your usage by day and class of routes, newest day first",
    middleware: [admission.holders("account"), strictQuery],
    request: { query: usageQuery(config.pageSizeMax) },
    responses: { 200: jsonOrCsv(UsageList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(used, async (c) => {
    const { cursor, limit, format, ...days } = c.req.valid("query");
    const { userId } = accountOf(c);
    const bound = ["usage", userId, days];
    const rowsOf = (after: UsagePlace | null, rows: number) =>
      usageOf(alpine.db(), userId, days, after, rows);
    if (format === "csv") {
      const begin = pageStart<UsagePlace>(alpine.cursors, bound, cursor);
      const pages = allRows(rowsOf, usagePlaceOf, usageDayOf, begin);
      return csvAnswer(c, "usage", UsageDay.keyof().options, pages);
    }
    const asked = { cursor, limit };
    const { rows, ...page } = await readPage(alpine.cursors, bound, asked, rowsOf, usagePlaceOf);
    const usage = rows.map(usageDayOf);
    return c.json({ usage, usage_interval_seconds: usageIntervalSeconds, ...page }, 200);
  });

  const delivered = createRoute({
    method: "get",
    path: "/api/signals/delivered",
    tags: ["signals"],
    summary: "Which signals the account was given, and when first",
    description:
      "For accounts alone, by session or key: the last delivery first, as far back as the plan's history_days. Entries are written down every few seconds. The signal is as it is now; null when it is gone or not the plan's to see.",
    middleware: [
      admission.readers(),
      asking("plan", (c: Context<AppEnv>, next: Next) => {
        mustHavePlan(c.env);
        return next();
      }),
      strictQuery,
    ],
    request: { query: deliveriesQuery(config.pageSizeMax) },
    responses: { 200: json(DeliveryList, "A page"), ...limitedProblems },
  });
  app.openapi(delivered, async (c) => {
    const { userId, entitlement } = accountOf(c);
    const { historyDays } = entitlement;
    const sinceMs = historyDays === null ? null : now() - historyDays * dayMs;
    const { rows, ...page } = await readPage(
      alpine.cursors,
      ["deliveries", userId],
      c.req.valid("query"),
      (after: DeliveryPlace | null, limit) =>
        deliveriesOf(alpine.db(), userId, sinceMs, after, limit),
      deliveryPlaceOf,
    );
    const ids = rows.map(({ signalId }) => signalId);
    const signals = await signalsById(ids, c.env);
    const deliveries = rows.map((row) =>
      Object.assign(deliveryOf(row), { signal: signals.get(row.signalId) ?? null }),
    );
    return c.json({ deliveries, usage_interval_seconds: usageIntervalSeconds, ...page }, 200);
  });

  return app;
}
