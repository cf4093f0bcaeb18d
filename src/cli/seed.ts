import { hashOf } from "../argo/signals/hash";
import type { Draft } from "../argo/signals/ingest";
import type { Config } from "../config";
import { SetupError } from "../errors";
import { BulkWriter, rowsPerCommit } from "./bulk";
import { wholeNumber } from "./options";
import { grouped, type Output, plural, seconds, slowSteps } from "./output";

export type SeedOptions = { rows: string; seed: string; symbols: string };

const strategy = "demo";
const stepMs = 60_000;
const premiumShare = 0.08;
const holdShare = 0.04;

/** Writes synthetic rows, the same ones for the same seed, a minute apart and ending now. */
export async function seed(config: Config, options: SeedOptions, output: Output): Promise<void> {
  const rows = wholeNumber("--rows", options.rows, 1, 100_000_000);
  const state = wholeNumber("--seed", options.seed, 0, 2 ** 32 - 1);
  const symbols = wholeNumber("--symbols", options.symbols, 1, 10_000);
  const begun = performance.now();
  const startMs = Date.now() - (rows - 1) * stepMs;
  using writer = await BulkWriter.open(config, slowSteps(output));
  if (!writer.layout.has.strategy) {
    throw new SetupError(
      "The table signals has no column strategy: synthetic rows would pass for real ones.",
      "Name another file with --db.",
    );
  }
  const next = generator(state, symbols, writer.layout.has);
  const bar = output.bar(rows, "rows");
  for (let at = 0; at < rows; at += rowsPerCommit) {
    const count = Math.min(rowsPerCommit, rows - at);
    const drafts = Array.from({ length: count }, (_, i) => next(startMs + (at + i) * stepMs));
    await writer.commit((ledger) => drafts.forEach((draft) => ledger.keep(draft)));
    bar.update(at + count);
  }
  bar.stop();
  const durationMs = Math.round(performance.now() - begun);
  output.result(
    {
      file: config.signalsDb,
      written: rows,
      strategy,
      seed: state,
      symbols,
      duration_ms: durationMs,
    },
    `${config.signalsDb}: ${plural(rows, "synthetic row")} of the strategy "${strategy}" written in ${seconds(durationMs)} (${grouped(Math.round((rows * 1000) / Math.max(durationMs, 1)))} rows/s)`,
  );
}

/** A random walk for each symbol. */
function generator(state: number, symbols: number, has: { target: boolean; stop: boolean }) {
  const random = randomNumbers(state);
  const width = String(symbols).length;
  const names = Array.from(
    { length: symbols },
    (_, i) => `DEMO${String(i + 1).padStart(width, "0")}`,
  );
  const prices = names.map(() => 10 + random() * 990);

  return (atMs: number): Draft => {
    const which = Math.floor(random() * symbols);
    const entry = round((prices[which] ?? 100) * (1 + (random() - 0.5) / 50), 4);
    // A walk that strays comes back, so that a price never leaves the range of prices.
    prices[which] = entry < 5 || entry > 5_000 ? 100 : entry;
    const confidence = random() < premiumShare ? 95 + random() * 4.9 : 60 + random() * 34.9;
    const up = random() < 0.55 ? 1 : -1;
    const hold = random() < holdShare;
    const content = {
      symbol: names[which] ?? "DEMO",
      action: hold ? ("HOLD" as const) : up > 0 ? ("BUY" as const) : ("SELL" as const),
      confidence: round(confidence, 2),
      entry_price: entry,
      stop_price: hold || !has.stop ? null : round(entry * (1 - 0.03 * up), 4),
      target_price: hold || !has.target ? null : round(entry * (1 + 0.05 * up), 4),
      strategy,
      timestamp: new Date(atMs).toISOString().replace("Z", "000+00:00"),
    };
    return { content, sha256: hashOf(content), supersedes: null, dedupe: false };
  };
}

const round = (value: number, digits: number): number => Number(value.toFixed(digits));

/** Numbers from 0 up to 1, the same ones for the same state (mulberry32). */
function randomNumbers(state: number): () => number {
  let at = state >>> 0;
  return () => {
    at = (at + 0x6d2b79f5) >>> 0;
    let t = Math.imul(at ^ (at >>> 15), at | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
