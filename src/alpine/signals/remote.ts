import { z } from "zod";
import { PREMIUM_CONFIDENCE } from "../../argo/signals/layout";
import { type AnswerSource, latestPath } from "../../argo/signals/poll";
import { lateMsMax } from "../../argo/origin/status";
import type { ReceivedSignal } from "../../argo/signals/signal";
import { AnswerHeaders, Variant } from "../../argo/signals/variant";
import { AppError, type ErrorCode } from "../../errors";
import { fullView, type View, viewHeader, viewText } from "../../http/entitlement";
import type { Exchange } from "../../http/exchange";
import { viewOfReader } from "../../http/guard";
import { secureHeaders } from "../../http/policy";
import { Upstream, type UpstreamAnswer, wholeBody } from "../../platform/fetch";
import { Gate } from "../../platform/gate";
import { linesOf } from "./lines";
import type { PremiumSignals, PremiumSource } from "../notifications/watch";
import type { SignalSource, Slice } from "../webhooks/source";

export type RemoteOptions = {
  /** Where argo is, without a slash at the end. */
  url: string;
  /** A read token that argo knows. */
  token: string;
  /** False keeps no answers; they are the same. */
  cache: boolean;
};

type Streamed = { body: ReadableStream<Uint8Array>; head: string; gap: string | null };
/** `path` with its query; `reader` is null for who may ask for as much as there is room for. */
export type Ask = { path: string; view: View; requestId: string; reader: string | null };

export const askOf = (path: string, exchange: Exchange): Ask => ({
  path,
  view: viewOfReader(exchange),
  requestId: exchange.requestId,
  reader: exchange.principal?.account?.userId ?? null,
});

type Told = { body: Uint8Array<ArrayBuffer>; ids: readonly number[] };
type Kept = { variant: Variant; bytes: number };

export const away = "Signals are not available at the moment. Try again.";
const exportPath = "/api/signals/export?since_id=";
/** Views that are followed at once. */
const viewsMax = 100;
const perReaderMax = 6;
const perReaderWaitingMax = 1_000;
const entriesMax = 1_024;
const bytesMax = 16 * 1024 * 1024;
const entryBytesMax = 1024 * 1024;
/** What an entry costs beside its bytes: headers, mostly. */
const overheadBytes = 4_096;

/** What argo answers when it refuses, as far as it is passed on. */
const Refusal = z.object({
  detail: z.string(),
  code: z.enum(["bad_request", "not_found", "unavailable", "rate_limited"]),
  errors: z.array(z.object({ field: z.string(), detail: z.string() })).optional(),
});

/**
 * The signals of an argo elsewhere, each reader's with the reader's own view. Nothing is ever
 * answered that argo was not asked for after the question came: answers are kept only to be found
 * unmodified, and equal questions share a request that is still to be sent, never one under way.
 */
