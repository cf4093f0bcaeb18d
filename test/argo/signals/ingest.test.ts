import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import canonicalize from "canonicalize";
import fc from "fast-check";
import { canonicalJson, hashOf } from "../../../src/argo/signals/hash.ts";
import {
  LEGACY_ROWS,
  NOON,
  openApp,
  OTHER_WRITE_TOKEN,
  problemOf,
  rowsOf,
  signal,
  WRITE_TOKEN,
  type App,
} from "../../harness/app.ts";
import { startServer, until } from "../../harness/process.ts";
import { seeded } from "../../harness/seed.ts";

interface Written {
  id: number;
  sha256: string;
  duplicate: boolean;
}

const count = (app: App): number =>
  app.engine.query<{ n: number }, []>("SELECT count(*) AS n FROM signals").get()?.n ?? -1;

async function written(response: Response): Promise<Written[]> {
  const text = await response.text();
  if (response.status !== 201) throw new Error(`${response.status} ${text}`);
  const body = JSON.parse(text) as { signals: Written[] };
  expect(Object.keys(body)).toEqual(["signals"]);
  for (const row of body.signals) expect(Object.keys(row)).toEqual(["id", "sha256", "duplicate"]);
  return body.signals;
}

/** The hash as the contract defines it, by other means. */
function contractHash(given: Record<string, unknown>): string {
  const text = canonicalize({
    action: given["action"],
    confidence: given["confidence"],
    entry_price: given["entry_price"],
    stop_price: given["stop_price"] ?? null,
    strategy: given["strategy"] ?? "weighted_consensus",
    symbol: given["symbol"],
    target_price: given["target_price"] ?? null,
    timestamp: given["timestamp"],
  });
  return new Bun.CryptoHasher("sha256").update(text ?? "").digest("hex");
}

describe("what is written", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp();
  });
  afterAll(() => app[Symbol.asyncDispose]());

  test("one signal: its row, its answer, and what readers see", async () => {
    const given = signal({ strategy: "trend", symbol: "Größe 🚀" });
    const response = await app.post(given);
    expect(response.headers.get("content-type")).toBe("application/json");
    const [row] = await written(response);
    expect(row).toEqual({ id: LEGACY_ROWS + 1, sha256: contractHash(given), duplicate: false });
    expect(rowsOf(app.engine).at(-1)).toEqual({
      id: LEGACY_ROWS + 1,
      symbol: "Größe 🚀",
      action: "BUY",
      entry_price: 100,
      target_price: 110,
      stop_price: 95,
      confidence: 97.5,
      strategy: "trend",
      timestamp: "2026-11-20T11:59:00Z",
      sha256: contractHash(given),
    });
    const shown = await app.json<Record<string, unknown>>(`/api/signals/hash/${row?.sha256}`);
    expect(shown).toMatchObject({
      id: row?.id,
      symbol: "Größe 🚀",
      stop_loss: 95,
      supersedes: null,
    });
    expect(shown["received_at"]).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    const [newest] = await app.json<{ id: number }[]>("/api/signals/latest?limit=1");
    expect(newest?.id).toBe(LEGACY_ROWS + 1);
  });

  test("a thousand at once, in their order", async () => {
    const before = count(app);
    const batch = Array.from({ length: 1_000 }, (_, i) => signal({ entry_price: 100 + i / 1e6 }));
    const rows = await written(await app.post(batch));
    expect(rows.map((row) => row.sha256)).toEqual(batch.map(contractHash));
    const ids = rows.map((row) => row.id);
    expect(ids).toEqual(ids.map((_, i) => (ids[0] ?? 0) + i));
    expect(count(app)).toBe(before + 1_000);
  });

  test("what may be left out", async () => {
    const bare = { symbol: "BARE", action: "BUY", confidence: 0, entry_price: 1e-9 };
    const [row] = await written(await app.post(bare));
    const at = "2026-11-20T12:00:00.000000+00:00";
    expect(rowsOf(app.engine).at(-1)).toMatchObject({
      ...bare,
      target_price: null,
      stop_price: null,
      strategy: "weighted_consensus",
      timestamp: at,
    });
    expect(row?.sha256).toBe(contractHash({ ...bare, timestamp: at }));
    const nulls = { ...bare, confidence: 100, stop_price: null, target_price: null };
    expect((await written(await app.post(nulls)))[0]?.duplicate).toBe(false);
  });

  test("a HOLD has no wrong side", async () => {
    for (const [stop_price, target_price] of [
      [90, 110],
      [110, 90],
      [100, 100],
    ]) {
      await written(await app.post(signal({ action: "HOLD", stop_price, target_price })));
    }
  });

  test("a SELL has its stop above and its target below", async () => {
    const sell = signal({ action: "SELL", stop_price: 105, target_price: 90 });
    await written(await app.post(sell));
  });

  const types = [
    "application/json",
    "application/json; charset=utf-8",
    "application/json;charset=UTF-8",
    'Application/JSON; charset="utf-8"',
  ];
  test.each(types)("Content-Type: %s", async (type) => {
    await written(await app.post(signal(), { "Content-Type": type }));
  });

  test("a byte order mark before the JSON is no part of it", async () => {
    await written(await app.post(`\uFEFF${JSON.stringify([signal()])}`));
  });
});

