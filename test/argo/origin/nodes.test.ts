import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type App, fieldsOf, problemOf, signal, WRITE_TOKEN } from "../../harness/app.ts";
import { randomNumbers, tellSeed } from "../../harness/seed.ts";
import { type Sqld, sqld } from "../../harness/sqld.ts";
import { exported, health, openNode, posted, reaches } from "./nodes.ts";

type Sent = { id: number; duplicate: boolean };

let origin: Sqld;
let nodes: App[];
let one: App;
let two: App;
let three: App;

beforeAll(async () => {
  origin = await sqld();
  // At once: which of them makes the tables is nobody's business.
  nodes = await Promise.all([openNode(origin), openNode(origin), openNode(origin)]);
  [one, two, three] = nodes as [App, App, App];
});
afterAll(async () => {
  await Promise.all(nodes.map((node) => node[Symbol.asyncDispose]()));
  await origin[Symbol.asyncDispose]();
});

let minutes = 0;
/** A content of its own each time. */
const fresh = (more: Record<string, unknown> = {}) => {
  minutes += 1;
  const timestamp = new Date(Date.UTC(2026, 0, 1, 0, minutes)).toISOString();
  return signal({ timestamp, ...more });
};

const total = async (): Promise<number> => {
  const { rows } = await origin.client.execute("SELECT count(*) AS n FROM signals");
  return Number(rows[0]?.["n"]);
};