export class RemoteSignals implements Disposable {
  /** Questions that were answered by somebody else's request. */
  joined = 0;
  /** Answers that argo found unmodified. */
  revalidated = 0;
  readonly upstream: Upstream;
  /** For what does not end by itself: it takes no room from what does, and is back sooner. */
  readonly #lasting: Upstream;
  readonly #headers = new AnswerHeaders(secureHeaders);
  readonly #kept = new Map<string, Kept>();
  readonly #running = new Map<string, Promise<unknown>>();
  readonly #next = new Map<string, Promise<unknown>>();
  readonly #readers = new Map<string, Gate>();
  /** New premium signals, for whoever tells of them. */
  readonly premium: PremiumSource = {
    headId: () => this.headId(fullView),
    after: (id, shownMax) => this.#premiumAfter(id, shownMax),
    lateMs: async () => ((await this.#isLate()) ? Infinity : lateMsMax),
  };
  /** What each view sees, for webhooks: nothing tells of news, it is asked for. */
  readonly source: SignalSource = {
    maxId: () => this.headId(fullView),
    isLate: () => this.#isLate(),
    follow: (view) =>
      Promise.resolve({
        ended: false,
        position: () => this.headId(view),
        after: (sinceId, rowsMax) => this.#slice(view, sinceId, rowsMax),
        close: () => undefined,
      }),
  };
  #bytes = 0;

  constructor(private readonly options: RemoteOptions) {
    const { url, token } = options;
    const common = { url, headers: { Authorization: `Bearer ${token}` }, away };
    this.upstream = new Upstream(common);
    this.#lasting = new Upstream({ ...common, streamsMax: viewsMax, openMsMax: 1_000 });
  }

  /** Bytes of answers held at the moment. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The answers to polls of a path. */
  polled(path: string): AnswerSource {
    return {
      answer: (search, gzip, _view, exchange, use, fail) =>
        this.variant(askOf(path + search, exchange), gzip).then(
          (variant) => use(variant, exchange),
          (error: unknown) => fail(error, exchange),
        ),
    };
  }

  /** An answer that has an ETag, as it is after this call. @throws AppError what argo refused, or 503. */
  variant(ask: Ask, gzip: boolean): Promise<Variant> {
    const key = `${viewText(ask.view)} ${gzip} ${ask.path}`;
    return this.#shared(key, ask, (until) => this.#current(key, ask, gzip, until));
  }

  /** A whole answer as JSON, as it is after this call. @throws AppError what argo refused, or 503. */
  json(ask: Ask): Promise<Told> {
    const { path, view } = ask;
    return this.#shared(`${viewText(view)} ${path}`, ask, async (until) => {
      const answer = await this.upstream.get(path, headersOf(ask, false), until);
      mustBeArgo(answer, view);
      if (answer.status !== 200) throw refusalOf(answer);
      return { body: answer.body, ids: idsOf(answer.body) };
    });
  }

  /** Signals by their ids; those that are gone, or that the reader does not see, are left out. */
  async byIds(ids: readonly number[], exchange: Exchange): Promise<Map<number, ReceivedSignal>> {
    const found = await Promise.all(ids.map((id) => this.#byId(id, exchange)));
    return new Map(found.flatMap((signal) => (signal ? [[signal.id, signal]] : [])));
  }

  async #byId(id: number, exchange: Exchange): Promise<ReceivedSignal | null> {
    try {
      const { body } = await this.json(askOf(`/api/signals/${id}`, exchange));
      return JSON.parse(new TextDecoder().decode(body)) as ReceivedSignal;
    } catch (error) {
      if (error instanceof AppError && error.code === "not_found") return null;
      throw error;
    }
  }

  /** The highest id that this view sees, as of this call. @throws AppError 503. */
  async headId(view: View): Promise<number> {
    return (await this.variant(viewAsk(`${latestPath}?limit=1`, view), false)).head;
  }

  /** An answer whose body does not end by itself. @throws AppError what argo refused, or 503. */
  lasting(ask: Ask): Promise<Streamed> {
    return this.#streamed(this.#lasting, ask);
  }

  /** An answer whose body comes as it is read. @throws AppError what argo refused, or 503. */
  stream(ask: Ask): Promise<Streamed> {
    return this.#streamed(this.upstream, ask);
  }

  async #streamed(upstream: Upstream, ask: Ask): Promise<Streamed> {
    const response = await upstream.stream(ask.path, headersOf(ask, false));
    try {
      mustBeArgo(response, ask.view);
      const head = response.headers.get("signal-head") ?? "";
      const gap = response.headers.get("signal-gap");
      if (response.status === 200) {
        return { body: response.body ?? new Blob([]).stream(), head, gap };
      }
      const { status, headers } = response;
      throw refusalOf({ status, headers, body: await wholeBody(response, entryBytesMax) });
    } catch (error) {
      if (!response.body?.locked) await response.body?.cancel();
      throw error;
    }
  }

  /** Why signals cannot be had; null when they can. */
  async fault(): Promise<AppError | null> {
    try {
      await this.variant(ownAsk(`${latestPath}?limit=1`), false);
      return null;
    } catch (error) {
      return error instanceof AppError ? error : unlikeArgo(String(error));
    }
  }

