import {
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { Config } from "../config";
import { SetupError } from "../errors";
import {
  dressLike,
  isInUse,
  isSameFile,
  isSqlite,
  mustExist,
  openReader,
  shortDamage,
  sync,
} from "./file";
import { lostCommits } from "../platform/wal";
import { grouped, type Output, plural } from "./output";

export type RestoreOptions = { force?: boolean };

/**
 * Puts a backup in the place of the signal file. What was there is kept under another name. At
 * every moment one of the two is in place: a server that starts meanwhile never makes an empty one.
 */
export async function restore(
  config: Config,
  file: string,
  options: RestoreOptions,
  output: Output,
): Promise<void> {
  const path = resolve(file);
  const there = existsSync(config.signalsDb);
  // A link goes on leading to the same place.
  const signalsDb = there ? realpathSync(config.signalsDb) : config.signalsDb;
  const { rows, head } = check(path, signalsDb);
  mkdirSync(dirname(signalsDb), { recursive: true, mode: 0o750 });
  const stamp = new Date().toISOString().replace(/[-:.]/g, "");
  const aside = `${signalsDb}.before-restore-${stamp}`;
  // To look for other users is to open the file, which folds its log in: what the log has beyond
  // a damaged frame would be lost by that.
  if (there && lostCommits(signalsDb) !== null) {
    copyFileSync(`${signalsDb}-wal`, `${aside}-wal`, constants.COPYFILE_EXCL);
  }
  if (there && !options.force && (await isInUse(signalsDb))) {
    rmSync(`${aside}-wal`, { force: true });
    throw new SetupError(
      `${signalsDb} is in use by a server or an engine. Nothing is changed.`,
      "Stop what uses it. --force goes ahead: what uses it then goes on with the old file until it is started anew.",
    );
  }
  const part = join(dirname(signalsDb), `.${basename(signalsDb)}.${process.pid}.part`);
  try {
    copyFileSync(path, part, constants.COPYFILE_EXCL);
    dressLike(part, there ? signalsDb : path);
    sync(part);
    if (there) putAside(signalsDb, aside);
    renameSync(part, signalsDb);
    sync(dirname(signalsDb));
  } catch (cause) {
    rmSync(part, { force: true });
    throw new SetupError(
      `${signalsDb} cannot be replaced: ${cause instanceof Error ? cause.message : String(cause)}.`,
      "Check the room on its disk and the permissions of its directory, then run it again.",
      { cause },
    );
  }
  output.result(
    { file: signalsDb, from: path, rows, head, aside: there ? aside : null },
    `${signalsDb}: ${plural(rows, "row")}, highest id ${grouped(head)}` +
      (there ? `\nWhat was there is kept as ${aside}` : ""),
  );
}

/** @throws SetupError when it is not a sound signal file by itself. */
function check(path: string, signalsDb: string): { rows: number; head: number } {
  mustExist(path);
  if (isSameFile(path, signalsDb)) {
    throw new SetupError(`${path} is the signal file itself.`, "Name a backup.");
  }
  if (!statSync(path).isFile() || !isSqlite(path)) {
    throw new SetupError(`${path} is no SQLite file. Nothing is changed.`, "Name a backup.");
  }
  const log = `${path}-wal`;
  if (existsSync(log) && statSync(log).size > 0) {
    throw new SetupError(
      `${path} has a write-ahead log beside it: a part of it would be missing.`,
      `Make a whole backup of it first: argo-alpine --db ${path} backup NEW`,
    );
  }
  let damage: string[];
  try {
    using reader = openReader(path);
    damage = reader.damage();
    if (damage.length === 0) return { rows: reader.countRows(), head: reader.head.maxId };
  } catch (cause) {
    throw new SetupError(
      `${path} is no sound signal file: ${cause instanceof Error ? cause.message : String(cause)} Nothing is changed.`,
      "Name another backup.",
      { cause },
    );
  }
  throw new SetupError(
    `${path} is damaged: ${shortDamage(damage)}. Nothing is changed.`,
    "Name another backup.",
  );
}

/**
 * A second name for the old file, then its log out of the way: the new one must never meet it.
 * The old file keeps its first name until the new one takes it.
 */
function putAside(path: string, aside: string): void {
  try {
    linkSync(path, aside);
  } catch (error) {
    // File systems without hard links: for a moment nothing is in place.
    const code = (error as { code?: string }).code ?? "";
    if (!["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK"].includes(code)) throw error;
    renameSync(path, aside);
  }
  for (const suffix of ["-wal", "-shm", "-journal"]) {
    if (existsSync(path + suffix)) renameSync(path + suffix, aside + suffix);
  }
}
