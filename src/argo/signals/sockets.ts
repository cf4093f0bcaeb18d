import type { ServerWebSocket, WebSocketHandler } from "bun";
import { AppError } from "../../errors";
import type { Exchange } from "../../http/exchange";
import { type Shared, Socket } from "./socket";
import type { Source } from "./sequence";
import type { Streams } from "./streams";
import { Topics } from "./topics";

type Deps = { source: Source; streams: Streams; now: () => number };

const lookEveryMs = 250;

/** The WebSockets of this process. */
export class Sockets {
  readonly handlers: WebSocketHandler<Socket> = {
    // A longer message ends the connection before it was read.
    maxPayloadLength: 16 * 1024,
    // We cut off long before; should that ever fail, it is closed, never silently dropped.
    backpressureLimit: 16 * 1024 * 1024,
    closeOnBackpressureLimit: true,
    // Who answers no ping for so long is gone.
    idleTimeout: 60,
    sendPings: true,
    open: (ws: ServerWebSocket<Socket>) => ws.data.opened(ws),
    message: (ws, data) => ws.data.message(data),
    ping: (ws) => ws.data.heard(),
    pong: (ws) => ws.data.heard(),
    drain: (ws) => ws.data.drained(),
    close: (ws) => ws.data.gone(),
  };
  readonly #waiting = new Set<Socket>();
  readonly #shared: Shared;
  #timer: Timer | null = null;

  constructor(private readonly deps: Deps) {
    const { source, streams, now } = deps;
    const onEnd = streams.drop;
    const attend = (socket: Socket): void => {
      this.#waiting.add(socket);
      this.#timer ??= setInterval(this.#look, lookEveryMs);
    };
    const leave = (socket: Socket): void => void this.#waiting.delete(socket);
    this.#shared = { source, topics: new Topics(), now, attend, leave, onEnd };
  }

  /**
   * Opens a socket for whoever was let in by this `Authorization`.
   * @throws AppError 400 for what is no upgrade, 403 for a plan without streams, 503.
   */
  open(exchange: Exchange, authorization: string | null): Response {
    const { streams } = this.deps;
    const { request, server, requestId } = exchange;
    const upgrade = request.headers.get("upgrade")?.toLowerCase();
    if (upgrade !== "websocket" || !server) throw notUpgraded();
    const reader = streams.admit(exchange, authorization);
    const socket = new Socket(reader, server, this.#shared);
    if (!server.upgrade(request, { data: socket, headers: { "X-Request-Id": requestId } })) {
      socket.gone();
      throw notUpgraded();
    }
    streams.hold(socket);
    streams.begun(socket, exchange);
    // Not sent: Bun has answered. It is what is counted and logged.
    return new Response(null, { status: 101 });
  }

  readonly #look = (): void => {
    const nowMs = this.deps.now();
    for (const socket of this.#waiting) socket.look(nowMs);
    if (this.#waiting.size > 0 || !this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = null;
  };
}

const notUpgraded = (): AppError =>
  new AppError("bad_request", "This path is for WebSockets: the request must be an upgrade.", {
    headers: { Upgrade: "websocket" },
  });
