import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./api.ts";
import { ArgoError } from "./errors.ts";
import { type LatestQuery, type Page, Polls, type PollOptions } from "./polls.ts";
import { readLines } from "./read.ts";
import {
  type ReceivedSignal,
  SignalStream,
  type StreamFilters,
  type StreamNotice,
  type StreamOptions,
  warn,
} from "./stream.ts";
import { type ArgoOptions, type CallOptions, json, Transport } from "./transport.ts";

export type SignalIn = components["schemas"]["SignalIn"];
export type Accepted = components["schemas"]["Accepted"]["signals"][number];

/** A client of one server, for one key. All that it keeps is in memory and bounded. */
export class Argo {
  /**
   * Every route, typed, as openapi-fetch has it: `{ data, error, response }`. Requests that may be
   * sent twice are tried again like all others.
   */
  readonly api: Client<paths>;
  readonly #transport: Transport;
  readonly #polls: Polls;

  /** @throws TypeError when the URL is none. */
  constructor(options: ArgoOptions) {
    const transport = new Transport(options);
    this.#transport = transport;
    this.#polls = new Polls(transport);
    this.api = createClient<paths>({
      baseUrl: transport.url,
      fetch: (request) => transport.send(request),
    });
  }

  /**
   * The newest signals. What has not changed is not sent again, and calls for the same that are
   * under way at once are one request: whoever comes later gets the answer to the earlier one.
   * @throws ArgoError when the server refuses, or has not answered well before the deadline.
   */
  latest(query: LatestQuery = {}, options: CallOptions = {}): Promise<Page> {
    return this.#polls.latest(query, options);
  }

  /**
   * The same of up to 20 queries in one round trip.
   * @throws ArgoError when one of them is refused; of the others what came is kept for the next call.
   */
  batch(queries: readonly LatestQuery[], options: CallOptions = {}): Promise<Page[]> {
    return this.#polls.batch(queries, options);
  }

  /**
   * The page that comes after this one, as soon as there is one; the same page when nothing has
   * changed for so many seconds (0 to 60).
   */
  wait(page: Page, waitSeconds = 25, options: CallOptions = {}): Promise<Page> {
    return this.#polls.wait(page, waitSeconds, options);
  }

  /** The newest signals, then again whenever they have changed. An abort ends it quietly. */
  poll(query: LatestQuery = {}, options: PollOptions = {}): AsyncGenerator<Page, void, void> {
    return this.#polls.poll(query, options);
  }

  /** Signals as they come, without gap or duplicate, over as many connections as it takes. */
  stream(filters: StreamFilters = {}, options: StreamOptions = {}): SignalStream {
    return new SignalStream(this.#transport, filters, options);
  }

  /**
   * Writes signals: all or none. Tried again under one Idempotency-Key, which the server knows for
   * a day, so that nothing is written twice. Who may be ended between two tries gives a key.
   * @throws ArgoError 422 names the fields at fault and their row.
   */
  async post(
    signals: SignalIn | SignalIn[],
    {
      signal,
      deadlineMs,
      idempotencyKey = newKey(),
    }: CallOptions & { idempotencyKey?: string } = {},
  ): Promise<Accepted[]> {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": idempotencyKey };
    const init = { method: "POST", headers, body: JSON.stringify(signals), signal };
    const response = await this.#transport.send(this.#transport.request("/api/signals", {}, init), {
      deadlineMs,
    });
    const body = await json(response);
    if (!response.ok) throw ArgoError.of(response, body);
    this.#polls.anew();
    const { signals: accepted } = (body ?? {}) as { signals?: Accepted[] };
    if (!accepted) throw new Error("The post was answered by something else.");
    return accepted;
  }

  /**
   * Everything after an id, ascending, up to the highest at the start. Goes on where it broke off;
   * gives up when nothing came for as long as a call may take. An abort throws: it is not whole.
   * `onNotice` is told of a gap, as a stream's is.
   */
  async *export(
    sinceId = 0,
    {
      signal,
      deadlineMs = this.#transport.deadlineMs,
      onNotice = warn,
    }: CallOptions & { onNotice?: (notice: StreamNotice) => void } = {},
  ): AsyncGenerator<ReceivedSignal, void, void> {
    const transport = this.#transport;
    let cursor = sinceId;
    let progressMs = performance.now();
    let telling = false;
    for (let failures = 0; ; failures += 1) {
      // Not the caller's: an answer that nobody reads on is closed with this one.
      const closing = new AbortController();
      const close = (): void => closing.abort(signal?.reason);
      signal?.addEventListener("abort", close);
      try {
        signal?.throwIfAborted();
        const init = { signal: closing.signal };
        const request = transport.request("/api/signals/export", { since_id: cursor }, init);
        const { body, headers } = await transport.open(request);
        const gap = /^from=(\d+), to=(\d+)$/.exec(headers.get("Signal-Gap") ?? "");
        telling = true;
        if (gap) onNotice({ type: "gap", id: cursor, from: Number(gap[1]), to: Number(gap[2]) });
        telling = false;
        for await (const line of readLines(body, transport.muteMs)) {
          const row = JSON.parse(line) as ReceivedSignal;
          if (row.id <= cursor) continue;
          cursor = row.id;
          failures = 0;
          yield row;
          progressMs = performance.now();
        }
        return;
      } catch (error) {
        signal?.throwIfAborted();
        if (telling || performance.now() - progressMs > deadlineMs) throw error;
        await transport.pauseAfter(error, failures, signal);
      } finally {
        signal?.removeEventListener("abort", close);
        closing.abort();
      }
    }
  }
}

/**
 * What a call of `api` gave.
 * @throws ArgoError when the server refused.
 */
export function unwrap<T>(result: { data?: T; error?: unknown; response: Response }): T {
  if (result.error !== undefined) throw ArgoError.of(result.response, result.error);
  return result.data as T;
}

const newKey = (): string =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
