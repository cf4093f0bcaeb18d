import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { benchDir, rootDir } from "./paths";
import type { Figure, Result, Table } from "./result";

export type Section = {
  title: string;
  /** When this section was measured, and how. */
  at: string;
  rounds: number;
  secondsPerRound: number;
  quick: boolean;
  result: Result;
};

export type Report = {
  machine: Record<string, string>;
  versions: Record<string, string>;
  sections: Record<string, Section>;
};

const jsonPath = join(benchDir, "results.json");
const markdownPath = join(benchDir, "RESULTS.md");

/** What earlier runs left, so that a partial run keeps the other sections. */
export function readReport(): Report {
  if (!existsSync(jsonPath)) return { machine: {}, versions: {}, sections: {} };
  return JSON.parse(readFileSync(jsonPath, "utf8")) as Report;
}

/** Writes results.json and RESULTS.md; sections come in the order of `names`. */
export function writeReport(report: Report, names: readonly string[]): void {
  writeFileSync(jsonPath, `${JSON.stringify(report, null, 2)}\n`);
  writeFileSync(markdownPath, markdown(report, names));
  // Both are checked in, and what is checked in is formatted.
  Bun.spawnSync([process.execPath, "fmt", jsonPath, markdownPath], { cwd: rootDir });
}

function markdown(report: Report, names: readonly string[]): string {
  const sections = names.flatMap((name) => report.sections[name] ?? []);
  const figures = sections.flatMap(({ result, quick }) =>
    result.figures.map((figure) =>
      quick ? { ...figure, measured: `${figure.measured}; quick run` } : figure,
    ),
  );
  const met = figures.filter((figure) => figure.met === true).length;
  const lines = [
    "# Benchmark results",
    "",
    "Written by `bun run bench`; how each figure is taken is in [README.md](README.md). Absolute",
    "figures belong to the machine below, ratios travel.",
    "",
    ...list(report.machine),
    ...list(report.versions),
    "",
    "## What it must reach",
    "",
    ...tableLines({
      title: "",
      columns: ["figure", "target", "measured", "met"],
      rows: figures.map((figure) => [figure.name, figure.target, figure.measured, verdict(figure)]),
    }),
    "",
    `${met} of ${figures.length} met.`,
    "",
  ];
  const absent = names.filter((name) => !report.sections[name]);
  if (absent.length > 0) lines.push(`Not measured yet: ${absent.join(", ")}.`, "");
  const missing = sections.flatMap(({ result }) => result.missing);
  if (missing.length > 0) {
    lines.push("## Missing", "", ...missing.map((line) => `- ${line}`), "");
  }
  for (const section of sections) lines.push(...sectionLines(section));
  return `${lines.join("\n").trimEnd()}\n`;
}

function sectionLines(section: Section): string[] {
  const { title, at, rounds, secondsPerRound, quick, result } = section;
  const how = quick
    ? "quick run: shows that it works, not what it reaches"
    : `${rounds} rounds of ${secondsPerRound} s`;
  const lines = [`## ${title}`, "", `${at}, ${how}.`, ""];
  for (const table of result.tables) {
    lines.push(`**${table.title}**`, "", ...tableLines(table), "");
  }
  for (const note of result.notes) lines.push(note, "");
  return lines;
}

/** A table in Markdown, padded so that it can be read as it is. */
export function tableLines({ columns, rows }: Table): string[] {
  const cells = [columns, ...rows].map((row) => row.map((cell) => cell.replaceAll("|", "\\|")));
  const widths = columns.map((_, i) => Math.max(3, ...cells.map((row) => row[i]?.length ?? 0)));
  const line = (row: string[]) =>
    `| ${widths.map((width, i) => (row[i] ?? "").padEnd(width)).join(" | ")} |`;
  const [head = [], ...body] = cells;
  return [line(head), `| ${widths.map((w) => "-".repeat(w)).join(" | ")} |`, ...body.map(line)];
}

const list = (facts: Record<string, string>) =>
  Object.entries(facts).map(([name, value]) => `- ${name}: ${value}`);

/** "yes", "**no**", or a dash where nothing could be measured. */
export function verdict({ met }: Figure): string {
  if (met === null) return "–";
  return met ? "yes" : "**no**";
}
