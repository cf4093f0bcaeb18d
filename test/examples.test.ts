import { describe, expect, test } from "bun:test";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { spawnChild, type Child } from "./harness/children.ts";
import { brokenOff, fakeArgo, ndjson } from "./harness/fake-argo.ts";
import { freePort, startEngine, startServer, tempDir, until } from "./harness/process.ts";
import { findTool } from "./harness/tools.ts";

const EXAMPLES = join(import.meta.dir, "../examples");
const LEGACY = join(import.meta.dir, "fixtures/argo-legacy.db");

/** A running bot and the ids that it printed. */
interface Bot extends Child {
  ids(): number[];
}

const BOTS: [name: string, command: () => Promise<string[]>][] = [
  ["poll.py", async () => [(await findTool("python3")).path ?? "python3", `${EXAMPLES}/poll.py`]],
  ["poll.ts", async () => [process.execPath, `${EXAMPLES}/poll.ts`]],
];

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i);

describe.each(BOTS)("%s", (_name, command) => {
  async function startBot(url: string, args: string[] = [], token?: string): Promise<Bot> {
    const ids: number[] = [];
    const child = spawnChild([...(await command()), "--interval", "0.05", ...args], {
      env: { ARGO_URL: url, ARGO_TOKEN: token },
      onLine: (line) => void ids.push((JSON.parse(line) as { id: number }).id),
    });
    return { ...child, ids: () => [...ids] };
  }

  test("prints the latest once, oldest first, then asks only for what changed", async () => {
    using argo = fakeArgo(20);
    await using bot = await startBot(argo.url, [], "secret");
    await until(() => argo.requests.length >= 4, "four polls");
    expect(bot.ids()).toEqual(range(11, 20));
    const [first, ...others] = argo.requests;
    expect(first).toMatchObject({ path: "/api/signals/latest?limit=10", ifNoneMatch: null });
    for (const request of others)
      expect(request).toMatchObject({ ifNoneMatch: '"20"', status: 304 });
    expect(new Set(argo.requests.map((request) => request.authorization))).toEqual(
      new Set(["Bearer secret"]),
    );
    argo.add(1);
    await until(() => bot.ids().length === 11, "the new one");
    expect(bot.ids()).toEqual(range(11, 21));
  });

  test("begins on an empty server", async () => {
    using argo = fakeArgo(0);
    await using bot = await startBot(argo.url);
    await until(() => argo.requests.length >= 2, "two polls");
    argo.add(30);
    await until(() => bot.ids().length >= 30, "all thirty");
    expect(bot.ids()).toEqual(range(1, 30));
  });

  test("misses none of fifty between two polls, nor one that is dated far back", async () => {
    using argo = fakeArgo(20);
    await using bot = await startBot(argo.url);
    await until(() => bot.ids().length === 10, "the first page");
    argo.add(50);
    await until(() => bot.ids().at(-1) === 70, "fifty more");
    argo.add(1, "1999-01-01T00:00:00Z");
    argo.add(1);
    await until(() => bot.ids().at(-1) === 72, "two more");
    expect(bot.ids()).toEqual(range(11, 72));
  });

  test("goes on after a given id", async () => {
    using argo = fakeArgo(40);
    await using bot = await startBot(argo.url, ["--since-id", "5", "--limit", "3"]);
    await until(() => bot.ids().at(-1) === 40, "all that came since");
    expect(bot.ids()).toEqual(range(6, 40));
  });

  test("takes up an export that broke off where it broke off", async () => {
    using argo = fakeArgo(40);
    const page = (): Response =>
      Response.json([], { headers: { ETag: '"x"', "Signal-Head": "40" } });
    const some = range(6, 15).map((id) => ({ id, symbol: "SPX", timestamp: "" }));
    argo.next.push(page, () => brokenOff(`${ndjson(some)}{"id":16,"sym`));
    await using bot = await startBot(argo.url, ["--since-id", "5"]);
    await until(() => bot.ids().at(-1) === 40, "the rest");
    expect(bot.ids()).toEqual(range(6, 40));
    expect(argo.requests.map((request) => request.path)).toContain(
      "/api/signals/export?since_id=15",
    );
  });

  test.each([429, 503])("waits as long as a %d says", async (status) => {
    using argo = fakeArgo(5);
    argo.next.push(() => new Response(null, { status, headers: { "Retry-After": "1" } }));
    await using bot = await startBot(argo.url);
    await until(() => bot.ids().length === 5, "the page after the pause");
    const [refused, answered] = argo.requests.map((request) => request.atMs);
    expect((answered ?? 0) - (refused ?? 0)).toBeGreaterThanOrEqual(995);
  });

  test("comes back after faults of the server, and prints nothing twice", async () => {
    using argo = fakeArgo(5);
    await using bot = await startBot(argo.url);
    await until(() => bot.ids().length === 5, "the first page");
    argo.add(2);
    argo.next.push(
      () => new Response("no", { status: 500 }),
      () => new Response("no", { status: 502 }),
      () => new Response("<p>not JSON"),
      () => brokenOff('[{"id":6,'),
    );
    await until(() => bot.ids().length >= 7, "the two new ones");
    expect(bot.ids()).toEqual(range(1, 7));
  });

  test("waits for a server that is not there yet", async () => {
    const port = freePort();
    await using bot = await startBot(`http://127.0.0.1:${port}`);
    await until(() => bot.lines().length >= 2, "two failed polls");
    using argo = fakeArgo(3, port);
    await until(() => bot.ids().length === 3, "the page");
    expect(argo.requests.length).toBeGreaterThan(0);
  });

  test.each([401, 403, 400])("stops on a %d and says why", async (status) => {
    using argo = fakeArgo(5);
    argo.next.push(() => Response.json({ detail: "This key is revoked." }, { status }));
    await using bot = await startBot(argo.url);
    expect(await bot.done).toBe(1);
    expect(bot.ids()).toEqual([]);
    expect(bot.lines().join("\n")).toMatch(
      new RegExp(`stopped: /api/signals/latest.* answered ${status} .*This key is revoked`),
    );
    expect(argo.requests).toHaveLength(1);
  });

  test.each(["SIGINT", "SIGTERM"] as const)("ends cleanly on %s", async (signal) => {
    using argo = fakeArgo(5);
    await using bot = await startBot(argo.url, ["--interval", "60"]);
    await until(() => bot.ids().length === 5, "the page");
    expect(await bot.stop(signal, 2_000)).toBe(0);
    expect(bot.lines()).toHaveLength(5);
  });

  test("against the real server: every signal that the engine commits, once and in order", async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    copyFileSync(LEGACY, db);
    await using server = await startServer({ env: { SIGNALS_DB: db, DATA_DIR: dir.path } });
    await using bot = await startBot(server.url);
    await until(() => bot.ids().length === 10, "the first page");
    expect(bot.ids()).toEqual(range(3480, 3489));

    await using engine = await startEngine({ db, rate: 400, seconds: 2 });
    expect(await engine.done).toBe(0);
    expect(engine.committed().length).toBeGreaterThan(100);
    await until(() => bot.ids().at(-1) === engine.lastId(), "the last of them");
    expect(bot.ids()).toEqual([...range(3480, 3489), ...engine.committed().map((row) => row.id)]);
  });
});
