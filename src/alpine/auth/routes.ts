import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { accountOf, fresh, originOf, type Plane } from "../plane";
import { lookUpUser } from "../users/lookup";
import { User } from "../users/schema";
import { login } from "./login";
import { logout } from "./logout";
import { refresh } from "./refresh";
import { Accepted, Login, Refresh, Signup, Tokens } from "./schema";
import { signup } from "./signup";

/** Accounts begin and sessions come and go here. */
export function authRoutes(plane: Plane) {
  const { admission } = plane;
  const tags = ["auth"];
  const open = [admission.strangers(), fresh(plane), strictQuery, ...strictJson];
  const own = [admission.holders("account"), strictQuery];
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const signupRoute = createRoute({
    method: "post",
    path: "/api/auth/signup",
    tags,
    summary: "Make an account",
    middleware: open,
    request: { body: jsonBody(Signup) },
    responses: {
      201: json(User, "The account, of the lowest tier"),
      202: json(Accepted, "Where addresses must be verified: a mail was sent, whoever it is"),
      ...problems(400, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(signupRoute, async (c) => {
    const user = await signup(plane, c.req.valid("json"), originOf(plane, c));
    return user ? c.json(user, 201) : c.json({ detail: "A mail with a link was sent." }, 202);
  });

  const loginRoute = createRoute({
    method: "post",
    path: "/api/auth/login",
    tags,
    summary: "Open a session",
    middleware: open,
    request: { body: jsonBody(Login) },
    responses: {
      200: json(Tokens, "An access token for 15 minutes, and what renews it"),
      ...problems(400, 401, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(loginRoute, async (c) =>
    c.json(await login(plane, c.req.valid("json"), originOf(plane, c)), 200),
  );

  const refreshRoute = createRoute({
    method: "post",
    path: "/api/auth/refresh",
    tags,
    summary: "Renew a session",
    middleware: open,
    request: { body: jsonBody(Refresh) },
    responses: {
      200: json(Tokens, "New tokens; the refresh token sent is used up"),
      ...problems(400, 401, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(refreshRoute, async (c) =>
    c.json(await refresh(plane, c.req.valid("json").refresh_token, originOf(plane, c)), 200),
  );

  for (const all of [false, true]) {
    const route = createRoute({
      method: "post",
      path: all ? "/api/auth/logout-all" : "/api/auth/logout",
      tags,
      summary: all ? "End every session of the account" : "End this session",
      middleware: own,
      responses: { 204: { description: "Its tokens are void" }, ...problems(401, 403, 429, 503) },
    });
    app.openapi(route, async (c) => {
      await logout(plane, accountOf(c), originOf(plane, c), all);
      return c.body(null, 204);
    });
  }

  const me = createRoute({
    method: "get",
    path: "/api/auth/me",
    tags,
    summary: "Who this session belongs to",
    middleware: own,
    responses: { 200: json(User, "The user"), ...problems(401, 403, 429, 503) },
  });
  app.openapi(me, async (c) => {
    const { value, hit } = await lookUpUser(plane, accountOf(c).userId);
    return c.env.cached(value, hit, c.env);
  });

  return app;
}
