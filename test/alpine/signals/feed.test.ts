import { expect, test } from "bun:test";
import { RemoteFeed } from "../../../src/alpine/signals/feed.ts";
import { RemoteSignals } from "../../../src/alpine/signals/remote.ts";
import { AppError } from "../../../src/errors.ts";
import { fullView, viewHeader } from "../../../src/http/entitlement.ts";

/** What an argo elsewhere tells over its stream, and what becomes of it. */

const head = (id: number): string => `event: head\nid: ${id}\ndata: {"id":${id}}\n\n`;

/** An argo that stands at 10, or at what its export has, and has told the first stream less than others. */
function fake(stands: { ours: number; others: number; exported?: number }) {
  let ours = true;
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    development: false,
    fetch(request) {
      const headers = { [viewHeader]: request.headers.get(viewHeader) ?? "", ETag: '"e"' };
      const { pathname } = new URL(request.url);
      if (pathname === "/api/signals/export") {
        const to = stands.exported ?? 10;
        const rows = Array.from({ length: to }, (_, i) => `{"id":${i + 1},"confidence":1}\n`);
        return new Response(rows.join(""), { headers: { ...headers, "Signal-Head": `${to}` } });
      }
      if (pathname !== "/api/signals/stream") {
        return new Response("[]", { headers: { ...headers, "Signal-Head": "10" } });
      }
      const text = head(stands[ours ? "ours" : "others"]);
      ours = false;
      // Silent after its first word, as a connection is that died without one.
      const body = new ReadableStream<Uint8Array>({
        start: (controller) => controller.enqueue(new TextEncoder().encode(text)),
      });
      return new Response(body, { headers });
    },
  });
  const url = `http://127.0.0.1:${server.port}`;
  const remote = new RemoteSignals({ url, token: "canary-token-0123456789", cache: true });
  const feed = new RemoteFeed(remote);
  return {
    feed,
    async [Symbol.asyncDispose]() {
      feed.drain();
      remote[Symbol.dispose]();
      await server.stop(true);
    },
  };
}
const member = { end: () => undefined };

test("nobody joins a stream that does not come to where argo stands, from wherever", async () => {
  const from = async (sinceId: number | null): Promise<void> => {
    await using argo = fake({ ours: 5, others: 10 });
    const follow = argo.feed.follow(fullView, member, sinceId);
    const error: unknown = await follow.then(
      () => null,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(AppError);
    expect((error as AppError).code).toBe("unavailable");
    expect(argo.feed.followers).toBe(0);
  };
  /** It holds back what comes after, which lists show. */
  const below = async (): Promise<void> => {
    await using argo = fake({ ours: 5, others: 5 });
    expect((await argo.feed.follow(fullView, member, 3)).position).toBe(5);
  };
  await Promise.all([from(10), from(7), from(null), from(12), below()]);
});

test("nothing is taken for told that the argo asked for it does not have yet", async () => {
  for (const exported of [8, 10, 12]) {
    await using argo = fake({ ours: 10, others: 10, exported });
    const tail = await argo.feed.follow(fullView, member, 5);
    const replayed = tail.replay(0, tail.position, { minConfidence: 0 }, "message");
    const ids = await replayed.then(
      (slice) => slice.ids.length,
      (error: unknown) => (error as AppError).code,
    );
    expect(ids).toBe(exported < 10 ? "unavailable" : 10);
  }
});
