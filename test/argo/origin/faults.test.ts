import { describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import pino from "pino";
import { Origin } from "../../../src/argo/origin/origin.ts";
import type { AppError } from "../../../src/errors.ts";
import { originCheck } from "../../../src/cli/doctor-origin.ts";
import { openApp, problemOf } from "../../harness/app.ts";
import { Events } from "../../harness/events.ts";
import { startServer, tempDir, until } from "../../harness/process.ts";
import { tcpProxy } from "../../harness/proxy.ts";
import { sqld } from "../../harness/sqld.ts";
import {
  exported,
  fresh,
  health,
  isDegraded,
  isHealthy,
  openNode,
  posted,
  reaches,
  type Row,
} from "./nodes.ts";

describe("the libSQL server", () => {
  test("killed: reads go on, posts are 503, and it goes on by itself", async () => {
    await using origin = await sqld();
    await using node = await openNode(origin);
    const [first = 0] = await posted(node, fresh());
    await reaches(node, first);
    await origin.kill();
    const refused = await node.post(fresh());
    expect(refused.status).toBe(503);
    expect(refused.headers.get("retry-after")).toMatch(/^\d+$/);
    expect((await node.get("/api/signals/latest")).status).toBe(200);
    await isDegraded(node);
    expect((await health(node)).status).toBe("degraded");
    expect((await node.get("/readyz")).status).toBe(200);
    await origin.start();
    await isHealthy(node);
    expect(await posted(node, fresh())).toEqual([first + 1]);
  });

  test("an answer that is lost acknowledges nothing, and the same post again is the same row", async () => {
    await using origin = await sqld();
    await using proxy = await tcpProxy({ port: origin.port });
    await using node = await openNode(
      { url: `http://127.0.0.1:${proxy.port}` },
      // So that its own looks are not among what is cut.
      { env: { LIBSQL_POLL_MS: "60000" } },
    );
    const body = fresh();
    let statuses = "";
    // Cut at different moments of a transaction, the time after its commit among them.
    for (let delayMs = 0; delayMs < 12; delayMs += 1) {
      const response = node.post(fresh({ symbol: `LOST${delayMs}` }));
      await Bun.sleep(delayMs / 2);
      proxy.cut();
      statuses += `${(await response).status} `;
      proxy.restore();
    }
    expect(statuses).toMatch(/503/);
    expect((await node.post(body)).status).toBe(201);
    const taken = statuses.trim().split(" ");
    const { rows } = await origin.client.execute("SELECT symbol FROM signals");
    const written = new Set(rows.map((row) => row["symbol"]));
    for (const [i, status] of taken.entries()) {
      if (status === "201") expect(written.has(`LOST${i}`)).toBe(true);
    }
  });

  test("a node that is far away is not kept from writing by one that is near", async () => {
    await using origin = await sqld();
    await using proxy = await tcpProxy({ port: origin.port });
    await using far = await openNode({ url: `http://127.0.0.1:${proxy.port}` });
    await using near = await openNode(origin);
    await posted(far, fresh());
    proxy.delay(75);
    const ended = new AbortController();
    const taken: number[] = [];
    const busy = async (): Promise<void> => {
      while (!ended.signal.aborted) taken.push(...(await posted(near, fresh())));
    };
    const neighbours = Promise.all([busy(), busy()]);
    // On a busy machine it may be told to come back now and then, not each time.
    let refused = 0;
    for (let i = 0; i < 4;) {
      const ids = await posted(far, fresh(), 1).catch((error: unknown) => String(error));
      if (typeof ids === "string") {
        expect(ids).toContain("503");
        refused += 1;
        if (refused > 4) break;
      } else {
        taken.push(...ids);
        i += 1;
      }
    }
    expect(refused).toBeLessThanOrEqual(4);
    const before = taken.length;
    await until(() => taken.length > before, "the near one goes on");
    ended.abort();
    await neighbours;
    expect(new Set(taken).size).toBe(taken.length);
  });

  test("a stream that goes on at a node that is behind waits for it, and is not told that it is ahead", async () => {
    await using origin = await sqld();
    await using node = await openNode(origin, { env: { LIBSQL_POLL_MS: "60000" } });
    const insert =
      "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES ('A', 'BUY', 1, 50, '2026') RETURNING id";
    for (const path of ["stream?since_id=1", "latest?min_id=2"]) {
      await origin.client.execute(insert);
      const response = await node.get(`/api/signals/${path}`);
      expect(response.status).toBe(200);
      if (!path.startsWith("stream")) continue;
      await using events = new Events(response);
      expect((await events.must("head")).id).toBe(1);
    }
  });

  test("a token that is refused is named, and stands nowhere, though the server says it", async () => {
    const token = "canary-of-the-libsql-token";
    await using gate = refusing();
    using dir = tempDir();
    await using node = await startServer({
      env: {
        DATA_DIR: dir.path,
        LIBSQL_URL: gate.url,
        LIBSQL_AUTH_TOKEN: token,
        ARGO_WRITE_TOKEN: "the-writer-of-this-test",
        LOG_LEVEL: "trace",
        SHUTDOWN_DELAY_SECONDS: "0",
      },
    });
    const told = () => node.logs().find((line) => line.includes("refuses LIBSQL_AUTH_TOKEN"));
    await until(() => told() !== undefined, "a line that names the token");
    const response = await fetch(`${node.url}/api/signals`, {
      method: "POST",
      headers: {
        Authorization: "Bearer the-writer-of-this-test",
        "Content-Type": "application/json",
      },
      body: JSON.stringify(fresh()),
    });
    expect(response.status).toBe(503);
    const metrics = await (await fetch(`${node.url}/metrics`)).text();
    const all = [await response.text(), metrics, ...node.logs()].join("\n");
    expect(gate.asked()).toBeGreaterThan(0);
    expect(all).not.toContain(token);
    using origin = new Origin({ url: gate.url, token }, 1_000);
    const error = await origin.read(["SELECT 1"]).catch((thrown: AppError) => thrown);
    expect(String((error as AppError).cause)).toContain("no: Bearer …");
  });
});

test("a node waits for no server that says nothing, and asks one that fails no more for rumours", async () => {
  await using origin = await sqld();
  await using proxy = await tcpProxy({ port: origin.port });
  const node = await openNode({ url: `http://127.0.0.1:${proxy.port}` });
  proxy.cut();
  await isDegraded(node);
  const before = proxy.accepted();
  let begunAt = performance.now();
  for (let i = 0; i < 200; i += 1) {
    node.deps.argo.writer.tail(false);
    await Bun.sleep(1);
  }
  // Each half a second, however long the rumours took.
  const looks = (performance.now() - begunAt) / 500;
  expect(proxy.accepted() - before).toBeLessThan(5 + 2 * looks);
  proxy.restore();
  await isHealthy(node);
  proxy.blackhole();
  node.deps.argo.writer.tail(false);
  await Bun.sleep(50);
  begunAt = performance.now();
  await node[Symbol.asyncDispose]();
  // A request may take a second and a half.
  expect(performance.now() - begunAt).toBeLessThan(1_400);
});

test("thousands of rumours in one moment are one look, and keep no post out", async () => {
  await using origin = await sqld();
  await using node = await openNode(origin, { env: { LIBSQL_POLL_MS: "60000" } });
  const looks = () => node.deps.argo.node?.looks ?? 0;
  const before = looks();
  for (let i = 0; i < 5_000; i += 1) node.deps.argo.writer.tail(false);
  const [id = 0] = await posted(node, fresh());
  await reaches(node, id);
  expect(looks() - before).toBeWithin(1, 10);
});

test("where a server sends elsewhere, nothing is told there", async () => {
  await using gate = refusing();
  for (const status of [301, 307, 308]) {
    await using sends = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: () => Response.redirect(`${gate.url}/other`, status),
    });
    using origin = new Origin({ url: `http://127.0.0.1:${sends.port}`, token: "t" }, 1_000);
    const error = await origin.read(["SELECT 1"]).catch((thrown: AppError) => thrown);
    expect(String((error as AppError).cause)).toContain(`${status}`);
  }
  expect(gate.asked()).toBe(0);
});

