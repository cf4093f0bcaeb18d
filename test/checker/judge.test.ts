/** The judge can find each fault: it is shown what was forged, one thing at a time. */
import { expect, test } from "bun:test";
import { randomNumbers } from "../harness/seed.ts";
import { judge, SOUND, type Stored, type Verdict } from "./judge.ts";
import { Ledger, type Look, type Reader, type Sequence } from "./ledger.ts";

const full: Reader = { name: "full", headers: {}, premium: true, delayMs: 0, account: false };
const late: Reader = { name: "late", headers: {}, premium: false, delayMs: 2_000, account: true };
const BEGUN = Date.UTC(2026, 10, 20, 12);
const ROWS = 20;

interface Scene {
  ledger: Ledger;
  file: Stored[];
  /** All of it, as it came, and what the late one saw of it. */
  stream: Sequence;
  delayed: Sequence;
  /** The newest five after the last acknowledgement; the whole list, ascending. */
  poll: Look;
  list: Look;
  delayedPoll: Look;
}

/** Twenty signals, a second apart, of which every fifth is premium, and all who saw them as they should. */
function scene(): Scene {
  const ledger = new Ledger();
  const random = randomNumbers(1);
  const file: Stored[] = [];
  for (let id = 1; id <= ROWS; id += 1) {
    const sent = ledger.make(random, true);
    sent.content.confidence = id % 5 === 0 ? 97 : 50;
    sent.content.timestamp = new Date(BEGUN + id * 1_000).toISOString();
    sent.sentMs = BEGUN + id * 1_000;
    ledger.acknowledge(sent, id);
    sent.ackedMs = sent.sentMs + 5;
    file.push({ id, sent, timestamp: sent.content.timestamp });
  }
  const follow = (name: string, reader: Reader): Sequence =>
    ledger.follow({ name, reader, filter: {}, fromId: 0 });
  const stream = follow("stream", full);
  const delayed = follow("delayed", late);
  for (const { id, sent } of file) {
    const sentMs = sent?.sentMs ?? 0;
    stream.shown.push({ id, sent, atMs: sentMs + 1 });
    if (id % 5 !== 0) delayed.shown.push({ id, sent, atMs: sentMs + 2_000 });
  }
  const look = (client: string, reader: Reader, more: Partial<Look>): Look => {
    const begunMs = BEGUN + 60_000;
    const made: Look = {
      client,
      reader,
      filter: {},
      limit: 5,
      order: "desc",
      begunAt: ledger.moment(),
      begunMs,
      endedMs: begunMs + 1,
      head: ROWS,
      rows: [20, 19, 18, 17, 16].map((id) => rowOf(file, id)),
      upToId: Number.POSITIVE_INFINITY,
      ...more,
    };
    ledger.looks.push(made);
    return made;
  };
  return {
    ledger,
    file,
    stream,
    delayed,
    poll: look("poll", full, {}),
    list: look("list", full, { limit: null, order: "asc", head: null, rows: [...file] }),
    // At a moment at which 17 is due and 18 is not, to the millisecond.
    delayedPoll: look("delayed poll", late, {
      begunMs: BEGUN + 19_005,
      endedMs: BEGUN + 19_006,
      head: 17,
      rows: [17, 16, 14, 13, 12].map((id) => rowOf(file, id)),
    }),
  };
}

const rowOf = (file: Stored[], id: number) => ({ id, sent: file[id - 1]?.sent ?? null });

/** Which kinds of faults are found, and how many of each. */
function found(forge: (at: Scene) => void): Partial<Record<keyof Verdict, number>> {
  const at = scene();
  forge(at);
  const verdict = judge(at.ledger, at.file);
  const counted = Object.entries(verdict).map(([kind, list]: [string, string[]]) => [
    kind,
    list.length,
  ]);
  return Object.fromEntries(counted.filter(([, count]) => count !== 0));
}

const without = <T>(list: T[], at: number): void => void list.splice(at, 1);

test("what is as it should be is sound", () => {
  const at = scene();
  expect(judge(at.ledger, at.file)).toEqual(SOUND);
});

