/** Signals that are deleted for their age, and what is still known of them. */
import { expect, test } from "bun:test";
import type { Database } from "bun:sqlite";
import { hashOf } from "../../../src/argo/signals/hash.ts";
import { randomNumbers, tellSeed } from "../../harness/seed.ts";
import { type App, openApp, rowsOf, signal } from "../../harness/app.ts";

const dayMs = 86_400_000;
const DAYS = 30;

type Accepted = { signals: { id: number; sha256: string; duplicate: boolean }[] };
const open = (more: Parameters<typeof openApp>[0] = {}) =>
  openApp({ fixture: null, env: { SIGNALS_RETENTION_DAYS: String(DAYS) }, ...more });
const post = async (app: App, body: unknown, status = 201): Promise<Accepted["signals"]> => {
  const response = await app.post(body);
  expect(response.status).toBe(status);
  return ((await response.json()) as Accepted).signals;
};
const arrive = (app: App, id: number, daysAgo: number): void => {
  const at = new Date(app.clock.ms - daysAgo * dayMs).toISOString();
  app.engine.run("UPDATE argo_received SET received_at = ? WHERE id = ?", [at, id]);
};
const ids = (app: App): unknown[] => rowsOf(app.engine).map(({ id }) => id);

test("old signals go by their arrival, the newest stays, and what is posted again is known", async () => {
  await using app = await open();
  const bodies = Array.from({ length: 6 }, (_, n) => signal({ entry_price: 100 + n / 10 }));
  const made = await post(app, bodies);
  for (const [n, { id }] of made.entries()) arrive(app, id, n < 3 ? DAYS + 1 : DAYS - 1);
  await app.deps.argo.writer.forget();
  const kept = made.slice(3).map(({ id }) => id);
  expect(ids(app)).toEqual(kept);
  const shown = await app.json<{ id: number }[]>("/api/signals/latest");
  expect(shown.map(({ id }) => id).toSorted()).toEqual(kept);

  // Beside new ones and by itself, whoever posts it: the same id as ever.
  const fresh = signal({ entry_price: 109 });
  const again = await post(app, [bodies[0], fresh, bodies[4]]);
  expect(again.map(({ id, duplicate }) => [id, duplicate])).toEqual([
    [made[0]?.id, true],
    [(made.at(-1)?.id ?? 0) + 1, false],
    [made[4]?.id, true],
  ] as never);
  expect(again[0]?.sha256).toBe(made[0]?.sha256 ?? "");
  expect(await post(app, bodies[1])).toEqual([{ ...made[1], duplicate: true }] as never);
  expect(ids(app)).toEqual([...kept, again[1]?.id]);
  // Another content is another signal.
  const other = await post(app, { ...bodies[0], confidence: 96 });
  expect(other[0]).toMatchObject({ duplicate: false });

  for (const row of rowsOf(app.engine)) arrive(app, Number(row["id"]), DAYS * 2);
  await app.deps.argo.writer.forget();
  expect(ids(app)).toEqual([other[0]?.id]);
});

test("without a limit nothing is deleted", async () => {
  await using app = await openApp({ fixture: null });
  const [made] = await post(app, [signal(), signal({ entry_price: 101 })]);
  arrive(app, made?.id ?? 0, 10_000);
  await app.deps.argo.writer.forget();
  expect(ids(app)).toHaveLength(2);
});

