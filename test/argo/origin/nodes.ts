/** Nodes of one libSQL server, each with a file of its own. */
import { type App, openApp, type AppOptions, signal } from "../../harness/app.ts";
import { until } from "../../harness/process.ts";

export interface Row {
  id: number;
  symbol: string;
  received_at: string | null;
  [column: string]: unknown;
}

/** Opens a node with an empty file, and waits until it has caught up. */
export async function openNode(
  origin: { url: string },
  { env, ...options }: AppOptions = {},
): Promise<App> {
  const app = await openApp({
    fixture: null,
    now: Date.now(),
    ...options,
    env: { LIBSQL_URL: origin.url, LIBSQL_POLL_MS: "20", ...env },
  });
  try {
    await until(async () => (await app.get("/readyz")).status === 200, "a node that is ready");
  } catch (error) {
    await app[Symbol.asyncDispose]();
    throw error;
  }
  return app;
}

/** Everything that a node holds, as exports show it. */
export async function exported(node: App): Promise<Row[]> {
  const response = await node.get("/api/signals/export");
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${response.status} ${text}`);
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line) as Row);
}

/** Waits until a node has this id. */
export const reaches = (node: App, id: number): Promise<void> =>
  until(() => node.deps.argo.reader.look().maxId >= id, `a node that has signal ${id}`);

/**
 * Posts signals as producers do, who come back now and then when the server is locked or silent for
 * a moment. They must be taken. @returns their ids.
 */
export async function posted(node: App, body: unknown, triesMax = 5): Promise<number[]> {
  const response = await node.post(body);
  const text = await response.text();
  if (response.status === 503 && triesMax > 1) return posted(node, body, triesMax - 1);
  if (response.status !== 201) throw new Error(`${response.status} ${text}`);
  const { signals } = JSON.parse(text) as { signals: { id: number }[] };
  return signals.map(({ id }) => id);
}

let minutes = 0;
/** A signal with a time of its own. */
export const fresh = (more: Record<string, unknown> = {}) => {
  minutes += 1;
  const timestamp = new Date(Date.UTC(2026, 0, 1, 0, minutes)).toISOString();
  return signal({ timestamp, ...more });
};

type Health = { status: string; checks: { signals: string; origin?: string } };
export const health = (node: App): Promise<Health> => node.json<Health>("/health");

export const isDegraded = (node: App): Promise<void> =>
  until(async () => (await health(node)).checks.origin === "unhealthy", "a degraded node");
export const isHealthy = (node: App): Promise<void> =>
  until(async () => (await health(node)).checks.origin === "healthy", "a healthy node");