describe("signals at a libSQL server", () => {
  test("what one node takes, all serve alike: ids, arrivals, hashes and corrections", async () => {
    const [first = 0] = await posted(one, fresh());
    const ids = await posted(two, [fresh({ supersedes: first }), fresh({ stop_price: null })]);
    const last = ids.at(-1) ?? 0;
    await Promise.all(nodes.map((node) => reaches(node, last)));
    const [a = [], b = [], c = []] = await Promise.all(nodes.map(exported));
    expect(a).toEqual(b);
    expect(a).toEqual(c);
    const row = a.find(({ id }) => id === ids[0]);
    expect(row?.["supersedes"]).toBe(first);
    expect(row?.received_at).toMatch(/^\d{4}-.*Z$/);
    expect(row?.["sha256"]).toMatch(/^[0-9a-f]{64}$/);
    expect(await one.json<object>("/api/stats")).toEqual(await three.json<object>("/api/stats"));
  });

  test("a cursor of one node's list goes on at another", async () => {
    const ids = await posted(one, [fresh(), fresh(), fresh()]);
    await reaches(three, ids.at(-1) ?? 0);
    const page = await one.json<{ next_cursor: string }>("/api/signals?limit=1");
    const next = await three.get(`/api/signals?limit=1&cursor=${page.next_cursor}`);
    expect(next.status).toBe(200);
  });

  test("the same content at another node is the same row; numbers keep every digit", async () => {
    const numbers = { entry_price: 0.37520678358491383, confidence: 97.12345678901234 };
    const body = fresh({ ...numbers, stop_price: 0.3, target_price: 0.5 });
    const [id = 0] = await posted(one, body);
    expect(await posted(two, body)).toEqual([id]);
    const again = await posted(three, [body, fresh(), body]);
    expect([again[0], again[2]]).toEqual([id, id]);
    await reaches(two, id);
    expect(await two.json<object>(`/api/signals/${id}`)).toMatchObject(numbers);
  });

  test("twenty posts with one key to three nodes at once are one row", async () => {
    const before = await total();
    const body = JSON.stringify(fresh({ timestamp: undefined }));
    const send = async (i: number): Promise<string> => {
      for (;;) {
        const node = nodes[i % 3] as App;
        const response = await node.post(body, { "Idempotency-Key": "one-of-twenty" });
        const text = await response.text();
        if (response.status === 201) return text;
        // Being written by another one, or the server locked meanwhile.
        expect([409, 503]).toContain(response.status);
        await Bun.sleep(10);
      }
    };
    const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => send(i)));
    expect(new Set(answers).size).toBe(1);
    expect(await total()).toBe(before + 1);
    const other = await two.post(fresh(), { "Idempotency-Key": "one-of-twenty" });
    expect(await fieldsOf(other)).toEqual(["Idempotency-Key"]);
    const replayed = await three.post(body, { "Idempotency-Key": "one-of-twenty" });
    expect(replayed.headers.get("idempotency-replayed")).toBe("true");
  });

  test("an alert that is sent to three nodes at once, and again, is one row", async () => {
    const before = await total();
    const address = `http://argo.test/api/hooks/${WRITE_TOKEN}?template=tradingview&confidence=80`;
    const body = JSON.stringify({ ticker: "ALERT", action: "buy", price: "1.5" });
    const send = async (i: number): Promise<Sent> => {
      for (;;) {
        const node = nodes[i % 3] as App;
        const response = await node.send(new Request(address, { method: "POST", body }));
        const text = await response.text();
        if (response.status === 201) return (JSON.parse(text) as { signals: [Sent] }).signals[0];
        // The server was locked for longer than an alert is kept waiting.
        expect(response.status).toBe(503);
      }
    };
    const rows = await Promise.all(Array.from({ length: 20 }, (_, i) => send(i)));
    expect(new Set(rows.map(({ id }) => id)).size).toBe(1);
    expect(rows.filter(({ duplicate }) => !duplicate).length).toBeLessThanOrEqual(1);
    expect(await total()).toBe(before + 1);
  });

  test("a post is written wholly or not at all, and its neighbours all the same", async () => {
    const before = await total();
    const [known = 0] = await posted(one, fresh());
    const bad = [fresh(), fresh({ supersedes: 999_999 })];
    const [refused, taken, invalid] = await Promise.all([
      one.post(bad),
      one.post([fresh(), fresh({ supersedes: known })]),
      one.post(fresh({ confidence: 101 })),
    ]);
    expect((await problemOf(refused)).errors).toEqual([
      { field: "supersedes", detail: "there is no signal 999999", index: 1 },
    ]);
    expect([refused.status, taken.status, invalid.status]).toEqual([422, 201, 422]);
    expect(await total()).toBe(before + 3);
  });

  test("a correction that contradicts is 409 at every node", async () => {
    const [first, second] = await posted(one, [fresh(), fresh()]);
    const correction = fresh();
    await posted(two, { ...correction, supersedes: first });
    expect((await three.post({ ...correction, supersedes: second })).status).toBe(409);
    expect((await three.post({ ...correction, supersedes: first })).status).toBe(201);
  });

  test("posts that arrive together share a transaction", async () => {
    const { commits } = one.deps.argo.writer;
    await Promise.all(Array.from({ length: 200 }, () => posted(one, fresh())));
    expect(one.deps.argo.writer.commits - commits).toBeLessThan(20);
  });

  test("nodes that write at once take turns: each post is written, once, by an id of its own", async () => {
    const posts = Array.from({ length: 90 }, (_, i) => posted(nodes[i % 3] as App, fresh()));
    const ids = (await Promise.all(posts)).flat();
    expect(new Set(ids).size).toBe(90);
  });

  test("an engine that writes there directly is copied as it writes, with when it arrived", async () => {
    const { rows } = await origin.client.execute(
      `INSERT INTO signals (symbol, action, entry_price, confidence, strategy, timestamp)
       VALUES ('ENG', 'BUY', 1.5, 'high', NULL, 'yesterday') RETURNING id`,
    );
    const id = Number(rows[0]?.["id"]);
    await reaches(two, id);
    const row = await two.json<Record<string, unknown>>(`/api/signals/${id}`);
    expect(row).toMatchObject({ symbol: "ENG", confidence: null, timestamp: "yesterday" });
    expect(row["strategy"]).toBe("weighted_consensus");
    expect(row["received_at"]).toMatch(/Z$/);
    // What it changes afterwards is not copied, and stops nobody.
    await origin.client.execute({
      sql: "UPDATE signals SET symbol = 'E2' WHERE id = ?",
      args: [id],
    });
    const [next = 0] = await posted(one, fresh());
    await reaches(two, next);
    expect(await two.json<object>(`/api/signals/${id}`)).toMatchObject({ symbol: "ENG" });
  });

  test("whatever an engine writes is copied as it is, each number to its last bit", async () => {
    const random = randomNumbers();
    tellSeed();
    const bits = (): number => {
      const view = new DataView(new ArrayBuffer(8));
      view.setUint32(0, random() * 2 ** 32);
      view.setUint32(4, random() * 2 ** 32);
      const value = view.getFloat64(0);
      return Number.isFinite(value) ? value : 0.1;
    };
    const rows = Array.from({ length: 300 }, (_, i): (string | number | Uint8Array | null)[] => [
      i % 7 === 0 ? new Uint8Array([0, 255, i % 256]) : `"\\ü\n${i}`,
      i % 11 === 0 ? 5 : "BUY",
      i % 2 === 0 ? bits() : random() * 10 ** (i % 12),
      i % 5 === 0 ? null : bits(),
      i % 3 === 0 ? "high" : bits(),
      i % 13 === 0 ? new Uint8Array([1]) : `2026-01-${i}`,
    ]);
    await origin.client.batch(
      rows.map((args) => ({
        sql: "INSERT INTO signals (symbol, action, entry_price, stop_price, confidence, timestamp) VALUES (?, ?, ?, ?, ?, ?)",
        args,
      })),
      "write",
    );
    await origin.client.execute("UPDATE signals SET target_price = 9e999 WHERE id % 17 = 0");
    const [last = 0] = await posted(one, fresh());
    await using node = await openNode(origin);
    await reaches(node, last);
    const columns =
      "id, symbol, action, entry_price, stop_price, CAST(target_price AS TEXT) AS target, confidence, strategy, timestamp, sha256";
    const { rows: there } = await origin.client.execute(
      `SELECT ${columns} FROM signals ORDER BY id`,
    );
    const here: unknown = node.engine.query(`SELECT ${columns} FROM signals ORDER BY id`).values();
    const plain = (value: unknown): unknown =>
      value instanceof ArrayBuffer ? new Uint8Array(value) : value;
    // What was changed after it was copied elsewhere is what a new node copies.
    expect(here).toEqual(
      there.map((row) => Array.from({ length: row.length }, (_, i) => plain(row[i]))),
    );
  });

  test("a client reads its own write at any node, by min_id", async () => {
    for (let i = 0; i < 10; i += 1) {
      const response = await one.post(fresh({ symbol: `OWN${i}` }));
      const head = response.headers.get("signal-head");
      const { signals } = (await response.json()) as {
        signals: { id: number; sha256: string }[];
      };
      expect(head).toBe(String(signals[0]?.id));
      const single = [`/api/signals/${head}`, `/api/signals/hash/${signals[0]?.sha256}`];
      const [byId, byHash] = await Promise.all(
        single.map((path) => two.json<{ id: number }>(`${path}?min_id=${head}`)),
      );
      expect([byId?.id, byHash?.id]).toEqual([Number(head), Number(head)]);
      for (const path of ["/latest?", "?", "/latest?wait=0&"]) {
        const answer = await two.get(`/api/signals${path}limit=1&symbol=OWN${i}&min_id=${head}`);
        expect(await answer.text()).toContain(`"id":${head}`);
      }
      const stats = await three.json<{ by_symbol: object }>(`/api/stats?min_id=${head}`);
      expect(stats.by_symbol).toMatchObject({ [`OWN${i}`]: 1 });
      const since = Number(head) - 1;
      const rest = await three.get(`/api/signals/export?since_id=${since}&min_id=${head}`);
      expect(await rest.text()).toContain(`OWN${i}`);
    }
  });

  test("a node that has yet to copy something says so, and is no worse for that", async () => {
    await using node = await openNode(origin, { env: { LIBSQL_POLL_MS: "10000" } });
    expect(await health(node)).toMatchObject({ status: "healthy", checks: { origin: "healthy" } });
    const state = { id: 5_000, headId: 9_000, whole: true, up: true, stopped: null };
    const behind = { ...state, current: false, rows: 5_000, copies: true };
    node.deps.argo.node?.apply({ state: behind, reason: null });
    expect(await health(node)).toMatchObject({ status: "healthy", checks: { origin: "starting" } });
  });

  test("what no node has is 503, never an older answer; what is no id is 400", async () => {
    const late = await two.get("/api/signals/latest?min_id=999999");
    expect(late.status).toBe(503);
    expect(late.headers.get("retry-after")).toBe("1");
    expect(await fieldsOf(await two.get("/api/signals/latest?min_id=-1"))).toEqual(["min_id"]);
    for (const path of ["", "/1", `/hash/${"0".repeat(64)}`]) {
      expect((await two.get(`/api/signals${path}?min_id=999999`)).status).toBe(503);
      expect(await fieldsOf(await two.get(`/api/signals${path}?min_id=x`))).toEqual(["min_id"]);
    }
  });
});