  [Symbol.dispose](): void {
    this.upstream[Symbol.dispose]();
    this.#lasting[Symbol.dispose]();
  }

  /** Whether argo is a node that may miss something. */
  async #isLate(): Promise<boolean> {
    const response = await this.upstream.stream("/health", {});
    const body = new TextDecoder().decode(await wholeBody(response, entryBytesMax));
    const { origin = "healthy" } =
      (JSON.parse(body) as { checks?: { origin?: string } }).checks ?? {};
    return origin !== "healthy";
  }

  /** The first lines of what the export has after an id; the rest is left unread. */
  async #slice(view: View, sinceId: number, rowsMax: number): Promise<Slice> {
    const { body, head } = await this.stream(viewAsk(`${exportPath}${sinceId}`, view));
    const lines: string[] = [];
    for await (const line of linesOf(body, "\n")) {
      lines.push(line);
      if (lines.length < rowsMax) continue;
      return { lines, untilId: (JSON.parse(line) as ReceivedSignal).id };
    }
    return { lines, untilId: Math.max(sinceId, Number(head)) };
  }

  async #premiumAfter(id: number, shownMax: number): Promise<PremiumSignals> {
    const { body, head } = await this.stream(ownAsk(`${exportPath}${id}`));
    const found: PremiumSignals = { count: 0, shown: [], untilId: Number(head) };
    for await (const line of linesOf(body, "\n")) {
      const signal = JSON.parse(line) as ReceivedSignal;
      if ((signal.confidence ?? 0) < PREMIUM_CONFIDENCE) continue;
      found.count += 1;
      if (found.count <= shownMax) found.shown.push(signal);
    }
    return found;
  }

  /** Nobody takes more than a part of what may be under way; what is joined costs nothing. */
  #shared<T>(key: string, { reader }: Ask, ask: (until: number) => Promise<T>): Promise<T> {
    const waiting = this.#next.get(key) as Promise<T> | undefined;
    if (waiting) {
      this.joined += 1;
      return waiting;
    }
    const until = this.upstream.deadline();
    const join = (): Promise<T> => this.#join(key, () => ask(until));
    return reader === null ? join() : this.#inTurn(reader, join);
  }

  async #inTurn<T>(reader: string, work: () => Promise<T>): Promise<T> {
    const gate = this.#readers.get(reader) ?? new Gate(perReaderMax, perReaderWaitingMax, away, 1);
    this.#readers.set(reader, gate);
    try {
      return await gate.run(work);
    } finally {
      if (gate.idle) this.#readers.delete(reader);
    }
  }

  #join<T>(key: string, ask: () => Promise<T>): Promise<T> {
    const running = this.#running.get(key) as Promise<T> | undefined;
    if (!running) return this.#run(key, ask);
    const waiting = this.#next.get(key) as Promise<T> | undefined;
    if (waiting) return waiting;
    const again = (): Promise<T> => {
      this.#next.delete(key);
      return this.#run(key, ask);
    };
    const next = running.then(again, again);
    this.#next.set(key, next);
    return next;
  }

  #run<T>(key: string, ask: () => Promise<T>): Promise<T> {
    const running = ask();
    this.#running.set(key, running);
    const done = (): void => {
      this.#running.delete(key);
    };
    running.then(done, done);
    return running;
  }

  async #current(key: string, ask: Ask, gzip: boolean, until: number): Promise<Variant> {
    const held = this.#kept.get(key)?.variant;
    const conditional = held && { "If-None-Match": held.etag };
    const headers = { ...headersOf(ask, gzip), ...conditional };
    const answer = await this.upstream.get(ask.path, headers, until);
    mustBeArgo(answer, ask.view);
    const { status } = answer;
    if (status !== 200 && status !== 304) throw refusalOf(answer);
    const etag = answer.headers.get("etag");
    const head = Number(answer.headers.get("signal-head") ?? NaN);
    if (etag === null || Number.isNaN(head)) throw unlikeArgo("an answer without ETag");
    if (status === 200) {
      const encoding = answer.headers.get("content-encoding") ?? undefined;
      const { body } = answer;
      const ids = idsOf(body, encoding);
      const content = { body, etag, head, ids, ...(encoding && { encoding }) };
      return this.#keep(key, new Variant(this.#headers, content));
    }
    if (!held) throw unlikeArgo("304 to what was not held");
    this.revalidated += 1;
    // Others have come to the file that this answer does not show.
    return this.#keep(key, held.head === head ? held : held.at(head));
  }

  /** The one used longest ago goes first. */
  #keep(key: string, variant: Variant): Variant {
    if (!this.options.cache) return variant;
    this.#drop(key);
    const bytes = variant.body.length + key.length + overheadBytes;
    if (bytes > entryBytesMax) return variant;
    this.#kept.set(key, { variant, bytes });
    this.#bytes += bytes;
    for (const oldest of this.#kept.keys()) {
      if (this.#bytes <= bytesMax && this.#kept.size <= entriesMax) break;
      this.#drop(oldest);
    }
    return variant;
  }

  #drop(key: string): void {
    this.#bytes -= this.#kept.get(key)?.bytes ?? 0;
    this.#kept.delete(key);
  }
}