/** A server that refuses everything, and says what it was told. */
function refusing(): AsyncDisposable & { url: string; asked: () => number } {
  let asked = 0;
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: (request) => {
      asked += 1;
      const message = `no: ${request.headers.get("authorization")}`;
      const headers = { "Content-Type": "application/json" };
      const body = JSON.stringify({ message, code: "AUTH_REFUSED" });
      return new Response(body, { status: 401, headers });
    },
  });
  return {
    url: `http://127.0.0.1:${server.port}`,
    asked: () => asked,
    [Symbol.asyncDispose]: () => server.stop(true),
  };
}

describe("a node refuses to go backwards", () => {
  test("an older backup: it serves what it has, says how to go on, and does when it is mended", async () => {
    await using origin = await sqld();
    await using node = await openNode(origin);
    await posted(node, [fresh(), fresh()]);
    await origin.stop();
    origin.save();
    await origin.start();
    await isHealthy(node);
    const [third = 0] = await posted(node, fresh());
    await reaches(node, third);
    const before = await exported(node);
    expect(await originCheck(node.deps.config)).toMatchObject({ status: "ok" });

    const ahead = () => Date.now() + 90_000;
    expect(await originCheck(node.deps.config, ahead)).toMatchObject({
      status: "warn",
      detail: expect.stringContaining("90 s apart"),
    });

    await origin.stop();
    origin.restore();
    await origin.start();
    await until(() => node.deps.argo.node?.stopped != null, "a node that stops");
    expect(node.deps.argo.node?.stopped).toContain("restored to an older state");
    const refused = await problemOf(await node.post(fresh()));
    expect(refused.status).toBe(503);
    expect(refused.detail).toContain("Put the newer database back");
    expect((await health(node)).status).toBe("degraded");
    expect((await node.get("/readyz")).status).toBe(200);
    expect(await exported(node)).toEqual(before);
    expect(await originCheck(node.deps.config)).toMatchObject({
      status: "fail",
      detail: expect.stringContaining("restored to an older state"),
    });

    // Others go on writing there, past where this node was: then the same ids are other rows.
    for (let i = 0; i < 3; i += 1) {
      await origin.client.execute(
        "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES ('NEW', 'BUY', 1, 50, '2026-01-01')",
      );
    }
    await until(
      () => node.deps.argo.node?.stopped?.includes(`another signal ${third}`) === true,
      "the other signal to be noticed",
    );
    expect((await node.post(fresh())).status).toBe(503);
    expect(await exported(node)).toEqual(before);
  });

  test("somebody else writes into its file", async () => {
    await using origin = await sqld();
    await using node = await openNode(origin);
    const [id = 0] = await posted(node, fresh());
    await reaches(node, id);
    node.engine.run(
      "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES ('X', 'BUY', 1, 50, '2026')",
    );
    await origin.client.execute(
      "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES ('Y', 'BUY', 1, 50, '2026')",
    );
    await until(() => node.deps.argo.node?.stopped != null, "a node that stops");
    expect(node.deps.argo.node?.stopped).toContain("somebody else writes into it");
  });

  test("a file with signals of its own is no copy, and a copy is no file of its own", async () => {
    await using origin = await sqld();
    const own = openApp({ env: { LIBSQL_URL: origin.url } });
    await expect(own).rejects.toThrow("holds signals of its own");
    await own.catch(() => undefined);
    using dir = tempDir();
    {
      await using node = await openNode(origin, { dir: dir.path });
      await posted(node, fresh());
    }
    const alone = openApp({ dir: dir.path, fixture: null });
    await expect(alone).rejects.toThrow("is a copy of the signals at a libSQL server");
    await alone.catch(() => undefined);
  });
});

