import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { json, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { csvAnswer, formatOf, jsonOrCsv } from "../csv";
import { allRows, pageStart, readPage } from "../page";
import { accountOf, type Plane } from "../plane";
import { adminUsageQuery, UsageDay, usageDayOf, UsageList } from "../usage/schema";
import { type UsagePlace, usageOf, usagePlaceOf } from "../usage/store";
import { usageIntervalSeconds } from "../usage/usage";
import { Analytics, countAnalytics } from "./analytics";
import { Figures, fresh } from "./figures";
import { noteRefusals } from "./refusals";
import { addressColumns, countSecurity, Security } from "./security";

/** What administrators read to know how it goes. */
export function reportRoutes(plane: Plane) {
  const { admission, alpine, config, now } = plane;
  const tags = ["admin"];
  const read = [noteRefusals(plane), admission.holders("admin:read"), strictQuery];
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });
  const prepare = () => alpine.usage.flushCounts();

  const analytics = new Figures(plane, {
    name: "analytics",
    schema: Analytics,
    load: () => countAnalytics(alpine.db(), now()),
    prepare,
  });
  const numbers = createRoute({
    method: "get",
    path: "/api/admin/analytics",
    tags,
    summary: "Users and usage in numbers",
    description:
      "Kept for five minutes. Usage lacks what each process has counted since it last wrote its counts down, and what a process that was killed had not; fresh=1 writes down that of the process that answers.",
    middleware: read,
    request: { query: z.strictObject({ fresh }) },
    responses: { 200: json(Analytics, "The numbers"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(numbers, async (c) => {
    const { value, hit } = await analytics.get(c.req.valid("query").fresh);
    return c.env.cached(value, hit, c.env);
  });

  const security = new Figures(plane, {
    name: "security",
    schema: Security,
    load: () => countSecurity(alpine.db(), now()),
    prepare,
  });
  const addressesOrAll = formatOf("As csv the suspicious addresses alone are sent.");
  const attacks = createRoute({
    method: "get",
    path: "/api/admin/security",
    tags,
    summary: "Failed logins, limits exceeded, revocations and suspicious addresses of 24 hours",
    description: "Kept for five minutes.",
    middleware: read,
    request: { query: z.strictObject({ fresh, format: addressesOrAll }) },
    responses: { 200: jsonOrCsv(Security, "The numbers"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(attacks, async (c) => {
    const query = c.req.valid("query");
    const { value, hit } = await security.get(query.fresh);
    if (query.format === "json") return c.env.cached(value, hit, c.env);
    return csvAnswer(c, "suspicious-addresses", addressColumns, once(value.suspicious_addresses));
  });

  const used = createRoute({
    method: "get",
    path: "/api/admin/usage",
    tags,
    summary: "Usage by day and class of routes, of one user or of everybody, newest day first",
    middleware: read,
    request: { query: adminUsageQuery(config.pageSizeMax) },
    responses: { 200: jsonOrCsv(UsageList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(used, async (c) => {
    const { cursor, limit, format: wanted, user_id: userId = null, ...days } = c.req.valid("query");
    const bound = ["admin usage", accountOf(c).userId, userId, days];
    const rowsOf = (after: UsagePlace | null, rows: number) =>
      usageOf(alpine.db(), userId, days, after, rows);
    if (wanted === "csv") {
      const begin = pageStart<UsagePlace>(alpine.cursors, bound, cursor);
      const pages = allRows(rowsOf, usagePlaceOf, usageDayOf, begin);
      return csvAnswer(c, "usage", UsageDay.keyof().options, pages);
    }
    const { rows, ...page } = await readPage(
      alpine.cursors,
      bound,
      { cursor, limit },
      rowsOf,
      usagePlaceOf,
    );
    const usage = rows.map(usageDayOf);
    return c.json({ usage, usage_interval_seconds: usageIntervalSeconds, ...page }, 200);
  });

  return app;
}

async function* once<T>(rows: T[]): AsyncGenerator<T[]> {
  yield rows;
}
