import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { NoQuery } from "../../http/fields";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { noteRefusals } from "../admin/refusals";
import { accountOf, originOf, type Plane } from "../plane";
import { changePlan } from "./change-plan";
import {
  AdminPlan,
  AdminPlanList,
  adminPlanOf,
  PlanChange,
  PlanList,
  planOf,
  TierParam,
} from "./schema";

/** What is for sale, and how administrators change it. Read from memory. */
export function planRoutes(plane: Plane) {
  const { admission, alpine } = plane;
  const noted = noteRefusals(plane);
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const list = createRoute({
    method: "get",
    path: "/api/plans",
    tags: ["plans"],
    summary: "What is for sale, cheapest tier first",
    middleware: [admission.strangers(), strictQuery],
    request: { query: NoQuery },
    responses: { 200: json(PlanList, "All plans"), ...problems(400, 429, 503) },
  });
  app.openapi(list, (c) => {
    alpine.db();
    return c.json({ plans: alpine.plans.all.map(planOf) }, 200);
  });

  const adminList = createRoute({
    method: "get",
    path: "/api/admin/plans",
    tags: ["admin"],
    summary: "All plans, with how they are sold",
    middleware: [noted, admission.holders("admin:read"), strictQuery],
    request: { query: NoQuery },
    responses: { 200: json(AdminPlanList, "All plans"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(adminList, (c) => c.json({ plans: alpine.plans.all.map(adminPlanOf) }, 200));

  const change = createRoute({
    method: "patch",
    path: "/api/admin/plans/{tier}",
    tags: ["admin"],
    summary: "Change what a plan costs and gives",
    middleware: [noted, admission.holders("admin:write"), strictQuery, ...strictJson],
    request: { params: TierParam, query: NoQuery, body: jsonBody(PlanChange) },
    responses: {
      200: json(AdminPlan, "The plan as changed"),
      ...problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(change, async (c) => {
    const { tier } = c.req.valid("param");
    const changed = c.req.valid("json");
    return c.json(await changePlan(plane, accountOf(c), tier, changed, originOf(plane, c)), 200);
  });

  return app;
}
