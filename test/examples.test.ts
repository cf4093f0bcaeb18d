import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { BACKEND, serveAccounts, type ServedAccounts } from "./harness/accounts.ts";
import { READ_TOKEN, signal, WRITE_TOKEN } from "./harness/app.ts";
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

/** The readers there are, and what their plans let them have. */
const READERS = {
  starter: { premium: false, exported: false },
  pro: { premium: true, exported: false },
  elite: { premium: true, exported: true },
  operator: { premium: true, exported: true },
};
const readers = Object.keys(READERS) as (keyof typeof READERS)[];

let at: ServedAccounts;
const tokens = new Map<string, string>([["operator", READ_TOKEN]]);
/** Every signal there is: its id, and whether it is premium. */
const posted: { id: number; premium: boolean }[] = [];

beforeAll(async () => {
  at = await serveAccounts("source", BACKEND, { SIGNALS_ACCESS: "key" });
  const boss = await at.admin();
  await at.must(200, "PATCH", "/api/admin/plans/starter", { delay_seconds: 0 }, boss.access);
  for (const tier of ["starter", "pro", "elite"]) {
    const member = await at.member();
    await at.must(200, "PATCH", `/api/admin/users/${member.id}`, { tier }, boss.access);
    tokens.set(tier, await at.key(await at.login(member.email)));
  }
});
afterAll(() => at[Symbol.asyncDispose]());

/** Posts so many in one batch; every third is premium, from the second on. @returns the last id. */
async function post(count: number, timestamp?: string): Promise<number | undefined> {
  const batch = Array.from({ length: count }, (_, i) => {
    const second = new Date(Date.UTC(2026, 0, 1) + (posted.length + i) * 1000).toISOString();
    const [symbol, confidence] = [`S${posted.length + i}`, i % 3 === 1 ? 97 : 60];
    return signal({ symbol, confidence, timestamp: timestamp ?? second });
  });
  type Written = { signals: { id: number }[] };
  const { signals } = await at.must<Written>(201, "POST", "/api/signals", batch, WRITE_TOKEN);
  posted.push(...signals.map(({ id }, i) => ({ id, premium: i % 3 === 1 })));
  return posted.at(-1)?.id;
}

/** The way to the server, on which some answers are others instead. */
interface Front extends Disposable {
  url: string;
  /** The paths asked for, each with its status. */
  asked: string[];
  /** How many of these paths were asked for. */
  count(path: RegExp): number;
  /** Statuses to answer with, one each, before requests of these paths get through. */
  faults: [path: RegExp, status: number][];
}

