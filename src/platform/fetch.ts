import {
  BrokenCircuitError,
  circuitBreaker,
  type CircuitBreakerPolicy,
  CircuitState,
  ConsecutiveBreaker,
  ExponentialBackoff,
  handleType,
} from "cockatiel";
import { AppError } from "../errors";
import { Gate } from "./gate";

/** How long things may take, all in milliseconds. */
type Times = {
  /** From a request's arrival to its answer, retries and waiting included. */
  deadlineMs: number;
  attemptMs: number;
  /** An attempt without an answer for so long makes us ask whether anybody is there. */
  doubtMs: number;
  livenessMs: number;
  /** First pause before a retry; jittered, and growing. */
  retryMs: number;
  /** For how long the circuit stays open: at first, and at most. */
  openMs: number;
  openMsMax: number;
};

export type UpstreamOptions = Partial<Times> & {
  /** Where it is, without a slash at the end. */
  url: string;
  /** Sent with every request, and told nobody. */
  headers: Readonly<Record<string, string>>;
  /** What clients are told while it is away. */
  away: string;
  /** Requests under way at once; each has a connection. */
  insideMax?: number;
  waitingMax?: number;
  /** Bodies that are read as they come, at once. */
  streamsMax?: number;
  bodyBytesMax?: number;
};

export type UpstreamAnswer = { status: number; headers: Headers; body: Uint8Array<ArrayBuffer> };

type Headed = Readonly<Record<string, string>>;
type Read<T> = (response: Response, stop: AbortController) => Promise<T>;

const usual: Times = {
  // Below the 10 s after which the listener gives up a connection that was told nothing.
  deadlineMs: 8_000,
  // Above the 5 s that the other side gives its longest reads: what it has to say arrives.
  attemptMs: 5_500,
  doubtMs: 1_000,
  livenessMs: 1_000,
  retryMs: 50,
  openMs: 500,
  openMsMax: 5_000,
};
const retryMsMax = 1_000;
const retriesMax = 2;
/** Retries are at most a tenth of the requests, beside a few that can be saved up. */
const retriesShare = 0.1;
const retriesSavedMax = 10;
/** In a row, before the circuit opens. */
const failuresMax = 5;
/** Slow ones that are not counted among those under way; each has a connection as well. */
const slowMax = 100;
const streamsMax = 8;
const streamIdleMs = 30_000;
const bodyBytesMax = 32 * 1024 * 1024;
/** The other side closes idle connections after 10 s. */
const idleSeconds = 8;

/** The other side did not do its part. The message is for the log alone. */
class Faltered extends Error {
  override readonly name = "Faltered";

  constructor(
    message: string,
    /** Whether another try may help. */
    readonly again: boolean,
  ) {
    super(message);
  }
}

/**
 * One HTTP server that this one reads from, over connections that are kept. Every wait is bounded:
 * the excess of requests is refused, retries have a budget, and while the other side is away
 * nothing is sent but now and then one request to see. What fails is 503 with Retry-After.
 */
export class Upstream implements Disposable {
  requests = 0;
  retries = 0;
  failures = 0;
  readonly #times: Times;
  readonly #session: Bun.FetchSession;
  #breaker: CircuitBreakerPolicy;
  #brokeAt = 0;
  readonly #gate: Gate;
  #retriesSaved = retriesSavedMax;
  #streams = 0;
  #slow = 0;
  #asking: Promise<boolean> | null = null;