/** What this process asks for itself. */
const ownAsk = (path: string): Ask => viewAsk(path, fullView);

/** The same, with the eyes of many. */
export const viewAsk = (path: string, view: View): Ask => ({
  path,
  view,
  requestId: "alpine-itself",
  reader: null,
});

const headersOf = ({ view, requestId }: Ask, gzip: boolean): Record<string, string> => ({
  [viewHeader]: viewText(view),
  "X-Request-Id": requestId,
  "Accept-Encoding": gzip ? "gzip" : "identity",
});

/**
 * Argo says whose view it answered. Whatever does not, such as a release that knows no views, may
 * have answered what this reader must not see. @throws AppError 503.
 */
function mustBeArgo({ status, headers }: Pick<UpstreamAnswer, "status" | "headers">, view: View) {
  if (status === 401 || status === 403) throw unlikeArgo("it refuses ARGO_SERVICE_TOKEN");
  if (headers.get(viewHeader) !== viewText(view)) {
    throw unlikeArgo(`${status} without ${viewHeader}: another server, or an older release`);
  }
}

const Signals = z.array(z.object({ id: z.int() }));
const Delivered = z.union([
  Signals,
  z.object({ signals: Signals }).transform(({ signals }) => signals),
  z.object({ id: z.int() }).transform((signal) => [signal]),
]);

/** The signals in an answer, to be counted. @throws AppError 503 for what is no JSON. */
function idsOf(body: Uint8Array<ArrayBuffer>, encoding?: string): number[] {
  try {
    const plain = encoding === "gzip" ? Bun.gunzipSync(body) : body;
    const { data } = Delivered.safeParse(JSON.parse(new TextDecoder().decode(plain)));
    return data?.map(({ id }) => id) ?? [];
  } catch {
    throw unlikeArgo("an answer that is no JSON");
  }
}

/** Passed on: it is said to this reader as argo would say it. */
function refusalOf({ status, headers, body }: UpstreamAnswer): AppError {
  let text: unknown;
  try {
    text = JSON.parse(new TextDecoder().decode(body));
  } catch {
    return unlikeArgo(`${status} that is no problem document`);
  }
  const { data } = Refusal.safeParse(text);
  if (!data) return unlikeArgo(`${status} that is not known`);
  const { detail, errors } = data;
  // Too many requests of ours are not too many of this reader's.
  const code: ErrorCode = data.code === "rate_limited" ? "unavailable" : data.code;
  if (code !== "unavailable") return new AppError(code, detail, errors && { errors });
  const retryAfterSeconds = Math.max(1, Math.min(60, Number(headers.get("retry-after")) || 1));
  return new AppError(code, data.code === code ? detail : away, { retryAfterSeconds });
}

const unlikeArgo = (cause: string): AppError =>
  new AppError("unavailable", away, { retryAfterSeconds: 5, cause: `argo: ${cause}` });
