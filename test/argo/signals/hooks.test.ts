import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { pathOf, shownPath } from "../../../src/http/path.ts";
import {
  fieldsOf,
  openApp,
  OTHER_WRITE_TOKEN,
  problemOf,
  READ_TOKEN,
  rowsOf,
  signal,
  WRITE_TOKEN,
  type App,
} from "../../harness/app.ts";
import { seeded } from "../../harness/seed.ts";

type Row = { id: number; sha256: string; duplicate: boolean };
type Sent = { key?: string; type?: string | null; headers?: Record<string, string> };

const hookOf = (query: string, key = WRITE_TOKEN): string => `/api/hooks/${key}${query}`;

function alert(app: App, query: string, body: unknown, sent: Sent = {}): Promise<Response> {
  const { key, type = "application/json", headers } = sent;
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return app.send(
    new Request(`http://argo.test${hookOf(query, key)}`, {
      method: "POST",
      headers: { ...(type !== null && { "Content-Type": type }), ...headers },
      // Bytes, so that no type is added.
      body: Buffer.from(text),
    }),
  );
}

async function written(response: Response): Promise<Row> {
  const text = await response.text();
  if (response.status !== 201) throw new Error(`${response.status} ${text}`);
  const { signals } = JSON.parse(text) as { signals: [Row] };
  expect(signals).toHaveLength(1);
  return signals[0];
}

const rowOf = (app: App, id: number) => rowsOf(app.engine).find((row) => row["id"] === id);

const CHART = "?template=tradingview&confidence=80";
const chart = (more: Record<string, unknown> = {}) => ({
  ticker: "BTCUSD",
  action: "buy",
  price: "64000.5",
  time: "2026-11-20T11:59:58Z",
  ...more,
});

let app: App;
beforeAll(async () => {
  app = await openApp({ fixture: null });
});
afterAll(() => app[Symbol.asyncDispose]());

describe("an alert becomes a signal", () => {
  test("by the template of TradingView, with what the address adds", async () => {
    const response = await alert(app, `${CHART}&strategy=trend`, chart());
    const { id, sha256 } = await written(response);
    expect(response.headers.get("signal-head")).toBe(String(id));
    expect(rowOf(app, id)).toEqual({
      id,
      symbol: "BTCUSD",
      action: "BUY",
      entry_price: 64_000.5,
      target_price: null,
      stop_price: null,
      confidence: 80,
      strategy: "trend",
      timestamp: "2026-11-20T11:59:58Z",
      sha256,
    });
  });

  test.each([
    [
      "numbers and texts alike",
      CHART,
      chart({ price: 1.5, stop: "1.25", target: 2 }),
      {
        entry_price: 1.5,
        stop_price: 1.25,
        target_price: 2,
      },
    ],
    [
      "the names of a post",
      "?template=signal",
      {
        symbol: "ETH",
        action: "SELL",
        entry_price: "3e3",
        confidence: "97.5",
        stop_price: "3100",
        strategy: "s",
      },
      { action: "SELL", entry_price: 3_000, confidence: 97.5, stop_price: 3_100, strategy: "s" },
    ],
    [
      "constants alone",
      "?symbol=A&action=Flat&entry_price=2&confidence=0",
      {},
      {
        symbol: "A",
        action: "HOLD",
        confidence: 0,
      },
    ],
    [
      "pointers into what lies deep",
      "?symbol=/a/0/b~1c&action=/a/1&entry_price=/%20&confidence=/a/2/~0&stop_price=/no/where",
      { a: [{ "b/c": "D" }, "short", { "~": "1" }], " ": 7 },
      { symbol: "D", action: "SELL", entry_price: 7, confidence: 1, stop_price: null },
    ],
    ["a ticker that is a number", CHART, chart({ ticker: 7203 }), { symbol: "7203" }],
    [
      "what charts write where they have no number",
      CHART,
      chart({ stop: "NaN", target: "na" }),
      {
        stop_price: null,
        target_price: null,
      },
    ],
    [
      "milliseconds since the epoch",
      CHART,
      chart({ time: 1_795_175_940_000 }),
      {
        timestamp: "2026-11-20T11:59:00.000Z",
      },
    ],
    [
      "seconds, as a text",
      CHART,
      chart({ time: "1795175941" }),
      {
        timestamp: "2026-11-20T11:59:01.000Z",
      },
    ],
    [
      "a parameter before the template",
      `${CHART}&entry_price=/close`,
      chart({ close: 5 }),
      {
        entry_price: 5,
      },
    ],
    [
      "spaces around what is said",
      CHART,
      chart({ ticker: " X ", action: " Buy " }),
      {
        symbol: "X",
      },
    ],
  ])("%s", async (_name, query, body, expected) => {
    const { id } = await written(await alert(app, query, body));
    expect(rowOf(app, id)).toMatchObject(expected);
  });

  test.each([
    ["BUY", ["buy", "BUY", "Long", "LONG"]],
    ["SELL", ["sell", "Short"]],
    ["HOLD", ["hold", "flat", "EXIT", "Close"]],
  ])("%s is %p", async (action, words) => {
    for (const word of words) {
      const { id } = await written(await alert(app, CHART, chart({ action: word, ticker: word })));
      expect(rowOf(app, id)?.["action"]).toBe(action);
    }
  });

  test("whatever type the text is sent as", async () => {
    for (const type of [null, "text/plain", "text/plain; charset=utf-8", "application/x"]) {
      await written(await alert(app, CHART, chart({ note: type }), { type }));
    }
  });

  test("without a time of its own it is of now", async () => {
    const { id } = await written(await alert(app, CHART, chart({ time: undefined })));
    expect(rowOf(app, id)?.["timestamp"]).toBe("2026-11-20T12:00:00.000000+00:00");
  });
});

