import { afterEach, describe, expect, setSystemTime, test } from "bun:test";
import { createServer, type Socket } from "node:net";
import { AppError } from "../../src/errors.ts";
import { Upstream, type UpstreamOptions } from "../../src/platform/fetch.ts";
import { freePort, until } from "../harness/process.ts";
import { tcpProxy } from "../harness/proxy.ts";

/** The client by which one server reads from another: what it does when that one does not. */

const TOKEN = "canary-token-0123456789";
let scope = new AsyncDisposableStack();

afterEach(async () => {
  await scope.disposeAsync();
  scope = new AsyncDisposableStack();
});

type Answer = Response | Promise<Response>;

/** A server that counts what it is asked, but for whether it lives. */
function serve(answer: (request: Request, n: number) => Answer, port = 0) {
  const seen: { url: string; headers: Headers }[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port,
    development: false,
    fetch(request) {
      if (new URL(request.url).pathname === "/livez") return new Response("live");
      // Once it is answered, Bun has forgotten its headers.
      seen.push({ url: request.url, headers: new Headers(request.headers) });
      return answer(request, seen.length);
    },
  });
  scope.defer(() => server.stop(true));
  return { seen, port: server.port ?? 0, stop: () => server.stop(true) };
}

function upstream(port: number, options: Partial<UpstreamOptions> = {}): Upstream {
  return scope.use(
    new Upstream({
      url: `http://127.0.0.1:${port}`,
      headers: { Authorization: `Bearer ${TOKEN}` },
      away: "Away.",
      deadlineMs: 2_000,
      attemptMs: 1_500,
      doubtMs: 100,
      livenessMs: 100,
      retryMs: 5,
      openMs: 50,
      ...options,
    }),
  );
}

/** Of a server that is slow on purpose on a machine that may be slow besides. */
const patient = { deadlineMs: 60_000, attemptMs: 60_000, livenessMs: 10_000 };

async function refused(work: Promise<unknown>): Promise<AppError> {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof AppError)) throw new Error(`not refused: ${String(error)}`);
  expect(error.status).toBe(503);
  expect(error.detail).toBe("Away.");
  expect(error.retryAfterSeconds).toBeGreaterThanOrEqual(1);
  expect(JSON.stringify([error.detail, error.headers, String(error.cause)])).not.toContain(TOKEN);
  return error;
}

const text = (body: Uint8Array): string => new TextDecoder().decode(body);

test("an answer is given as it came, with the token sent and none of its parts changed", async () => {
  const packed = Bun.gzipSync("hello hello hello");
  const server = serve(
    () => new Response(packed, { headers: { "Content-Encoding": "gzip", ETag: '"x"' } }),
  );
  const { status, headers, body } = await upstream(server.port).get("/a?b=c", { "X-Own": "1" });
  expect(status).toBe(200);
  expect(headers.get("etag")).toBe('"x"');
  expect(headers.get("content-encoding")).toBe("gzip");
  expect(text(Bun.gunzipSync(body))).toBe("hello hello hello");
  const [request] = server.seen;
  expect(request?.headers.get("authorization")).toBe(`Bearer ${TOKEN}`);
  expect(request?.headers.get("x-own")).toBe("1");
  expect(new URL(request?.url ?? "").search).toBe("?b=c");
});

test("what is refused is an answer, not a failure, and is asked once", async () => {
  const server = serve((request) => {
    const status = Number(new URL(request.url).pathname.slice(1));
    return new Response("no", { status, headers: status === 503 ? { "Retry-After": "7" } : {} });
  });
  const client = upstream(server.port);
  for (const status of [304, 400, 401, 404, 429, 503]) {
    const answer = await client.get(`/${status}`, {});
    expect(answer.status).toBe(status);
  }
  expect(server.seen.length).toBe(6);
  expect(client.failures).toBe(0);
});

test("a redirection is not followed: the token stays here", async () => {
  const other = serve(() => new Response("stolen"));
  const server = serve(() => Response.redirect(`http://127.0.0.1:${other.port}/`, 302));
  expect((await upstream(server.port).get("/", {})).status).toBe(302);
  expect(other.seen.length).toBe(0);
});

test("a failure that passes is not felt", async () => {
  const server = serve((_request, n) => new Response(`${n}`, { status: n === 1 ? 500 : 200 }));
  const client = upstream(server.port);
  expect(text((await client.get("/", {})).body)).toBe("2");
  expect(client.retries).toBe(1);
});