  constructor(private readonly options: UpstreamOptions) {
    this.#times = { ...usual, ...options };
    const { away, insideMax = 16, waitingMax = 1_000 } = options;
    this.#session = new Bun.FetchSession({
      // None of the environment: it would be shown the token.
      proxy: false,
      keepAlive: { idleTimeout: idleSeconds, maxIdleSockets: insideMax },
    });
    this.#breaker = this.#closed();
    this.#gate = new Gate(insideMax, waitingMax, away, 1);
  }

  /** True while nothing is sent, or one request to see, since the other side is away. */
  get open(): boolean {
    return this.#breaker.state !== CircuitState.Closed;
  }

  /** By when a request that came now must be answered, as `performance.now()` counts. */
  deadline(): number {
    return performance.now() + this.#times.deadlineMs;
  }

  /**
   * GET, the whole answer: of a status below 500, or 503 that says when to come back.
   * @throws AppError 503.
   */
  async get(path: string, headers: Headed, until = this.deadline()): Promise<UpstreamAnswer> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(
      () => late.reject(new Faltered("no answer in time", false)),
      until - performance.now(),
    );
    const read: Read<UpstreamAnswer> = (response) => this.#whole(response);
    try {
      const work = this.#gate.run((leave) => this.#persist(path, headers, until, read, leave));
      return await Promise.race([work, late.promise]);
    } catch (error) {
      throw this.#told(error);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * The same with a body that whoever asks reads to its end or cancels. Once it has begun, nothing
   * is tried again: a body that breaks off ends in an error.
   */
  async stream(path: string, headers: Headed): Promise<Response> {
    if (this.#streams >= (this.options.streamsMax ?? streamsMax))
      throw this.#told(new Faltered("too many streams", false));
    this.#streams += 1;
    let ended = false;
    const end = (): void => {
      if (!ended) this.#streams -= 1;
      ended = true;
    };
    try {
      return await this.#persist(path, headers, this.deadline(), (response, stop) =>
        Promise.resolve(followed(response, stop, end)),
      );
    } catch (error) {
      end();
      throw this.#told(error);
    }
  }

  [Symbol.dispose](): void {
    this.#session.close();
  }

  #closed(): CircuitBreakerPolicy {
    const { openMs: initialDelay, openMsMax: maxDelay } = this.#times;
    const breaker = circuitBreaker(handleType(Faltered), {
      breaker: new ConsecutiveBreaker(failuresMax),
      halfOpenAfter: new ExponentialBackoff({ initialDelay, maxDelay }),
    });
    breaker.onBreak(() => (this.#brokeAt = performance.now()));
    return breaker;
  }

  /** The library goes by the time of day: set back by an hour, it would stay open for one. */
  #circuit(): CircuitBreakerPolicy {
    const longAgo = performance.now() - this.#brokeAt > 2 * this.#times.openMsMax;
    if (this.#breaker.state === CircuitState.Open && longAgo) this.#breaker = this.#closed();
    return this.#breaker;
  }

  async #persist<T>(
    path: string,
    headers: Headed,
    until: number,
    read: Read<T>,
    leave?: () => void,
  ): Promise<T> {
    const { attemptMs, retryMs: initialDelay } = this.#times;
    this.#retriesSaved = Math.min(retriesSavedMax, this.#retriesSaved + retriesShare);
    let pause = new ExponentialBackoff({ initialDelay, maxDelay: retryMsMax }).next();
    for (let retries = 0; ; retries += 1) {
      const leftMs = until - performance.now();
      if (leftMs <= 0) throw new Faltered("no answer in time", false);
      try {
        return await this.#circuit().execute(() =>
          this.#attempt(path, headers, Math.min(attemptMs, leftMs), read, leave),
        );
      } catch (error) {
        const again = error instanceof Faltered && error.again && retries < retriesMax;
        if (!again || performance.now() + pause.duration >= until || !this.#mayRetry()) throw error;
        this.retries += 1;
        await Bun.sleep(pause.duration);
        pause = pause.next(null);
      }
    }
  }

  #mayRetry(): boolean {
    if (this.#retriesSaved < 1) return false;
    this.#retriesSaved -= 1;
    return true;
  }

  async #attempt<T>(
    path: string,
    headers: Headed,
    ms: number,
    read: Read<T>,
    leave?: () => void,
  ): Promise<T> {
    const { url, headers: own } = this.options;
    const stop = new AbortController();
    const late = setTimeout(() => stop.abort(new Faltered("no answer in time", true)), ms);
    let [ended, slow] = [false, 0];
    const doubt = setTimeout(async () => {
      const lives = await this.#lives();
      if (ended) return;
      if (!lives) return stop.abort(new Faltered("silent", false));
      // Somebody is there who takes long: that keeps nobody from what is answered at once.
      if (!leave || this.#slow >= slowMax) return;
      slow = 1;
      this.#slow += slow;
      leave();
    }, this.#times.doubtMs);
    this.requests += 1;
    try {
      const response = await this.#session.fetch(url + path, {
        headers: { ...headers, ...own },
        signal: stop.signal,
        // Somewhere else the token has no business.
        redirect: "manual",
        decompress: false,
        timeout: streamIdleMs,
      });
      if (response.status < 500) return await read(response, stop);
      if (response.status === 503 && response.headers.has("retry-after")) {
        return await read(response, stop);
      }
      // Read to its end, so that the connection can be used again.
      await this.#whole(response);
      throw new Faltered(`answered ${response.status}`, true);
    } catch (error) {
      this.failures += 1;
      const reason: unknown = stop.signal.aborted ? stop.signal.reason : error;
      // Of a library's error the code alone: its text may name the address.
      throw reason instanceof Faltered ? reason : new Faltered(codeOf(reason), true);
    } finally {
      clearTimeout(late);
      clearTimeout(doubt);
      ended = true;
      this.#slow -= slow;
    }
  }

  #lives(): Promise<boolean> {
    const ask = async (): Promise<boolean> => {
      try {
        const signal = AbortSignal.timeout(this.#times.livenessMs);
        const init: BunFetchRequestInit = { signal, redirect: "manual" };
        await (await this.#session.fetch(`${this.options.url}/livez`, init)).bytes();
        return true;
      } catch {
        return false;
      } finally {
        this.#asking = null;
      }
    };
    return (this.#asking ??= ask());
  }

  async #whole(response: Response): Promise<UpstreamAnswer> {
    const { status, headers } = response;
    const body = await wholeBody(response, this.options.bodyBytesMax ?? bodyBytesMax);
    return { status, headers, body };
  }

  #told(error: unknown): unknown {
    const open = error instanceof BrokenCircuitError;
    if (!open && !(error instanceof Faltered)) return error;
    const cause = open ? "circuit open" : error.message;
    return new AppError("unavailable", this.options.away, {
      retryAfterSeconds: open ? 2 : 1,
      cause,
    });
  }
}

/** The bytes of a body. @throws when there are more than these. */
export async function wholeBody(
  { body }: Response,
  bytesMax: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of body ?? []) {
    size += piece.length;
    if (size > bytesMax) throw new Faltered(`an answer of more than ${bytesMax} bytes`, false);
    pieces.push(piece);
  }
  return new Uint8Array(Buffer.concat(pieces));
}

/** Calls `end` once the body has ended, whichever way; a reader who goes ends the request as well. */
function followed(response: Response, stop: AbortController, end: () => void): Response {
  const { status, headers, body } = response;
  if (!body) {
    end();
    return response;
  }
  const reader = body.getReader();
  const pull = async (controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> => {
    try {
      const { done, value } = await reader.read();
      if (!done) return controller.enqueue(value);
      end();
      controller.close();
    } catch (error) {
      end();
      controller.error(error);
    }
  };
  const cancel = (): void => {
    end();
    stop.abort();
  };
  return new Response(new ReadableStream({ pull, cancel }, { highWaterMark: 0 }), {
    status,
    headers,
  });
}

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return "failed";
  return "code" in error && typeof error.code === "string" ? error.code : error.name;
}
