import { expect, test } from "bun:test";
import type { Database } from "bun:sqlite";
import { viewHeader, viewOf, viewText, type View } from "../../../src/http/entitlement.ts";
import { NOON, openApp, SERVICE_TOKEN, type App } from "../../harness/app.ts";
import { randomNumbers, SEED, tellSeed } from "../../harness/seed.ts";

/** What each view sees, on every route, against a model that knows nothing of indexes or caches. */

interface Row {
  id: number;
  symbol: string;
  confidence: number | string | null;
  timestamp: string | null;
  sha256: string | null;
  received_at: string | null;
  supersedes: number | null;
}
interface Shown {
  id: number;
  supersedes: number | null;
}
interface Page {
  signals: Shown[];
  next_cursor: string | null;
  has_more: boolean;
}

const VIEWS = [
  viewOf(true, 0),
  viewOf(false, 0),
  viewOf(true, 10),
  viewOf(false, 10),
  viewOf(true, 60),
  viewOf(false, 60),
];

const TABLES = {
  "the engine's table": (columns: string) =>
    `CREATE TABLE signals (id INTEGER PRIMARY KEY, ${columns})`,
  "a table that keeps rows apart": (columns: string) =>
    `CREATE TABLE signals (id INTEGER PRIMARY KEY, ${columns}, UNIQUE (symbol, timestamp))`,
  "a rowid alone": (columns: string) => `CREATE TABLE signals (${columns})`,
};
const COLUMNS = `symbol TEXT, action TEXT, entry_price REAL, target_price REAL, stop_price REAL,
  confidence REAL, strategy TEXT, timestamp TEXT, sha256 TEXT`;

const iso = (ms: number): string => new Date(ms).toISOString();

/** Texts of a moment that SQLite reads as that moment. */
const WRITTEN: ((ms: number) => string)[] = [
  (ms) => iso(ms),
  (ms) => iso(ms).replace("Z", "+00:00"),
  (ms) => iso(ms).replace("T", " ").replace("Z", ""),
  (ms) => iso(ms + 7_200_000).replace("Z", "+02:00"),
  (ms) => iso(ms - 12_600_000).replace("Z", "-03:30"),
];
/** Texts that are no moment; words that SQLite takes for one among them. */
const UNREADABLE = ["now", "", "soon", "1800000000", "2026-99-99", "20261120T120000Z", "Größe"];

/** When a row arrived, by its own timestamp: the moment that was written, where it was one. */
const moments = new Map<string, string>();

const byBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

function rowsOf(db: Database): Row[] {
  return db
    .query<Row, []>(
      `SELECT rowid AS id, symbol, confidence, timestamp, sha256,
         (SELECT received_at FROM argo_received r WHERE r.id = s.rowid) AS received_at,
         (SELECT supersedes FROM argo_supersedes p WHERE p.id = s.rowid) AS supersedes
       FROM signals s`,
    )
    .all();
}

/** Rows that are shown to this view once they are due. */
const meantFor = (rows: Row[], view: View): Row[] =>
  rows.filter(({ confidence }) => {
    return view.premium || (typeof confidence === "number" && confidence < 95);
  });
const arrivalOf = ({ received_at: at, timestamp }: Row): string =>
  at ?? moments.get(timestamp ?? "") ?? "";

function seenBy(rows: Row[], view: View, nowMs: number): Row[] {
  const until = iso(nowMs - view.delaySeconds * 1_000);
  return meantFor(rows, view).filter((row) => view.delaySeconds === 0 || arrivalOf(row) <= until);
}

/** The ids that are told in order: none above one that is still withheld, unless it is far ahead. */
function sequenceOf(rows: Row[], view: View, nowMs: number): number[] {
  const seen = seenBy(rows, view, nowMs);
  const waiting = meantFor(rows, view).filter(
    (row) => !seen.includes(row) && arrivalOf(row) <= iso(nowMs + 300_000),
  );
  const lowest = Math.min(...idsOf(waiting));
  return idsOf(seen)
    .filter((id) => id > 0 && id < lowest)
    .toSorted((a, b) => a - b);
}

const newestFirst = (rows: Row[]): Row[] =>
  rows.toSorted((a, b) => {
    const [s, t] = [a.timestamp, b.timestamp];
    const time = s === null ? (t === null ? 0 : 1) : t === null ? -1 : byBytes(t, s);
    return time || b.id - a.id;
  });

const idsOf = (rows: { id: number }[]): number[] => rows.map(({ id }) => id);
const headersOf = (view: View): Record<string, string> => ({
  Authorization: `Bearer ${SERVICE_TOKEN}`,
  [viewHeader]: viewText(view),
});

