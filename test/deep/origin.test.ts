import { describe, expect, test } from "bun:test";
import { openApp, problemOf } from "../harness/app.ts";
import { tempDir, until } from "../harness/process.ts";
import { tcpProxy } from "../harness/proxy.ts";
import { redis } from "../harness/servers.ts";
import { sqld } from "../harness/sqld.ts";
import {
  exported,
  fresh,
  health,
  isDegraded,
  isHealthy,
  openNode,
  posted,
  reaches,
} from "../argo/origin/nodes.ts";

describe("the libSQL server", () => {
  test("stopped, killed, silent and cut off: reads go on, posts are 503, nothing is lost", async () => {
    await using origin = await sqld();
    await using proxy = await tcpProxy({ port: origin.port });
    await using near = await openNode(origin);
    await using far = await openNode({ url: `http://127.0.0.1:${proxy.port}` });
    const [first = 0] = await posted(near, fresh());
    await reaches(far, first);
    const faults: [string, () => unknown, () => unknown][] = [
      ["killed", () => origin.kill(), () => origin.start()],
      ["paused", () => origin.pause(), () => origin.resume()],
    ];
    for (const [what, begin, end] of faults) {
      await begin();
      const begun = performance.now();
      const refused = await near.post(fresh());
      expect(`${what} ${refused.status}`).toBe(`${what} 503`);
      expect(refused.headers.get("retry-after")).toMatch(/^\d+$/);
      expect(performance.now() - begun).toBeLessThan(2_500);
      expect((await near.get("/api/signals/latest")).status).toBe(200);
      expect((await near.get("/readyz")).status).toBe(200);
      await isDegraded(near);
      expect((await health(near)).status).toBe("degraded");
      await end();
      await isHealthy(near);
    }
    proxy.cut();
    await isDegraded(far);
    expect((await far.post(fresh())).status).toBe(503);
    const ids = await posted(near, [fresh(), fresh(), fresh()]);
    expect((await far.get(`/api/signals/latest?min_id=${ids[2]}`)).status).toBe(503);
    proxy.restore();
    await reaches(far, ids[2] ?? 0);
    expect(await exported(far)).toEqual(await exported(near));
  });

  test("another database in its place, empty or not", async () => {
    await using origin = await sqld();
    await using node = await openNode(origin);
    await posted(node, fresh());
    await origin.stop();
    origin.save();
    await origin.start();
    await isHealthy(node);
    await origin.client.executeMultiple("DROP TABLE argo_origin");
    await until(() => node.deps.argo.node?.stopped != null, "a node that stops");
    expect(node.deps.argo.node?.stopped).toContain("another database");
    await origin.stop();
    origin.restore();
    await origin.start();
    // The one that it knows is back.
    await isHealthy(node);
    await origin.client.execute("UPDATE argo_origin SET name = 'another'");
    await until(() => node.deps.argo.node?.stopped != null, "a node that stops");
    expect((await node.post(fresh())).status).toBe(503);
  });
});

describe("a node", () => {
  test("is filled over restarts, page by page, also where rows are large", async () => {
    await using origin = await sqld();
    await using first = await openNode(origin);
    await posted(first, fresh());
    await origin.client
      .execute(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
      INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
      SELECT 'S' || i, 'BUY', i + 0.1, 50, '2026-01-01T00:00:00Z' FROM n`);
    // More than the server sends in one answer.
    await origin.client
      .execute(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
      INSERT INTO signals (symbol, action, entry_price, confidence, timestamp)
      SELECT hex(zeroblob(50000)), 'BUY', i + 0.1, 50, '2026-01-01T00:00:00Z' FROM n`);
    const last = 40_401;
    using dir = tempDir();
    const env = { LIBSQL_URL: origin.url, LIBSQL_POLL_MS: "20" };
    let restarts = 0;
    for (;;) {
      await using node = await openApp({ dir: dir.path, fixture: null, now: Date.now(), env });
      const status = node.deps.argo.node;
      const enough = restarts < 3 ? 1 : Infinity;
      await until(
        () => (status?.rows ?? 0) >= enough || status?.filling === null,
        "a node that copies",
        60_000,
      );
      if (status?.filling !== null) {
        expect((await node.get("/api/signals/latest")).status).toBe(503);
        expect((await node.get("/readyz")).status).toBe(503);
        restarts += 1;
        continue;
      }
      await reaches(node, last);
      await reaches(first, last);
      const [here, there] = [await node.get("/api/stats"), await first.get("/api/stats")];
      expect(await here.text()).toBe(await there.text());
      expect((await exported(node)).map(({ id }) => id)).toEqual(
        Array.from({ length: last }, (_, i) => i + 1),
      );
      break;
    }
    expect(restarts).toBeGreaterThan(0);
  });

  test("without a server at its start: what it has is served, and an empty file is not", async () => {
    await using origin = await sqld();
    using dir = tempDir();
    {
      await using node = await openNode(origin, { dir: dir.path });
      await posted(node, fresh());
      await reaches(node, 1);
    }
    await origin.stop();
    const env = { LIBSQL_URL: origin.url, LIBSQL_POLL_MS: "20" };
    await using old = await openApp({ dir: dir.path, fixture: null, env });
    await until(async () => (await old.get("/readyz")).status === 200, "a node that is ready");
    expect(await old.json<unknown[]>("/api/signals/latest")).toHaveLength(1);
    await using empty = await openApp({ fixture: null, env });
    expect((await empty.get("/readyz")).status).toBe(503);
    const refused = await problemOf(await empty.get("/api/signals/latest"));
    expect(refused.detail).toContain("being copied from the libSQL server");
    expect((await empty.post(fresh())).status).toBe(503);
    await origin.start();
    await reaches(old, 1);
    await until(async () => (await empty.get("/readyz")).status === 200, "a node that is ready");
    expect(await exported(empty)).toEqual(await exported(old));
  });

  test("with a server that says nothing at its start is ready within seconds", async () => {
    await using origin = await sqld();
    await using proxy = await tcpProxy({ port: origin.port });
    using dir = tempDir();
    const url = `http://127.0.0.1:${proxy.port}`;
    {
      await using node = await openNode({ url }, { dir: dir.path });
      await posted(node, fresh());
      await reaches(node, 1);
    }
    proxy.blackhole();
    const env = { LIBSQL_URL: url };
    await using node = await openApp({ dir: dir.path, fixture: null, env });
    expect((await node.get("/readyz")).status).toBe(503);
    const ready = async () => (await node.get("/readyz")).status === 200;
    await until(ready, "a node that is ready", 6_000);
    expect(await node.json<unknown[]>("/api/signals/latest")).toHaveLength(1);
  });

  test("is woken by Redis long before it would look", async () => {
    await using origin = await sqld();
    await using cache = await redis();
    const env = { REDIS_URL: cache.url, LIBSQL_POLL_MS: "60000" };
    await using one = await openNode(origin, { env });
    await using two = await openNode(origin, { env });
    await until(async () => {
      const [id = 0] = await posted(one, fresh());
      await Bun.sleep(50);
      return two.deps.argo.reader.look().maxId >= id;
    }, "a subscription");
    const begun = performance.now();
    const [id = 0] = await posted(one, fresh());
    await reaches(two, id);
    expect(performance.now() - begun).toBeLessThan(1_000);
  });
});
