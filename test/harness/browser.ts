/** A real browser, driven over the DevTools protocol: https://chromedevtools.github.io/devtools-protocol */
import { spawnChild, tail, type Child } from "./children.ts";
import { tempDir, until } from "./process.ts";

const START_MS_MAX = 30_000;
const CALL_MS_MAX = 60_000;

/** One page. What it runs is given as functions, which see nothing but their arguments. */
export interface BrowserPage extends AsyncDisposable {
  /** Waits until it is loaded. */
  open(url: string): Promise<void>;
  /** Runs it in the page; arguments and result go as JSON. Rejects with what it throws. */
  run<A extends unknown[], T>(what: (...given: A) => T | Promise<T>, ...given: A): Promise<T>;
  /** The same of an expression, for what has no type here: elements. */
  value(expression: string): Promise<unknown>;
  /** Types into what has the focus; what is written as `{Tab}` or `{Enter}` is that key. */
  type(text: string): Promise<void>;
  /** What the console was told so far: what scripts log, throw and may not do, each in a line. */
  console(): string[];
  /** What is shown now, as PNG. */
  picture(): Promise<Uint8Array>;
}

export interface Browser extends AsyncDisposable {
  /** A page that shares nothing with the others. */
  page(): Promise<BrowserPage>;
}

/** Starts a Chromium with a profile of its own; both go with its scope. */
export async function startBrowser(program: string): Promise<Browser> {
  await using cleanup = new AsyncDisposableStack();
  const dir = cleanup.use(tempDir());
  const child = cleanup.use(spawnChild([program, ...flags(dir.path)], { env: { HOME: dir.path } }));
  const line = /^DevTools listening on (ws:.*)$/;
  const said = () => child.lines().flatMap((text) => line.exec(text)?.[1] ?? []);
  await until(() => said().length > 0 || !child.running(), "the browser", START_MS_MAX);
  const [url] = said();
  if (url === undefined) throw new Error(`the browser ended\n${tail(child.lines())}`);
  const tools = cleanup.adopt(await DevTools.connect(url, child), (one) => one.close());
  const whole = cleanup.move();
  return {
    page: () => openPage(tools),
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}

const flags = (dir: string): string[] => [
  "--headless",
  // Its own does not work as root nor in most containers; it opens nothing but what the tests serve.
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--disable-dev-shm-usage",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--hide-scrollbars",
  "--window-size=800,600",
  "--remote-debugging-port=0",
  `--user-data-dir=${dir}`,
  "about:blank",
];

async function openPage(tools: DevTools): Promise<BrowserPage> {
  const { browserContextId } = await tools.call("Target.createBrowserContext", {});
  const blank = { url: "about:blank", browserContextId };
  const { targetId } = await tools.call("Target.createTarget", blank);
  const attached = await tools.call("Target.attachToTarget", { targetId, flatten: true });
  const session = String(attached["sessionId"]);
  const messages: string[] = [];
  let loaded = Promise.withResolvers<void>();
  tools.listen(session, (method, params) => {
    if (method === "Page.loadEventFired") loaded.resolve();
    const text = messageOf(method, params);
    if (text !== null) messages.push(text);
  });
  for (const domain of ["Page", "Runtime", "Log"])
    await tools.call(`${domain}.enable`, {}, session);
  async function value(expression: string): Promise<unknown> {
    const options = { awaitPromise: true, returnByValue: true };
    const done = await tools.call("Runtime.evaluate", { expression, ...options }, session);
    if (done["exceptionDetails"]) throw new Error(thrown(done["exceptionDetails"] as Thrown));
    return (done["result"] as { value?: unknown }).value;
  }
  async function press(key: string): Promise<void> {
    const code = { Tab: 9, Enter: 13 }[key];
    const about = { key, code: key, windowsVirtualKeyCode: code };
    const text = key === "Enter" ? { text: "\r" } : {};
    await tools.call("Input.dispatchKeyEvent", { type: "keyDown", ...about, ...text }, session);
    await tools.call("Input.dispatchKeyEvent", { type: "keyUp", ...about }, session);
  }
  return {
    async open(url) {
      loaded = Promise.withResolvers();
      const { errorText } = await tools.call("Page.navigate", { url }, session);
      if (errorText !== undefined) throw new Error(`${url}: ${String(errorText)}`);
      await loaded.promise;
    },
    run: async <A extends unknown[], T>(what: (...given: A) => T | Promise<T>, ...given: A) =>
      (await value(`(${what})(...${JSON.stringify(given)})`)) as T,
    value,
    async type(text) {
      for (const part of text.split(/(\{\w+\})/)) {
        const key = /^\{(\w+)\}$/.exec(part)?.[1];
        if (key === undefined) await tools.call("Input.insertText", { text: part }, session);
        else await press(key);
      }
    },
    console: () => [...messages],
    async picture() {
      const shot = await tools.call("Page.captureScreenshot", { format: "png" }, session);
      return Uint8Array.fromBase64(String(shot["data"]));
    },
    async [Symbol.asyncDispose]() {
      await tools.call("Target.disposeBrowserContext", { browserContextId });
    },
  };
}

type Told = Record<string, unknown>;
type Thrown = { text: string; exception?: { description?: string; value?: unknown } };
type Argument = { value?: unknown; description?: string };

const thrown = ({ text, exception }: Thrown): string =>
  `${text} ${exception?.description ?? String(exception?.value ?? "")}`;

function messageOf(method: string, params: Told): string | null {
  if (method === "Runtime.exceptionThrown") {
    return `error: ${thrown(params["exceptionDetails"] as Thrown)}`;
  }
  if (method === "Runtime.consoleAPICalled") {
    const said = (params["args"] as Argument[]).map(
      ({ value, description }) => description ?? value,
    );
    return `${String(params["type"])}: ${said.join(" ")}`;
  }
  if (method !== "Log.entryAdded") return null;
  const {
    level,
    text,
    url = "",
  } = params["entry"] as { level: string; text: string; url?: string };
  return `${level}: ${text} ${url}`.trim();
}

/** One connection to the browser, over which its pages are spoken to as well. */
class DevTools {
  readonly #answers = new Map<number, PromiseWithResolvers<Told>>();
  readonly #listeners = new Map<string, (method: string, params: Told) => void>();
  #calls = 0;

  private constructor(
    private readonly socket: WebSocket,
    private readonly child: Child,
  ) {
    socket.addEventListener("message", ({ data }) => this.#take(JSON.parse(String(data))));
    socket.addEventListener("close", () => {
      const ended = new Error(`the browser is gone\n${tail(this.child.lines())}`);
      for (const answer of this.#answers.values()) answer.reject(ended);
    });
  }

  static async connect(url: string, child: Child): Promise<DevTools> {
    const socket = new WebSocket(url);
    await new Promise((resolve, reject) => {
      socket.addEventListener("open", resolve);
      socket.addEventListener("error", reject);
    });
    return new DevTools(socket, child);
  }

  async call(method: string, params: Told, sessionId?: string): Promise<Told> {
    this.#calls += 1;
    const id = this.#calls;
    const answer = Promise.withResolvers<Told>();
    this.#answers.set(id, answer);
    const late = setTimeout(
      () => answer.reject(new Error(`${method}: no answer in ${CALL_MS_MAX} ms`)),
      CALL_MS_MAX,
    );
    this.socket.send(JSON.stringify({ id, method, params, sessionId }));
    try {
      return await answer.promise;
    } finally {
      clearTimeout(late);
      this.#answers.delete(id);
    }
  }

  listen(sessionId: string, listener: (method: string, params: Told) => void): void {
    this.#listeners.set(sessionId, listener);
  }

  close(): void {
    this.socket.close();
  }

  #take(message: {
    id?: number;
    sessionId?: string;
    method?: string;
    params?: Told;
    result?: Told;
    error?: { message: string };
  }): void {
    const { id, method, sessionId = "", params = {}, result = {}, error } = message;
    if (method !== undefined) return this.#listeners.get(sessionId)?.(method, params);
    const answer = this.#answers.get(id ?? 0);
    if (error) answer?.reject(new Error(error.message));
    else answer?.resolve(result);
  }
}
