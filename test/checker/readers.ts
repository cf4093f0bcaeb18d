/** Clients that read: they poll, walk lists, follow streams and exports, and come back when cut off. */
import { Wire } from "../faults/harness.ts";
import type { Filter, Look, Reader, Sequence, WireSignal } from "./ledger.ts";
import { SYMBOLS } from "./ledger.ts";
import { type Form, openLine, Refused, type Told } from "./lines.ts";
import { below, pick, type Stage } from "./stage.ts";

const ANSWER_MS_MAX = 15_000;
const COME_BACK_MS = 30;
/** Looks now and then whether the run is over. */
const GLANCE_MS = 250;

type Random = () => number;

export const filterOf = (random: Random): Filter => {
  const filter: Filter = {};
  if (random() < 0.3) filter.symbol = pick(random, SYMBOLS);
  if (random() < 0.3) filter.min_confidence = pick(random, [20, 50.5, 95]);
  return filter;
};

type Values = Record<string, string | number | undefined>;

function search(values: Values): string {
  const given = Object.entries(values).filter(([, value]) => value !== undefined);
  return new URLSearchParams(
    given.map(([name, value]): [string, string] => [name, `${value}`]),
  ).toString();
}

/** What a read has to say to be shown all up to an id, where servers copy another one. */
function copiedId(stage: Stage, random: Random): { query: Values; upToId: number } {
  if (!stage.copies) return { query: {}, upToId: Number.POSITIVE_INFINITY };
  const upToId = random() < 0.7 ? stage.ledger.topId : 0;
  return { query: upToId > 0 ? { min_id: upToId } : {}, upToId };
}

/** Polls one question again and again, with the ETag of the answer that it holds. */
export class Poller {
  readonly #filter: Filter;
  readonly #limit: number;
  readonly #path: string;
  #etag: string | null = null;
  #rows: Look["rows"] = [];

  constructor(
    private readonly stage: Stage,
    private readonly name: string,
    private readonly reader: Reader,
    private readonly random: Random,
  ) {
    this.#filter = filterOf(random);
    this.#limit = pick(random, [1, 10, 50]);
    const own = reader.account && random() < 0.5;
    this.#path = `/api/signals/${own ? "subscribed" : "latest"}`;
  }

  async run(): Promise<void> {
    const { stage, random } = this;
    while (!stage.over()) {
      await this.poll();
      await Bun.sleep(below(random, 10));
    }
  }

