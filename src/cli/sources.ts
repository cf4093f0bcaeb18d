import { openSync, closeSync, readSync, statSync } from "node:fs";
import { pipeline, Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { type CsvError, type Info, parse } from "csv-parse";
import { SetupError } from "../errors";
import { rowsPerCommit } from "./bulk";
import { asSetupError, isSqlite, mustExist, openReader } from "./file";
import { aliases, type Fields, knownFields, numericFields } from "./history";

/** One row, or why it cannot be read; `at` is its line, or its id in an SQLite file. */
export type Entry = { at: number; fields: Fields } | { at: number; fault: string };

export type Source = {
  unit: "line" | "row";
  /** True for an engine's own file, whose rows are taken as they are. */
  lenient: boolean;
  /** Bytes or rows in all; null when that is not known. */
  total: number | null;
  /** How many of them have been read. */
  position(): number;
  /** Why reading ended before the end; null when it did not. */
  failure(): string | null;
  entries: AsyncIterable<Entry[]>;
};

const lineCharactersMax = 1024 * 1024;
const decimal = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;

/**
 * Opens a history: NDJSON or CSV, either of them compressed with gzip, from a file or ("-")
 * standard input, or an SQLite file of the engine.
 * @throws SetupError when it is none of these.
 */
export async function openSource(file: string): Promise<Source> {
  if (file === "-") return openText(Bun.stdin.stream(), null);
  mustExist(file);
  const { size } = mustBeReadable(file);
  if (isSqlite(file)) return openTable(file);
  return openText(Bun.file(file).stream(), size);
}

function mustBeReadable(file: string): { size: number } {
  try {
    const stat = statSync(file);
    // Read once here, so that a directory or a missing permission is told in our words.
    const fd = openSync(file, "r");
    readSync(fd, Buffer.alloc(1), 0, 1, 0);
    closeSync(fd);
    return stat;
  } catch (cause) {
    throw new SetupError(`${file} cannot be read.`, "Name a file that this user can read.", {
      cause,
    });
  }
}

function openTable(file: string): Source {
  const reader = openReader(file);
  const head = reader.head.maxId;
  let at = Number.MIN_SAFE_INTEGER;
  async function* entries(): AsyncGenerator<Entry[]> {
    using _reader = reader;
    for (;;) {
      let rows;
      try {
        ({ rows } = reader.slice(at, head, rowsPerCommit, null));
      } catch (error) {
        throw asSetupError(error, file);
      }
      const last = rows.at(-1);
      if (!last) return;
      at = last.id;
      yield rows.map((row) => ({ at: row.id, fields: row }));
    }
  }
  return {
    unit: "row",
    lenient: true,
    total: head,
    position: () => at,
    failure: () => null,
    entries: entries(),
  };
}

type Chunk = Uint8Array<ArrayBuffer>;

async function openText(stream: ReadableStream<Chunk>, total: number | null): Promise<Source> {
  let position = 0;
  let failure: string | null = null;
  async function* bytes(from: AsyncIterable<Chunk>): AsyncGenerator<Chunk> {
    try {
      for await (const chunk of from) yield chunk;
    } catch (error) {
      failure = error instanceof Error ? error.message : String(error);
    }
  }
  async function* counted(): AsyncGenerator<Chunk> {
    for await (const chunk of stream) {
      position += chunk.length;
      yield chunk;
    }
  }
  const raw = await peek(counted());
  const packed = raw.first[0] === 0x1f && raw.first[1] === 0x8b;
  const { first, chunks } = await peek(bytes(packed ? unpack(raw.chunks) : raw.chunks));

  const start = new TextDecoder().decode(first).trimStart();
  if (start.startsWith("SQLite format 3")) {
    throw new SetupError(
      "An SQLite file is not read from standard input, nor compressed.",
      "Give the name of the unpacked file.",
    );
  }
  if (start.startsWith("[")) {
    throw new SetupError(
      "The file holds a JSON array; one JSON object a line is read.",
      "Convert it first: jq -c '.[]' FILE",
    );
  }
  const ended = () => failure !== null;
  return {
    unit: "line",
    lenient: false,
    total,
    position: () => position,
    failure: () => failure,
    entries: start.startsWith("{") || start === "" ? lines(chunks, ended) : table(chunks, ended),
  };
}

function unpack(chunks: AsyncIterable<Chunk>): AsyncIterable<Chunk> {
  // What fails here is met by whoever reads on.
  return pipeline(Readable.from(chunks), createGunzip(), () => undefined);
}

/** The first bytes, enough to tell what they are, and all of them again. */
async function peek(chunks: AsyncGenerator<Chunk>) {
  const held: Chunk[] = [];
  let length = 0;
  while (length < 64) {
    const next = await chunks.next();
    if (next.done) break;
    held.push(next.value);
    length += next.value.length;
  }
  async function* again(): AsyncGenerator<Chunk> {
    yield* held;
    yield* chunks;
  }
  return { first: Buffer.concat(held), chunks: again() };
}

/** NDJSON, line by line. `ended` tells whether the last line may be cut. */
async function* lines(chunks: AsyncIterable<Chunk>, ended: () => boolean): AsyncGenerator<Entry[]> {
  const decoder = new TextDecoder();
  let batch: Entry[] = [];
  let rest = "";
  let at = 0;
  for await (const chunk of chunks) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    if (rest.length > lineCharactersMax) throw notLines(at + 1);
    for (const line of parts) {
      at += 1;
      const entry = readLine(line, at);
      if (entry) batch.push(entry);
      if (batch.length < rowsPerCommit) continue;
      yield batch;
      batch = [];
    }
  }
  const last = ended() ? null : readLine(rest + decoder.decode(), at + 1);
  if (last) batch.push(last);
  yield batch;
}