describe("what is refused writes nothing", () => {
  test.each<[string, string, unknown, number, string[]]>([
    ["no confidence", "?template=tradingview", chart(), 422, ["confidence"]],
    ["nothing at all", "", {}, 422, ["symbol", "action", "entry_price", "confidence"]],
    ["an alert that is a number", CHART, 5, 422, ["symbol", "action", "entry_price"]],
    ["an alert that is null", CHART, "null", 422, ["symbol", "action", "entry_price"]],
    ["a word that is no action", CHART, chart({ action: "moon" }), 422, ["action"]],
    ["an action of Object", CHART, chart({ action: "constructor" }), 422, ["action"]],
    ["a price that is no number", CHART, chart({ price: "1,5" }), 422, ["entry_price"]],
    ["a price that the chart did not have", CHART, chart({ price: "NaN" }), 422, ["entry_price"]],
    ["a price beyond numbers", CHART, chart({ price: "1e999" }), 422, ["entry_price"]],
    ["a stop beyond numbers", CHART, chart({ stop: "1e999" }), 422, ["stop_price"]],
    [
      "a target beyond numbers",
      CHART,
      '{"ticker":"X","action":"buy","price":1,"target":1e999}',
      422,
      ["target_price"],
    ],
    ["a placeholder that was misspelt", CHART, chart({ price: "{{clos}}" }), 422, ["entry_price"]],
    ["a symbol not filled in", CHART, chart({ ticker: "{{ticker}}" }), 422, ["symbol"]],
    ["an object for a symbol", CHART, chart({ ticker: { a: 1 } }), 422, ["symbol"]],
    ["true for a price", CHART, chart({ price: true }), 422, ["entry_price"]],
    ["a stop on the wrong side", CHART, chart({ stop: "64001" }), 422, ["stop_price"]],
    ["a time with no zone", CHART, chart({ time: "2026-11-20 11:59:58" }), 422, ["timestamp"]],
    ["a time beyond all times", CHART, chart({ time: 1e300 }), 422, ["timestamp"]],
    ["a time ahead", CHART, chart({ time: "2026-11-20T12:06:00Z" }), 422, ["timestamp"]],
    ["an alert of 301 s ago", CHART, chart({ time: "2026-11-20T11:54:59Z" }), 422, ["timestamp"]],
    ["plain text", CHART, "BTCUSD crossed 64000", 422, ["body"]],
    ["nothing", CHART, "", 422, ["body"]],
    ["a number left empty", CHART, '{"ticker":"X","price":}', 422, ["body"]],
    ["a field twice", CHART, '{"price":1,"price":2}', 400, []],
    [
      "the prototype",
      "?symbol=/__proto__/x&action=buy&entry_price=1&confidence=1",
      {},
      422,
      ["symbol"],
    ],
    [
      "the length of a list",
      "?symbol=/length&action=buy&entry_price=1&confidence=1",
      [],
      422,
      ["symbol"],
    ],
    ["an unknown template", "?template=x", chart(), 400, ["template"]],
    ["an unknown parameter", `${CHART}&price=/close`, chart(), 400, ["price"]],
    ["a parameter twice", `${CHART}&confidence=/c`, chart(), 400, ["confidence"]],
    ["an empty parameter", `${CHART}&symbol=`, chart(), 400, ["symbol"]],
    ["a pointer that is none", `${CHART}&symbol=/a~2`, chart(), 400, ["symbol"]],
    ["a long pointer", `${CHART}&symbol=/${"a".repeat(256)}`, chart(), 400, ["symbol"]],
    ["a lag without end", `${CHART}&max_lag_seconds=86401`, chart(), 400, ["max_lag_seconds"]],
    ["no time to tell doubles", `${CHART}&dedupe_seconds=9`, chart(), 400, ["dedupe_seconds"]],
    ["a field of posts", `${CHART}&supersedes=1`, chart(), 400, ["supersedes"]],
  ])("%s", async (_name, query, body, status, fields) => {
    const before = rowsOf(app.engine).length;
    const response = await alert(app, query, body);
    expect(response.status).toBe(status);
    if (fields.length > 0) expect(await fieldsOf(response)).toEqual(fields);
    expect(rowsOf(app.engine)).toHaveLength(before);
  });

  test("a missing field says which parameter to add, and plain text what to do", async () => {
    const { errors } = await problemOf(await alert(app, "?template=tradingview", chart()));
    expect(errors?.[0]?.detail).toContain("confidence=");
    const plain = await problemOf(await alert(app, CHART, "BTC up", { type: "text/plain" }));
    expect(plain.detail).toBe("Nothing was written: the alert is not JSON.");
  });

  test("64 KiB are taken and one byte more is not, nor what is packed or no UTF-8", async () => {
    const padded = (bytes: number) => {
      const text = JSON.stringify(chart({ note: "" }));
      return text.replace('"note":""', `"note":"${"x".repeat(bytes - text.length)}"`);
    };
    await written(await alert(app, CHART, padded(64 * 1024)));
    const large = await alert(app, CHART, padded(64 * 1024 + 1));
    expect((await problemOf(large)).status).toBe(413);
    const packed = await alert(app, CHART, chart(), { headers: { "Content-Encoding": "gzip" } });
    expect((await problemOf(packed)).status).toBe(415);
    const latin = await app.send(
      new Request(`http://argo.test${hookOf(CHART)}`, {
        method: "POST",
        body: new Uint8Array([0x22, 0xff, 0x22]),
      }),
    );
    expect((await problemOf(latin)).status).toBe(400);
  });

  test("any alert under any mapping is written as a post would be, or refused", async () => {
    const value = fc.oneof(fc.json(), fc.constantFrom('"buy"', "1", '"1.5"', '"NaN"', "[1]"));
    const source = fc.oneof(
      fc.string({ maxLength: 20 }),
      fc.constantFrom("/a", "/a/0", "/b/c", "buy", "5", "SPX", "/~0", "//", "/a/"),
    );
    const names = ["symbol", "action", "entry_price", "confidence", "timestamp", "strategy"];
    const alerts = fc.tuple(fc.array(fc.tuple(fc.constantFrom(...names), source)), value, value);
    await fc.assert(
      fc.asyncProperty(alerts, async ([pairs, a, b]) => {
        const query = new URLSearchParams(Object.fromEntries(pairs));
        const response = await alert(app, `?${query}`, `{"a":${a},"b":{"c":${b}}}`);
        if (response.status === 201) await written(response);
        else expect([400, 422]).toContain((await problemOf(response)).status);
      }),
      seeded(150),
    );
    for (const row of rowsOf(app.engine)) expect(row["entry_price"]).toBeNumber();
  });
});

