import type { OpenAPIHono } from "@hono/zod-openapi";
import type { MiddlewareHandler } from "hono";
import type { Config } from "../../config";
import { AppError } from "../../errors";
import type { Admission } from "../../http/admit";
import type { AppEnv, Exchange } from "../../http/exchange";
import type { Meters } from "../../http/meter";
import { mustBeOwnOrigin } from "../../http/policy";
import { type Tickets, ticketSeconds } from "../../http/ticket";
import { parseQuery } from "../../http/validate";
import type { Metrics } from "../../platform/metrics";
import type { Redis } from "../../platform/redis";
import { askStream, type StreamAsked } from "./asked";
import type { readRoutes } from "./described";
import { socketPath, streamPath } from "./poll";
import { SocketMessage, SocketQuery } from "./schema";
import type { Source } from "./sequence";
import { Sockets } from "./sockets";
import { EventStream } from "./stream";
import { Streams } from "./streams";

type Deps = {
  config: Config;
  source: Source;
  admission: Admission;
  tickets: Tickets;
  meters: Meters | null;
  metrics: Metrics;
  redis: Redis | null;
  now: () => number;
};

/** Signals sent as they come, over server-sent events and WebSockets, wherever they come from. */
export class Live {
  readonly sockets: Sockets;
  readonly #streams: Streams;

  constructor(private readonly deps: Deps) {
    const { source, now } = deps;
    this.#streams = new Streams(deps);
    this.sockets = new Sockets({ source, streams: this.#streams, now });
  }

  mount(
    app: OpenAPIHono<AppEnv>,
    { stream, socket, ticket }: Pick<ReturnType<typeof readRoutes>, "stream" | "socket" | "ticket">,
  ): void {
    const { config, admission, tickets } = this.deps;
    app.openAPIRegistry.registerPath(stream);
    app.openAPIRegistry.registerPath(socket);
    app.openAPIRegistry.register("SocketMessage", SocketMessage);

    app.get(streamPath, admission.readers(), async (c) => {
      const asked = askStream(c.req.raw);
      // To HEAD no signal is sent.
      const isHead = c.env.request.method === "HEAD";
      const opened = isHead ? null : await this.#open(c.env, asked);
      const headers = {
        "Content-Type": "text/event-stream",
        // Proxies such as nginx hold back what is written, until there is more.
        "X-Accel-Buffering": "no",
      };
      return new Response(opened?.body ?? null, { headers });
    });

    app.get(socketPath, this.#byTicket, admission.readers(), (c) => {
      const { headers } = c.req.raw;
      mustBeOwnOrigin(config, headers);
      return this.sockets.open(c.env, headers.get("authorization"));
    });

    app.openapi(ticket, async (c) => {
      const given = await tickets.issue(c.req.header("authorization") ?? "");
      return c.json({ ticket: given, expires_in: ticketSeconds }, 201);
    });
  }

  /** @throws AppError 403 for a plan without streams, 503 when there are too many. */
  async #open(exchange: Exchange, { sinceId, filter }: StreamAsked): Promise<EventStream> {
    const streams = this.#streams;
    const reader = streams.admit(exchange, exchange.request.headers.get("authorization"));
    const { source } = this.deps;
    const onEnd = streams.drop;
    const stream = new EventStream({ source, exchange, reader, filter, sinceId, onEnd });
    streams.hold(stream);
    try {
      await stream.begin();
    } catch (error) {
      stream.gone();
      throw error;
    }
    streams.begun(stream, exchange);
    return stream;
  }

  /** A ticket stands for the `Authorization` that it was given for, which is asked after as ever. */
  readonly #byTicket: MiddlewareHandler<AppEnv> = async (c, next) => {
    const { raw } = c.req;
    const at = raw.url.indexOf("?");
    const { ticket } = parseQuery(SocketQuery, at < 0 ? "" : raw.url.slice(at));
    if (ticket !== undefined) {
      const authorization = await this.deps.tickets.redeem(ticket);
      if (authorization === null) throw this.deps.admission.refused(unknown(), raw, c.env);
      const headers = new Headers(raw.headers);
      headers.delete("authorization");
      if (authorization !== "") headers.set("authorization", authorization);
      c.req.raw = new Request(raw, { headers });
    }
    await next();
  };
}

const unknown = (): AppError =>
  new AppError("unauthorized", "The ticket is not known: it was used, or is older than a minute.");