test("retries stay within their budget, however many requests fail", async () => {
  let failing = false;
  // Never five in a row, so that it is not the circuit that holds them back.
  const server = serve((_request, n) => new Response("", { status: failing && n % 5 ? 500 : 200 }));
  const client = upstream(server.port, { insideMax: 1 });
  for (let i = 0; i < 20; i += 1) await client.get("/", {});
  failing = true;
  const before = server.seen.length;
  const requests = 300;
  for (let i = 0; i < requests; i += 1) await client.get("/", {}).catch(() => undefined);
  const sent = server.seen.length - before;
  expect(client.failures).toBeGreaterThan(100);
  expect(sent - requests).toBe(client.retries);
  expect(client.retries).toBeLessThanOrEqual(10 + Math.ceil(0.1 * (requests + 20)));
  expect(client.retries).toBeGreaterThan(20);
});

describe("while it is away", () => {
  test("the circuit opens, hardly anything is sent, and it closes by itself", async () => {
    let status = 500;
    const server = serve(() => new Response("", { status }));
    const client = upstream(server.port);
    for (let i = 0; i < 5; i += 1) await refused(client.get("/", {}));
    expect(client.open).toBe(true);
    const before = server.seen.length;
    const begun = performance.now();
    await Promise.all(Array.from({ length: 500 }, () => refused(client.get("/", {}))));
    // A request to see every 50 ms and more.
    const allowed = 3 + (performance.now() - begun) / 10;
    expect(server.seen.length - before).toBeLessThan(allowed);
    status = 200;
    await until(async () => (await client.get("/", {}).catch(() => null))?.status === 200, "back");
    expect(client.open).toBe(false);
  });

  test("a clock that is set back holds nothing open", async () => {
    let status = 500;
    const server = serve(() => new Response("", { status }));
    const client = upstream(server.port, { openMsMax: 100 });
    for (let i = 0; i < 5; i += 1) await refused(client.get("/", {}));
    expect(client.open).toBe(true);
    status = 200;
    setSystemTime(new Date(Date.now() - 3_600_000));
    try {
      const back = async () => (await client.get("/", {}).catch(() => null))?.status === 200;
      await until(back, "back");
    } finally {
      setSystemTime();
    }
  });

  test("nobody there: refused at once, and back when it is back, without a restart", async () => {
    const port = freePort();
    const client = upstream(port);
    const error = await refused(client.get("/", {}));
    // Neither the deadline nor the silence had to pass.
    expect(String(error.cause)).toMatch(/Connection|REFUSED|circuit/);
    serve(() => new Response("back"), port);
    await until(async () => (await client.get("/", {}).catch(() => null))?.status === 200, "back");
  });

  test("silent: given up once it does not say that it lives", async () => {
    const server = serve(() => new Response("ok"));
    const proxy = scope.use(await tcpProxy({ port: server.port }));
    const client = upstream(proxy.port);
    await client.get("/", {});
    proxy.blackhole();
    const error = await refused(client.get("/", {}));
    // Not the deadline.
    expect(error.cause).toBe("silent");
    proxy.restore();
    await until(async () => (await client.get("/", {}).catch(() => null))?.status === 200, "back");
  });

  test("slow is not away", async () => {
    const server = serve(async () => {
      await Bun.sleep(600);
      return new Response("slow");
    });
    const client = upstream(server.port, patient);
    expect(text((await client.get("/", {})).body)).toBe("slow");
    expect(client.retries).toBe(0);
    expect(server.seen.length).toBe(1);
  });

  test("slow keeps nobody from what is answered at once", async () => {
    const over = Promise.withResolvers<void>();
    const server = serve(async (request) => {
      if (request.url.includes("slow")) await over.promise;
      return new Response("ok");
    });
    const client = upstream(server.port, { ...patient, insideMax: 2 });
    const slow = Array.from({ length: 4 }, () => client.get("/slow", {}));
    // Two and two make room for each other after the 100 ms of doubt, long before they are answered.
    expect((await client.get("/", {})).status).toBe(200);
    over.resolve();
    expect((await Promise.all(slow)).every(({ status }) => status === 200)).toBe(true);
  });

  test("no answer in time: refused at the deadline, not later", async () => {
    const server = serve(() => new Promise<Response>(() => undefined));
    const client = upstream(server.port, { deadlineMs: 400, attemptMs: 300 });
    const begun = performance.now();
    await refused(client.get("/", {}));
    expect(performance.now() - begun).toBeLessThan(10_000);
  });

  test("a body that is cut is no answer", async () => {
    for (const head of [
      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n[1,2,",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1,2,\r\n",
      "HTTP/1.1 200 OK\r\nContent-Type: applica",
      "",
    ]) {
      const sockets = new Set<Socket>();
      const server = createServer((socket) => {
        sockets.add(socket);
        socket.on("error", () => undefined);
        socket.once("data", () => socket.end(head));
      });
      const port = freePort();
      await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
      await refused(upstream(port).get("/", {}));
      for (const socket of sockets) socket.destroy();
      server.close();
    }
  });

  test("an answer without end is given up at its bound", async () => {
    let sent = 0;
    const server = serve(
      () =>
        new Response(
          new ReadableStream({
            pull(controller) {
              sent += 1;
              controller.enqueue(new Uint8Array(64 * 1024));
            },
          }),
        ),
    );
    const client = upstream(server.port, { bodyBytesMax: 1024 * 1024 });
    const error = await refused(client.get("/", {}));
    expect(String(error.cause)).toContain("more than 1048576 bytes");
    expect(sent).toBeLessThan(200);
  });
});

test("the excess is refused at once, and those before it are answered", async () => {
  const held: (() => void)[] = [];
  const server = serve(
    () => new Promise<Response>((resolve) => held.push(() => resolve(new Response("ok")))),
  );
  const client = upstream(server.port, { insideMax: 2, waitingMax: 3 });
  const asked = Array.from({ length: 10 }, () => client.get("/", {}));
  const outcomes = Promise.allSettled(asked);
  await until(() => held.length === 2, "two are under way");
  for (let i = 0; i < 5; i += 1) {
    await until(() => held.length > i, "the next is under way");
    held[i]?.();
  }
  const done = (await outcomes).map(({ status }) => status);
  expect(done).toEqual([...Array(5).fill("fulfilled"), ...Array(5).fill("rejected")]);
  await refused(asked[9] as Promise<unknown>);
});

test("connections are kept: at most 20 are opened for 1,000 fetches", async () => {
  const server = serve(() => new Response("ok"));
  const proxy = scope.use(await tcpProxy({ port: server.port }));
  const client = upstream(proxy.port);
  for (let i = 0; i < 1_000; i += 1) await client.get("/", {});
  expect(proxy.accepted()).toBeLessThanOrEqual(2);
  for (let i = 0; i < 50; i += 1) {
    await Promise.all(Array.from({ length: 20 }, () => client.get("/", {})));
  }
  expect(proxy.accepted()).toBeLessThanOrEqual(20 + 2);
});

describe("a stream", () => {
  const lines = (count: number) =>
    new ReadableStream<Uint8Array>({
      async start(controller) {
        for (let i = 0; i < count; i += 1) {
          controller.enqueue(new TextEncoder().encode(`${i}\n`));
          await Bun.sleep(1);
        }
        controller.close();
      },
    });

  test("comes as it is read", async () => {
    const server = serve(() => new Response(lines(50)));
    const response = await upstream(server.port).stream("/", {});
    expect((await response.text()).split("\n").length).toBe(51);
  });

  test("that breaks off ends in an error, never as if it were whole", async () => {
    const server = serve(
      () =>
        new Response(
          new ReadableStream({
            async start(controller) {
              controller.enqueue(new TextEncoder().encode("1\n"));
              await Bun.sleep(20);
              controller.error(new Error("cut"));
            },
          }),
        ),
    );
    const response = await upstream(server.port).stream("/", {});
    await expect(response.text()).rejects.toThrow();
  });

  test("that nobody reads any more ends over there, and leaves its place to others", async () => {
    let ended = 0;
    const server = serve(
      () =>
        new Response(
          new ReadableStream({
            async pull(controller) {
              await Bun.sleep(1);
              controller.enqueue(new Uint8Array(16 * 1024));
            },
            cancel() {
              ended += 1;
            },
          }),
        ),
    );
    const client = upstream(server.port);
    const held = await Promise.all(Array.from({ length: 8 }, () => client.stream("/", {})));
    await refused(client.stream("/", {}));
    for (const response of held) await response.body?.cancel();
    await until(() => ended === 8, "all have ended");
    const response = await client.stream("/", {});
    await response.body?.cancel();
  });
});