describe("times", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp({ fixture: null });
  });
  afterAll(() => app[Symbol.asyncDispose]());

  const good = [
    "2026-11-20T12:00:00Z",
    "2026-11-20T12:00:00+00:00",
    "2026-11-20T12:00:00.1Z",
    "2026-11-20T12:00:00.123456789+00:00",
    "2024-02-29T23:59:59Z",
    "1970-01-01T00:00:00Z",
    "2026-11-20T12:05:00Z",
    "2026-11-20T12:05:00.000+00:00",
  ];
  test.each(good)("%s is kept as it was written", async (timestamp) => {
    const [row] = await written(await app.post(signal({ timestamp })));
    const shown = await app.json<{ timestamp: string }>(`/api/signals/${row?.id}`);
    expect(shown.timestamp).toBe(timestamp);
  });

  const bad = [
    "2026-02-30T00:00:00Z",
    "2025-02-29T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-00-10T00:00:00Z",
    "2026-11-20T24:00:00Z",
    "2026-11-20T12:60:00Z",
    "2026-11-20T12:00:60Z",
    "2026-11-20T25:00:00Z",
    "2026-11-20T12:00:00",
    "2026-11-20T12:00:00+01:00",
    "2026-11-20T12:00:00-00:00",
    "2026-11-20 12:00:00Z",
    "2026-11-20t12:00:00z",
    "2026-11-20T12:00Z",
    "2026-11-20",
    "20261120T120000Z",
    "+002026-11-20T12:00:00Z",
    "2026-11-20T12:00:00.Z",
    "2026-11-20T12:00:00,5Z",
    "2026-11-20T12:00:00.1234567890Z",
    " 2026-11-20T12:00:00Z",
    "2026-11-20T12:00:00Z\n",
    "",
    "now",
    "２０２６-11-20T12:00:00Z",
    "1732104000",
    "2026-11-20T12:00:00+0000",
    "2026-11-20T12:00:00 00:00",
  ];
  test.each(bad.map((t) => [JSON.stringify(t), t]))("%s is 422", async (_shown, timestamp) => {
    const response = await app.post(signal({ timestamp }));
    expect(response.status).toBe(422);
    expect((await problemOf(response)).errors?.map((e) => e.field)).toEqual(["timestamp"]);
  });

  test("300 s ahead of the server's clock is the bound", async () => {
    const at = (ms: number): string => new Date(app.clock.ms + ms).toISOString();
    try {
      for (const clock of [NOON, NOON + 86_400_000, NOON - 3_600_000]) {
        app.clock.ms = clock;
        await written(await app.post(signal({ timestamp: at(300_000) })));
        expect((await app.post(signal({ timestamp: at(300_001) }))).status).toBe(422);
        expect((await app.post(signal({ timestamp: at(3_600_000) }))).status).toBe(422);
        await written(await app.post(signal({ timestamp: at(-1e12) })));
      }
    } finally {
      app.clock.ms = NOON;
    }
  });
});