describe("an engine that writes at the server", () => {
  const insert = (values: string) =>
    `INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES (${values})`;

  test("may change its newest row: what was copied stays, and the next ones are copied", async () => {
    await using origin = await sqld();
    await using node = await openNode(origin);
    const [id = 0] = await posted(node, fresh());
    await reaches(node, id);
    const looks = node.deps.argo.node?.looks ?? 0;
    await origin.client.execute(`UPDATE signals SET strategy = 'later' WHERE id = ${id}`);
    await until(() => (node.deps.argo.node?.looks ?? 0) > looks + 1, "two looks");
    const [next = 0] = await posted(node, fresh());
    await reaches(node, next);
    expect((await exported(node)).map(({ strategy }) => strategy)).not.toContain("later");
  });

  test("keeps no node from going on by texts that are no UTF-8, nor by numbers without end", async () => {
    await using origin = await sqld();
    await using node = await openNode(origin);
    for (const values of [
      "CAST(x'ff41' AS TEXT), 'BUY', 1, 1, '2026'",
      "x'c3bc', 'BUY', 9e999, -9e999, '2026'",
      "'caf\u00e9', 'BUY', 'text', x'0102', CAST(x'e9' AS TEXT)",
      // What looks for such texts looks no further than to a NUL.
      "CAST(x'4100ff' AS TEXT), 'BUY', 1, 1, CAST(x'00' AS TEXT)",
    ]) {
      await origin.client.execute(insert(values));
    }
    const [id = 0] = await posted(node, fresh());
    await reaches(node, id);
    const rows = await exported(node);
    expect(rows.map(({ symbol }) => symbol).slice(0, 4)).toEqual([
      "\ufffdA",
      "\u00fc",
      "caf\u00e9",
      "A\0\ufffd",
    ]);
    const stored = node.engine
      .query("SELECT entry_price, confidence FROM signals WHERE id = 2")
      .get();
    expect(stored).toEqual({ entry_price: Infinity, confidence: -Infinity });
  });

  test("may use an id that no client could read: the nodes name it, and go on without it", async () => {
    await using origin = await sqld();
    await using node = await openNode(origin);
    await origin.client.execute(
      "INSERT INTO signals VALUES (9007199254740993, 'A', 'BUY', 1, NULL, NULL, 1, 's', '2026', NULL)",
    );
    expect((await problemOf(await node.post(fresh()))).detail).toContain("above 2^53");
    await origin.client.execute("DELETE FROM signals");
    await origin.client.execute("UPDATE sqlite_sequence SET seq = 0 WHERE name = 'signals'");
    expect(await posted(node, fresh())).toEqual([1]);
  });

  test("may use the number 0, which is nobody's place", async () => {
    await using origin = await sqld();
    await using node = await openNode(origin);
    const row = "'A', 'BUY', 1, NULL, NULL, 1, 's', '2026', NULL";
    await origin.client.execute(`INSERT INTO signals VALUES (0, ${row})`);
    const [id = 0] = await posted(node, fresh());
    await reaches(node, id);
  });

  test("is told which row is too large to be copied, and without it all go on", async () => {
    const lines: string[] = [];
    const log = pino({ base: undefined }, { write: (line: string) => lines.push(line) });
    await using origin = await sqld();
    await using node = await openNode(origin, { log });
    await origin.client.execute(insert("zeroblob(4000000), 'BUY', 1, 1, '2026'"));
    await until(
      () => lines.some((line) => line.includes("signal after 0 at the libSQL server is too large")),
      "a line that names it",
    );
    await origin.client.execute("DELETE FROM signals");
    const [id = 0] = await posted(node, fresh());
    await reaches(node, id);
  });

  test("may delete its newest row: nothing is missing at whoever does not copy, either", async () => {
    await using origin = await sqld();
    using dir = tempDir();
    await using one = await openNode(origin, { dir: dir.path });
    await using two = await openNode(origin, { dir: dir.path });
    const [id = 0] = await posted(one, fresh());
    await origin.client.batch([
      insert("'A', 'BUY', 1, 1, '2026'"),
      "DELETE FROM signals WHERE symbol = 'A'",
    ]);
    await reaches(two, id);
    const looks = two.deps.argo.node?.looks ?? 0;
    await until(() => (two.deps.argo.node?.looks ?? 0) > looks + 1, "two looks that miss nothing");
  });
});

