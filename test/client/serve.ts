/** What the clients' tests talk to: the server in a process of its own, which may die and come back. */
import { Argo, type ArgoOptions, type SignalIn } from "../../client/src/index.ts";
import { READ_TOKEN, signal, WRITE_TOKEN } from "../harness/app.ts";
import { freePort, startServer, tempDir, type Server } from "../harness/process.ts";

export interface Served extends AsyncDisposable {
  url: string;
  port: number;
  db: string;
  server(): Server;
  /** Starts it anew on the same port and file, after it has ended. */
  again(): Promise<void>;
  /** Requests of this path so far, as the server counts them, by status. */
  requests(path: string): Promise<Record<string, number>>;
}

/** Starts it on a file of its own. */
export async function serve(env: Record<string, string> = {}): Promise<Served> {
  const dir = tempDir();
  const port = freePort();
  const db = dir.file("signals.db");
  const start = (): Promise<Server> =>
    startServer({
      cwd: dir.path,
      env: {
        PORT: `${port}`,
        DATA_DIR: dir.path,
        SIGNALS_DB: db,
        SIGNALS_ACCESS: "key",
        ARGO_READ_TOKEN: READ_TOKEN,
        ARGO_WRITE_TOKEN: WRITE_TOKEN,
        RATE_LIMIT_PER_MINUTE: "1000000000",
        SHUTDOWN_DELAY_SECONDS: "0",
        ...env,
      },
    });
  let server = await start();
  return {
    url: server.url,
    port,
    db,
    server: () => server,
    async again() {
      await server.exited;
      server = await start();
    },
    async requests(path) {
      const text = await (await fetch(`${server.url}/metrics`)).text();
      const line = new RegExp(`^api_requests_total\\{(.*route="${path}".*)\\} (\\d+)$`, "gm");
      const found = [...text.matchAll(line)].map(([, labels = "", count]): [string, number] => [
        /status="(\d+)"/.exec(labels)?.[1] ?? "",
        Number(count),
      ]);
      return Object.fromEntries(found);
    },
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      dir[Symbol.dispose]();
    },
  };
}

/** A client that is quick to come back. */
export const reader = (url: string, more: Partial<ArgoOptions> = {}): Argo =>
  new Argo({ url, token: READ_TOKEN, backoffMs: 500, random: () => 0.02, ...more });

export const writer = (url: string, more: Partial<ArgoOptions> = {}): Argo =>
  reader(url, { token: WRITE_TOKEN, ...more });

let posted = 0;

/** So many signals, no two the same. */
export const signals = (count: number, more: Partial<SignalIn> = {}): SignalIn[] =>
  Array.from({ length: count }, () => {
    posted += 1;
    const timestamp = new Date(Date.UTC(2026, 0, 1) + posted * 1_000).toISOString();
    return signal({ timestamp, symbol: `S${posted % 7}`, ...more }) as SignalIn;
  });

export const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i);
