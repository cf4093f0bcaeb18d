import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { SignalReader } from "../argo/signals/store";
import type { Config } from "../config";
import { AppError, SetupError } from "../errors";
import { asSetupError, isPassing, isSameFile, lockedMsMax, openReader, sync } from "./file";
import { wholeNumber } from "./options";
import { type Output, plural, seconds } from "./output";

export type ExportOptions = { sinceId: string; out?: string };

const rowsPerSlice = 1_000;
const againMs = 50;

/** Writes the rows after an id as NDJSON by ascending id, as GET /api/signals/export does. */
export async function exportRows(
  { signalsDb }: Config,
  options: ExportOptions,
  output: Output,
): Promise<void> {
  const sinceId = wholeNumber("--since-id", options.sinceId, 0, Number.MAX_SAFE_INTEGER);
  const begun = performance.now();
  using reader = openReader(signalsDb);
  const head = reader.head.maxId;
  if (options.out === undefined) {
    for await (const { lines } of slices(reader, signalsDb, sinceId)) {
      if (!(await writeOut(lines))) return;
    }
    return;
  }
  const path = resolve(options.out);
  if (isSameFile(path, signalsDb)) {
    throw new SetupError(`${path} is the signal file itself.`, "Choose another name with --out.");
  }
  const rows = await toFile(path, slices(reader, signalsDb, sinceId));
  const durationMs = Math.round(performance.now() - begun);
  output.result(
    { file: path, rows, since_id: sinceId, head, duration_ms: durationMs },
    `${path}: ${plural(rows, "row")} in ${seconds(durationMs)}`,
  );
}

/** The rows up to the head at the start, a slice a step: no read transaction lasts longer. */
async function* slices(reader: SignalReader, path: string, sinceId: number) {
  const head = reader.head.maxId;
  for (let at = sinceId; at < head;) {
    const { rows } = await patiently(path, () => reader.slice(at, head, rowsPerSlice, null));
    const last = rows.at(-1);
    if (!last) return;
    yield { rows: rows.length, lines: rows.map((row) => `${JSON.stringify(row)}\n`).join("") };
    at = last.id;
  }
}

/** A file without a write-ahead log is locked for its readers while somebody commits. */
async function patiently<T>(path: string, read: () => T): Promise<T> {
  const until = performance.now() + lockedMsMax;
  for (;;) {
    try {
      return read();
    } catch (error) {
      if (!isPassing(error) || performance.now() >= until) throw asSetupError(error, path);
      await Bun.sleep(againMs);
    }
  }
}

/** False once nobody reads standard output any more. */
function writeOut(text: string): Promise<boolean> {
  return new Promise((settle, fail) => {
    process.stdout.write(text, (error) => {
      if (!error) settle(true);
      else if ((error as { code?: string }).code === "EPIPE") settle(false);
      else fail(error);
    });
  });
}

/** Under another name until it is whole: a reader of `path` never sees a part of it. */
async function toFile(
  path: string,
  chunks: AsyncIterable<{ rows: number; lines: string }>,
): Promise<number> {
  const part = join(dirname(path), `.${basename(path)}.${process.pid}.part`);
  try {
    const fd = openSync(part, "wx", 0o640);
    let rows = 0;
    try {
      for await (const chunk of chunks) {
        writeFileSync(fd, chunk.lines);
        rows += chunk.rows;
      }
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(part, path);
    sync(dirname(path));
    return rows;
  } catch (cause) {
    rmSync(part, { force: true });
    if (cause instanceof SetupError || cause instanceof AppError) throw cause;
    throw new SetupError(
      `${path} cannot be written: ${cause instanceof Error ? cause.message : String(cause)}`,
      "Choose a place with room that this user can write to.",
      { cause },
    );
  }
}
