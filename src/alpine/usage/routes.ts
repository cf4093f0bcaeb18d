import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { csvAnswer, jsonOrCsv } from "../csv";
import { allRows, pageStart, readPage } from "../page";
import { accountOf, type Plane } from "../plane";
import { UsageDay, usageDayOf, UsageList, usageQuery } from "./schema";
import { type UsagePlace, usageOf, usagePlaceOf } from "./store";
import { usageIntervalSeconds } from "./usage";

/** What accounts see of what they did. */
export function usageRoutes(plane: Plane) {
  const { admission, alpine, config } = plane;
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

  return app;
}
