import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { viewHeader, viewOf, viewText, type View } from "../../../src/http/entitlement.ts";
import {
  fieldsOf,
  openApp,
  READ_TOKEN,
  SERVICE_TOKEN,
  unpacked,
  type App,
} from "../../harness/app.ts";

const PATH = "/api/signals/subscribed";

interface Listed {
  id: number;
  confidence: number;
  symbol: string;
}
interface Page {
  signals: Listed[];
  next_cursor: string | null;
  has_more: boolean;
}

const all = viewOf(true, 0);
const starter = viewOf(false, 900);
const headersOf = (view: View, more: Record<string, string> = {}): Record<string, string> => ({
  Authorization: `Bearer ${SERVICE_TOKEN}`,
  [viewHeader]: viewText(view),
  ...more,
});

let app: App;
beforeAll(async () => {
  app = await openApp();
});
afterAll(() => app[Symbol.asyncDispose]());

const ask = (query = "", view = all, more: Record<string, string> = {}): Promise<Response> =>
  app.get(PATH + query, headersOf(view, more));
const page = (query = "", view = all): Promise<Page> =>
  app.json<Page>(PATH + query, headersOf(view));

test("is for those who have a plan, where reading is open as well", async () => {
  for (const access of ["open", "key"]) {
    await using other = await openApp({ env: { SIGNALS_ACCESS: access } });
    const guest = await other.get(PATH);
    expect([guest.status, guest.headers.has("www-authenticate")]).toEqual([401, true]);
    const token = await other.get(PATH, { Authorization: `Bearer ${READ_TOKEN}` });
    expect(token.status).toBe(403);
  }
});

describe("a page", () => {
  test("has the rows of the list, newest first, to the last one", async () => {
    const ids: number[] = [];
    let cursor: string | null = null;
    do {
      const query: string = `limit=400${cursor === null ? "" : `&cursor=${cursor}`}`;
      const found: Page = await page(`?${query}`);
      const list = cursor === null ? await app.json<Page>("/api/signals?limit=400") : null;
      if (list) expect(found.signals).toEqual(list.signals);
      ids.push(...found.signals.map(({ id }) => id));
      expect(found.has_more).toBe(found.next_cursor !== null);
      cursor = found.next_cursor;
    } while (cursor !== null);
    const everything = await app.json<Listed[]>("/api/signals/latest?limit=500&offset=0");
    expect(ids.slice(0, 500)).toEqual(everything.map(({ id }) => id));
    expect(new Set(ids).size).toBe(3_489);
  });

  test("is filtered like the list", async () => {
    for (const query of ["symbol=SPX&limit=3", "action=SELL", "strategy=weighted_consensus"]) {
      const { signals } = await app.json<Page>(`/api/signals?${query}`);
      expect((await page(`?${query}`)).signals).toEqual(signals);
    }
    expect((await page("?symbol=NONE")).signals).toEqual([]);
  });

  test.each([
    ["0", 0],
    ["0.5", 50],
    ["0.55", 55],
    ["0.07", 7],
    ["0.95", 95],
    ["0.999", 99.9],
    ["1", 100],
    ["1.0", 100],
    ["1.01", 1.01],
    ["2", 2],
    ["55", 55],
    ["95.5", 95.5],
    ["100", 100],
  ])("with min_confidence=%s has those of %d percent and above", async (given, percent) => {
    await using own = await openApp({
      fixture: (db) => {
        db.run(
          `CREATE TABLE signals (id INTEGER PRIMARY KEY, symbol TEXT, action TEXT, entry_price REAL,
           confidence REAL, timestamp TEXT)`,
        );
        for (const confidence of [0, 1, 1.01, 2, 7, 50, 54.9, 55, 94.9, 95, 95.5, 99.9, 100]) {
          db.run("INSERT INTO signals VALUES (NULL, 'SPX', 'BUY', 1, ?, '2026')", [confidence]);
        }
      },
    });
    const query = `${PATH}?min_confidence=${given}`;
    const { signals } = await own.json<Page>(query, headersOf(all));
    const every = await own.json<Page>(PATH, headersOf(all));
    expect(signals).toEqual(every.signals.filter(({ confidence }) => confidence >= percent));
    expect(signals.length).toBeGreaterThan(0);
  });

  test("refuses what is not asked so, and names it", async () => {
    for (const [query, field] of [
      ["?limit=0", "limit"],
      ["?limit=501", "limit"],
      ["?min_confidence=100.1", "min_confidence"],
      ["?min_confidence=-1", "min_confidence"],
      ["?min_confidence=.5", "min_confidence"],
      ["?cursor=x", "cursor"],
      ["?action=HODL", "action"],
      ["?offset=1", "offset"],
      ["?order=asc", "order"],
      ["?symbol=A&symbol=B", "symbol"],
    ] as const) {
      const response = await ask(query);
      expect([query, response.status, await fieldsOf(response)]).toEqual([query, 400, [field]]);
    }
  });

  test("goes on for the same view and filter alone", async () => {
    const { next_cursor: cursor } = await page("?limit=2");
    expect((await ask(`?limit=5&cursor=${cursor}`)).status).toBe(200);
    for (const [path, view] of [
      [`${PATH}?cursor=${cursor}`, starter],
      [`${PATH}?cursor=${cursor}&symbol=SPX`, all],
      [`/api/signals?cursor=${cursor}`, all],
    ] as const) {
      const response = await app.get(path, headersOf(view));
      expect([path, response.status, await fieldsOf(response)]).toEqual([path, 400, ["cursor"]]);
    }
    const list = await app.json<Page>("/api/signals?limit=2", headersOf(all));
    expect((await ask(`?cursor=${list.next_cursor}`)).status).toBe(400);
    // A later page is asked for once: it takes nobody's place in memory.
    const { entries } = app.deps.argo.subscribed;
    await page(`?limit=3&cursor=${cursor}`);
    expect(app.deps.argo.subscribed.entries).toBe(entries);
  });
});

describe("an answer", () => {
  test("is made once, told by its tag, packed on request, and headed", async () => {
    const { subscribed } = app.deps.argo;
    const first = await ask("?limit=30");
    const body = await first.text();
    const etag = first.headers.get("etag") ?? "";
    const { made } = subscribed;
    const again = await ask("?limit=30", all, { "If-None-Match": etag });
    expect([again.status, await again.text(), again.headers.get("etag")]).toEqual([304, "", etag]);
    const packed = await ask("?limit=30", all, { "Accept-Encoding": "gzip" });
    expect(packed.headers.get("content-encoding")).toBe("gzip");
    expect(await unpacked(packed)).toBe(body);
    expect(subscribed.made).toBe(made);
    expect(first.headers.get("signal-head")).toBe("3489");
    expect(first.headers.get("cache-control")).toBe("private, no-cache");
    app.engine.run(
      "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES ('SPX', 'BUY', 1, 50, '2030')",
    );
    const moved = await ask("?limit=30", all, { "If-None-Match": etag });
    expect([moved.status, moved.headers.get("signal-head")]).toEqual([200, "3490"]);
    expect(((await moved.json()) as Page).signals[0]?.id).toBe(3_490);
  });

  test("is the same for all that see the same, and another for those that see less", async () => {
    const starterPage = await page("?limit=500", starter);
    expect(starterPage.signals.length).toBeGreaterThan(0);
    expect(starterPage.signals.filter(({ confidence }) => confidence >= 95)).toEqual([]);
    expect((await page("?limit=500")).signals.some(({ confidence }) => confidence >= 95)).toBe(
      true,
    );
    expect((await page("?min_confidence=0.95", starter)).signals).toEqual([]);
  });
});