describe("what is refused writes nothing", () => {
  let app: App;
  let before: number;
  beforeAll(async () => {
    app = await openApp();
  });
  afterAll(() => app[Symbol.asyncDispose]());
  beforeEach(() => {
    before = count(app);
  });

  const raw = (more: string): string =>
    JSON.stringify(signal()).replace(/\}$/, more === "" ? "}" : `,${more}}`);
  /** The signal with this field's value as JSON text. */
  const with_ = (field: string, json: string): string => {
    const rest = { ...signal() };
    delete rest[field];
    return JSON.stringify(rest).replace(/\}$/, `,${JSON.stringify(field)}:${json}}`);
  };

  const fields: [body: string, field: string][] = [
    ...["tier", "id", "role", "constructor", "prototype", "received_at", "price", "toString"].map(
      (name): [string, string] => [raw(`"${name}":1`), name],
    ),
    [raw('"__proto__":1'), "__proto__"],
    [raw('"__proto__":{"confidence":1}'), "__proto__"],
    [raw('"\\u005f_proto__":{"confidence":1}'), "__proto__"],
    ...["confidence", "entry_price", "stop_price", "target_price"].flatMap((name) =>
      ['"97"', "true", "[1]", "{}", '"NaN"', '"Infinity"', "1e999", "-1e999", "-0.001"].map(
        (value): [string, string] => [with_(name, value), name],
      ),
    ),
    ...["confidence", "entry_price", "symbol", "action", "timestamp", "strategy", "sha256"].map(
      (name): [string, string] => [with_(name, "null"), name],
    ),
    ...["symbol", "action", "confidence", "entry_price"].map((name): [string, string] => {
      const rest = { ...signal() };
      delete rest[name];
      return [JSON.stringify(rest), name];
    }),
    [with_("confidence", "100.0001"), "confidence"],
    [with_("confidence", "200"), "confidence"],
    [with_("entry_price", "0"), "entry_price"],
    [with_("entry_price", "1e-400"), "entry_price"],
    [with_("entry_price", "1e13"), "entry_price"],
    [with_("stop_price", "0"), "stop_price"],
    [with_("stop_price", "100"), "stop_price"],
    [with_("stop_price", "101"), "stop_price"],
    [with_("target_price", "100"), "target_price"],
    [with_("target_price", "99"), "target_price"],
    [JSON.stringify(signal({ action: "SELL" })), "stop_price"],
    [JSON.stringify(signal({ action: "SELL", stop_price: null })), "target_price"],
    [with_("action", '"buy"'), "action"],
    [with_("action", '"SHORT"'), "action"],
    [with_("action", '""'), "action"],
    [with_("action", "1"), "action"],
    ...["symbol", "strategy"].flatMap((name) =>
      [
        '""',
        `"${"x".repeat(65)}"`,
        '"a\\u0000b"',
        '"\\ud800"',
        '"a\\udfffb"',
        '"\\n"',
        '"\\u007f"',
        "5",
        "[]",
      ].map((value): [string, string] => [with_(name, value), name]),
    ),
    [with_("sha256", '"00"'), "sha256"],
    [with_("sha256", `"${"0".repeat(64)}"`), "sha256"],
    [with_("sha256", `"${contractHash(signal()).toUpperCase()}"`), "sha256"],
    [with_("sha256", `"${"0".repeat(65)}"`), "sha256"],
    [with_("sha256", '""'), "sha256"],
    [with_("supersedes", "0"), "supersedes"],
    [with_("supersedes", "-1"), "supersedes"],
    [with_("supersedes", "1.5"), "supersedes"],
    [with_("supersedes", '"1"'), "supersedes"],
    [with_("supersedes", "999999"), "supersedes"],
    [with_("supersedes", "9007199254740993"), "supersedes"],
    ["null", "body"],
    ["5", "body"],
    ['"text"', "body"],
    ["[]", "body"],
    ["{}", "symbol"],
  ];

  test.each(fields.map(([body, field]) => [body.slice(0, 400), field, body]))(
    "422: %s names %s",
    async (_shown, field, body) => {
      const response = await app.post(body);
      expect(response.status).toBe(422);
      const problem = await problemOf(response);
      expect(problem.code).toBe("unprocessable");
      expect(problem.errors?.map((error) => error.field)).toContain(field);
      for (const error of problem.errors ?? []) expect(error.index).toBeUndefined();
      expect(count(app)).toBe(before);
    },
  );

  test.each(
    fields.filter(([body]) => body.startsWith("{")).map(([b, f]) => [b.slice(0, 400), f, b]),
  )("422 in a batch: %s names %s and its row, and none is written", async (_shown, field, body) => {
    const good = (i: number): string => JSON.stringify(signal({ symbol: `GOOD${i}` }));
    const response = await app.post(`[${good(0)},${good(1)},${body},${good(3)}]`);
    expect(response.status).toBe(422);
    const errors = (await problemOf(response)).errors ?? [];
    expect(errors.map((error) => error.field)).toContain(field);
    for (const error of errors) expect(error.index).toBe(2);
    expect(count(app)).toBe(before);
  });

  test("a field without a name is refused, and the fault has one", async () => {
    const response = await app.post(raw('"":1'));
    expect(response.status).toBe(422);
    expect((await problemOf(response)).errors).toHaveLength(1);
    expect(count(app)).toBe(before);
  });

  test("each bad row of a batch is told", async () => {
    const batch = Array.from({ length: 20 }, (_, i) =>
      signal(i % 5 === 3 ? { confidence: -i } : {}),
    );
    const problem = await problemOf(await app.post(batch));
    expect(problem.errors?.map((error) => error.index)).toEqual([3, 8, 13, 18]);
    expect(count(app)).toBe(before);
  });

  test("a thousand and one rows", async () => {
    const batch = Array.from({ length: 1_001 }, (_, i) => signal({ entry_price: 100 + i / 1e6 }));
    const response = await app.post(batch);
    expect(response.status).toBe(422);
    expect((await problemOf(response)).errors?.[0]?.field).toBe("body");
    expect(count(app)).toBe(before);
  });

  test("a batch of a thousand bad rows is told in an answer of some size", async () => {
    const response = await app.post(Array.from({ length: 1_000 }, () => ({ a: 1, b: 2, c: 3 })));
    expect(response.status).toBe(422);
    expect(((await problemOf(response)).errors ?? []).length).toBeLessThanOrEqual(100);
  });

  const unreadable = [
    ["an empty body", ""],
    ["half an object", '{"symbol":'],
    ["two values", `${raw("")}${raw("")}`],
    ["a comma too many", raw("").replace("}", ",}")],
    ["single quotes", "{'symbol':'A'}"],
    ["a comment", `/* */${raw("")}`],
    ["NaN", with_("confidence", "NaN")],
    ["Infinity", with_("entry_price", "Infinity")],
    ["-Infinity", with_("entry_price", "-Infinity")],
    ["a hexadecimal number", with_("entry_price", "0x10")],
    ["a leading zero", with_("entry_price", "0100")],
    ["a plus sign", with_("entry_price", "+100")],
    ["a control character in a string", with_("symbol", '"a\nb"')],
    ["undefined", "undefined"],
    ["the same key twice", raw('"confidence":99')],
    ["the same key twice, escaped", raw('"confid\\u0065nce":99')],
    ["the same key twice in one of many", `[${raw("")},${raw('"symbol":"Z"')}]`],
    ["deep nesting", "[".repeat(400_000)],
    ["deep nesting that closes", "[".repeat(200_000) + "]".repeat(200_000)],
    ["deep objects", '{"a":'.repeat(100_000)],
  ];
  test.each(unreadable.map(([name, body]) => [name ?? "", body ?? ""]))(
    "%s",
    async (_name, body) => {
      const response = await app.post(body);
      expect([400, 422]).toContain(response.status);
      await problemOf(response);
      expect(count(app)).toBe(before);
      // The writer's thread has survived it.
      expect((await app.post(signal({ confidence: -1 }))).status).toBe(422);
    },
  );

  const notUtf8: [string, number[]][] = [
    ["a cut sequence", [0xe2, 0x82]],
    ["a lone surrogate", [0xed, 0xa0, 0x80]],
    ["an overlong form", [0xc0, 0xaf]],
    ["Latin-1", [0xe4]],
    ["UTF-16", [0xff, 0xfe, 0x41, 0x00]],
  ];
  test.each(notUtf8)("bytes that are not UTF-8: %s", async (_name, bytes) => {
    const body = Buffer.concat([
      Buffer.from('{"symbol":"'),
      Buffer.from(bytes),
      Buffer.from(`","action":"BUY","confidence":1,"entry_price":1}`),
    ]);
    const response = await app.send(
      new Request("http://argo.test/api/signals", {
        method: "POST",
        headers: { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" },
        body,
      }),
    );
    expect(response.status).toBe(400);
    expect((await problemOf(response)).code).toBe("bad_request");
    expect(count(app)).toBe(before);
  });

  const types = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json; charset=latin1",
    "application/json; charset=utf-16",
    "application/jsonp",
    "application/problem+json",
    "text/json",
    "application/json, text/plain",
    "",
  ];
  test.each(types)("Content-Type: %s is 415", async (type) => {
    const response = await app.post(signal(), { "Content-Type": type });
    expect(response.status).toBe(415);
    expect((await problemOf(response)).code).toBe("unsupported_media_type");
    expect(count(app)).toBe(before);
  });

  test("no Content-Type is 415", async () => {
    const response = await app.send(
      new Request("http://argo.test/api/signals", {
        method: "POST",
        headers: { Authorization: `Bearer ${WRITE_TOKEN}` },
        body: new TextEncoder().encode(JSON.stringify(signal())),
      }),
    );
    expect(response.status).toBe(415);
    expect(count(app)).toBe(before);
  });

  test.each(["x=1", "__proto__=1", "limit=1", "constructor=1", "a=%ff", "x=1&x=2"])(
    "the parameter ?%s is 400",
    async (query) => {
      const response = await app.send(
        new Request(`http://argo.test/api/signals?${query}`, {
          method: "POST",
          headers: { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" },
          body: JSON.stringify(signal({ symbol: "QUERY" })),
        }),
      );
      expect(response.status).toBe(400);
      expect((await problemOf(response)).errors?.map((e) => e.field)).toEqual([
        query.split("=")[0] ?? "",
      ]);
      expect(count(app)).toBe(before);
    },
  );

  const wide = " ".repeat(2 * 1024 * 1024);
  test("2 MB are 413, whether their length is told or not", async () => {
    const url = `${app.listen()}/api/signals`;
    const headers = { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" };
    const body = wide + JSON.stringify(signal());
    const chunked = new ReadableStream<Uint8Array>({
      async start(controller) {
        for (let at = 0; at < body.length; at += 65_536) {
          controller.enqueue(new TextEncoder().encode(body.slice(at, at + 65_536)));
          await Promise.resolve();
        }
        controller.close();
      },
    });
    for (const sent of [body, chunked]) {
      const response = await fetch(url, { method: "POST", headers, body: sent });
      expect(response.status).toBe(413);
      expect((await problemOf(response)).code).toBe("payload_too_large");
      expect(count(app)).toBe(before);
    }
    const exact = JSON.stringify(signal({ symbol: "EXACT" }));
    const full = " ".repeat(1024 * 1024 - exact.length) + exact;
    expect((await fetch(url, { method: "POST", headers, body: `${full} ` })).status).toBe(413);
    await written(await fetch(url, { method: "POST", headers, body: full }));
  });

  test("10 MB are 413 as a problem document too", async () => {
    await using server = await startServer({ env: { ARGO_WRITE_TOKEN: WRITE_TOKEN } });
    const response = await fetch(`${server.url}/api/signals`, {
      method: "POST",
      headers: { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" },
      body: " ".repeat(10 * 1024 * 1024),
    });
    expect(response.status).toBe(413);
    expect((await problemOf(response)).code).toBe("payload_too_large");
  });

  test("nobody without a token gets as far as the body", async () => {
    for (const body of ["{", wide]) {
      expect((await app.post(body, { Authorization: "Bearer not-a-token-of-this" })).status).toBe(
        401,
      );
    }
  });

  test("prototypes are clean", () => {
    expect(({} as Record<string, unknown>)["confidence"]).toBeUndefined();
    expect(Object.keys(Object.prototype)).toEqual([]);
  });
});

describe("the hash", () => {
  const finite = fc.double({ noNaN: true, noDefaultInfinity: true });
  const content = fc.record({
    symbol: fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 }),
    action: fc.constantFrom("BUY" as const, "SELL" as const, "HOLD" as const),
    confidence: finite,
    entry_price: finite,
    stop_price: fc.option(finite, { nil: undefined }),
    target_price: fc.option(finite, { nil: null }),
    strategy: fc.option(fc.string({ unit: "binary", minLength: 1 }), { nil: undefined }),
    timestamp: fc.constantFrom("2026-01-05T21:00:00Z", "2026-01-05T21:00:00.123456+00:00", '"\\/'),
  });

  test("is that of the RFC 8785 form, as another implementation makes it", () => {
    fc.assert(
      fc.property(content, (given) => {
        const shape = {
          ...given,
          stop_price: given.stop_price ?? null,
          target_price: given.target_price ?? null,
          strategy: given.strategy ?? "weighted_consensus",
        };
        expect(canonicalJson(given)).toBe(canonicalize(shape) ?? "");
        expect(hashOf(given)).toBe(contractHash(given));
      }),
      seeded(3_000),
    );
  });

  test("of a known signal", () => {
    const text =
      '{"action":"SELL","confidence":99.9,"entry_price":2874.5601,"stop_price":2960.7969,' +
      '"strategy":"weighted_consensus","symbol":"SPX","target_price":2730.8321,' +
      '"timestamp":"2020-04-17T21:00:00+00:00"}';
    const given = JSON.parse(text) as Parameters<typeof canonicalJson>[0];
    expect(canonicalJson(given)).toBe(text);
    expect(hashOf(given)).toBe(new Bun.CryptoHasher("sha256").update(text).digest("hex"));
  });

  test("that is given must be ours", async () => {
    await using app = await openApp({ fixture: null });
    const given = signal();
    await written(await app.post({ ...given, sha256: contractHash(given) }));
    const other = signal({ confidence: 97.6 });
    const response = await app.post({ ...other, sha256: contractHash(given) });
    expect(response.status).toBe(422);
    expect(count(app)).toBe(1);
  });

  test("what is stored and shown has the hash that was answered", async () => {
    await using app = await openApp({ fixture: null });
    await fc.assert(
      fc.asyncProperty(
        fc.double({ min: 1e-6, max: 1e6, noNaN: true }),
        fc.double({ min: 0, max: 100, noNaN: true }),
        async (entry_price, confidence) => {
          const given = signal({ entry_price, confidence, stop_price: null, target_price: null });
          const [row] = await written(await app.post(given));
          const shown = await app.json<Record<string, unknown>>(`/api/signals/${row?.id}`);
          const again = { ...shown, stop_price: shown["stop_loss"] };
          expect(contractHash(again)).toBe(row?.sha256 ?? "");
        },
      ),
      seeded(200),
    );
  });
});

