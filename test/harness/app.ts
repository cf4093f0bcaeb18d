/** The application in this process, on a real file, with a clock that the test sets. */
import { Database } from "bun:sqlite";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import type { Argo } from "../../src/argo/argo.ts";
import { createApp } from "../../src/app.ts";
import { readConfig, type Role } from "../../src/config.ts";
import { openDeps, type Deps } from "../../src/deps.ts";
import { createLog, type Logger } from "../../src/platform/log.ts";
import { tempDir } from "./process.ts";

/** What the engine left: 3,489 rows, ids without a gap. */
export const LEGACY = join(import.meta.dir, "../fixtures/argo-legacy.db");
export const LEGACY_ROWS = 3_489;

export const READ_TOKEN = "reader-token-0123456789";
export const SERVICE_TOKEN = "service-token-0123456789";
export const WRITE_TOKEN = "writer-token-0123456789";
export const OTHER_WRITE_TOKEN = "second-writer-0123456789";
export const METRICS_TOKEN = "metrics-token-0123456789";

/** 2026-11-20T12:00:00Z, where the clocks of tests begin. */
export const NOON = Date.UTC(2026, 10, 20, 12);

/** Of a password's hash: a real one is most of what tests of accounts would work on. */
export const CHEAP = { memoryCost: 64, timeCost: 1 };

export interface AppOptions {
  env?: Record<string, string | undefined>;
  /** Milliseconds since the epoch. */
  now?: number;
  /** A file to copy (the legacy one by default), or what makes one; null for none. */
  fixture?: string | ((db: Database) => void) | null;
  log?: Logger;
  /** A directory that is there, such as that of an application before; else a fresh one. */
  dir?: string;
  /** Signals alone unless said otherwise. */
  role?: Role;
}

type Headers = Record<string, string>;

export interface App extends AsyncDisposable {
  /** Signals of its own included: the role `alpine` is not opened here. */
  deps: Deps & { argo: Argo };
  /** What a bare `fetch` handler sees; without a listener unless `listen` was called. */
  fetch: ReturnType<typeof createApp>["fetch"];
  routes: ReturnType<typeof createApp>["routes"];
  dir: string;
  db: string;
  clock: { ms: number };
  get(path: string, headers?: Headers): Promise<Response>;
  /** GET, whose answer must be 200 and JSON. */
  json<T>(path: string, headers?: Headers): Promise<T>;
  /** POST /api/signals as the writer. An object is sent as JSON. */
  post(body: unknown, headers?: Headers): Promise<Response>;
  send(request: Request): Promise<Response>;
  /** Another connection to the file: to SQLite it is what another process would be. */
  engine: Database;
  /** Listens on a free port of 127.0.0.1. */
  listen(): string;
}

