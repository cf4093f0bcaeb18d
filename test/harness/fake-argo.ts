/** A stand-in for the server, for what a real one does not do on demand: fail, stall, refuse. */

export interface FakeSignal {
  id: number;
  symbol: string;
  timestamp: string;
}

export interface FakeRequest {
  /** The path with its query. */
  path: string;
  ifNoneMatch: string | null;
  authorization: string | null;
  status: number;
  atMs: number;
}

export interface FakeArgo extends Disposable {
  url: string;
  requests: FakeRequest[];
  /** Adds so many signals; the timestamp is that of the id unless given. */
  add(count: number, timestamp?: string): void;
  /** Answers that go out before the ordinary ones, one a request. */
  next: (() => Response)[];
}

/** Starts it with so many signals there. */
export function fakeArgo(count: number, port = 0): FakeArgo {
  const signals: FakeSignal[] = [];
  const requests: FakeRequest[] = [];
  const next: (() => Response)[] = [];
  const add = (more: number, timestamp?: string): void => {
    for (let i = 0; i < more; i += 1) {
      const id = signals.length + 1;
      const minute = new Date(id * 60_000).toISOString();
      signals.push({ id, symbol: "SPX", timestamp: timestamp ?? minute });
    }
  };
  add(count);

  const ordinary = (request: Request, query: URLSearchParams): Response => {
    if (new URL(request.url).pathname === "/api/signals/export") {
      const since = Number(query.get("since_id"));
      return new Response(ndjson(signals.filter((signal) => signal.id > since)));
    }
    const head = String(signals.at(-1)?.id ?? 0);
    const headers = { ETag: `"${head}"`, "Signal-Head": head };
    if (request.headers.get("if-none-match") === headers.ETag) {
      return new Response(null, { status: 304, headers });
    }
    const newest = signals.toSorted((a, b) =>
      a.timestamp === b.timestamp ? b.id - a.id : a.timestamp < b.timestamp ? 1 : -1,
    );
    return Response.json(newest.slice(0, Number(query.get("limit"))), { headers });
  };

  const server = Bun.serve({
    hostname: "127.0.0.1",
    development: false, // else it prints the answers that are cut on purpose
    port,
    fetch(request) {
      const url = new URL(request.url);
      const answer = next.shift()?.() ?? ordinary(request, url.searchParams);
      requests.push({
        path: url.pathname + url.search,
        ifNoneMatch: request.headers.get("if-none-match"),
        authorization: request.headers.get("authorization"),
        status: answer.status,
        atMs: performance.now(),
      });
      return answer;
    },
  });
  return {
    url: `http://127.0.0.1:${server.port}`,
    requests,
    add,
    next,
    [Symbol.dispose]: () => void server.stop(true),
  };
}

/** Signals as export sends them. */
export function ndjson(signals: readonly FakeSignal[]): string {
  return signals.map((signal) => `${JSON.stringify(signal)}\n`).join("");
}

/** An answer that breaks off: the text, then the connection is cut. */
export function brokenOff(text: string): Response {
  const body = new ReadableStream<Uint8Array>({
    async start(controller) {
      controller.enqueue(new TextEncoder().encode(text));
      await Bun.sleep(50);
      controller.error(new Error("cut"));
    },
  });
  return new Response(body);
}
