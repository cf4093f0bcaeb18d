/** Runs a command of the program in a process of its own. */
import { Database } from "bun:sqlite";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { bareEnv } from "../harness/children.ts";

const MAIN = join(import.meta.dir, "../../src/main.ts");
const LEGACY = join(import.meta.dir, "../fixtures/argo-legacy.db");

export const LEGACY_ROWS = 3_489;

export interface Run {
  code: number;
  out: string;
  err: string;
}

export interface RunOptions {
  env?: Record<string, string>;
  cwd?: string;
  stdin?: string | Uint8Array;
}

/** Starts a command; nothing is inherited but PATH, HOME and TMPDIR. */
export function start(args: string[], options: RunOptions = {}) {
  const { stdin = "" } = options;
  return spawn(args, options, typeof stdin === "string" ? Buffer.from(stdin) : stdin);
}

/** Starts a command whose standard input is written piece by piece. */
export function startFed(args: string[], options: RunOptions = {}) {
  return spawn(args, options, "pipe");
}

function spawn<In extends "pipe" | Uint8Array>(args: string[], options: RunOptions, stdin: In) {
  const { env = {}, cwd } = options;
  return Bun.spawn([process.execPath, MAIN, ...args], {
    ...(cwd === undefined ? {} : { cwd }),
    env: { ...bareEnv(), ...env },
    stdin,
    stdout: "pipe",
    stderr: "pipe",
  });
}

/** Runs a command to its end. */
export async function run(args: string[], options: RunOptions = {}): Promise<Run> {
  const child = start(args, options);
  const [out, err, code] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ]);
  return { code, out, err };
}

/** Runs a command that must succeed, with --json, and gives back what it printed. */
export async function json<T = Record<string, unknown>>(
  args: string[],
  options: RunOptions = {},
): Promise<T> {
  const { code, out, err } = await run([...args, "--json"], options);
  if (code !== 0) throw new Error(`exit code ${code}: ${err}`);
  return JSON.parse(out) as T;
}

/** A copy of the file that the old engine left. */
export function copyLegacy(to: string): string {
  copyFileSync(LEGACY, to);
  return to;
}

/** Asks a file with a connection of its own, which may undo what a killed process left half done. */
export function ask<T>(file: string, sql: string): T[] {
  using db = new Database(file, { readwrite: true, create: false });
  db.run("PRAGMA busy_timeout = 2000");
  return db.query<T, []>(sql).all();
}

/** Changes a file with a connection of its own. */
export function change(file: string, ...statements: string[]): void {
  using db = new Database(file, { create: true });
  for (const sql of statements) db.run(sql);
}

export const countRows = (file: string): number =>
  ask<{ n: number }>(file, "SELECT count(*) AS n FROM signals")[0]?.n ?? -1;

/** A signal as a history has it. */
export function signal(n: number, more: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    symbol: `S${n % 7}`,
    action: n % 2 === 0 ? "BUY" : "SELL",
    confidence: 60 + (n % 40),
    entry_price: 100 + n / 8,
    timestamp: new Date(1_600_000_000_000 + n * 1_000).toISOString(),
    ...more,
  };
}

export const ndjson = (rows: object[]): string =>
  rows.map((row) => `${JSON.stringify(row)}\n`).join("");
