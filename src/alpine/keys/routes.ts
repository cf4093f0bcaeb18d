import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { NoQuery, UuidParam } from "../../http/fields";
import { optionalJson, strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { readPage, timePlaceOf } from "../page";
import { accountOf, originOf, type Plane } from "../plane";
import { createKey } from "./create";
import { revokeKey } from "./revoke";
import { rotateKey } from "./rotate";
import { Key, KeyList, keyOf, keysQuery, MadeKey, NewKey, Rotation } from "./schema";
import { keyOfUser, keysOf } from "./store";

/** Keys for bots. They are managed in a session: no key makes or ends another. */
export function keyRoutes(plane: Plane) {
  const { admission, alpine, config } = plane;
  const tags = ["keys"];
  const read = [admission.holders("account"), strictQuery];
  const write = [...read, ...strictJson];
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const create = createRoute({
    method: "post",
    path: "/api/keys",
    tags,
    summary: "Make a key",
    middleware: write,
    request: { query: NoQuery, body: jsonBody(NewKey) },
    responses: {
      201: json(MadeKey, "The key, its secret this once"),
      ...problems(400, 401, 403, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(create, async (c) =>
    c.json(await createKey(plane, accountOf(c), c.req.valid("json"), originOf(plane, c)), 201),
  );

  const list = createRoute({
    method: "get",
    path: "/api/keys",
    tags,
    summary: "Your keys, newest first",
    middleware: read,
    request: { query: keysQuery(config.pageSizeMax) },
    responses: { 200: json(KeyList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(list, async (c) => {
    const { userId } = accountOf(c);
    const { rows, ...page } = await readPage(
      alpine.cursors,
      ["keys", userId],
      c.req.valid("query"),
      (after, limit) => keysOf(alpine.db(), userId, after, limit),
      timePlaceOf,
    );
    return c.json({ keys: rows.map(keyOf), ...page }, 200);
  });

  const single = createRoute({
    method: "get",
    path: "/api/keys/{id}",
    tags,
    summary: "One of your keys",
    middleware: read,
    request: { params: UuidParam, query: NoQuery },
    responses: { 200: json(Key, "The key"), ...problems(400, 401, 403, 404, 429, 503) },
  });
  app.openapi(single, async (c) => {
    const row = await keyOfUser(alpine.db(), accountOf(c).userId, c.req.valid("param").id);
    return c.json(keyOf(row), 200);
  });

  const rotate = createRoute({
    method: "post",
    path: "/api/keys/{id}/rotate",
    tags,
    summary: "Make a key that takes this one's place",
    middleware: [...read, ...optionalJson],
    request: {
      params: UuidParam,
      query: NoQuery,
      body: { ...jsonBody(Rotation), required: false },
    },
    responses: {
      201: json(MadeKey, "The new key, its secret this once"),
      ...problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(rotate, async (c) => {
    // Without a body nothing has filled in what is usual.
    const { overlap_seconds: overlapSeconds } = Rotation.parse(c.req.valid("json"));
    const { id } = c.req.valid("param");
    const made = await rotateKey(plane, accountOf(c), id, overlapSeconds, originOf(plane, c));
    return c.json(made, 201);
  });

  const revoke = createRoute({
    method: "delete",
    path: "/api/keys/{id}",
    tags,
    summary: "Revoke a key",
    middleware: read,
    request: { params: UuidParam, query: NoQuery },
    responses: {
      204: { description: "It is good no more, everywhere" },
      ...problems(400, 401, 403, 404, 429, 503),
    },
  });
  app.openapi(revoke, async (c) => {
    await revokeKey(plane, accountOf(c), c.req.valid("param").id, originOf(plane, c));
    return c.body(null, 204);
  });

  return app;
}