describe("the same signal again", () => {
  test("is the same row: posted twice, twice in a batch, spelled otherwise", async () => {
    await using app = await openApp({ fixture: null });
    const given = signal();
    const [first] = await written(await app.post(given));
    const again = { ...first, duplicate: true };
    expect(await written(await app.post(given))).toEqual([again] as Written[]);
    const spelled =
      '{ "timestamp":"2026-11-20T11:59:00Z","strategy":"weighted_consensus","symbol":"\\u0053PX",' +
      '"action":"BUY","entry_price":1e2,"target_price":110.0,"stop_price":95,"confidence":9.75E1}';
    expect(await written(await app.post(spelled))).toEqual([again] as Written[]);
    const other = signal({ symbol: "NDX" });
    const batch = await written(await app.post([given, other, other, given]));
    expect(batch.map((row) => [row.id, row.duplicate])).toEqual([
      [1, true],
      [2, false],
      [2, true],
      [1, true],
    ]);
    expect(count(app)).toBe(2);
  });

  test("any difference makes another row", async () => {
    await using app = await openApp({ fixture: null });
    await written(await app.post(signal()));
    for (const more of [
      { symbol: "spx" },
      { confidence: 97.50000001 },
      { entry_price: 100.0000001 },
      { stop_price: null },
      { target_price: null },
      { target_price: 111 },
      { strategy: "trend" },
      { timestamp: "2026-11-20T11:59:00+00:00" },
      { action: "HOLD" },
    ]) {
      const [row] = await written(await app.post(signal(more)));
      expect(row?.duplicate).toBe(false);
    }
    expect(count(app)).toBe(10);
  });

  test("a row of the engine with this content is the same, with its own hash", async () => {
    await using app = await openApp();
    const [old] = rowsOf(app.engine);
    const given = {
      symbol: old?.["symbol"],
      action: old?.["action"],
      confidence: old?.["confidence"],
      entry_price: old?.["entry_price"],
      stop_price: old?.["stop_price"],
      target_price: old?.["target_price"],
      timestamp: old?.["timestamp"],
    };
    const [row] = await written(await app.post(given));
    expect(row).toEqual({ id: 1, sha256: String(old?.["sha256"]), duplicate: true });
    expect(count(app)).toBe(LEGACY_ROWS);
  });

  test("without a timestamp it is another row", async () => {
    await using app = await openApp({ fixture: null });
    const given = signal({ timestamp: undefined });
    for (let i = 0; i < 3; i += 1) {
      expect((await written(await app.post(given)))[0]?.duplicate).toBe(false);
    }
    expect(count(app)).toBe(3);
  });

  test("twenty at once are one row", async () => {
    await using app = await openApp({ fixture: null });
    const url = `${app.listen()}/api/signals`;
    const headers = { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" };
    const body = JSON.stringify(signal());
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => fetch(url, { method: "POST", headers, body })),
    );
    const rows = (await Promise.all(answers.map(written))).flat();
    expect(new Set(rows.map((row) => row.id)).size).toBe(1);
    expect(rows.filter((row) => !row.duplicate)).toHaveLength(1);
    expect(count(app)).toBe(1);
  });
});