  /** One poll; what is no answer is none. */
  async poll(): Promise<void> {
    const { stage, random, reader } = this;
    const { ledger, counts } = stage;
    const conditional = this.#etag !== null && random() < 0.7;
    const wait = conditional && random() < 0.2 ? { wait: 1 + below(random, 2) } : {};
    const copied = copiedId(stage, random);
    const query = search({ limit: this.#limit, ...this.#filter, ...wait, ...copied.query });
    const headers = {
      ...reader.headers,
      ...(conditional && { "If-None-Match": this.#etag ?? "" }),
    };
    const server = stage.url(random);
    const url = `${server}${this.#path}?${query}`;
    const begunMs = Date.now();
    const begunAt = ledger.moment();
    try {
      const response = await fetch(url, { headers, signal: AbortSignal.timeout(ANSWER_MS_MAX) });
      const text = await response.text();
      if (response.status === 200) {
        const body = JSON.parse(text) as WireSignal[] | { signals: WireSignal[] };
        const rows = Array.isArray(body) ? body : body.signals;
        this.#rows = rows.map((row) => ({ id: row.id, sent: ledger.known(row) }));
        this.#etag = response.headers.get("ETag");
      } else if (response.status !== 304) {
        if (response.status !== 503) ledger.odd.push(`${this.name}: ${response.status} ${text}`);
        return void (await Bun.sleep(COME_BACK_MS));
      } else counts.unmodified += 1;
      counts.polls += 1;
      ledger.looks.push({
        client: stage.copies ? `${this.name} at ${server}` : this.name,
        reader,
        filter: this.#filter,
        limit: this.#limit,
        order: "desc",
        begunAt,
        begunMs,
        endedMs: Date.now(),
        head: Number(response.headers.get("Signal-Head")),
        rows: this.#rows,
        upToId: copied.upToId,
      });
    } catch {
      await Bun.sleep(COME_BACK_MS);
    }
  }
}

/** Walks a whole list page by page; a walk that is cut is begun anew. */
export async function walkLists(
  stage: Stage,
  name: string,
  reader: Reader,
  random: Random,
): Promise<void> {
  const { ledger, counts } = stage;
  while (!stage.over()) {
    const filter = filterOf(random);
    const order = pick(random, ["asc", "desc"] as const);
    const begun = { begunAt: ledger.moment(), begunMs: Date.now() };
    const rows: Look["rows"][number][] = [];
    const copied = copiedId(stage, random);
    const asked = { limit: pick(random, [100, 500]), order, ...filter, ...copied.query };
    let cursor: string | null = "";
    try {
      while (cursor !== null) {
        const query = search({ ...asked, ...(cursor !== "" && { cursor }) });
        const response = await fetch(`${stage.url(random)}/api/signals?${query}`, {
          headers: reader.headers,
          signal: AbortSignal.timeout(ANSWER_MS_MAX),
        });
        const text = await response.text();
        if (response.status === 503) throw new Error(text);
        if (response.status !== 200) {
          ledger.odd.push(`${name}: ${response.status} ${text}`);
          break;
        }
        const page = JSON.parse(text) as { signals: WireSignal[]; next_cursor: string | null };
        for (const row of page.signals) rows.push({ id: row.id, sent: ledger.known(row) });
        cursor = page.next_cursor;
      }
      counts.lists += 1;
      const ended = { endedMs: Date.now(), head: null, upToId: copied.upToId };
      ledger.looks.push({
        client: name,
        reader,
        filter,
        limit: null,
        order,
        ...begun,
        ...ended,
        rows,
      });
    } catch {
      // The server went away or said 503: another walk.
    }
    await Bun.sleep(200 + below(random, 300));
  }
}

/** Follows what comes to the end, over as many connections as it takes. */
export async function followLine(
  stage: Stage,
  form: Form,
  name: string,
  reader: Reader,
  random: Random,
): Promise<void> {
  const { ledger, counts } = stage;
  const { headers } = reader;
  const filter = filterOf(random);
  const sequence = ledger.follow({ name, reader, filter, fromId: 0 });
  let cursor = 0;
  const take = (told: Told): void => {
    if (told.signal) {
      if (told.signal.id !== told.id)
        ledger.odd.push(`${name}: ${told.signal.id} under ${told.id}`);
      ledger.see(sequence, told.signal);
    } else if (!expected(told) || told.id < cursor) {
      ledger.odd.push(`${name}: ${told.kind} ${told.id} after ${cursor} ${told.reason ?? ""}`);
    }
    cursor = told.id;
  };
  while (!isThere(stage, sequence, cursor)) {
    try {
      await using line = await openLine(form, { url: stage.url(random), headers, filter, cursor });
      for (let left = 1 + below(random, 300); left > 0;) {
        const told = await line.next(GLANCE_MS);
        if (isThere(stage, sequence, cursor)) return;
        if (told === "nothing") continue;
        if (told === null) break;
        take(told);
        if (told.signal) left -= 1;
        if (left === 0) counts.cuts += 1;
      }
    } catch (error) {
      if (error instanceof Refused && error.status !== 503)
        ledger.odd.push(`${name}: ${error.message}`);
      await Bun.sleep(COME_BACK_MS);
    }
  }
}

/** What is told beside signals, while nothing is deleted and everybody keeps their plan. */
const expected = ({ kind, reason }: Told): boolean =>
  ["head", "subscribed"].includes(kind) ||
  (kind === "end" && ["draining", "unavailable", "slow"].includes(`${reason}`));

/** Asks for a stream and reads nothing of it, again and again: it may cost nobody else anything. */
export async function sitDeaf(stage: Stage, reader: Reader, random: Random): Promise<void> {
  while (!stage.over()) {
    try {
      using wire = await Wire.open(stage.url(random));
      const headers = Object.entries(reader.headers).map(
        ([name, value]) => `${name}: ${value}\r\n`,
      );
      wire.pause();
      wire.send(
        `GET /api/signals/stream?since_id=0 HTTP/1.1\r\nHost: x\r\n${headers.join("")}\r\n`,
      );
      for (let left = below(random, 40); left > 0 && !stage.over(); left -= 1) {
        await Bun.sleep(GLANCE_MS);
      }
    } catch {
      await Bun.sleep(COME_BACK_MS);
    }
  }
}

/** Asks for exports, each from where the last one ended or was cut. */
export async function followExports(
  stage: Stage,
  name: string,
  reader: Reader,
  random: Random,
): Promise<void> {
  const { ledger, counts } = stage;
  const sequence = ledger.follow({ name, reader, filter: {}, fromId: 0 });
  let cursor = 0;
  while (!isThere(stage, sequence, cursor)) {
    try {
      const response = await fetch(`${stage.url(random)}/api/signals/export?since_id=${cursor}`, {
        headers: reader.headers,
        signal: AbortSignal.timeout(ANSWER_MS_MAX),
      });
      if (response.status !== 200 || !response.body) {
        const text = await response.text();
        if (response.status !== 503) ledger.odd.push(`${name}: ${response.status} ${text}`);
        await Bun.sleep(COME_BACK_MS);
        continue;
      }
      let take = 1 + below(random, 400);
      let rest = "";
      for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
        const lines = (rest + text).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines.slice(0, take)) {
          const row = JSON.parse(line) as WireSignal;
          ledger.see(sequence, row);
          cursor = row.id;
        }
        take -= lines.length;
        // To leave the loop cancels the answer.
        if (take <= 0) break;
      }
      if (take <= 0) counts.cuts += 1;
      await Bun.sleep(below(random, 150));
    } catch {
      await Bun.sleep(COME_BACK_MS);
    }
  }
}

function isThere(stage: Stage, sequence: Sequence, cursor: number): boolean {
  const target = stage.target(sequence);
  return stage.late() || (target !== null && cursor >= target);
}
