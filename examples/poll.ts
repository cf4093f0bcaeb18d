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
const limit = Number(flags.limit ?? 10);
const base = (process.env["ARGO_URL"] ?? "http://127.0.0.1:3000").replace(/\/+$/, "");
const token = process.env["ARGO_TOKEN"];
const auth: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};

let lastId = flags["since-id"] ? Number(flags["since-id"]) : null; // act() is done up to here
let etag: string | null = null; // of the last page
let canExport = true; // until the plan turns out not to have the export
let behind: { head: number; path: string | null; found: Signal[] } | null = null; // while paging back
if (!(intervalMs > 0) || Number.isNaN(lastId)) throw new Error("not a number");

/** What the bot does with a signal. */
function act(signal: Signal): void {
  const line = `${JSON.stringify(signal)}\n`;
  process.stdout.write(line, (closed) => closed && process.exit(0));
}

/** Stops the bot on an answer that no waiting mends, but for the status `unless`. */
async function get(path: string, headers = {}, unless?: number): Promise<Response> {
  const signal = AbortSignal.timeout(10_000);
  headers = { ...auth, ...headers };
  const answer = await fetch(base + path, { headers, signal, redirect: "manual" });
  if (answer.status === 429 || answer.status >= 500) throw tryLater(answer);
  if (![200, 304, unless].includes(answer.status)) {
    const text = (await answer.text()).slice(0, 2000);
    console.error(`stopped: ${path} answered ${answer.status} ${answer.statusText} ${text}`);
    process.exit(1);
  }
  return answer;
}

const tryLater = ({ status, statusText, headers }: Response): Error =>
  new Error(`${status} ${statusText}`, { cause: headers.get("Retry-After") });

/** Acts on every signal with an id above lastId: ids only grow, whatever timestamps do. */
async function poll(): Promise<void> {
  if (behind) return pageBack(behind);
  const headers = etag ? { "If-None-Match": etag } : {};
  const answer = await get(`/api/signals/latest?limit=${limit}`, headers);
  const page = answer.status === 200 ? ((await answer.json()) as Signal[]) : [];
  page.sort((a, b) => a.id - b.id);
  const head = Number(answer.headers.get("Signal-Head") ?? page.at(-1)?.id ?? lastId ?? 0);
  const since = lastId;
  const fresh = page.filter((signal) => since === null || signal.id > since);
  // Ids that are not on the page: the plan may not show them, or they are older than the page.
  const gap = since !== null && fresh.length < head - since;
  if (gap && canExport) {
    const answer = await get(`/api/signals/export?since_id=${since}`, {}, 403);
    if (answer.status === 200) {
      for await (const signal of ndjson(answer)) {
        act(signal);
        lastId = signal.id;
      }
      return;
    }
    canExport = false;
    console.error("no export on this plan: a signal that is dated far back may be passed by");
  }
  if (gap && (fresh.length === limit || (fresh.at(-1)?.id ?? 0) < head)) {
    behind = { head, path: "/api/signals", found: [] };
    return pageBack(behind);
  }
  for (const signal of fresh) act(signal);
  lastId = Math.max(head, lastId ?? 0); // a lesser plan's head is behind
  etag = answer.headers.get("ETag");
}

/** Goes back, newest first, until a whole page is known; a fault on the way loses no page. */
async function pageBack(at: NonNullable<typeof behind>): Promise<void> {
  const since = lastId ?? 0;
  while (at.path) {
    const answer = await get(at.path, {}, 400);
    if (answer.status === 400) {
      behind = null; // the plan has changed, and the cursor is of the old one
      throw tryLater(answer);
    }
    const page = (await answer.json()) as { signals: Signal[]; next_cursor: string | null };
    // What came after the head was read is left to the next poll, which finds all of it.
    at.found.push(...page.signals.filter(({ id }) => since < id && id <= at.head));
    const more = page.next_cursor && page.signals.some(({ id }) => id > since);
    at.path = more ? `/api/signals?cursor=${page.next_cursor}` : null;
  }
  for (const signal of at.found.toSorted((a, b) => a.id - b.id)) act(signal);
  lastId = at.head;
  behind = null;
}

async function* ndjson(answer: Response): AsyncGenerator<Signal> {
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
