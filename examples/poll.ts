/**
 * Polls for trading signals and prints each new one as one line of JSON, oldest first.
 *
 *   ARGO_URL=http://127.0.0.1:3000 ARGO_TOKEN=… bun poll.ts [--interval 1] [--limit 10] [--since-id N]
 *
 * Bun, or Node 22.18 and newer; no packages. Copy it, and trade in act().
 */
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

type Signal = { id: number; symbol: string; action: string; price: number; timestamp: string };

const flag = { type: "string" } as const;
const flags = parseArgs({ options: { interval: flag, limit: flag, "since-id": flag } }).values;
const intervalMs = Number(flags.interval ?? 1) * 1000;
const base = (process.env["ARGO_URL"] ?? "http://127.0.0.1:3000").replace(/\/+$/, "");
const token = process.env["ARGO_TOKEN"];
const auth: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};

let lastId = flags["since-id"] ? Number(flags["since-id"]) : null; // the highest that act() has had
let etag: string | null = null; // of the answer that brought us there
if (!(intervalMs > 0) || Number.isNaN(lastId)) throw new Error("not a number");

/** What the bot does with a signal. */
function act(signal: Signal): void {
  const line = `${JSON.stringify(signal)}\n`;
  process.stdout.write(line, (closed) => closed && process.exit(0));
}

async function get(path: string, headers = {}): Promise<Response> {
  const signal = AbortSignal.timeout(10_000);
  headers = { ...auth, ...headers };
  const answer = await fetch(base + path, { headers, signal, redirect: "manual" });
  const status = `${answer.status} ${answer.statusText}`;
  if (answer.status === 429 || answer.status >= 500) {
    throw new Error(status, { cause: answer.headers.get("Retry-After") });
  }
  if (answer.status !== 200 && answer.status !== 304) {
    console.error(`stopped: ${path} answered ${status} ${(await answer.text()).slice(0, 2000)}`);
    process.exit(1);
  }
  return answer;
}

/** Acts on every signal with an id above lastId: ids only grow, whatever timestamps do. */
async function poll(): Promise<void> {
  const headers = etag ? { "If-None-Match": etag } : {};
  const answer = await get(`/api/signals/latest?limit=${flags.limit ?? 10}`, headers);
  const page = answer.status === 200 ? ((await answer.json()) as Signal[]) : [];
  page.sort((a, b) => a.id - b.id);
  const head = Number(answer.headers.get("Signal-Head") ?? page.at(-1)?.id ?? lastId ?? 0);
  const since = lastId;
  const fresh = page.filter((signal) => since === null || signal.id > since);
  // More than one page, or dated too early to be on it: fetch all that came since.
  const all = since !== null && fresh.length < head - since ? exported(since) : fresh;
  for await (const signal of all) {
    act(signal);
    lastId = signal.id;
  }
  if (since === null || lastId === null) lastId = head;
  etag = lastId >= head ? answer.headers.get("ETag") : null;
}

async function* exported(sinceId: number): AsyncGenerator<Signal> {
  const answer = await get(`/api/signals/export?since_id=${sinceId}`);
  let rest = "";
  for await (const text of answer.body!.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    yield* lines.map((line) => JSON.parse(line) as Signal);
  }
}

for (const name of ["SIGINT", "SIGTERM"]) process.on(name, () => process.exit(0));
for (let failures = 0; ;) {
  let waitMs = intervalMs;
  try {
    await poll();
    failures = 0;
  } catch (problem) {
    failures += 1;
    // Anything up to a ceiling that doubles, so that a thousand bots do not return at once.
    waitMs = Math.random() * Math.min(60_000, intervalMs * 2 ** Math.min(failures, 16));
    const retryAfter = problem instanceof Error ? Number(problem.cause) : 0;
    if (retryAfter > 0) waitMs += Math.min(retryAfter, 3600) * 1000;
    console.error(`${problem}; again in ${(waitMs / 1000).toFixed(1)} s`);
  }
  await sleep(waitMs);
}
