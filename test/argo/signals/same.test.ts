/** Exports, streams and lists of one view tell the same rows, in the same order, to the byte. */
import type { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import TABLE from "../../../db/argo/signals.sql" with { type: "text" };
import { viewHeader, viewOf, viewText, type View } from "../../../src/http/entitlement.ts";
import { openApp, SERVICE_TOKEN, signal, type App } from "../../harness/app.ts";
import { Events } from "../../harness/events.ts";
import { randomNumbers, SEED, tellSeed } from "../../harness/seed.ts";

const VIEWS = [viewOf(true, 0), viewOf(false, 0), viewOf(true, 60), viewOf(false, 900)];
const STEPS = 20;
const random = randomNumbers();
const below = (n: number): number => Math.floor(random() * n);
const pick = <T>(values: readonly T[]): T => values[below(values.length)] as T;
const iso = (ms: number): string => new Date(ms).toISOString();
const headersOf = (view: View) => ({
  Authorization: `Bearer ${SERVICE_TOKEN}`,
  [viewHeader]: viewText(view),
});

/** More than two slices of an export, from before anybody noted arrivals. */
function written(db: Database): void {
  db.run(TABLE);
  db.run(
    `WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1100)
     INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
     SELECT 'S' || n % 7, 'SELL', n, 50 + n % 50, strftime('%Y-%m-%dT%H:%M:%SZ', n * 60, 'unixepoch')
     FROM n`,
  );
}

/** What an engine may write, which is not what ingest takes. */
const SYMBOLS = [
  "'SPX'",
  "'Größe 😀'",
  "''",
  "x'ff00fe'",
  "7",
  "'a' || char(10) || 'b'",
  "char(8232)",
];
const CONFIDENCES = ["50", "94.99", "95", "99", "-0.0", "'97'", "'many'", "9e999", "x'00'"];
const PRICES = ["1", "1e-7", "1.10", "0.1 + 0.2", "123456789012345678", "'x'"];

/**
 * Rows from outside in one transaction, some of which had arrived before others of lower ids: by a
 * clock that was set back.
 */
function engineWrites(db: Database, nowMs: number): void {
  db.transaction(() => {
    for (let i = 1 + below(8); i > 0; i -= 1) {
      const moment = iso(nowMs - below(2_000_000));
      const { lastInsertRowid } = db.run(
        `INSERT INTO signals (symbol, action, entry_price, target_price, confidence, timestamp)
         VALUES (${pick(SYMBOLS)}, 'BUY', ${pick(PRICES)}, ${pick(PRICES)}, ${pick(CONFIDENCES)}, '${moment}')`,
      );
      const arrived = iso(nowMs - below(1_200_000));
      if (random() < 0.7) {
        const sql = "UPDATE argo_received SET received_at = ? WHERE id = ?";
        db.run(sql, [arrived, Number(lastInsertRowid)]);
      }
    }
  })();
}

/** One who downloads over a bad line: cut anywhere, resumed after the last whole line. */
class Download {
  readonly lines: string[] = [];
  cuts = 0;

  constructor(
    private readonly app: App,
    private readonly view: View,
  ) {}

  get lastId(): number {
    return idOf(this.lines.at(-1) ?? '{"id":0}');
  }

  /** Asks once, and takes so many bytes at most. @returns whether that was all. */
  async ask(bytesMax = Infinity): Promise<boolean> {
    const path = `/api/signals/export?since_id=${this.lastId}`;
    const response = await this.app.get(path, headersOf(this.view));
    expect(response.status).toBe(200);
    const reader = (response.body ?? new Blob([]).stream()).getReader();
    const pieces: Uint8Array[] = [];
    let left = bytesMax;
    let whole = false;
    while (left > 0) {
      const { done, value } = await reader.read();
      whole = done;
      if (!value) break;
      pieces.push(value.subarray(0, Math.min(left, value.length)));
      left -= value.length;
    }
    if (!whole) await reader.cancel();
    const text = new TextDecoder().decode(Buffer.concat(pieces));
    const lines = text.split("\n");
    const rest = lines.pop();
    if (whole) expect(rest).toBe("");
    else this.cuts += 1;
    this.lines.push(...lines);
    return whole;
  }

  async finish(): Promise<void> {
    while (!(await this.ask(random() < 0.5 ? below(60_000) : Infinity)));
  }
}

const idOf = (json: string): number => (JSON.parse(json) as { id: number }).id;

/** The texts of all signals that a list shows, as they stand in its answers, ascending by id. */
async function listed(app: App, path: string, view: View): Promise<string[]> {
  const found: string[] = [];
  let cursor: string | null = null;
  do {
    const at: string = `${path}?limit=500${cursor === null ? "" : `&cursor=${cursor}`}`;
    const text = await (await app.get(at, headersOf(view))).text();
    const page = JSON.parse(text) as { signals: object[]; next_cursor: string | null };
    cursor = page.next_cursor;
    const signals = page.signals.map((row) => JSON.stringify(row));
    // Polls write other letters than ASCII by their numbers.
    if (path === "/api/signals") expect(text).toStartWith(`{"signals":[${signals.join(",")}],`);
    found.push(...signals);
  } while (cursor !== null);
  return found.toSorted((a, b) => idOf(a) - idOf(b));
}

async function take(events: Events, into: string[], count: number): Promise<void> {
  while (into.length < count) {
    const event = await events.next();
    if (event?.event === "signal") into.push(event.json);
    else expect(event?.event).toBe("head");
  }
}

test("a row that is withheld holds back those above it, and a resumed export has it", async () => {
  await using app = await openApp({ fixture: (db) => void db.run(TABLE), now: Date.now() });
  const view = viewOf(false, 900);
  app.engine.transaction(() => {
    for (const [id, agoMs] of [1_000_000, 800_000, 1_000_000].entries()) {
      app.engine.run(
        `INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
         VALUES ('SPX', 'BUY', 1, 50, '2026-01-01T00:00:00Z')`,
      );
      const at = iso(app.clock.ms - agoMs);
      app.engine.run("UPDATE argo_received SET received_at = ? WHERE id = ?", [at, id + 1]);
    }
  })();
  const download = new Download(app, view);
  await download.ask();
  expect(download.lines.map(idOf)).toEqual([1]);
  const all = await listed(app, "/api/signals", view);
  expect(all.map(idOf)).toEqual([1, 3]);
  app.clock.ms += 100_000;
  await download.ask();
  expect(download.lines.map(idOf)).toEqual([1, 2, 3]);
});

test("through cuts, other writers, delays and premium rows", async () => {
  tellSeed();
  await using app = await openApp({ fixture: written, now: Date.now() });
  const begunMs = app.clock.ms;
  await using stack = new AsyncDisposableStack();
  const readers = await Promise.all(
    VIEWS.map(async (view) => {
      const response = await app.get("/api/signals/stream?since_id=0", headersOf(view));
      const stream = stack.use(new Events(response));
      return { view, stream, streamed: [] as string[], download: new Download(app, view) };
    }),
  );
  let cuts = 0;
  const compare = async (): Promise<void> => {
    for (const { view, stream, streamed, download } of readers) {
      await download.finish();
      const { lines } = download;
      await take(stream, streamed, lines.length);
      expect(streamed).toEqual(lines);
      const fresh = new Download(app, view);
      await fresh.ask(1 + below(300));
      await fresh.finish();
      cuts += fresh.cuts;
      expect(fresh.lines).toEqual(lines);
      const all = await listed(app, "/api/signals", view);
      // Lists do not wait for a row of a lower id that is still withheld.
      const told = all.slice(0, lines.length);
      expect(lines).toEqual(told);
      const subscribed = await listed(app, "/api/signals/subscribed", view);
      expect(subscribed).toEqual(all);
      const latest = await app.json<{ id: number }[]>(
        "/api/signals/latest?limit=50",
        headersOf(view),
      );
      const byId = new Map(all.map((json) => [idOf(json), JSON.parse(json) as object]));
      for (const row of latest) expect(byId.get(row.id)).toMatchObject(row);
    }
  };
  for (let step = 0; step < STEPS; step += 1) {
    for (const { download } of readers) await download.ask(below(60_000));
    const what = below(4);
    if (what === 0) engineWrites(app.engine, app.clock.ms);
    else if (what === 1) {
      const [symbol, entry] = [pick(["SPX", "Größe"]), 96 + below(300) / 100];
      const confidence = pick([50, 94.9, 95, 99]);
      const response = await app.post(
        signal({ symbol, entry_price: entry, confidence, timestamp: undefined }),
      );
      expect(response.status).toBe(201);
    } else if (what === 2) app.clock.ms += below(120_000);
    else
      await compare().catch((error: unknown) => {
        throw new Error(`TEST_SEED=${SEED}, step ${step}`, { cause: error });
      });
  }
  // Everything has fallen due.
  app.clock.ms = begunMs + 10_000_000;
  await compare();
  const total = app.engine.query<{ n: number }, []>("SELECT count(*) AS n FROM signals").get()?.n;
  expect(readers[0]?.download.lines.length).toBe(total ?? -1);
  expect(cuts).toBeGreaterThanOrEqual(VIEWS.length);
});