/** Opens the application; the file, the connections and the listener go with its scope. */
export async function openApp(options: AppOptions = {}): Promise<App> {
  const { fixture = LEGACY, now = NOON } = options;
  const dir = options.dir === undefined ? tempDir() : null;
  const path = options.dir ?? dir?.path ?? "";
  const db = join(path, "signals.db");
  if (typeof fixture === "string") copyFileSync(fixture, db);
  else if (fixture !== null) {
    using made = new Database(db, { create: true });
    fixture(made);
  }
  const clock = { ms: now };
  let deps: Deps;
  try {
    deps = await openDeps(
      readConfig(
        {
          DATA_DIR: path,
          ARGO_READ_TOKEN: READ_TOKEN,
          ARGO_SERVICE_TOKEN: SERVICE_TOKEN,
          ARGO_WRITE_TOKEN: `${WRITE_TOKEN},${OTHER_WRITE_TOKEN}`,
          RATE_LIMIT_PER_MINUTE: "1000000000",
          SHUTDOWN_DELAY_SECONDS: "0",
          // They go by the real clock; a test that is about them says so.
          BACKGROUND_TASKS: "false",
          ...options.env,
        },
        options.role ?? "argo",
      ),
      {
        now: () => clock.ms,
        log: options.log ?? createLog("silent"),
        passwordCost: CHEAP,
      },
    );
  } catch (error) {
    dir?.[Symbol.dispose]();
    throw error;
  }
  try {
    await deps.alpine?.started;
  } catch (error) {
    await deps[Symbol.asyncDispose]();
    dir?.[Symbol.dispose]();
    throw error;
  }
  deps.state.started = true;
  const { fetch, routes, websocket } = createApp(deps);
  let engine: Database | undefined;
  let server: ReturnType<typeof Bun.serve> | undefined;

  const send = async (request: Request): Promise<Response> => {
    await turn();
    return fetch(request, null);
  };
  const get = (at: string, headers: Headers = {}): Promise<Response> =>
    send(new Request(`http://argo.test${at}`, { headers }));
  return {
    deps: deps as App["deps"],
    fetch,
    routes,
    dir: path,
    db,
    clock,
    get,
    send,
    async json<T>(at: string, headers?: Headers) {
      const response = await get(at, headers);
      const text = await response.text();
      if (response.status !== 200) throw new Error(`${at}: ${response.status} ${text}`);
      return JSON.parse(text) as T;
    },
    post: (body, headers = {}) => {
      const text = typeof body === "string" ? body : JSON.stringify(body);
      return send(
        new Request("http://argo.test/api/signals", {
          method: "POST",
          headers: {
            Authorization: `Bearer ${WRITE_TOKEN}`,
            "Content-Type": "application/json",
            // As over a socket: a body of unknown length counts as the longest.
            "Content-Length": String(Buffer.byteLength(text)),
            ...headers,
          },
          body: text,
        }),
      );
    },
    get engine() {
      if (engine === undefined) {
        engine = new Database(db, { readwrite: true });
        engine.run("PRAGMA busy_timeout = 5000");
      }
      return engine;
    },
    listen() {
      server ??= Bun.serve({
        hostname: "127.0.0.1",
        port: 0,
        development: false,
        maxRequestBodySize: 8 * 1024 * 1024,
        fetch: (request, listener) => fetch(request, listener),
        websocket,
      });
      return `http://127.0.0.1:${server.port}`;
    },
    async [Symbol.asyncDispose]() {
      engine?.close();
      await server?.stop(true);
      await deps[Symbol.asyncDispose]();
      dir?.[Symbol.dispose]();
    },
  };
}

/**
 * One turn of the event loop. The file is looked at once in a turn, for all requests that were
 * sent before it: over a socket each request comes in a turn of its own, here one has to be had.
 */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** What an error looks like on the wire. */
export interface ProblemDocument {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance: string;
  code: string;
  errors?: { field: string; detail: string; index?: number }[];
}

/** Reads an answer that must be a valid problem document. */
export async function problemOf(response: Response): Promise<ProblemDocument> {
  const text = await response.text();
  const fault = (what: string): Error => new Error(`${response.status} ${what}: ${text}`);
  if (response.headers.get("content-type") !== "application/problem+json") {
    throw fault(`is ${response.headers.get("content-type")}, not a problem document`);
  }
  const body = JSON.parse(text) as ProblemDocument;
  const { type, title, status, detail, instance, code, errors, ...rest } = body;
  if (Object.keys(rest).length > 0) throw fault("has unknown members");
  if (status !== response.status) throw fault("names another status");
  if (type !== `urn:argo-alpine:problem:${code}`) throw fault("has a type that is not its code's");
  for (const value of [title, detail, instance, code]) {
    if (typeof value !== "string" || value === "") throw fault("lacks a member");
  }
  for (const error of errors ?? []) {
    if (typeof error.field !== "string" || error.field === "") throw fault("names no field");
    if (typeof error.detail !== "string" || error.detail === "") throw fault("says nothing");
    if (error.index !== undefined && !Number.isInteger(error.index)) throw fault("bad index");
  }
  return body;
}

/** The fields that an error names. */
export async function fieldsOf(response: Response): Promise<string[]> {
  return ((await problemOf(response)).errors ?? []).map((error) => error.field);
}

/** The rows of the engine's table, for models. */
export function rowsOf(db: Database): Record<string, string | number | null>[] {
  const all = db.query("SELECT * FROM signals ORDER BY id").all();
  return all as Record<string, string | number | null>[];
}

/** A signal that ingest takes, with what differs. */
export function signal(more: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    symbol: "SPX",
    action: "BUY",
    confidence: 97.5,
    entry_price: 100,
    stop_price: 95,
    target_price: 110,
    timestamp: "2026-11-20T11:59:00Z",
    ...more,
  };
}

/** The text that a body packed with gzip holds. */
export async function unpacked(response: Response): Promise<string> {
  return new TextDecoder().decode(Bun.gunzipSync(new Uint8Array(await response.arrayBuffer())));
}