describe("corrections", () => {
  test("name the row they correct, which stays", async () => {
    await using app = await openApp();
    const fixed = signal({ supersedes: 7 });
    const [row] = await written(await app.post(fixed));
    for (const path of [`/api/signals/${row?.id}`, `/api/signals/hash/${row?.sha256}`]) {
      expect(await app.json<Record<string, unknown>>(path)).toMatchObject({ supersedes: 7 });
    }
    const [newest] = await app.json<Record<string, unknown>[]>("/api/signals/latest?limit=1");
    expect(newest).toMatchObject({ id: row?.id, supersedes: 7 });
    expect(await app.json<Record<string, unknown>>("/api/signals/7")).toMatchObject({
      id: 7,
      supersedes: null,
    });
    expect((await written(await app.post(fixed)))[0]).toMatchObject({
      id: row?.id,
      duplicate: true,
    });
    expect((await written(await app.post(signal())))[0]).toMatchObject({
      id: row?.id,
      duplicate: true,
    });
  });

  test("that contradict what is known are 409", async () => {
    await using app = await openApp();
    await written(await app.post(signal({ supersedes: 7 })));
    await written(await app.post(signal({ symbol: "PLAIN" })));
    for (const more of [{ supersedes: 8 }, { symbol: "PLAIN", supersedes: 8 }]) {
      const before = count(app);
      const response = await app.post([signal({ symbol: "OTHER" }), signal(more)]);
      expect(response.status).toBe(409);
      const problem = await problemOf(response);
      expect(problem.errors).toMatchObject([{ field: "supersedes", index: 1 }]);
      expect(problem.detail).not.toMatch(/null|undefined/);
      expect(count(app)).toBe(before);
    }
  });

  test("may correct a row of the same batch, and not one to come", async () => {
    await using app = await openApp();
    const next = LEGACY_ROWS + 1;
    const ok = await app.post([signal(), signal({ confidence: 96, supersedes: next })]);
    expect((await written(ok)).map((row) => row.id)).toEqual([next, next + 1]);
    const before = count(app);
    const own = await app.post(signal({ symbol: "SELF", supersedes: next + 2 }));
    expect(own.status).toBe(422);
    expect(count(app)).toBe(before);
  });
});