describe("the same alert is one signal", () => {
  test("20 at once, and again within the time; later it is another", async () => {
    const body = chart({ ticker: "ONCE", time: undefined });
    const answers = await Promise.all(Array.from({ length: 20 }, () => alert(app, CHART, body)));
    const rows = await Promise.all(answers.map(written));
    const [first] = rows as [Row];
    expect(new Set(rows.map(({ id }) => id)).size).toBe(1);
    expect(rows.filter(({ duplicate }) => !duplicate)).toHaveLength(1);
    app.clock.ms += 44_000;
    expect(await written(await alert(app, CHART, body))).toMatchObject({
      id: first.id,
      duplicate: true,
    });
    app.clock.ms += 2_000;
    const later = await written(await alert(app, CHART, body));
    expect(later.duplicate).toBe(false);
    expect(later.id).toBeGreaterThan(first.id);
    // And that one is known in turn.
    expect((await written(await alert(app, CHART, body))).id).toBe(later.id);
    app.clock.ms -= 46_000;
  });

  test("with a time of its own also later, while it is young enough", async () => {
    const query = `${CHART}&max_lag_seconds=600`;
    const { id } = await written(await alert(app, query, chart({ ticker: "TIMED" })));
    app.clock.ms += 500_000;
    const again = await written(await alert(app, query, chart({ ticker: "TIMED" })));
    expect(again).toMatchObject({ id, duplicate: true });
    app.clock.ms -= 500_000;
  });

  test("what was written in time is told so, though it is too old by now", async () => {
    const body = chart({ ticker: "OLD", time: "2026-11-20T11:55:01Z" });
    const { id } = await written(await alert(app, CHART, body));
    app.clock.ms += 10_000;
    expect(await written(await alert(app, CHART, body))).toMatchObject({ id, duplicate: true });
    const other = { ...body, note: "another" };
    expect((await alert(app, CHART, other)).status).toBe(422);
    app.clock.ms -= 10_000;
  });

  test("but not at another address, nor by another key", async () => {
    const body = chart({ ticker: "APART", time: undefined });
    const answers = [
      await alert(app, CHART, body),
      await alert(app, `${CHART}&strategy=other`, body),
      await alert(app, CHART, body, { key: OTHER_WRITE_TOKEN }),
    ];
    const rows = await Promise.all(answers.map(written));
    expect(new Set(rows.map(({ id }) => id)).size).toBe(3);
  });

  test("over a restart, and by another process on the same file", async () => {
    const query = `${CHART}&dedupe_seconds=60`;
    const body = chart({ ticker: "AGAIN", time: undefined });
    const first = await written(await alert(app, query, body));
    // Opened anew on the same file: to the first it is another process.
    await using other = await openApp({ dir: app.dir, fixture: null });
    const rows = await Promise.all(
      [app, other, other, app].map(async (at) => written(await alert(at, query, body))),
    );
    const known = { ...first, duplicate: true };
    expect(rows).toEqual([known, known, known, known]);
  });
});

