import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { NoQuery, UuidParam } from "../../http/fields";
import { strictJson } from "../../http/json";
import { json, jsonBody, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { readPage, timePlaceOf } from "../page";
import { accountOf, originOf, type Plane } from "../plane";
import { changeWebhook, deleteWebhook, rotateSecret } from "./change";
import { createWebhook } from "./create";
import { replayDelivery, replaySince } from "./replay";
import {
  deliveriesQuery,
  DeliveryParam,
  MadeWebhook,
  NewWebhook,
  Replay,
  Replayed,
  replayLooksMax,
  replayMax,
  Webhook,
  WebhookChange,
  WebhookDelivery,
  WebhookDeliveryList,
  webhookDeliveryOf,
  WebhookList,
  webhookOf,
  webhooksQuery,
} from "./schema";
import type { SignalSource } from "./source";
import { messagesOf, webhookOfUser, webhooksOf } from "./store";
import { sendTest } from "./try";

/** A test waits for a receiver longer than a connection may else be silent. */
const testSeconds = 30;

/** Where an account has signals sent to. They are managed in a session, as keys are. */
export function webhookRoutes(plane: Plane & { source: SignalSource }) {
  const { admission, alpine, config } = plane;
  const tags = ["webhooks"];
  const read = [admission.holders("account"), strictQuery];
  const write = [...read, ...strictJson];
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const create = createRoute({
    method: "post",
    path: "/api/webhooks",
    tags,
    summary: "Have signals sent to an address",
    description:
      "Each signal that the plan shows and the filters take is posted there, from now on, as Standard Webhooks have it: signed, tried again for three days until a status of 2xx comes, with the same webhook-id each time.",
    middleware: write,
    request: { query: NoQuery, body: jsonBody(NewWebhook) },
    responses: {
      201: json(MadeWebhook, "The webhook, its secret this once"),
      ...problems(400, 401, 403, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(create, async (c) =>
    c.json(await createWebhook(plane, accountOf(c), c.req.valid("json"), originOf(plane, c)), 201),
  );

  const list = createRoute({
    method: "get",
    path: "/api/webhooks",
    tags,
    summary: "Your webhooks, newest first",
    middleware: read,
    request: { query: webhooksQuery(config.pageSizeMax) },
    responses: { 200: json(WebhookList, "A page"), ...problems(400, 401, 403, 429, 503) },
  });
  app.openapi(list, async (c) => {
    const { userId } = accountOf(c);
    const { rows, ...page } = await readPage(
      alpine.cursors,
      ["webhooks", userId],
      c.req.valid("query"),
      (after, limit) => webhooksOf(alpine.db(), userId, after, limit),
      timePlaceOf,
    );
    return c.json({ webhooks: rows.map(webhookOf), ...page }, 200);
  });

  const single = createRoute({
    method: "get",
    path: "/api/webhooks/{id}",
    tags,
    summary: "One of your webhooks",
    middleware: read,
    request: { params: UuidParam, query: NoQuery },
    responses: { 200: json(Webhook, "The webhook"), ...problems(400, 401, 403, 404, 429, 503) },
  });
  app.openapi(single, async (c) => {
    const { id } = c.req.valid("param");
    return c.json(webhookOf(await webhookOfUser(alpine.db(), accountOf(c).userId, id)), 200);
  });

  const change = createRoute({
    method: "patch",
    path: "/api/webhooks/{id}",
    tags,
    summary: "Change, pause or enable a webhook",
    middleware: write,
    request: { params: UuidParam, query: NoQuery, body: jsonBody(WebhookChange) },
    responses: {
      200: json(Webhook, "The webhook as changed"),
      ...problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(change, async (c) => {
    const { id } = c.req.valid("param");
    const given = c.req.valid("json");
    return c.json(await changeWebhook(plane, accountOf(c), id, given, originOf(plane, c)), 200);
  });

  const remove = createRoute({
    method: "delete",
    path: "/api/webhooks/{id}",
    tags,
    summary: "Delete a webhook and its log",
    middleware: read,
    request: { params: UuidParam, query: NoQuery },
    responses: {
      204: { description: "Nothing is sent there any more" },
      ...problems(400, 401, 403, 404, 429, 503),
    },
  });
  app.openapi(remove, async (c) => {
    await deleteWebhook(plane, accountOf(c), c.req.valid("param").id, originOf(plane, c));
    return c.body(null, 204);
  });

  const rotate = createRoute({
    method: "post",
    path: "/api/webhooks/{id}/secret",
    tags,
    summary: "Give a webhook another secret",
    description:
      "For 24 hours the one before signs as well, and so do those before it that had not ended yet, three in all.",
    middleware: read,
    request: { params: UuidParam, query: NoQuery },
    responses: {
      201: json(MadeWebhook, "The webhook, its new secret this once"),
      ...problems(400, 401, 403, 404, 429, 503),
    },
  });
  app.openapi(rotate, async (c) => {
    const { id } = c.req.valid("param");
    return c.json(await rotateSecret(plane, accountOf(c), id, originOf(plane, c)), 201);
  });

  const test = createRoute({
    method: "post",
    path: "/api/webhooks/{id}/test",
    tags,
    summary: "Send a test now",
    description: "A webhook.test, once; answered when the receiver has, or after 15 seconds.",
    middleware: read,
    request: { params: UuidParam, query: NoQuery },
    responses: {
      200: json(WebhookDelivery, "What came back"),
      ...problems(400, 401, 403, 404, 429, 503),
    },
  });
  app.openapi(test, async (c) => {
    c.env.server?.timeout(c.env.request, testSeconds);
    const { id } = c.req.valid("param");
    return c.json(await sendTest(plane, accountOf(c), id, originOf(plane, c)), 200);
  });

  const deliveries = createRoute({
    method: "get",
    path: "/api/webhooks/{id}/deliveries",
    tags,
    summary: "What was sent there, and what waits, newest first",
    description: "Kept for seven days after they were delivered or had failed for good.",
    middleware: read,
    request: { params: UuidParam, query: deliveriesQuery(config.pageSizeMax) },
    responses: {
      200: json(WebhookDeliveryList, "A page"),
      ...problems(400, 401, 403, 404, 429, 503),
    },
  });
  app.openapi(deliveries, async (c) => {
    const { id } = await webhookOfUser(alpine.db(), accountOf(c).userId, c.req.valid("param").id);
    const { status, ...query } = c.req.valid("query");
    const { rows, ...page } = await readPage(
      alpine.cursors,
      ["webhook deliveries", id, status ?? null],
      query,
      (after, limit) => messagesOf(alpine.db(), id, status, after, limit),
      timePlaceOf,
    );
    return c.json({ deliveries: rows.map(webhookDeliveryOf), ...page }, 200);
  });

  const again = createRoute({
    method: "post",
    path: "/api/webhooks/{id}/deliveries/{delivery}/replay",
    tags,
    summary: "Send a delivery again",
    description: "With the same webhook-id, and tried as often as the first time.",
    middleware: read,
    request: { params: DeliveryParam, query: NoQuery },
    responses: {
      202: json(WebhookDelivery, "It waits to be sent"),
      ...problems(400, 401, 403, 404, 409, 429, 503),
    },
  });
  app.openapi(again, async (c) => {
    const given = c.req.valid("param");
    return c.json(await replayDelivery(plane, accountOf(c), given, originOf(plane, c)), 202);
  });

  const replay = createRoute({
    method: "post",
    path: "/api/webhooks/{id}/replay",
    tags,
    summary: "Send all signals after an id, again or for the first time",
    description: `At most ${replayMax.toLocaleString("en")}, of ${replayLooksMax.toLocaleString("en")} that are looked through: where there are more, ask again with last_id. What was sent before comes with the same webhook-id.`,
    middleware: write,
    request: { params: UuidParam, query: NoQuery, body: jsonBody(Replay) },
    responses: {
      202: json(Replayed, "They wait to be sent"),
      ...problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
    },
  });
  app.openapi(replay, async (c) => {
    const { id } = c.req.valid("param");
    const { since_id: sinceId } = c.req.valid("json");
    return c.json(await replaySince(plane, accountOf(c), id, sinceId, originOf(plane, c)), 202);
  });

  return app;
}