describe("Idempotency-Key", () => {
  const keyed = (app: App, key: string, body: unknown, headers = {}): Promise<Response> =>
    app.post(body, { "Idempotency-Key": key, ...headers });
  const untimed = (more = {}): Record<string, unknown> => signal({ timestamp: undefined, ...more });

  test("the same post again is the same answer, and says so", async () => {
    await using app = await openApp({ fixture: null });
    const first = await keyed(app, "key-1", [untimed(), untimed()]);
    expect(first.headers.get("idempotency-replayed")).toBeNull();
    const rows = await written(first);
    app.clock.ms += 60_000;
    const again = await keyed(app, "key-1", [untimed(), untimed()]);
    expect(again.headers.get("idempotency-replayed")).toBe("true");
    expect(await written(again)).toEqual(rows);
    expect(count(app)).toBe(2);
  });

  test("with another body it is 422 and writes nothing", async () => {
    await using app = await openApp({ fixture: null });
    await written(await keyed(app, "key-1", untimed()));
    const response = await keyed(app, "key-1", untimed({ confidence: 1 }));
    expect(response.status).toBe(422);
    expect((await problemOf(response)).errors?.[0]?.field).toBe("Idempotency-Key");
    expect(count(app)).toBe(1);
  });

  test("of a post that failed may be used again", async () => {
    await using app = await openApp({ fixture: null });
    expect((await keyed(app, "key-1", untimed({ confidence: -1 }))).status).toBe(422);
    await written(await keyed(app, "key-1", untimed()));
  });

  test("of another producer is another key", async () => {
    await using app = await openApp({ fixture: null });
    const other = { Authorization: `Bearer ${OTHER_WRITE_TOKEN}` };
    const [mine] = await written(await keyed(app, "key-1", untimed()));
    const [theirs] = await written(await keyed(app, "key-1", untimed({ confidence: 2 }), other));
    expect(theirs?.id).not.toBe(mine?.id);
    expect(count(app)).toBe(2);
  });

  test("is known after a restart", async () => {
    await using outer = await openApp({ fixture: null });
    const rows: Written[][] = [];
    for (let i = 0; i < 2; i += 1) {
      await using app = await openApp({ dir: outer.dir, fixture: null });
      rows.push(await written(await keyed(app, "key-1", untimed())));
    }
    expect(rows[1]).toEqual(rows[0]);
    expect(count(outer)).toBe(1);
  });

  test("twenty at once over sockets are one row", async () => {
    await using app = await openApp({ fixture: null });
    const url = `${app.listen()}/api/signals`;
    const headers = {
      Authorization: `Bearer ${WRITE_TOKEN}`,
      "Content-Type": "application/json",
      "Idempotency-Key": "key-1",
    };
    const body = JSON.stringify(untimed());
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => fetch(url, { method: "POST", headers, body })),
    );
    const good = answers.filter((answer) => answer.status === 201);
    expect(good.length).toBeGreaterThan(0);
    const ids = (await Promise.all(good.map(written))).flat().map((row) => row.id);
    expect(new Set(ids)).toEqual(new Set([1]));
    for (const answer of answers.filter((a) => a.status !== 201)) {
      expect(answer.status).toBe(409);
      expect(answer.headers.get("retry-after")).toBe("1");
    }
    expect(count(app)).toBe(1);
  });

  test("is forgotten after 24 hours, and not before", async () => {
    await using app = await openApp({ fixture: null });
    const [first] = await written(await keyed(app, "key-1", untimed()));
    app.clock.ms += 24 * 3_600_000 - 1_000;
    expect((await written(await keyed(app, "key-1", untimed())))[0]?.id).toBe(first?.id);
    app.clock.ms += 61_000;
    const [later] = await written(await keyed(app, "key-1", untimed({ confidence: 3 })));
    expect(later?.id).not.toBe(first?.id);
  });

  test.each(["", "with space", "x".repeat(256), "schlüssel"])("%p is no key", async (key) => {
    await using app = await openApp({ fixture: null });
    const headers = new Headers({
      Authorization: `Bearer ${WRITE_TOKEN}`,
      "Content-Type": "application/json",
    });
    headers.set("Idempotency-Key", key);
    const response = await app.send(
      new Request("http://argo.test/api/signals", {
        method: "POST",
        headers,
        body: JSON.stringify(untimed()),
      }),
    );
    expect(response.status).toBe(400);
    expect((await problemOf(response)).errors?.[0]?.field).toBe("Idempotency-Key");
    expect(count(app)).toBe(0);
  });

  test("the key itself is not kept", async () => {
    await using app = await openApp({ fixture: null });
    await written(await keyed(app, "a-secret-of-the-producer", untimed()));
    const kept = app.engine.query("SELECT * FROM argo_idempotency").all();
    expect(kept).toHaveLength(1);
    expect(JSON.stringify(kept)).not.toContain("a-secret-of-the-producer");
  });
});