function readLine(line: string, at: number): Entry | null {
  if (line.trim() === "") return null;
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? { at, fields: value as Fields }
      : { at, fault: "is not a JSON object" };
  } catch (error) {
    return { at, fault: `is not JSON: ${error instanceof Error ? error.message : String(error)}` };
  }
}

const notLines = (line: number) =>
  new SetupError(
    `Line ${line} is longer than ${lineCharactersMax} characters.`,
    "Give NDJSON, one signal a line, CSV with a header row, or an SQLite file.",
  );

/** CSV with a header row. `ended` tells whether the last row may be cut. */
async function* table(chunks: AsyncIterable<Chunk>, ended: () => boolean): AsyncGenerator<Entry[]> {
  const parser = Readable.from(chunks).pipe(
    parse({
      bom: true,
      info: true,
      trim: true,
      skip_empty_lines: true,
      // Both are told as faults of their line, and reading goes on.
      relax_column_count: true,
      skip_records_with_error: true,
      max_record_size: lineCharactersMax,
    }),
  );
  const unread: Entry[] = [];
  parser.on("skip", (error: CsvError) => {
    const line = Number(error["lines"] ?? 0);
    unread.push({ at: line, fault: `is not CSV: ${error.message}` });
  });
  let names: string[] | null = null;
  let batch: Entry[] = [];
  // The newest row is held back: cut in its last cell it would look like a whole one.
  let last: Entry | null = null;
  for await (const { record, info } of parser as AsyncIterable<{ record: string[]; info: Info }>) {
    if (!names) {
      names = columnNames(record);
      continue;
    }
    if (last) batch.push(last);
    while (unread[0] && unread[0].at <= info.lines) batch.push(...unread.splice(0, 1));
    last = readCells(names, record, info.lines);
    if (batch.length < rowsPerCommit) continue;
    yield batch;
    batch = [];
  }
  if (!ended()) batch.push(...(last ? [last] : []), ...unread);
  yield batch;
}

/** @throws SetupError when the header row does not name what every row needs. */
function columnNames(header: string[]): string[] {
  const names = header.map((name) => name.toLowerCase());
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  const missing = ["symbol", "action", "confidence", "entry_price", "timestamp"].filter(
    (name) => !names.includes(name) && !names.includes(aliasOf(name)),
  );
  if (twice === undefined && missing.length === 0) return names;
  throw new SetupError(
    twice === undefined
      ? `The first line is no header row of signals: ${missing.join(", ")} not named.`
      : `The header row names ${twice} more than once.`,
    "Give CSV with a header row such as: symbol,action,confidence,entry_price,stop_price,target_price,timestamp,strategy",
  );
}

const aliasOf = (name: string): string => aliases.find(([own]) => own === name)?.[1] ?? name;

function readCells(names: string[], cells: string[], at: number): Entry {
  if (cells.length !== names.length) {
    return { at, fault: `has ${cells.length} cells, the header row ${names.length}` };
  }
  const fields: Fields = {};
  for (const [i, name] of names.entries()) {
    const cell = cells[i] ?? "";
    if (cell === "") continue;
    fields[name] = numericFields.has(name) && decimal.test(cell) ? Number(cell) : cell;
  }
  return { at, fields };
}

/** Names of fields that have no meaning here, and are not kept. */
export function unknownFields(fields: Fields, found: Set<string>): void {
  for (const name in fields) {
    if (!knownFields.has(name) && found.size < 20) found.add(name);
  }
}