test("what was there at adoption goes by its own timestamp, and what says none is old", async () => {
  const rows: [string, number][] = [
    ["2026-10-01T00:00:00+00:00", 97],
    ["2026-11-19T00:00:00+00:00", 97],
    ["no date at all", 97],
    ["2026-10-20T12:00:00+00:00", 60],
    ["2099-01-01T00:00:00+00:00", 60],
    ["2026-11-19T00:00:00+00:00", 61],
  ];
  const fixture = (db: Database) => {
    db.run(`CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT NOT NULL, action TEXT NOT NULL,
      entry_price REAL NOT NULL, confidence REAL NOT NULL, timestamp TEXT NOT NULL, sha256 TEXT)`);
    for (const [timestamp, confidence] of rows) {
      db.run(
        "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp, sha256) VALUES ('SPX','BUY',100,?,?,'theirs')",
        [confidence, timestamp],
      );
    }
  };
  await using app = await open({ fixture });
  await app.deps.argo.writer.forget();
  expect(ids(app)).toEqual([2, 5, 6]);
  // A hash of somebody else's is given back as it was.
  const again = await post(app, {
    symbol: "SPX",
    action: "BUY",
    entry_price: 100,
    confidence: 97,
    timestamp: "2026-10-01T00:00:00+00:00",
  });
  expect(again).toEqual([{ id: 1, sha256: "theirs", duplicate: true }]);
});

test("a correction of what is gone is still the one that it was", async () => {
  await using app = await open();
  const [first] = await post(app, signal());
  const correction = signal({ entry_price: 101, supersedes: first?.id });
  const [second] = await post(app, correction);
  await post(app, signal({ entry_price: 102 }));
  for (const made of [first, second]) arrive(app, made?.id ?? 0, DAYS + 1);
  await app.deps.argo.writer.forget();
  expect(await post(app, correction)).toEqual([{ ...second, duplicate: true }] as never);
});

test("many go in short transactions, between which posts are answered and another writes", async () => {
  const fixture = (db: Database) => {
    db.run(`CREATE TABLE signals (id INTEGER PRIMARY KEY AUTOINCREMENT, symbol TEXT NOT NULL,
      action TEXT NOT NULL, entry_price REAL NOT NULL, target_price REAL, stop_price REAL,
      confidence REAL NOT NULL, strategy TEXT DEFAULT 'weighted_consensus', timestamp TEXT NOT NULL,
      sha256 TEXT)`);
    db.run(`INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
      WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
      SELECT 'SPX', 'BUY', i, 60, '2020-01-01T00:00:00+00:00' FROM n`);
  };
  await using app = await open({ fixture });
  const over = new AbortController();
  const forgetting = app.deps.argo.writer.forget().finally(() => over.abort());
  let [posts, slowestMs] = [0, 0];
  app.engine.run("PRAGMA busy_timeout = 10000");
  while (!over.signal.aborted) {
    const begun = performance.now();
    await post(app, signal({ entry_price: 100 + posts / 1_000 }));
    app.engine.run("UPDATE argo_secret SET one = 1");
    slowestMs = Math.max(slowestMs, performance.now() - begun);
    posts += 1;
  }
  await forgetting;
  expect(posts).toBeGreaterThan(5);
  expect(slowestMs).toBeLessThan(5_000);
  expect(rowsOf(app.engine)).toHaveLength(posts);
  const { n } = app.engine.query("SELECT count(*) AS n FROM argo_forgotten").get() as { n: number };
  expect(n).toBe(6_000);
});

test("what any rows come to: a model", async () => {
  tellSeed();
  const random = randomNumbers();
  await using app = await open();
  const model = new Map<string, number>();
  const live = new Set<number>();
  for (let round = 0; round < 25; round += 1) {
    const bodies = Array.from({ length: 1 + Math.floor(random() * 6) }, () =>
      signal({
        entry_price: 100 + Math.floor(random() * 20) / 10,
        symbol: random() < 0.5 ? "A" : "B",
      }),
    );
    const made = await post(app, bodies);
    for (const [n, { id, duplicate }] of made.entries()) {
      const content = hashOf({ strategy: "weighted_consensus", ...bodies[n] } as never);
      expect(duplicate).toBe(model.has(content));
      if (duplicate) expect(id).toBe(model.get(content) ?? -1);
      else live.add(id);
      model.set(content, id);
    }
    const newest = Math.max(...live);
    for (const id of live) {
      const old = random() < 0.3;
      arrive(app, id, old ? DAYS + 1 : 0);
      if (old && id !== newest) live.delete(id);
    }
    await app.deps.argo.writer.forget();
    expect(ids(app)).toEqual([...live].toSorted((a, b) => a - b));
  }
});