const forged: [name: string, forge: (at: Scene) => void, Partial<Record<keyof Verdict, number>>][] =
  [
    ["a frame is dropped", (at) => without(at.stream.shown, 7), { lost: 1 }],
    ["the last frame never comes", (at) => without(at.stream.shown, ROWS - 1), { lost: 1 }],
    [
      "a frame comes twice",
      (at) => at.stream.shown.splice(7, 0, ...at.stream.shown.slice(7, 8)),
      { doubled: 1 },
    ],
    [
      "a resume begins too early",
      (at) => at.stream.shown.splice(10, 0, ...at.stream.shown.slice(5, 10)),
      { doubled: 5 },
    ],
    [
      "two frames change places",
      (at) => at.stream.shown.splice(7, 2, ...at.stream.shown.slice(7, 9).toReversed()),
      { reordered: 1 },
    ],
    [
      "the delay is ignored",
      (at) => at.delayed.shown.forEach((shown) => (shown.atMs -= 1)),
      { wronglyShown: 16 },
    ],
    [
      "premium is shown to who may not see it",
      (at) => at.delayed.shown.splice(4, 0, at.stream.shown[4] as (typeof at.stream.shown)[0]),
      { wronglyShown: 1 },
    ],
    [
      "a filter lets everything through",
      (at) => (at.stream.filter = { min_confidence: 95 }),
      { wronglyShown: 16 },
    ],
    [
      "a frame is changed on the way",
      (at) => Object.assign(at.stream.shown[3] ?? {}, { sent: null }),
      { phantoms: 1 },
    ],
    [
      "a frame goes under another's id",
      (at) => Object.assign(at.stream.shown[3] ?? {}, { sent: at.file[7]?.sent }),
      { phantoms: 1 },
    ],
    [
      "a row is gone from the file that was acknowledged and shown",
      (at) => without(at.file, 2),
      // By the stream, the late one and the list, and the promise itself.
      { lost: 1, phantoms: 3 },
    ],
    [
      "a post sent again was written twice",
      (at) =>
        at.file.push({ id: 21, sent: at.file[0]?.sent ?? null, timestamp: "2026-11-20T13:00:00Z" }),
      // Nobody saw the second.
      { doubled: 1, lost: 2 },
    ],
    [
      "the file holds what nobody sent",
      (at) => at.file.push({ id: 21, sent: null, timestamp: "2026-11-20T13:00:00Z" }),
      { phantoms: 1 },
    ],
    [
      "a poll is behind an acknowledgement",
      (at) =>
        Object.assign(at.poll, {
          head: 19,
          rows: [19, 18, 17, 16, 15].map((id) => rowOf(at.file, id)),
        }),
      { stale: 2 },
    ],
    [
      "a poll leaves one out",
      (at) => (at.poll.rows = [20, 19, 17, 16, 15].map((id) => rowOf(at.file, id))),
      { stale: 1 },
    ],
    [
      "a poll of a late plan is too late",
      (at) =>
        Object.assign(at.delayedPoll, {
          head: 16,
          rows: [16, 14, 13, 12, 11].map((id) => rowOf(at.file, id)),
        }),
      { stale: 2 },
    ],
    [
      "a poll of a late plan is too early",
      (at) =>
        Object.assign(at.delayedPoll, {
          head: 18,
          rows: [18, 17, 16, 14, 13].map((id) => rowOf(at.file, id)),
        }),
      { wronglyShown: 2 },
    ],
    ["a head tells of what is withheld", (at) => (at.delayedPoll.head = 18), { wronglyShown: 1 }],
    [
      "a list skips a row at the end of a page",
      (at) => (at.list.rows = at.list.rows.toSpliced(9, 1)),
      { stale: 1 },
    ],
    [
      "a list shows a row on two pages",
      (at) => (at.list.rows = at.list.rows.toSpliced(9, 0, rowOf(at.file, 10))),
      { doubled: 1 },
    ],
    [
      "a list is out of order",
      (at) => (at.list.rows = at.list.rows.toSpliced(9, 2, rowOf(at.file, 11), rowOf(at.file, 10))),
      { reordered: 1 },
    ],
    [
      "a poll goes back behind another of the same client",
      (at) =>
        at.ledger.looks.push({ ...at.poll, head: 19, begunAt: 0, rows: at.poll.rows.slice(1) }),
      { reordered: 1 },
    ],
    [
      "a promise is changed",
      (at) => at.ledger.acknowledge(at.ledger.sent[0] as Ledger["sent"][0], 9),
      { odd: 1 },
    ],
  ];

for (const [name, forge, expected] of forged) {
  test(`${name}: found`, () => expect(found(forge)).toEqual(expected));
}

test("of a server that copies another only what it was asked to have must be shown", () => {
  const behind = (at: Scene, upToId: number): void => {
    Object.assign(at.poll, {
      head: 18,
      upToId,
      rows: [18, 17, 16, 15, 14].map((id) => rowOf(at.file, id)),
    });
  };
  expect(found((at) => behind(at, 18))).toEqual({});
  expect(found((at) => behind(at, 19))).toEqual({ stale: 2 });
});

test("a row is known by every field of it", () => {
  const ledger = new Ledger();
  const { content } = ledger.make(randomNumbers(2), true);
  const wire = {
    ...content,
    id: 1,
    stop_loss: content.stop_price,
    take_profit: content.target_price,
    timestamp: content.timestamp ?? null,
  };
  expect(ledger.known(wire)).toBe(ledger.sent[0] as Ledger["sent"][0]);
  for (const [field, value] of Object.entries({
    symbol: "DAX",
    action: "SHORT",
    confidence: 1.234,
    entry_price: 2,
    stop_loss: 7,
    take_profit: 7,
    strategy: "other",
    timestamp: "2020-01-01T00:00:00Z",
  })) {
    expect(ledger.known({ ...wire, [field]: value })).toBeNull();
  }
});