describe("many posts in one commit", () => {
  test("a table changed while they wait for the lock is read again before anything is written", async () => {
    await using app = await openApp();
    expect((await app.post(signal())).status).toBe(201);
    const before = count(app);
    const { engine } = app;
    engine.run("BEGIN IMMEDIATE");
    engine.run("ALTER TABLE signals ADD COLUMN note TEXT");
    const posted = app.post(signal({ symbol: "NDX" }));
    // By now it has been read for the table as it was, and waits for the lock (up to 2 s).
    await Bun.sleep(500);
    engine.run("COMMIT");
    const response = await posted;
    expect(response.status).toBe(503);
    expect((await problemOf(response)).detail).toContain("changed");
    expect(count(app)).toBe(before);
    expect((await app.post(signal({ symbol: "NDX" }))).status).toBe(201);
    expect(count(app)).toBe(before + 1);
  });

  test("a post that fails takes no other with it", async () => {
    await using app = await openApp({ fixture: null });
    const bodies = Array.from({ length: 60 }, (_, i) =>
      i % 3 === 0
        ? [signal({ symbol: `A${i}` }), signal({ symbol: `B${i}`, supersedes: 999_999 })]
        : [
            signal({ symbol: `A${i}` }),
            signal({ symbol: `B${i}`, confidence: i % 3 === 1 ? 1 : -1 }),
          ],
    );
    const answers = await Promise.all(bodies.map((body) => app.post(body)));
    expect(answers.map((answer) => answer.status)).toEqual(
      bodies.map((_, i) => (i % 3 === 1 ? 201 : 422)),
    );
    const kept = rowsOf(app.engine).map((row) => row["symbol"]);
    const wanted = bodies.flatMap((_, i) => (i % 3 === 1 ? [`A${i}`, `B${i}`] : []));
    expect(kept.toSorted()).toEqual(wanted.toSorted());
  });

  test("ids strictly increase, also past rows that were deleted", async () => {
    await using app = await openApp({ fixture: null });
    const [first] = await written(await app.post(signal()));
    app.engine.run("DELETE FROM signals");
    const [second] = await written(await app.post(signal()));
    expect(second).toEqual({ id: 2, sha256: first?.sha256 ?? "", duplicate: false });
  });
});