/** Last answers, so that a tag is known to change with the bytes and with nothing else. */
type Told = Map<string, { etag: string; body: string }>;

async function poll(app: App, view: View, path: string, told: Told): Promise<Response> {
  const key = `${viewText(view)} ${path}`;
  const before = told.get(key);
  const response = await app.get(path, headersOf(view));
  const body = await response.clone().text();
  const etag = response.headers.get("etag") ?? "";
  expect(response.status).toBe(200);
  if (before) {
    expect(`${key} ${etag === before.etag}`).toBe(`${key} ${body === before.body}`);
    const asked = { ...headersOf(view), "If-None-Match": before.etag };
    const again = await app.get(path, asked);
    expect(`${key} ${again.status}`).toBe(`${key} ${body === before.body ? 304 : 200}`);
  }
  told.set(key, { etag, body });
  return response;
}

/** Asks every route as this view, and compares with the model. */
async function compare(app: App, view: View, pick: (n: number) => number, told: Told) {
  const rows = rowsOf(app.engine);
  const seen = newestFirst(seenBy(rows, view, app.clock.ms));
  const ids = new Set(idsOf(seen));
  const head = String(Math.max(0, ...ids));
  const full = view.premium && view.delaySeconds === 0;
  const shown = seen.map(({ id, supersedes }) => ({
    id,
    supersedes: supersedes !== null && (full || ids.has(supersedes)) ? supersedes : null,
  }));
  const asShown = (signals: Shown[]) => signals.map(({ id, supersedes }) => ({ id, supersedes }));

  const limit = 1 + pick(12);
  const latest = await poll(app, view, `/api/signals/latest?limit=${limit}`, told);
  expect(latest.headers.get("signal-head")).toBe(head);
  expect(asShown((await latest.json()) as Shown[])).toEqual(shown.slice(0, limit));
  const floor = [50, 94, 95, 99][pick(4)] ?? 0;
  const filtered = await poll(app, view, `/api/signals/latest?min_confidence=${floor}`, told);
  const above = seen.filter(
    ({ confidence }) => typeof confidence === "number" && confidence >= floor,
  );
  expect(idsOf((await filtered.json()) as Shown[])).toEqual(idsOf(above.slice(0, 10)));

  for (const path of ["/api/signals/subscribed", "/api/signals"]) {
    const found: Shown[] = [];
    let cursor: string | null = null;
    do {
      const at = `${path}?limit=7${cursor === null ? "" : `&cursor=${cursor}`}`;
      const page: Page = await app.json<Page>(at, headersOf(view));
      expect(page.has_more).toBe(page.next_cursor !== null);
      found.push(...page.signals);
      cursor = page.next_cursor;
    } while (cursor !== null);
    expect({ path, shown: asShown(found) }).toEqual({ path, shown });
  }
  const first = await poll(app, view, "/api/signals/subscribed", told);
  expect(first.headers.get("signal-head")).toBe(head);
  const up = await app.json<Page>("/api/signals?order=asc&limit=500", headersOf(view));
  expect(idsOf(up.signals)).toEqual(idsOf(seen).toReversed());

  const exported = await app.get("/api/signals/export", headersOf(view));
  const sequence = sequenceOf(rows, view, app.clock.ms);
  expect(Number(exported.headers.get("signal-head"))).toBeWithin(
    sequence.at(-1) ?? 0,
    Number(head) + 1,
  );
  const lines = (await exported.text()).split("\n").filter((line) => line !== "");
  expect(idsOf(lines.map((line) => JSON.parse(line) as Shown))).toEqual(sequence);

  for (const row of [rows[pick(rows.length)], rows[pick(rows.length)]]) {
    if (!row) continue;
    const one = await app.get(`/api/signals/${row.id}`, headersOf(view));
    expect(`${row.id} ${one.status}`).toBe(`${row.id} ${ids.has(row.id) ? 200 : 404}`);
    if (row.sha256 === null) continue;
    const same = seen.filter(({ sha256 }) => sha256 === row.sha256);
    const newest = same.length === 0 ? null : Math.max(...idsOf(same));
    const byHash = await app.get(`/api/signals/hash/${row.sha256}`, headersOf(view));
    const answer = (await byHash.json()) as { id?: number };
    expect([byHash.status, answer.id]).toEqual(newest === null ? [404, undefined] : [200, newest]);
  }

  const stats = await app.json<{ total: number; by_symbol: Record<string, number> }>(
    "/api/stats",
    headersOf(view),
  );
  const bySymbol: Record<string, number> = {};
  for (const { symbol } of seen) bySymbol[symbol] = (bySymbol[symbol] ?? 0) + 1;
  expect(stats).toMatchObject({ total: seen.length, by_symbol: bySymbol });
}