describe("a node", () => {
  test("goes on where it was after a restart, and where a backup of another one was", async () => {
    await using origin = await sqld();
    using dir = tempDir();
    using other = tempDir();
    await using first = await openNode(origin);
    const ids = await posted(
      first,
      Array.from({ length: 50 }, () => fresh()),
    );
    {
      await using node = await openNode(origin, { dir: dir.path });
      await reaches(node, ids.at(-1) ?? 0);
      using file = new Database(node.db, { readonly: true });
      file.query("VACUUM INTO ?").run(other.file("signals.db"));
    }
    const more = await posted(
      first,
      Array.from({ length: 50 }, () => fresh()),
    );
    for (const { path } of [dir, other]) {
      await using node = await openNode(origin, { dir: path });
      await reaches(node, more.at(-1) ?? 0);
      expect(node.deps.argo.node?.rows).toBe(50);
      expect(await exported(node)).toEqual(await exported(first));
    }
  });

  test("a file that was served by itself becomes the server's, with all that was noted", async () => {
    using dir = tempDir();
    const keyed = fresh({ timestamp: undefined });
    const key = { "Idempotency-Key": "from-before" };
    let before: unknown;
    let answer: string;
    const env = { SIGNALS_RETENTION_DAYS: "1" };
    const old = fresh();
    {
      await using alone = await openApp({ dir: dir.path, now: Date.now(), env });
      await posted(alone, old);
      alone.clock.ms += 2 * 86_400_000;
      const [id = 0] = await posted(alone, fresh());
      await alone.deps.argo.writer.forget();
      await posted(alone, fresh({ supersedes: id }));
      answer = await (await alone.post(keyed, key)).text();
      before = await exported(alone);
    }
    await using origin = await sqld((path) => {
      using file = new Database(`${dir.path}/signals.db`);
      file.query("VACUUM INTO ?").run(path);
    });
    await using node = await openNode(origin);
    expect(await exported(node)).toEqual(before as Row[]);
    expect(await (await node.post(keyed, key)).text()).toBe(answer);
    // Deleted there for its age, and still known.
    expect(await posted(node, old)).toEqual([3_490]);
    expect((await exported(node)).at(-1)?.id).toBe(3_493);
    const gap = await node.get("/api/signals/export?since_id=1");
    expect(gap.headers.get("signal-gap")).toBe("from=2, to=3490");
    await gap.body?.cancel();
    expect(await posted(node, fresh())).toEqual([3_494]);
  });

  test("two on one file copy each row once, and both know of it", async () => {
    await using origin = await sqld();
    using dir = tempDir();
    await using one = await openNode(origin, { dir: dir.path });
    await using two = await openNode(origin, { dir: dir.path });
    const posts = Array.from({ length: 40 }, (_, i) => posted(i % 2 ? one : two, fresh()));
    const ids = (await Promise.all(posts)).flat();
    await reaches(one, Math.max(...ids));
    await reaches(two, Math.max(...ids));
    const rows = await exported(two);
    expect(rows.map(({ id }) => id)).toEqual(ids.toSorted((a, b) => a - b));
    expect((await health(two)).status).toBe("healthy");
  });

  test("keys that are past their time are forgotten at the server, a few at a time", async () => {
    await using origin = await sqld();
    await using node = await openNode(origin);
    const key = { "Idempotency-Key": "young" };
    expect((await node.post(fresh(), key)).status).toBe(201);
    await origin.client.execute(
      `WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
       INSERT INTO argo_idempotency SELECT 'old' || i, '', '{}', '2020' FROM n`,
    );
    await node.deps.argo.writer.forget();
    const { rows } = await origin.client.execute("SELECT count(*) AS keys FROM argo_idempotency");
    expect(Number(rows[0]?.["keys"])).toBe(1);
  });

  test("copies what the process that is to copy into its file does not", async () => {
    await using origin = await sqld();
    using dir = tempDir();
    await using node = await openNode(origin, { dir: dir.path });
    // As one that hangs: the lock is held, and nothing is done.
    await using other = await openNode(origin, { dir: dir.path });
    await node.deps.argo.writer.refuse("hangs");
    await origin.client.execute(
      "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES ('A', 'BUY', 1, 1, '2026')",
    );
    await reaches(other, 1);
  });

  test("old signals are deleted at the server once, on each node by itself, and stay known", async () => {
    await using origin = await sqld();
    const env = { SIGNALS_RETENTION_DAYS: "1" };
    await using node = await openNode(origin, { env });
    const bodies = [fresh(), fresh(), fresh()];
    const ids = await posted(node, bodies);
    await reaches(node, ids[2] ?? 0);
    node.clock.ms += 3 * 86_400_000;
    await node.deps.argo.writer.forget();
    expect((await exported(node)).map(({ id }) => id)).toEqual([ids[2] as number]);
    const { rows } = await origin.client.execute("SELECT id FROM signals");
    expect(rows.map((row) => row["id"])).toEqual([ids[2] as number]);
    node.clock.ms -= 3 * 86_400_000;
    expect(await posted(node, bodies)).toEqual(ids);
    const [next = 0] = await posted(node, fresh());
    expect(next).toBe((ids[2] ?? 0) + 1);
  });
});
