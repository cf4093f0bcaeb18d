import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { fresh, originOf, type Plane } from "../plane";
import { User } from "../users/schema";
import { SetUp } from "./schema";
import { setUp } from "./setup";

/** How the first administrator comes to be, without a default password anywhere. */
export function setupRoutes(plane: Plane) {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });
  const setup = createRoute({
    method: "post",
    path: "/api/auth/setup",
    tags: ["auth"],
    summary: "Make the first administrator",
    description: "With the token of the link that the server logs while there is none.",
    middleware: [plane.admission.strangers(), fresh(plane), strictQuery, ...strictJson],
    request: { body: jsonBody(SetUp) },
    responses: {
      201: json(User, "The administrator"),
      ...problems(400, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(setup, async (c) =>
    c.json(await setUp(plane, c.req.valid("json"), originOf(plane, c)), 201),
  );
  return app;
}