describe("bodies that are on their way", () => {
  const HEAD = `Host: localhost\r\nContent-Type: application/json\r\n`;
  const AUTHORIZED = `POST /api/signals HTTP/1.1\r\n${HEAD}Authorization: Bearer ${WRITE_TOKEN}\r\n`;
  const HOOK = `POST /api/hooks/${WRITE_TOKEN}?template=signal HTTP/1.1\r\n${HEAD}`;
  const CHUNKED = "Transfer-Encoding: chunked\r\n";
  const SLOTS = 64;

  test("have 64 MiB together: past that 503 until one is gone, and who comes alone has room", async () => {
    await using app = await openApp({ fixture: null });
    const url = new URL(app.listen());
    let answered = 0;
    const begin = (head: string) =>
      Bun.connect({
        hostname: url.hostname,
        port: Number(url.port),
        socket: {
          open: (socket) => void socket.write(`${head}\r\n`),
          data: () => void (answered += 1),
        },
      });
    const post = (path: string, at: number, padding = 0) =>
      fetch(new URL(path, url), {
        method: "POST",
        headers: { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" },
        body: JSON.stringify(signal({ symbol: `S${at}` })) + " ".repeat(padding),
      });
    // A body of a length that is not said may be as long as is permitted.
    const whole = [`${AUTHORIZED}Content-Length: ${1024 * 1024}\r\n`, AUTHORIZED + CHUNKED];
    const sockets = await Promise.all(
      Array.from({ length: SLOTS - 1 }, (_, i) => begin(whole[i % 2] ?? "")),
    );
    sockets.push(await begin(`${AUTHORIZED}Content-Length: ${1024 * 1024 - 64 * 1024}\r\n`));
    sockets.push(await begin(`${HOOK}Content-Length: ${64 * 1024}\r\n`));
    await until(async () => (await post("/api/signals", 0)).status === 503, "it is full");
    for (const path of ["/api/signals", `/api/hooks/${WRITE_TOKEN}?template=signal`]) {
      const refused = await post(path, 1);
      expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "1"]);
      expect((await problemOf(refused)).detail).toContain("Nothing was written");
    }
    // Who may not write takes no room, and is told so.
    const stranger = await fetch(new URL("/api/signals", url), { method: "POST", body: "{}" });
    expect(stranger.status).toBe(401);
    expect((await fetch(new URL("/api/signals/latest", url))).status).toBe(200);
    const rows = count(app);
    sockets.pop()?.terminate();
    await until(async () => (await post("/api/signals", 2)).status === 201, "there is room again");
    expect(count(app)).toBe(rows + 1);
    for (const socket of sockets) socket.terminate();
    await until(async () => {
      const posts = Array.from({ length: 8 }, (_, i) => post("/api/signals", i, 1_048_000));
      const statuses = (await Promise.all(posts)).map(({ status }) => status);
      return statuses.every((status) => status === 201);
    }, "what the others held is given back");
    expect(answered).toBe(0);
  });
});
