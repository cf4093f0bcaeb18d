import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context, MiddlewareHandler } from "hono";
import type { Config } from "../../config";
import type { AppEnv } from "../../http/exchange";
import { NoQuery } from "../../http/fields";
import { json, limitedProblems, problems } from "../../http/openapi";
import { asking } from "../../http/rights";
import { latestPath, type Poll, socketPath, streamPath, subscribedPath, ticketPath } from "./poll";
import {
  ExportQuery,
  HashParam,
  IdParam,
  KnownQuery,
  latestQuery,
  listQuery,
  ReceivedSignalOut,
  SignalList,
  SignalOut,
  SocketQuery,
  Stats,
  StreamQuery,
  subscribedQuery,
  minId,
  Ticket,
  waitSeconds,
} from "./schema";

const polled = { wait: waitSeconds.default(0), min_id: minId.optional() };

/**
 * The routes by which signals are read, as they are described and checked: the same ones wherever
 * the signals come from. `read` lets readers in.
 */
export function readRoutes({ pageSizeMax }: Config, read: MiddlewareHandler<AppEnv>[]) {
  const latest = createRoute({
    method: "get",
    path: latestPath,
    tags: ["signals"],
    summary: "The newest signals",
    description:
      "Never stale: a poll that begins after a commit has returned shows it. Poll with If-None-Match.",
    request: { query: latestQuery(pageSizeMax).extend(polled) },
    responses: {
      200: {
        description: "Newest first by timestamp, then id",
        content: { "application/json": { schema: z.array(SignalOut) } },
        headers: {
          ETag: { schema: { type: "string" } },
          "Signal-Head": { schema: { type: "integer" }, description: "Highest visible id" },
        },
      },
      304: { description: "Nothing has changed" },
      ...limitedProblems,
    },
  });

  const subscribed = createRoute({
    method: "get",
    path: subscribedPath,
    tags: ["signals"],
    summary: "What the account's plan shows of the signals",
    description:
      "For accounts alone, by session or key: newest first, page by page. Never stale: a signal is there from the moment at which it falls due for the plan. Poll the first page with If-None-Match. `min_confidence` up to and including 1 is a fraction of one, above it percent.",
    request: { query: subscribedQuery(pageSizeMax).extend(polled) },
    responses: {
      200: {
        description: "A page; pass next_cursor to get the next",
        content: { "application/json": { schema: SignalList } },
        headers: {
          ETag: { schema: { type: "string" } },
          "Signal-Head": { schema: { type: "integer" }, description: "Highest visible id" },
        },
      },
      304: { description: "Nothing has changed" },
      ...limitedProblems,
    },
  });

  const stream = createRoute({
    method: "get",
    path: streamPath,
    tags: ["signals"],
    summary: "Signals as they come, as server-sent events",
    description:
      "Ascending by id, without gap or duplicate: what was missed since `Last-Event-ID` or `since_id` first, then what comes. Every event's `id` is where to resume. `signal` holds one signal as lists show it; `head` comes first and every 15 s and holds the highest visible id; `ahead` says that the cursor was above it, and that it goes on from there; `gap` says of which ids (`from`, `to`) some may be missing that were deleted for their age; `end` says why the stream is closed: draining, plan, replaced, slow, unauthorized or unavailable.",
    request: {
      query: StreamQuery,
      headers: z.object({
        "Last-Event-ID": z.int().min(0).optional().openapi({ description: "Where to resume." }),
      }),
    },
    responses: {
      200: {
        description: "A stream that ends when either side ends it",
        content: { "text/event-stream": { schema: z.string() } },
      },
      ...limitedProblems,
    },
  });

  const socket = createRoute({
    method: "get",
    path: socketPath,
    tags: ["signals"],
    summary: "Signals as they come, over a WebSocket",
    description:
      "The same sequence as the stream's, as JSON text frames, with one subscription at a time. The client sends what the schema `SocketMessage` says, within 16 KiB and at most 20 messages, pings among them, in 10 s: `subscribe` (with `resume_from` everything after this id first; another one takes the place of the last), `unsubscribe`, `ping`. The server sends `subscribed` with `resume_from` and `head`; `signal` with `id` and `signal`; every 15 s `head`; `ahead`, when `resume_from` was above the head, from which it goes on; `gap` with `from` and `to`, of which ids some may be missing that were deleted for their age; `pong`; `unsubscribed`; `error` with the members of a problem document; and before it closes `end` with its `reason` and `id`. Every `id` is where to resume; the close says it again (`slow resume_from=3489`). Codes: 1001 draining, 1008 flood (too many messages) or idle (no subscription for 5 s), 1013 unavailable, 4001 unauthorized, 4002 plan, 4003 replaced, 4004 slow. `Origin`, where it is sent, must be this server or in CORS_ORIGINS. Browsers pass a ticket.",
    request: { query: SocketQuery },
    responses: {
      101: { description: "A WebSocket until either side closes it" },
      ...limitedProblems,
    },
  });

  const ticket = createRoute({
    method: "post",
    path: ticketPath,
    tags: ["signals"],
    summary: "A ticket that opens one WebSocket, for browsers",
    description:
      "Stands for the Authorization of this request: good once, for 60 s, as `?ticket=` of /api/signals/ws.",
    middleware: read,
    request: { query: NoQuery },
    responses: { 201: json(Ticket, "The ticket"), ...limitedProblems },
  });

  const list = createRoute({
    method: "get",
    path: "/api/signals",
    tags: ["signals"],
    summary: "Signals page by page",
    middleware: read,
    request: { query: listQuery(pageSizeMax).extend({ min_id: minId.optional() }) },
    responses: {
      200: {
        description: "A page; pass next_cursor to get the next",
        content: { "application/json": { schema: SignalList } },
      },
      ...limitedProblems,
    },
  });

  const exported = createRoute({
    method: "get",
    path: "/api/signals/export",
    tags: ["signals"],
    summary: "All signals after an id, as NDJSON by ascending id",
    description: "403 for accounts whose plan does not include it.",
    middleware: read,
    request: { query: ExportQuery },
    responses: {
      200: {
        description: "One signal a line, up to the highest id at the start",
        headers: {
          "Signal-Head": { schema: { type: "integer" }, description: "That id" },
          "Signal-Gap": {
            schema: { type: "string", example: "from=1, to=500" },
            description: "Of these ids some may be missing that were deleted for their age",
          },
        },
        content: { "application/x-ndjson": { schema: ReceivedSignalOut } },
      },
      ...limitedProblems,
    },
  });

  const byHash = createRoute({
    method: "get",
    path: "/api/signals/hash/{sha256}",
    tags: ["signals"],
    summary: "One signal by its hash",
    middleware: read,
    request: { params: HashParam, query: KnownQuery },
    responses: {
      200: {
        description: "The newest signal with this hash",
        content: { "application/json": { schema: ReceivedSignalOut } },
      },
      ...limitedProblems,
      ...problems(404),
    },
  });

  const byId = createRoute({
    method: "get",
    path: "/api/signals/{id}",
    tags: ["signals"],
    summary: "One signal by its id",
    middleware: read,
    request: { params: IdParam, query: KnownQuery },
    responses: {
      200: {
        description: "The signal",
        content: { "application/json": { schema: ReceivedSignalOut } },
      },
      ...limitedProblems,
      ...problems(404),
    },
  });

  const stats = createRoute({
    method: "get",
    path: "/api/stats",
    tags: ["signals"],
    summary: "Signals counted by symbol, strategy, action and day",
    middleware: read,
    request: { query: KnownQuery },
    responses: {
      200: { description: "Counts", content: { "application/json": { schema: Stats } } },
      ...limitedProblems,
    },
  });

  return { latest, subscribed, stream, socket, ticket, list, exported, byHash, byId, stats };
}

/** Mounts the polls by their paths. */
export function mountPolls(
  app: OpenAPIHono<AppEnv>,
  { latest, subscribed }: Pick<ReturnType<typeof readRoutes>, "latest" | "subscribed">,
  polls: ReadonlyMap<string, Poll>,
): void {
  app.openAPIRegistry.registerPath(latest);
  app.openAPIRegistry.registerPath(subscribed);
  for (const [path, poll] of polls) {
    const right = path === subscribedPath ? "plan" : "signals:read";
    app.get(
      path,
      asking(right, (c: Context<AppEnv>) => poll(c.req.raw, c.env)),
    );
  }
}