describe("a writer that cannot write", () => {
  test("is answered for sooner than a post, and what is committed after that is told as such", async () => {
    const body = chart({ ticker: "LATE", time: undefined });
    app.engine.run("BEGIN IMMEDIATE");
    // A post waits for a second and a half at least.
    let isPosted = false;
    const posted = app.post(signal({ symbol: "POSTED" })).finally(() => (isPosted = true));
    const late = await alert(app, CHART, body);
    expect(isPosted).toBe(false);
    expect(late.headers.get("retry-after")).toBe("5");
    expect((await problemOf(late)).status).toBe(503);
    app.engine.run("COMMIT");
    expect((await posted).status).toBe(201);
    const again = await Promise.all([alert(app, CHART, body), alert(app, CHART, body)]);
    const rows = await Promise.all(again.map(written));
    expect(rows.map(({ duplicate }) => duplicate)).toEqual([true, true]);
    const held = rowsOf(app.engine).filter((row) => row["symbol"] === "LATE");
    expect(held).toHaveLength(1);
  });
});

describe("who may", () => {
  test("a key that is not known is 401, one that only reads 403", async () => {
    for (const key of ["nobody-knows-this-key", "x", "%20", "a%20b", "%ff", `${WRITE_TOKEN}x`]) {
      const response = await alert(app, CHART, chart(), { key });
      expect([key, response.status]).toEqual([key, 401]);
      expect(response.headers.get("www-authenticate")).toStartWith("Bearer");
      const { instance, detail } = await problemOf(response);
      expect(instance).toBe("/api/hooks/:key");
      expect(detail).toBe("The key in the hook's address is not known.");
    }
    expect((await alert(app, CHART, chart(), { key: READ_TOKEN })).status).toBe(403);
    // The header is not asked.
    const headers = { Authorization: `Bearer ${WRITE_TOKEN}` };
    expect((await alert(app, CHART, chart(), { key: READ_TOKEN, headers })).status).toBe(403);
  });

  test("guessing is counted against the address", async () => {
    await using limited = await openApp({ fixture: null, env: { RATE_LIMIT_PER_MINUTE: "3" } });
    const statuses: number[] = [];
    for (let i = 0; i < 5; i += 1) {
      statuses.push(
        (await alert(limited, CHART, chart(), { key: `guess-${i}-0123456789` })).status,
      );
    }
    expect(statuses).toEqual([401, 401, 401, 429, 429]);
    // Whoever has the key is not held up by that.
    await written(await alert(limited, CHART, chart()));
  });

  test("a token of signs that an address cannot hold is escaped", async () => {
    const token = "a/b?c#d%e+f&0123456789";
    await using odd = await openApp({ fixture: null, env: { ARGO_WRITE_TOKEN: token } });
    await written(await alert(odd, CHART, chart(), { key: encodeURIComponent(token) }));
  });

  test("other methods and paths are told without the key", async () => {
    for (const path of [
      hookOf(""),
      `${hookOf("")}/`,
      `${hookOf("")}/more`,
      `/api/hooks//${WRITE_TOKEN}`,
      `/api//hooks/${WRITE_TOKEN}`,
      `/api/Hooks/${WRITE_TOKEN}`,
      `/api/hooks%2F${WRITE_TOKEN}`,
    ]) {
      const response = await app.get(path);
      expect([path, response.status]).toEqual([path, path === hookOf("") ? 405 : 404]);
      const text = JSON.stringify([await response.text(), [...response.headers]]);
      expect(text).not.toContain(WRITE_TOKEN);
    }
  });

  test("a path is shown without what follows hooks", () => {
    const shown = (path: string) => shownPath(pathOf(new Request(`http://argo.test${path}`)));
    expect(shown("/api/hooks/secret?symbol=x")).toBe("/api/hooks/:key");
    expect(shown("/api/signals/1")).toBe("/api/signals/1");
    expect(shown("/api/webhooks/stripe")).toBe("/api/webhooks/stripe");
  });
});
