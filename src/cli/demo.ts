import history from "../../db/demo/spx-signals.ndjson.gz" with { type: "file" };
import type { Argo } from "../argo/argo";
import { SIGNALS_PER_POST_MAX } from "../argo/signals/schema";
import type { Config } from "../config";
import { makeDirectory } from "../platform/directory";
import { ownDirectory } from "../platform/lock";
import { start, untilSignal } from "./serve";

const symbol = "SPX";
const everyMs = 5_000;

/**
 * The server with something to look at: the S&P 500's history of signals, and a producer that
 * adds a synthetic one now and then. Everything lies in the data directory.
 */
export async function demo(config: Config, writeToken: string): Promise<void> {
  makeDirectory(config.dataDir);
  const stop = untilSignal();
  using _owner = ownDirectory(config.dataDir);
  await using running = await start(config, { showLinks: true });
  const { argo, now } = running.deps;
  await fill(argo);
  const timer = setInterval(() => {
    post(argo, synthetic(lastPrice(argo), now())).catch((error: unknown) => {
      running.deps.log.warn({ reason: String(error) }, "demo signal not written");
    });
  }, everyMs);
  process.stdout.write(welcome(running.url, writeToken, argo.reader.head.maxId));
  await stop;
  clearInterval(timer);
  process.stdout.write("\nStopping: open requests are answered first.\n");
}

async function fill(argo: Argo): Promise<void> {
  const text = new TextDecoder().decode(Bun.gunzipSync(await Bun.file(history).bytes()));
  const lines = text.trimEnd().split("\n");
  // A run that was cut short is completed: what is there already is the same row.
  if (argo.reader.head.maxId >= lines.length) return;
  for (let at = 0; at < lines.length; at += SIGNALS_PER_POST_MAX) {
    await post(argo, `[${lines.slice(at, at + SIGNALS_PER_POST_MAX).join(",")}]`);
  }
  argo.reader.refresh();
}

const encoder = new TextEncoder();
const post = (argo: Argo, body: string) =>
  argo.writer.submit({ body: encoder.encode(body), key: null });

function lastPrice(argo: Argo): number {
  const walk = { filter: { symbol }, order: "desc", after: null, limit: 1, skip: 0 } as const;
  const [last] = argo.reader.page({ ...walk, budget: 1, received: false }).rows;
  return last?.entry_price ?? 3_000;
}

/** One step of a random walk, marked as what it is by its strategy. */
function synthetic(price: number, nowMs: number): string {
  const entry = round(price * (1 + (Math.random() - 0.5) / 200));
  const up = Math.random() < 0.55 ? 1 : -1;
  return JSON.stringify({
    symbol,
    action: up > 0 ? "BUY" : "SELL",
    confidence: round(60 + Math.random() * 39.9),
    entry_price: entry,
    stop_price: round(entry * (1 - 0.03 * up)),
    target_price: round(entry * (1 + 0.05 * up)),
    timestamp: new Date(nowMs).toISOString().replace("Z", "000+00:00"),
    strategy: "demo",
  });
}

const round = (value: number): number => Math.round(value * 100) / 100;

function welcome(url: string, writeToken: string, signals: number): string {
  return `
argo-alpine demo: ${signals} signals of the S&P 500, 2000-2020, and a synthetic one (strategy
"demo") every ${everyMs / 1000} s. Nothing here is financial advice.

  Poll       ${url}/api/signals/latest
  Docs       ${url}/docs
  Health     ${url}/health
  Metrics    ${url}/metrics

  Reading    open to this machine
  Writing    Bearer ${writeToken}   (made for this run)

Try:

  curl '${url}/api/signals/latest?limit=3'
  curl '${url}/api/signals/latest?premium_only=true&limit=1' -i
  curl '${url}/api/signals' -H 'Authorization: Bearer ${writeToken}' \\
    -H 'Content-Type: application/json' \\
    -d '{"symbol":"SPX","action":"BUY","confidence":97.5,"entry_price":3400,"stop_price":3300,"target_price":3570}'

Ctrl-C stops it.
`;
}
