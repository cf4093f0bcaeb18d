import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { Figures } from "../admin/figures";
import { noteRefusals } from "../admin/refusals";
import { csvAnswer, jsonOrCsv } from "../csv";
import type { Plane } from "../plane";
import { countRevenue } from "./count";
import { Revenue, RevenueMonth, revenueQuery } from "./schema";

/** What is earned. */
export function revenueRoutes(plane: Plane) {
  const { admission, alpine, now } = plane;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });
  const figures = new Figures(plane, {
    name: "revenue",
    schema: Revenue,
    load: () => countRevenue(alpine.db(), now()),
  });

  const revenue = createRoute({
    method: "get",
    path: "/api/admin/revenue",
    tags: ["admin"],
    description:
      "Kept for five minutes. What changed it and the money received and refunded are of this month in UTC, and of each of the last twelve in `months`.",
    summary: "Recurring revenue, what changed it, and money received and refunded",
    middleware: [noteRefusals(plane), admission.holders("admin:read"), strictQuery],
    request: { query: revenueQuery },
    responses: {
      200: jsonOrCsv(Revenue, "For each currency, as of a moment"),
      ...problems(400, 401, 403, 429, 503),
    },
  });
  app.openapi(revenue, async (c) => {
    const { fresh, format } = c.req.valid("query");
    const { value, hit } = await figures.get(fresh);
    if (format === "json") return c.env.cached(value, hit, c.env);
    return csvAnswer(c, "revenue", ["currency", ...RevenueMonth.keyof().options], monthsOf(value));
  });

  return app;
}

async function* monthsOf({ currencies }: Revenue) {
  for (const { currency, months } of currencies) {
    yield months.map((month) => Object.assign({ currency }, month));
  }
}
