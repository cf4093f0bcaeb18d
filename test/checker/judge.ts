/** Judges what was seen by what was sent and promised, and by nothing that a server says of itself. */
import { isFor, type Ledger, type Look, type Reader, type Sent, type Sequence } from "./ledger.ts";

/** A row of the file at the end. */
export interface Stored {
  id: number;
  sent: Sent | null;
  timestamp: string;
}

/** Faults in words; each list is empty when all is well. */
export interface Verdict {
  /** Acknowledged and not in the file, or not shown to who was to see it. */
  lost: string[];
  /** Twice in the file, or twice in one sequence. */
  doubled: string[];
  /** Not by ascending id, or not in the order of a list. */
  reordered: string[];
  /** Premium, too early, or not what was asked for. */
  wronglyShown: string[];
  /** Acknowledged before a poll began that does not show it. */
  stale: string[];
  /** Never sent, changed on the way, or not in the file. */
  phantoms: string[];
  /** Answers that there should not be. */
  odd: string[];
}

export const SOUND: Verdict = {
  lost: [],
  doubled: [],
  reordered: [],
  wronglyShown: [],
  stale: [],
  phantoms: [],
  odd: [],
};

type Evidence = Pick<Ledger, "sent" | "sequences" | "looks" | "odd">;

export function judge(evidence: Evidence, file: readonly Stored[]): Verdict {
  const verdict: Verdict = structuredClone(SOUND);
  verdict.odd.push(...evidence.odd);
  const stored = new Map(file.map((row) => [row.id, row]));
  judgeFile(evidence.sent, file, stored, verdict);
  for (const sequence of evidence.sequences) judgeSequence(sequence, file, stored, verdict);
  for (const looks of Map.groupBy(evidence.looks, kindOf).values()) {
    judgeLooks(looks, evidence.sent, stored, verdict);
  }
  for (const looks of Map.groupBy(evidence.looks, ({ client }) => client).values()) {
    let last = 0;
    for (const { client, head } of looks) {
      if (head === null) continue;
      if (head < last) verdict.reordered.push(`${client}: head ${head} after ${last}`);
      last = Math.max(last, head);
    }
  }
  return verdict;
}

function judgeFile(
  sent: readonly Sent[],
  file: readonly Stored[],
  stored: ReadonlyMap<number, Stored>,
  verdict: Verdict,
): void {
  for (const each of sent) {
    if (each.id === null || stored.get(each.id)?.sent === each) continue;
    verdict.lost.push(`the file: ${each.id}, acknowledged`);
  }
  const seen = new Set<Sent>();
  for (const row of file) {
    if (row.sent === null) verdict.phantoms.push(`the file: ${row.id}, never sent`);
    else if (seen.has(row.sent)) verdict.doubled.push(`the file: ${row.id}, there already`);
    else seen.add(row.sent);
  }
}

function judgeSequence(
  { name, reader, filter, fromId, shown, ordered = true }: Sequence,
  file: readonly Stored[],
  stored: ReadonlyMap<number, Stored>,
  verdict: Verdict,
): void {
  const seen = new Set<number>();
  let last = fromId;
  for (const { id, sent, atMs } of shown) {
    if (seen.has(id)) verdict.doubled.push(`${name}: ${id} again`);
    else if (ordered && id <= last) verdict.reordered.push(`${name}: ${id} after ${last}`);
    seen.add(id);
    last = Math.max(last, id);
    if (sent === null || stored.get(id)?.sent !== sent) verdict.phantoms.push(`${name}: ${id}`);
    else if (!isFor(reader, filter, sent)) verdict.wronglyShown.push(`${name}: ${id}`);
    else if (isEarly(reader, sent, atMs)) verdict.wronglyShown.push(`${name}: ${id}, too early`);
  }
  for (const { id, sent } of file) {
    if (id <= fromId || sent === null || !isFor(reader, filter, sent)) continue;
    if (!seen.has(id)) verdict.lost.push(`${name}: ${id}`);
  }
}

/** What arrived cannot have arrived before it was sent. */
const isEarly = ({ delayMs }: Reader, { sentMs }: Sent, atMs: number): boolean =>
  delayMs > 0 && atMs < sentMs + delayMs;

const kindOf = ({ reader, filter, limit, order }: Look): string =>
  JSON.stringify([reader.name, filter, limit, order]);

