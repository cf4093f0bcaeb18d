import { existsSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { ReceivedSignal } from "../argo/signals/signal";
import type { SignalReader } from "../argo/signals/store";
import type { Config } from "../config";
import { SetupError } from "../errors";
import { openDatabase, sqliteCode } from "../platform/sqlite";
import {
  asSetupError,
  dressLike,
  isPassing,
  isSameFile,
  lockedMsMax,
  mustExist,
  openReader,
  shortDamage,
  sync,
} from "./file";
import { mustHaveSoundLog } from "../platform/wal";
import { grouped, type Output, plural, seconds } from "./output";

export type BackupOptions = { force?: boolean };

const againMs = 100;
const lockWaitMs = 10_000;
const comparedRows = 50;

/**
 * Copies the signal file as it is at one moment, while others go on writing: every signal that was
 * acknowledged before is in it. The copy is checked before it gets its name.
 */
export async function backup(
  { signalsDb }: Config,
  file: string,
  options: BackupOptions,
  output: Output,
): Promise<void> {
  const path = resolve(file);
  const begun = performance.now();
  mustExist(signalsDb);
  if (isSameFile(path, signalsDb)) {
    throw new SetupError(`${path} is the signal file itself.`, "Choose another name.");
  }
  if (existsSync(path) && !options.force) {
    throw new SetupError(`${path} is there already.`, "Choose another name, or add --force.");
  }
  mustHaveSoundLog(signalsDb);
  using source = openReader(signalsDb);
  const newest = newestRows(source);
  const part = join(dirname(path), `.${basename(path)}.${process.pid}.part`);
  try {
    await vacuumInto(signalsDb, part);
    dressLike(part, signalsDb);
    const { rows, head, moved } = check(part, newest);
    sync(part);
    renameSync(part, path);
    sync(dirname(path));
    const bytes = statSync(path).size;
    const durationMs = Math.round(performance.now() - begun);
    if (moved) {
      output.note(
        "warn: rows without a primary key got other ids in the backup, so arrival times and corrections may be shown with the wrong rows",
      );
    }
    output.result(
      { file: path, rows, head, bytes, ids_kept: !moved, duration_ms: durationMs },
      `${path}: ${plural(rows, "row")}, highest id ${grouped(head)}, ${(bytes / 1e6).toFixed(1)} MB, checked, in ${seconds(durationMs)}`,
    );
  } catch (cause) {
    rmSync(part, { force: true });
    throw describe(cause, signalsDb, path);
  }
}

/** The copy is one read transaction: nobody waits for it while the file has a write-ahead log. */
async function vacuumInto(from: string, to: string): Promise<void> {
  const db = openDatabase(from, "reader");
  try {
    db.run(`PRAGMA busy_timeout = ${lockWaitMs}`);
    // The connection stays read-only; this lets it write the other file.
    db.run("PRAGMA query_only = OFF");
    const until = performance.now() + lockedMsMax;
    for (;;) {
      try {
        db.query("VACUUM INTO ?").run(to);
        return;
      } catch (error) {
        if (!isPassing(error) || performance.now() >= until) throw error;
        rmSync(to, { force: true });
        await Bun.sleep(againMs);
      }
    }
  } finally {
    db.close();
  }
}

/** Where the id is only the rowid, VACUUM is free to change it: then the newest rows tell. */
function newestRows(reader: SignalReader): ReceivedSignal[] {
  const head = reader.head.maxId;
  return reader.slice(Math.max(0, head - comparedRows), head, comparedRows, null).rows;
}

function check(path: string, newest: ReceivedSignal[]) {
  using copy = openReader(path);
  const damage = copy.damage();
  if (damage.length > 0) {
    throw new SetupError(
      `The copy is damaged, and so is the signal file: ${shortDamage(damage)}. Nothing was kept.`,
      "Run `argo-alpine doctor`; restore an older backup.",
    );
  }
  // A row that was changed or deleted meanwhile is no sign of it; none that is where it was is.
  const stayed = newest.filter((row) => {
    const same = copy.byId(row.id, null);
    return same?.symbol === row.symbol && same.timestamp === row.timestamp;
  });
  const moved = newest.length > 0 && stayed.length === 0;
  return { rows: copy.countRows(), head: copy.head.maxId, moved };
}

function describe(cause: unknown, from: string, to: string): unknown {
  if (cause instanceof SetupError) return cause;
  const code = sqliteCode(cause);
  if (code !== null && code !== "SQLITE_FULL" && code !== "SQLITE_CANTOPEN") {
    return asSetupError(cause, from);
  }
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new SetupError(
    `${to} cannot be written: ${reason}.`,
    "Choose a directory that is there, with room, that this user can write to.",
    { cause },
  );
}
