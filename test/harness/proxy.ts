/** A link to a server that can be slow, silent or cut. */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

export interface TcpProxy extends AsyncDisposable {
  port: number;
  /** Connections open at present. */
  open(): number;
  /** Connections taken since the start. */
  accepted(): number;
  /** Resets every connection, and new ones as they come. */
  cut(): void;
  /** Holds each piece back so long, in both directions; the order stays. */
  delay(ms: number): void;
  /** Connections are taken and stay, but nothing goes through, in either direction. */
  blackhole(): void;
  /** After so many bytes more from the server it is a black hole. */
  stall(afterBytes: number): void;
  /** Whether it is a black hole. */
  isHeld(): boolean;
  /** All goes through again, what the black hole held included. */
  restore(): void;
  close(): Promise<void>;
}

/** Listens on a free port of 127.0.0.1 for a server on another one. */
export async function tcpProxy(target: { host?: string; port: number }): Promise<TcpProxy> {
  const { host = "127.0.0.1", port } = target;
  const sockets = new Set<Socket>();
  let mode: "open" | "cut" | "blackhole" = "open";
  let delayMs = 0;
  let stallAfterBytes = Infinity;
  let accepted = 0;

  const keep = (socket: Socket): void => {
    socket.setNoDelay(true);
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    if (mode === "blackhole") socket.pause();
  };
  const blackhole = (): void => {
    mode = "blackhole";
    stallAfterBytes = Infinity;
    for (const socket of sockets) socket.pause();
  };
  const forward = (from: Socket, to: Socket, counts = false): void => {
    // Each piece waits for those before it, the end included.
    let last = Promise.resolve();
    const later = (what: () => void): void => {
      const ms = delayMs;
      const held = ms === 0 ? Promise.resolve() : Bun.sleep(ms);
      last = last.then(() => held).then(what);
    };
    from.on("data", (piece: Buffer) => {
      if (counts && (stallAfterBytes -= piece.length) <= 0) blackhole();
      later(() => to.destroyed || void to.write(piece));
    });
    from.on("end", () => later(() => void to.end()));
    from.on("error", () => to.resetAndDestroy());
    from.on("close", (hadError) => (hadError ? to.destroy() : later(() => void to.end())));
  };

  const server = createServer({ allowHalfOpen: true }, (client) => {
    accepted += 1;
    keep(client);
    if (mode === "cut") return void client.resetAndDestroy();
    const upstream = connect({ host, port, allowHalfOpen: true });
    keep(upstream);
    forward(client, upstream);
    forward(upstream, client, true);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });

  const reset = (): void => {
    for (const socket of sockets) socket.resetAndDestroy();
  };
  const close = async (): Promise<void> => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    reset();
    await closed;
  };
  return {
    port: (server.address() as AddressInfo).port,
    open: () => sockets.size / 2,
    accepted: () => accepted,
    cut() {
      mode = "cut";
      reset();
    },
    delay: (ms) => void (delayMs = ms),
    blackhole,
    isHeld: () => mode === "blackhole",
    stall: (afterBytes) => void (stallAfterBytes = afterBytes),
    restore() {
      mode = "open";
      delayMs = 0;
      stallAfterBytes = Infinity;
      for (const socket of sockets) socket.resume();
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
