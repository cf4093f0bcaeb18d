import { AppError, type ErrorCode, type FieldError, SetupError } from "../errors";

export type ThreadRequest = { id: number; method: string; args: unknown };
export type ThreadReply =
  | { id: number; value: unknown }
  | { id: number; failure: ThreadFailure }
  | { event: string; data: unknown };
type ThreadFailure = {
  /** Null for a fault of the set-up, whose mend is `fix`. */
  code: ErrorCode | null;
  fix?: string;
  detail: string;
  errors?: FieldError[] | undefined;
  retryAfterSeconds?: number | undefined;
  cause?: string | undefined;
};

type Pending = { resolve: (value: unknown) => void; reject: (error: unknown) => void };
type Options = {
  /** Module below src/, without its ending. It is an entry point of its own in the binary. */
  module: string;
  /** Given to the thread before anything else. */
  start: unknown;
  pendingMax: number;
  onEvent: (event: string, data: unknown) => void;
};

/** How long a thread may take to end, milliseconds. */
const endMs = 5_000;

/**
 * A worker thread that answers calls in the order in which they are made. A thread that dies
 * fails its calls with 503; the next call starts another.
 */
export class Thread {
  readonly #options: Options;
  readonly #pending = new Map<number, Pending>();
  #worker: Worker | null = null;
  #lastId = 0;

  constructor(options: Options) {
    this.#options = options;
  }

  /** Rejects with what the thread answered, or with AppError 503 when it is full or died. */
  call<T>(method: string, args: unknown): Promise<T> {
    if (this.#pending.size >= this.#options.pendingMax) {
      const detail = "Too much work of this kind is waiting. Try again.";
      return Promise.reject(new AppError("unavailable", detail));
    }
    const worker = (this.#worker ??= this.#spawn());
    const id = ++this.#lastId;
    return new Promise<T>((resolve, reject) => {
      this.#pending.set(id, { resolve: resolve as Pending["resolve"], reject });
      worker.postMessage({ id, method, args } satisfies ThreadRequest);
    });
  }

  /** Lets the thread finish what it was asked, close what it holds (`close`), and end. */
  async end(): Promise<void> {
    if (!this.#worker) return;
    const worker = this.#worker;
    const id = ++this.#lastId;
    await new Promise<void>((resolve) => {
      const done = () => resolve();
      this.#pending.set(id, { resolve: done, reject: done });
      worker.postMessage({ id, method: "close", args: null } satisfies ThreadRequest);
      setTimeout(done, endMs).unref();
    });
    this.#fail("The server is stopping.");
    worker.terminate();
  }

  #spawn(): Worker {
    const worker = new Worker(moduleUrl(this.#options.module));
    worker.addEventListener("message", (event: MessageEvent<ThreadReply>) => {
      const reply = event.data;
      if ("event" in reply) return this.#options.onEvent(reply.event, reply.data);
      const pending = this.#pending.get(reply.id);
      this.#pending.delete(reply.id);
      if ("failure" in reply) pending?.reject(revive(reply.failure));
      else pending?.resolve(reply.value);
    });
    worker.addEventListener("error", (event) => {
      this.#options.onEvent("died", { error: event.message });
      if (this.#worker === worker) this.#fail("A thread of the server died.");
    });
    worker.addEventListener("close", () => {
      if (this.#worker !== worker) return;
      this.#options.onEvent("ended", {});
      this.#fail("A thread of the server ended.");
    });
    worker.postMessage({ id: 0, method: "start", args: this.#options.start });
    return worker;
  }

  #fail(detail: string): void {
    this.#worker = null;
    const failed = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of failed) reject(new AppError("unavailable", detail));
  }
}

/** A compiled binary holds its entry points by their path below src/, in JavaScript. */
function moduleUrl(module: string): string | URL {
  return Bun.main.startsWith("/$bunfs/")
    ? `/$bunfs/root/${module}.js`
    : new URL(`../${module}.ts`, import.meta.url);
}

function revive(failure: ThreadFailure): AppError | SetupError {
  const { code, fix, detail, errors, retryAfterSeconds, cause } = failure;
  if (code === null) return new SetupError(detail, fix ?? "", { cause });
  return new AppError(code, detail, {
    ...(errors && { errors }),
    ...(retryAfterSeconds !== undefined && { retryAfterSeconds }),
    cause,
  });
}

declare const self: Worker;

type Handlers = Record<string, (args: never) => unknown>;

/** Runs in the thread: answers each call by the handler of its name. */
export function serveThread(start: (args: never) => Handlers): void {
  let handlers: Handlers | undefined;
  self.onmessage = async (event: MessageEvent<ThreadRequest>) => {
    const { id, method, args } = event.data;
    if (id === 0) {
      handlers = start(args as never);
      return;
    }
    try {
      const handler = handlers?.[method];
      if (!handler) throw new Error(`No handler for ${method}`);
      reply({ id, value: await handler(args as never) });
    } catch (error) {
      reply({ id, failure: describe(error) });
    }
  };
}

/** Runs in the thread: tells the owner something that it did not ask for. */
export function emit(event: string, data: unknown): void {
  reply({ event, data });
}

function reply(message: ThreadReply): void {
  postMessage(message);
}

function describe(error: unknown): ThreadFailure {
  if (error instanceof AppError) {
    const { code, detail, errors, retryAfterSeconds } = error;
    return { code, detail, errors, retryAfterSeconds, cause: String(error.cause ?? "") };
  }
  if (error instanceof SetupError) {
    return { code: null, fix: error.fix, detail: error.message, cause: String(error.cause ?? "") };
  }
  return { code: "internal", detail: "Internal error", cause: inspectError(error) };
}

const inspectError = (error: unknown): string =>
  error instanceof Error ? (error.stack ?? error.message) : String(error);
