import { closeSync, existsSync, fstatSync, openSync, readSync, realpathSync, watch } from "node:fs";
import { SetupError } from "../errors";

/** Looks at a log that others keep beginning anew, before it is taken for sound. */
const looksMax = 20;
const headerBytes = 32;
const frameHeaderBytes = 24;

type Sums = [number, number];

/** A frame may be met while somebody writes it: what is found is looked at again after this. */
const againMs = 50;

/**
 * Refuses a file whose log has lost commits: what a checkpoint would make final.
 * @throws SetupError that says how to go on.
 */
export function mustHaveSoundLog(path: string): void {
  const damage = lostCommits(path);
  if (damage === null) return;
  throw new SetupError(
    `${path} has lost commits: ${damage}. Nothing is changed.`,
    `Run \`argo-alpine restore BACKUP\`, or give those commits up with: sqlite3 ${path} 'PRAGMA wal_checkpoint(TRUNCATE)'`,
  );
}

/** What is wrong with the log of a file that this process has not opened; null when nothing is. */
export function lostCommits(path: string): string | null {
  // SQLite keeps the log beside the file that a link leads to.
  const real = existsSync(path) ? realpathSync(path) : path;
  if (walDamage(real) === null) return null;
  Bun.sleepSync(againMs);
  return walDamage(real);
}

/**
 * Looks for damage inside a write-ahead log. SQLite takes the first frame whose checksum fails as
 * the end of the log, in silence, and with it goes every commit after it. A torn last transaction
 * is normal after a crash. A failed frame with two commits behind it is not: the second of them
 * began after the first was on the disk.
 * Only for a file that this process has not opened: closing a descriptor of a live one drops
 * SQLite's locks. Format: sqlite.org/fileformat2.html §4.
 * @returns what is wrong; null when nothing is, or there is no log.
 */
function walDamage(databasePath: string): string | null {
  let fd: number;
  try {
    fd = openSync(`${databasePath}-wal`, "r");
  } catch {
    // No log, or one that only its owner may read: SQLite will tell which.
    return null;
  }
  try {
    for (let look = 0; look < looksMax; look += 1) {
      const header = headerOf(fd);
      const damage = inspect(fd, fstatSync(fd).size);
      // A log that was begun anew meanwhile was read half of one round and half of another.
      if (damage === null || header === headerOf(fd)) return damage;
    }
    return null;
  } finally {
    closeSync(fd);
  }
}

const headerOf = (fd: number): string =>
  Buffer.from(read(fd, 0, headerBytes).buffer).toString("hex");

function inspect(fd: number, size: number): string | null {
  if (size < headerBytes) return null;
  const header = read(fd, 0, headerBytes);
  if (isZero(header)) return null;
  const magic = header.getUint32(0);
  const littleEndian = magic === 0x377f0682;
  const pageBytes = header.getUint32(8);
  const made = checksum(header, 0, headerBytes - 8, littleEndian, [0, 0]);
  let sums: Sums = [header.getUint32(24), header.getUint32(28)];
  const known = littleEndian || magic === 0x377f0683;
  if (!known || !equal(made, sums)) {
    return size > headerBytes ? "the header of the write-ahead log is damaged" : null;
  }
  const salts: Sums = [header.getUint32(16), header.getUint32(20)];
  const frameBytes = frameHeaderBytes + pageBytes;
  const sumOf = (frame: DataView, before: Sums): Sums =>
    checksum(
      frame,
      frameHeaderBytes,
      pageBytes,
      littleEndian,
      checksum(frame, 0, 8, littleEndian, before),
    );
  let failed: number | null = null;
  let commits = 0;
  for (let n = 1, at = headerBytes; at + frameBytes <= size; n += 1, at += frameBytes) {
    const frame = read(fd, at, frameBytes);
    const stored: Sums = [frame.getUint32(16), frame.getUint32(20)];
    // Other salts: a frame of an earlier round of the log, or one whose header is damaged.
    const ofThisRound = equal([frame.getUint32(8), frame.getUint32(12)], salts);
    const sound = ofThisRound && equal(sumOf(frame, sums), stored);
    if (!sound) failed ??= n;
    if (failed !== null && ofThisRound && frame.getUint32(4) !== 0) commits += 1;
    if (sound && commits > 1) {
      return `frame ${failed} of the write-ahead log is damaged and commits follow it`;
    }
    // Each sum goes on from the last one stored, so the frame after a damaged one can be judged.
    sums = stored;
  }
  return null;
}

const equal = (a: Sums, b: Sums): boolean => a[0] === b[0] && a[1] === b[1];

function isZero(view: DataView): boolean {
  for (let at = 0; at < view.byteLength; at += 4) if (view.getUint32(at) !== 0) return false;
  return true;
}

function checksum(
  view: DataView,
  from: number,
  bytes: number,
  littleEndian: boolean,
  [first, second]: Sums,
): Sums {
  let s0 = first;
  let s1 = second;
  for (let at = from; at < from + bytes; at += 8) {
    s0 = (s0 + view.getUint32(at, littleEndian) + s1) >>> 0;
    s1 = (s1 + view.getUint32(at + 4, littleEndian) + s0) >>> 0;
  }
  return [s0, s1];
}

function read(fd: number, at: number, bytes: number): DataView {
  const view = new DataView(new ArrayBuffer(bytes));
  readSync(fd, view, 0, bytes, at);
  return view;
}

/**
 * Calls back when anybody has written into the log of a database: soon, mostly after the commit can
 * be seen, and not at all where the system tells nothing of it. Opens no file.
 * @returns what ends it.
 */
export function watchLog(path: string, onWrite: () => void): () => void {
  try {
    const watcher = watch(`${path}-wal`, onWrite);
    watcher.on("error", () => undefined);
    return () => watcher.close();
  } catch {
    return () => undefined;
  }
}
