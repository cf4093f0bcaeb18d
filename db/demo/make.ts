/**
 * Makes the demo's signals from the S&P 500 candles beside this file:
 *
 *   bun db/demo/make.ts
 *
 * The rules are those of test/engine/argo_engine.py's backfill, so the rows are those of
 * test/fixtures/argo-legacy.db.
 */
import { gunzipSync, gzipSync } from "node:zlib";

/** One line of the demo file: what `import` reads. */
export interface DemoSignal {
  symbol: string;
  action: "BUY" | "SELL";
  confidence: number;
  entry_price: number;
  stop_price: number;
  target_price: number;
  timestamp: string;
  strategy: string;
}

interface Bar {
  date: string;
  close: number;
}

const CANDLES = new URL("sp500-daily-2000-2020.csv.gz", import.meta.url);
const SIGNALS = new URL("spx-signals.ndjson.gz", import.meta.url);

/** Reads date and close out of the candles' CSV, which quotes nothing. */
export function parseCandles(csv: string): Bar[] {
  const [header = "", ...lines] = csv.trim().split("\n");
  const columns = header.split(",");
  const date = columns.indexOf("date");
  const close = columns.indexOf("close");
  if (date < 0 || close < 0) throw new Error("the candles need the columns date and close");
  return lines.map((line) => {
    const cells = line.split(",");
    return { date: cells[date] ?? "", close: Number(cells[close]) };
  });
}

/** One signal for each bar on which trend, momentum and RSI agree enough, oldest first. */
export function makeSignals(bars: readonly Bar[], symbol = "SPX"): DemoSignal[] {
  const closes = bars.map((bar) => bar.close);
  return bars.flatMap((bar, i) => {
    const vote = consensus(closes.slice(Math.max(0, i - 50), i + 1));
    if (vote === null) return [];
    const up = vote.action === "BUY" ? 1 : -1;
    return {
      symbol,
      ...vote,
      entry_price: round(bar.close, 4),
      stop_price: round(bar.close * (1 - 0.03 * up), 4),
      target_price: round(bar.close * (1 + 0.05 * up), 4),
      timestamp: `${bar.date}T21:00:00+00:00`,
      strategy: "weighted_consensus",
    };
  });
}

/** The votes on the last of 51 closes: SMA 20 over 50, change over 10 bars, RSI 14. */
function consensus(closes: readonly number[]): Pick<DemoSignal, "action" | "confidence"> | null {
  if (closes.length <= 50) return null;
  const sma20 = sum(closes.slice(-20)) / 20;
  const sma50 = sum(closes.slice(-50)) / 50;
  const recent = closes.slice(-15);
  const changes = recent.slice(1).map((close, k) => close - (recent[k] ?? close));
  const gains = sum(changes.map((change) => Math.max(change, 0)));
  const losses = sum(changes.map((change) => Math.max(-change, 0)));
  const rsi = 100 - 100 / (1 + gains / (losses || 1e-9));

  const trend = sma20 > sma50 ? 1 : -1;
  const momentum = (closes.at(-1) ?? 0) > (closes.at(-11) ?? 0) ? 1 : -1;
  const reversal = rsi < 35 ? 1 : rsi > 65 ? -1 : 0;
  const score = trend * 0.4 + momentum * 0.35 + reversal * 0.25;
  if (Math.abs(score) < 0.3) return null;

  const spread = Math.abs(sma20 - sma50) / sma50;
  const confidence = round(Math.min(99.9, 60 + 30 * Math.abs(score) + 400 * spread), 2);
  return { action: score > 0 ? "BUY" : "SELL", confidence };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

// toFixed rounds the exact binary value, as Python's round does.
function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}

/** The compressed NDJSON: no clock and no platform in its header, so the same bytes every time. */
export function pack(signals: readonly DemoSignal[]): Buffer {
  const lines = signals.map((signal) => `${JSON.stringify(signal)}\n`);
  const packed = gzipSync(lines.join(""), { level: 9 });
  packed[9] = 255; // the operating system, "unknown"
  return packed;
}

if (import.meta.main) {
  const candles = gunzipSync(await Bun.file(CANDLES).bytes()).toString();
  const signals = makeSignals(parseCandles(candles));
  const packed = pack(signals);
  await Bun.write(SIGNALS, packed);
  console.log(`${signals.length} signals, ${packed.length} bytes`);
}