const RUNS = Number(process.env["VIEW_RUNS"] ?? 3);
const STEPS = 40;

test.each(Object.entries(TABLES))("every view of %s is that of the model", async (_, table) => {
  tellSeed();
  for (let run = 0; run < RUNS; run += 1) {
    const random = randomNumbers(SEED + run);
    const pick = (n: number): number => Math.floor(random() * n);
    const chosen = <T>(values: readonly T[]): T => values[pick(values.length)] as T;
    /** Around the borders of the views, to the millisecond. */
    const lately = [-60_000, -10_000, 0, 5_000, 60_000];
    const momentMs = (around = lately): number => NOON + chosen(around) + pick(20_000) - 10_000;
    const timestamp = (): string | null => {
      if (random() < 0.1) return null;
      if (random() < 0.15) return chosen(UNREADABLE);
      // Rows that a unique index keeps apart.
      if (random() < 0.3 && moments.size > 0) return chosen([...moments.keys()].slice(-6));
      const ms = momentMs([...lately, -86_400_000 * 40]);
      const text = chosen(WRITTEN)(ms);
      moments.set(text, iso(ms));
      return text;
    };
    const confidence = (): number | string | null =>
      chosen([10, 50, 94.99, 95, 97, 99.9, "95", "none", null]);
    const values = (): (string | number | null)[] => [
      chosen(["SPX", "NDX", "Größe"]),
      chosen(["BUY", "SELL"]),
      1 + pick(9),
      confidence(),
      timestamp(),
      chosen([null, "a".repeat(64), "b".repeat(64)]),
    ];
    const into = "(rowid, symbol, action, entry_price, confidence, timestamp, sha256)";
    const add = (db: Database, id: number | null, how = ""): number => {
      const sql = `INSERT ${how} INTO signals ${into} VALUES (?,?,?,?,?,?,?)`;
      return Number(db.run(sql, [id, ...values()]).lastInsertRowid);
    };
    await using app = await openApp({
      fixture: (db) => {
        db.run(table(COLUMNS));
        for (let i = 0; i < 12; i += 1) add(db, null, "OR REPLACE");
      },
    });
    const { clock, engine } = app;
    const ids = (): number[] => idsOf(rowsOf(engine));
    const added = (id: number): void => {
      // As if it had come then: now and then committed later than it came.
      engine.run("UPDATE argo_received SET received_at = ? WHERE id = ?", [iso(momentMs()), id]);
      if (random() < 0.3) {
        engine.run("INSERT INTO argo_supersedes VALUES (?, ?)", [id, chosen(ids())]);
      }
    };
    const steps: (() => void)[] = [
      () => added(add(engine, null, "OR REPLACE")),
      () => added(add(engine, null, "OR REPLACE")),
      () => added(add(engine, Math.max(...ids()) + 2 + pick(5), "OR REPLACE")),
      () => added(add(engine, chosen(ids()), "OR REPLACE")),
      () => engine.run("DELETE FROM signals WHERE rowid = ?", [chosen(ids())]),
      () =>
        engine.run("UPDATE signals SET confidence = ? WHERE rowid = ?", [
          confidence(),
          chosen(ids()),
        ]),
      () =>
        engine.run("UPDATE OR REPLACE signals SET timestamp = ? WHERE rowid = ?", [
          timestamp(),
          chosen(ids()),
        ]),
      () =>
        engine.run("UPDATE OR REPLACE signals SET rowid = ?, timestamp = ? WHERE rowid = ?", [
          Math.max(...ids()) + pick(3),
          timestamp(),
          chosen(ids()),
        ]),
      () => (clock.ms += pick(3_000)),
      () => (clock.ms += pick(3_000)),
      () => (clock.ms += 30_000),
      () => (clock.ms -= pick(20_000)),
      () => (clock.ms = momentMs() + chosen([10_000, 60_000])),
    ];
    const told: Told = new Map();
    for (let step = 0; step < STEPS; step += 1) {
      const change = engine.transaction(() => {
        for (let n = pick(3); n >= 0; n -= 1) chosen(steps)();
      });
      change.immediate();
      const view = chosen(VIEWS);
      try {
        await compare(app, view, pick, told);
      } catch (error) {
        throw new Error(`run ${run}, step ${step}, ${viewText(view)}`, { cause: error });
      }
    }
  }
});