/** Answers to one question: each must show of what was acknowledged before it began. */
function judgeLooks(
  looks: readonly Look[],
  sent: readonly Sent[],
  stored: ReadonlyMap<number, Stored>,
  verdict: Verdict,
): void {
  const [first] = looks;
  if (!first) return;
  const { reader, filter, limit, order } = first;
  const above = newerFirst(stored);
  const most = limit ?? Number.POSITIVE_INFINITY;
  const delayed = reader.delayMs > 0;
  const dueAt = (each: Sent): number => (delayed ? each.ackedMs + reader.delayMs : each.ackedAt);
  const begunAt = (look: Look): number => (delayed ? look.begunMs : look.begunAt);
  const due = sent
    .filter((each) => each.id !== null && isFor(reader, {}, each))
    .toSorted((a, b) => dueAt(a) - dueAt(b));
  // Of those acknowledged so far the newest, which alone can be missed in an answer of so many.
  const must: number[] = [];
  let headId = 0;
  let next = 0;
  for (const look of looks.toSorted((a, b) => begunAt(a) - begunAt(b))) {
    for (; next < due.length; next += 1) {
      const each = due[next] as Sent;
      // By the clock what is due at the very millisecond is to be seen; by order it came before.
      if (dueAt(each) > begunAt(look)) break;
      const id = each.id as number;
      headId = Math.max(headId, id);
      if (isFor(reader, filter, each)) place(must, id, most, above);
    }
    const ids = judgeRows(look, stored, verdict);
    const name = `${look.client}, poll at ${look.begunMs}`;
    const head = Math.min(headId, look.upToId);
    if (look.head !== null && look.head < head) {
      verdict.stale.push(`${name}: head ${look.head}, not ${headId}`);
    }
    const ordered = order === "desc" ? look.rows : look.rows.toReversed();
    const last = ordered.at(-1);
    const full = look.rows.length >= most;
    for (const id of must) {
      if (ids.has(id) || id > look.upToId) continue;
      if (full && last && above(last.id, id) < 0) continue;
      verdict.stale.push(`${name}: ${id} is not shown`);
    }
  }
}

/** Its rows by themselves. @returns their ids. */
function judgeRows(
  { client, reader, filter, rows, endedMs, head, order }: Look,
  stored: ReadonlyMap<number, Stored>,
  verdict: Verdict,
): Set<number> {
  const above = newerFirst(stored);
  const ids = new Set<number>();
  let before: number | null = null;
  for (const { id, sent } of rows) {
    const name = `${client}: ${id}`;
    if (ids.has(id)) verdict.doubled.push(name);
    ids.add(id);
    if (sent === null || stored.get(id)?.sent !== sent) {
      verdict.phantoms.push(name);
      continue;
    }
    if (!isFor(reader, filter, sent)) verdict.wronglyShown.push(name);
    else if (isEarly(reader, sent, endedMs)) verdict.wronglyShown.push(`${name}, too early`);
    if (before !== null && above(before, id) * (order === "desc" ? 1 : -1) > 0) {
      verdict.reordered.push(`${name} behind ${before}`);
    }
    before = id;
  }
  const newest = head ? stored.get(head)?.sent : null;
  if (newest === undefined) verdict.phantoms.push(`${client}: head ${head}`);
  else if (newest && (!isFor(reader, {}, newest) || isEarly(reader, newest, endedMs))) {
    verdict.wronglyShown.push(`${client}: head ${head}`);
  }
  return ids;
}

/** By timestamp, then id, the newest first: how lists are ordered. */
function newerFirst(stored: ReadonlyMap<number, Stored>): (a: number, b: number) => number {
  return (a, b) => {
    const [left = "", right = ""] = [stored.get(a)?.timestamp, stored.get(b)?.timestamp];
    if (left !== right) return left < right ? 1 : -1;
    return b - a;
  };
}

/** Puts an id into its place among the newest so many. */
function place(
  ids: number[],
  id: number,
  most: number,
  above: (a: number, b: number) => number,
): void {
  let [low, high] = [0, ids.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (above(ids[middle] as number, id) < 0) low = middle + 1;
    else high = middle;
  }
  ids.splice(low, 0, id);
  if (ids.length > most) ids.pop();
}
