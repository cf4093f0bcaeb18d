import { given } from "./given";

// What it costs to publish and nothing else: the body of a POST goes to all who are connected.
const { port } = given();
Bun.serve({
  port,
  hostname: "127.0.0.1",
  async fetch(request, server) {
    if (server.upgrade(request)) return;
    if (request.method === "POST") server.publish("all", await request.text());
    return new Response("ok");
  },
  websocket: { open: (socket) => void socket.subscribe("all"), message: () => undefined },
});
