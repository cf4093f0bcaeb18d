import { resolve } from "node:path";
import type { SignalLedger } from "../argo/signals/ledger";
import type { Config } from "../config";
import { SetupError } from "../errors";
import { sqliteCode } from "../platform/sqlite";
import { BulkWriter } from "./bulk";
import { isSameFile } from "./file";
import { type HistoryRow, IdMap, readHistory } from "./history";
import { grouped, type Output, plural, seconds, slowSteps } from "./output";
import { type Entry, openSource, type Source, unknownFields } from "./sources";

export type ImportOptions = { skipBad?: boolean };

const badShownMax = 10;
const rerun = "what is there already is passed over";

type Row = { at: number; row: HistoryRow };
type Bad = { at: number; reason: string };
/** What one row came to; a text says why the table refused it. */
type Fate = { id: number; duplicate: boolean; unlinked: boolean } | string;

/**
 * Takes a history into the signal file. Rows get new ids in the order of the file. The same
 * content is the same row, so that a run that was cut short is completed by the next.
 */
export async function importRows(
  config: Config,
  file: string,
  options: ImportOptions,
  output: Output,
): Promise<void> {
  const path = file === "-" ? file : resolve(file);
  if (file !== "-" && isSameFile(path, config.signalsDb)) {
    throw new SetupError(`${path} is the signal file itself.`, "Name another file to import.");
  }
  // First, while this process has no SQLite file open: closing a descriptor drops their locks.
  const source = await openSource(path);
  using writer = await BulkWriter.open(config, slowSteps(output));
  await new Import(source, writer, options, output).run(config.signalsDb);
}

class Import {
  readonly #ids = new IdMap();
  readonly #ignored = new Set<string>();
  readonly #bad: Bad[] = [];
  readonly #begun = performance.now();
  #read = 0;
  #written = 0;
  #duplicates = 0;
  #skipped = 0;
  #unlinked = 0;

  constructor(
    private readonly source: Source,
    private readonly writer: BulkWriter,
    private readonly options: ImportOptions,
    private readonly output: Output,
  ) {}

  async run(target: string): Promise<void> {
    const { source } = this;
    const unit = source.unit === "row" ? "rows" : "bytes";
    const bar = this.output.bar(source.total, unit);
    try {
      for await (const entries of source.entries) {
        await this.#take(entries);
        bar.update(source.position());
      }
    } finally {
      bar.stop();
    }
    const failure = source.failure();
    if (failure !== null) {
      throw this.#stop(`The file cannot be read to its end (${failure})`, "Get a whole file");
    }
    this.#report(target);
  }

  async #take(entries: Entry[]): Promise<void> {
    const rows: Row[] = [];
    let bad: Bad | null = null;
    for (const entry of entries) {
      const read = this.#readEntry(entry);
      if (typeof read !== "string") rows.push({ at: entry.at, row: read });
      else if (this.options.skipBad) this.#skip({ at: entry.at, reason: read });
      else {
        bad = { at: entry.at, reason: read };
        break;
      }
    }
    bad = (await this.#write(rows)) ?? bad;
    if (!bad) return;
    const name = this.source.unit === "line" ? "Line" : "Row";
    throw this.#stop(
      `${name} ${grouped(bad.at)}: ${bad.reason}`,
      "Correct it, or pass over such rows with --skip-bad",
    );
  }

  #readEntry(entry: Entry): HistoryRow | string {
    if ("fault" in entry) return entry.fault;
    unknownFields(entry.fields, this.#ignored);
    return readHistory(entry.fields, this.writer.layout, this.source.lenient);
  }

  /** @returns the row that ends the import, where one does. */
  async #write(rows: Row[]): Promise<Bad | null> {
    if (rows.length === 0) return null;
    const fates = await this.writer.commit((ledger) => this.#keep(ledger, rows));
    for (const [i, fate] of fates.entries()) {
      const { at, row } = rows[i] as Row;
      if (typeof fate === "string") {
        if (!this.options.skipBad) return { at, reason: fate };
        this.#skip({ at, reason: fate });
        continue;
      }
      if (row.id !== null) this.#ids.set(row.id, fate.id);
      this.#read += 1;
      if (fate.duplicate) this.#duplicates += 1;
      else this.#written += 1;
      if (fate.unlinked) this.#unlinked += 1;
    }
    return null;
  }

  /** Inside one transaction, which may be run again: what is known by it is held apart. */
  #keep(ledger: SignalLedger, rows: Row[]): Fate[] {
    const ids = new Map<number, number>();
    const fates: Fate[] = [];
    for (const { row } of rows) {
      const old = row.supersedes;
      const supersedes = old === null ? null : (ids.get(old) ?? this.#ids.get(old));
      try {
        const { id, duplicate } = ledger.keep({ ...row.draft, supersedes });
        if (row.id !== null) ids.set(row.id, id);
        fates.push({ id, duplicate, unlinked: old !== null && supersedes === null });
      } catch (error) {
        if (sqliteCode(error) !== "SQLITE_CONSTRAINT") throw error;
        fates.push(
          `the table refused it: ${error instanceof Error ? error.message : "constraint"}`,
        );
        if (!this.options.skipBad) break;
      }
    }
    return fates;
  }

  #skip(bad: Bad): void {
    this.#read += 1;
    this.#skipped += 1;
    if (this.#bad.length < badShownMax) this.#bad.push(bad);
  }

  #stop(message: string, fix: string): SetupError {
    const kept = `${plural(this.#written, "row")} written, ${grouped(this.#duplicates)} already there`;
    return new SetupError(
      `${message}. All rows before it are in (${kept}).`,
      `${fix}, then run the same command again: ${rerun}.`,
    );
  }

  #report(target: string): void {
    const { output } = this;
    const durationMs = Math.round(performance.now() - this.#begun);
    const unit = this.source.unit;
    const bad = this.#bad.map(({ at, reason }) => ({ [unit]: at, reason }));
    const ignored = [...this.#ignored];
    for (const { at, reason } of this.#bad)
      output.note(`skipped ${unit} ${grouped(at)}: ${reason}`);
    if (this.#skipped > this.#bad.length) {
      output.note(`… and ${grouped(this.#skipped - this.#bad.length)} more`);
    }
    if (ignored.length > 0)
      output.note(`fields without a meaning, not kept: ${ignored.join(", ")}`);
    if (this.#unlinked > 0) {
      const rows = plural(this.#unlinked, "row");
      output.note(`${rows} correct signals that are not in this file: these links are not kept`);
    }
    output.result(
      {
        file: target,
        read: this.#read,
        written: this.#written,
        duplicates: this.#duplicates,
        skipped: this.#skipped,
        unlinked: this.#unlinked,
        ignored,
        bad,
        duration_ms: durationMs,
      },
      `${target}: read ${grouped(this.#read)}, written ${grouped(this.#written)}, ` +
        `duplicates ${grouped(this.#duplicates)}, skipped ${grouped(this.#skipped)} in ${seconds(durationMs)}`,
    );
  }
}