function frontOf(url: string): Front {
  const asked: string[] = [];
  const faults: Front["faults"] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const { pathname, search } = new URL(request.url);
      const due = faults.findIndex(([path]) => path.test(pathname + search));
      const [fault] = due === -1 ? [] : faults.splice(due, 1);
      const answer = fault
        ? new Response("no", { status: fault[1], headers: { "Retry-After": "1" } })
        : await fetch(url + pathname + search, { headers: request.headers, decompress: false });
      asked.push(`${answer.status} ${pathname}${search}`);
      return answer;
    },
  });
  return {
    url: `http://127.0.0.1:${server.port}`,
    asked,
    count: (path) => asked.filter((line) => path.test(line)).length,
    faults,
    [Symbol.dispose]: () => void server.stop(true),
  };
}

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

  test("prints nothing again where the head falls back, as a lesser plan's does", async () => {
    using argo = fakeArgo(5);
    await using bot = await startBot(argo.url);
    await until(() => bot.ids().length === 5, "the first page");
    const some = range(1, 3).map((id) => ({ id, symbol: "SPX", timestamp: "" }));
    argo.next.push(() => Response.json(some, { headers: { ETag: '"3"', "Signal-Head": "3" } }));
    await until(() => argo.next.length === 0, "the lesser page");
    argo.add(1);
    await until(() => bot.ids().at(-1) === 6, "the new one");
    expect(bot.ids()).toEqual(range(1, 6));
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
    expect(await bot.stop(signal, 30_000)).toBe(0);
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

    await using engine = await startEngine({ db, rate: 400, seconds: 1.5 });
    expect(await engine.done).toBe(0);
    // Most of it, or a small part on a machine that is busy.
    expect(engine.committed().length).toBeGreaterThan(10);
    await until(() => bot.ids().at(-1) === engine.lastId(), "the last of them");
    expect(bot.ids()).toEqual([...range(3480, 3489), ...engine.committed().map((row) => row.id)]);
  });

  /** A bot of each reader, on ways of their own. */
  async function startReaders(args: string[] = []) {
    await using cleanup = new AsyncDisposableStack();
    const started = readers.map(async (reader) => {
      const { premium, exported } = READERS[reader];
      const front = cleanup.use(frontOf(at.server.url));
      const bot = cleanup.use(await startBot(front.url, args, tokens.get(reader)));
      /** What it is to see of the signals from this one on. */
      const mine = (from: number): number[] =>
        posted.slice(from).flatMap((row) => (premium || !row.premium ? [row.id] : []));
      return { reader, exported, front, bot, mine };
    });
    const all = await Promise.all(started);
    const caughtUp = (): Promise<unknown> =>
      Promise.all(
        all.map(({ reader, bot, mine }) =>
          until(() => bot.ids().at(-1) === mine(0).at(-1), `${reader} has the newest`),
        ),
      );
    const whole = cleanup.move();
    return { all, caughtUp, [Symbol.asyncDispose]: () => whole.disposeAsync() };
  }

  test("real accounts' signals, each once and in order, whatever the plan hides", async () => {
    await post(30);
    const start = posted.length;
    await using started = await startReaders();
    const { all, caughtUp } = started;
    await caughtUp();
    const first = new Map(all.map(({ reader, mine }) => [reader, mine(0).slice(-10)]));
    const expectAll = (): void => {
      for (const { reader, bot, mine } of all) {
        expect([reader, ...bot.ids()]).toEqual([
          reader,
          ...(first.get(reader) ?? []),
          ...mine(start),
        ]);
      }
    };

    // With gaps for those who do not see premium signals: nothing is missed, nobody goes back.
    for (let i = 0; i < 3; i += 1) {
      await post(5);
      await caughtUp();
    }
    expectAll();
    for (const { front } of all) expect(front.count(/\/api\/signals(\?|$)/)).toBe(0);

    // Far more than a page, while the server is now and then too busy.
    for (const { front, exported } of all) {
      if (exported) front.faults.push([/latest/, 503], [/export/, 429]);
      else front.faults.push([/latest/, 503], [/signals$/, 503], [/cursor/, 429]);
    }
    await post(65);
    await caughtUp();
    expectAll();
    for (const { reader, exported, front, mine } of all) {
      expect([reader, front.faults]).toEqual([reader, []]);
      // Pages of twenty, each once, to one that is known: what a fault broke off is not lost.
      const pages = exported ? 0 : Math.ceil(mine(posted.length - 65).length / 20) + 1;
      expect([reader, front.count(/^200 .*signals(\?cursor.*)?$/)]).toEqual([reader, pages]);
    }

    // Whoever has the export gets one that is dated far back, others go on past it.
    const late = await post(1, "1999-01-01T00:00:00Z");
    await Promise.all(
      all.map(({ reader, front, exported }) => {
        const way = exported ? /^304 .*latest/ : /^200 .*signals$/;
        const before = front.count(way);
        return until(() => front.count(way) > before, `${reader} has looked for it`);
      }),
    );
    await post(1);
    await caughtUp();
    for (const { reader, exported, bot, front, mine } of all) {
      const shown = [...(first.get(reader) ?? []), ...mine(start)];
      expect(bot.ids()).toEqual(exported ? shown : shown.filter((id) => id !== late));
      const told = bot.lines().filter((line) => line.includes("no export on this plan"));
      expect([reader, told.length, front.count(/^403 /)]).toEqual(
        exported ? [reader, 0, 0] : [reader, 1, 1],
      );
    }
  });

  test("real accounts go on after an id of long ago, in spite of faults", async () => {
    await post(50);
    const from = posted.length - 50;
    const since = String(posted[from - 1]?.id);
    await using started = await startReaders(["--since-id", since, "--limit", "3"]);
    const { all, caughtUp } = started;
    for (const { front } of all) front.faults.push([/export|cursor/, 429], [/export|cursor/, 503]);
    await caughtUp();
    await Promise.all(
      all.map(({ front }) => until(() => front.count(/^304 /) > 0, "a poll that finds nothing")),
    );
    for (const { reader, bot, mine } of all) {
      expect([reader, ...bot.ids()]).toEqual([reader, ...mine(from)]);
    }
  });

  test("begins its way back anew where the plan has changed on it", async () => {
    const from = posted.length;
    await post(50);
    using front = frontOf(at.server.url);
    front.faults.push([/cursor/, 400]);
    const since = ["--since-id", String(posted[from - 1]?.id)];
    await using bot = await startBot(front.url, since, tokens.get("pro"));
    const expected = posted.slice(from).map(({ id }) => id);
    await until(() => bot.ids().length >= 50, "all that came since");
    expect(bot.ids()).toEqual(expected);
  });
});
