import { Presets, SingleBar } from "cli-progress";

const colors = { ok: 32, warn: 33, fail: 31, dim: 2 } as const;

type Settings = {
  /** Results as JSON on standard output. */
  json: boolean;
  /** NO_COLOR is set: neither colours nor a progress bar. */
  plain: boolean;
};

export type Bar = { update(value: number): void; stop(): void };

/** What a command says: results on standard output, everything else on standard error. */
export class Output {
  constructor(private readonly settings: Settings) {}

  /** The result of a command: as JSON when that was asked for, else as text. */
  result(value: object, text: string): void {
    const { json } = this.settings;
    process.stdout.write(json ? `${JSON.stringify(value, null, 2)}\n` : `${text}\n`);
  }

  /** Something to know beside the result. */
  note(text: string): void {
    process.stderr.write(`${text}\n`);
  }

  paint(color: keyof typeof colors, text: string): string {
    if (this.settings.plain || !process.stdout.isTTY) return text;
    return `\u001b[${colors[color]}m${text}\u001b[0m`;
  }

  /** A progress bar on a terminal; nothing elsewhere, and where the total is not known. */
  bar(total: number | null, unit: string): Bar {
    if (total === null || this.settings.plain || !process.stderr.isTTY) {
      return { update: () => undefined, stop: () => undefined };
    }
    const format = `  {bar} {percentage}% | {value}/{total} ${unit} | {eta_formatted} left`;
    const bar = new SingleBar(
      // Wrapping stays on: a run that is interrupted must not leave the terminal without it.
      { stream: process.stderr, format, linewrap: true },
      Presets.shades_classic,
    );
    bar.start(total, 0);
    return {
      update: (value) => bar.update(Math.min(value, total)),
      stop: () => bar.stop(),
    };
  }
}

const slowMs = 100;

/** Tells what held the locks of others for long while a file was adopted. */
export const slowSteps =
  (output: Output) =>
  (message: string, data?: Record<string, unknown>): void => {
    const durationMs = Number(data?.["duration_ms"] ?? 0);
    if (durationMs < slowMs) return;
    output.note(`${message}: ${String(data?.["index"] ?? "")}, ${seconds(durationMs)}`);
  };

/** `1234567` as `1,234,567`. */
export const grouped = (value: number): string => value.toLocaleString("en-US");

/** A duration as people read it. */
export const seconds = (ms: number): string =>
  ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`;

export const plural = (count: number, noun: string): string =>
  `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;
