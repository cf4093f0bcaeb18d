import type { components, paths } from "./api.ts";
import { ArgoError } from "./errors.ts";
import { json, searchOf, sleep, type CallOptions, type Transport } from "./transport.ts";

export type Signal = components["schemas"]["Signal"];

const path = "/api/signals/latest";
export type LatestQuery = Omit<
  NonNullable<paths[typeof path]["get"]["parameters"]["query"]>,
  "wait"
>;

/** What a query showed. As long as nothing has changed it is the very same object. */
export type Page = {
  readonly query: LatestQuery;
  /** Newest first. */
  readonly signals: readonly Signal[];
  /** The highest id that was visible. */
  readonly headId: number;
  readonly etag: string;
};

export type PollOptions = {
  signal?: AbortSignal | undefined;
  /** How long the server may hold a poll until something changes, seconds: 0 to 60. */
  waitSeconds?: number | undefined;
  /** The least time between two polls that found nothing new, milliseconds. */
  intervalMs?: number | undefined;
};

/** A request that is under way, and how many wait for it. */
type Flight = { answer: Promise<Page>; controller: AbortController; waiting: number };

const pagesMax = 256;

/** Polls that ask only for what has changed. Equal ones that are under way at once are one. */
export class Polls {
  readonly #pages = new Map<string, Page>();
  readonly #flights = new Map<string, Flight>();

  constructor(private readonly transport: Transport) {}

  latest(query: LatestQuery, options: CallOptions): Promise<Page> {
    return this.#ask(query, this.#pages.get(keyOf(query)), 0, options);
  }

  wait(page: Page, waitSeconds: number, options: CallOptions): Promise<Page> {
    return this.#ask(page.query, page, waitSeconds, options);
  }

  async batch(queries: readonly LatestQuery[], options: CallOptions): Promise<Page[]> {
    const asked = queries.map((query) => ({ query, known: this.#pages.get(keyOf(query)) }));
    const requests = asked.map(({ query, known }) => ({
      url: `${path}?${searchOf(query)}`,
      ...(known && { headers: { "If-None-Match": known.etag } }),
    }));
    const request = this.transport.request(
      "/api/batch",
      {},
      {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ requests }),
        signal: options.signal,
      },
    );
    const response = await this.transport.send(request, { ...options, repeatable: true });
    const body = await json(response);
    if (!response.ok) throw ArgoError.of(response, body);
    const { responses } = (body ?? {}) as Partial<components["schemas"]["BatchOut"]>;
    if (!Array.isArray(responses)) throw new Error("The batch was answered by something else.");
    const answers = asked.map(({ query, known }, i) => {
      const { status = 0, headers, body } = responses[i] ?? {};
      const head = { status, statusText: "", headers: new Headers(headers) };
      if (status === 304 && known) return known;
      return status === 200
        ? this.#keep(pageOf(query, head.headers, body))
        : ArgoError.of(head, body);
    });
    // Only now: what was answered well need not be sent again.
    for (const answer of answers) if (answer instanceof ArgoError) throw answer;
    return answers as Page[];
  }

  /** Goes on until the signal says so, whatever fails meanwhile that may mend itself. */
  async *poll(query: LatestQuery, options: PollOptions): AsyncGenerator<Page, void, void> {
    const { signal, waitSeconds = 25, intervalMs = 1_000 } = options;
    let page: Page | undefined;
    for (let failures = 0; ;) {
      if (signal?.aborted) return;
      const begunMs = performance.now();
      try {
        const next = await this.#ask(query, page, waitSeconds, { signal });
        failures = 0;
        const isNew = next !== page;
        if (isNew) yield (page = next);
        // Whose ETag was taken off on its way may be the same, and is not waited for.
        if (isNew && next.etag !== "") continue;
        await sleep(intervalMs - (performance.now() - begunMs), signal);
      } catch (error) {
        if (signal?.aborted) return;
        await this.transport.pauseAfter(error, failures, signal);
        failures += 1;
      }
    }
  }

  /** From here on nobody joins a request that began earlier: it may not know what was written. */
  anew(): void {
    this.#flights.clear();
  }

  async #ask(
    query: LatestQuery,
    known: Page | undefined,
    waitSeconds: number,
    { signal, deadlineMs }: CallOptions,
  ): Promise<Page> {
    signal?.throwIfAborted();
    const key = `${searchOf(query)} ${known?.etag} ${waitSeconds} ${deadlineMs}`;
    let flight = this.#flights.get(key);
    if (!flight) {
      const controller = new AbortController();
      const waitMs = waitSeconds * 1_000;
      const asked = { waitMs, deadlineMs, signal: controller.signal };
      flight = { answer: this.#fetch(query, known, asked), controller, waiting: 0 };
      this.#flights.set(key, flight);
    }
    return this.#join(key, flight, signal);
  }

  /** Waits with others; the request is given up when all of them have. */
  async #join(key: string, flight: Flight, signal: AbortSignal | undefined): Promise<Page> {
    flight.waiting += 1;
    let leave = (): void => undefined;
    try {
      const left = new Promise<never>((_, reject) => {
        leave = () => reject(signal?.reason);
        signal?.addEventListener("abort", leave);
      });
      return await Promise.race([flight.answer, left]);
    } finally {
      signal?.removeEventListener("abort", leave);
      flight.waiting -= 1;
      if (flight.waiting === 0) {
        if (this.#flights.get(key) === flight) this.#flights.delete(key);
        flight.controller.abort();
      }
    }
  }

  async #fetch(
    query: LatestQuery,
    known: Page | undefined,
    { signal, ...options }: CallOptions & { waitMs: number },
  ): Promise<Page> {
    const wait = options.waitMs > 0 && known ? options.waitMs / 1_000 : undefined;
    const headers: Record<string, string> = known ? { "If-None-Match": known.etag } : {};
    const request = this.transport.request(path, { ...query, wait }, { headers, signal });
    const response = await this.transport.send(request, options);
    if (response.status === 304 && known) return known;
    const body = await json(response);
    if (!response.ok) throw ArgoError.of(response, body);
    return this.#keep(pageOf(query, response.headers, body));
  }

  #keep(page: Page): Page {
    const key = keyOf(page.query);
    this.#pages.delete(key);
    this.#pages.set(key, page);
    const [oldest] = this.#pages.keys();
    if (this.#pages.size > pagesMax && oldest !== undefined) this.#pages.delete(oldest);
    return page;
  }
}

/** What a page is kept by: how new it must be at least is of one call. */
const keyOf = (query: LatestQuery): string => searchOf({ ...query, min_id: undefined });

function pageOf(query: LatestQuery, headers: Headers, body: unknown): Page {
  if (!Array.isArray(body)) throw new Error(`${path} was answered by something else.`);
  return {
    query,
    signals: body as Signal[],
    headId: Number(headers.get("Signal-Head") ?? 0),
    etag: headers.get("ETag") ?? "",
  };
}
