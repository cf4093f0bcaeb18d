import { expect, test } from "bun:test";
import { signal } from "../harness/app.ts";
import { Events } from "../harness/events.ts";
import { type Server, startServer, tempDir, until } from "../harness/process.ts";
import { type TcpProxy, tcpProxy } from "../harness/proxy.ts";
import { randomNumbers, SEED, tellSeed } from "../harness/seed.ts";
import { redis } from "../harness/servers.ts";
import { sqld } from "../harness/sqld.ts";

/**
 * Three nodes of one libSQL server while the server is killed and stopped, nodes are killed, and
 * the links between them are cut, slowed and blocked. What was acknowledged is written down outside.
 */
const token = "nodes-writer-token-0123456789";
const faultsMax = Number(process.env["NODE_FAULTS"] ?? 60);
const random = randomNumbers();
const pick = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)] as T;

class Node implements AsyncDisposable {
  readonly #dir = tempDir();
  #server: Server | null = null;

  private constructor(
    readonly proxy: TcpProxy,
    private readonly env: Record<string, string>,
  ) {}

  static async start(port: number, redisUrl: string): Promise<Node> {
    const proxy = await tcpProxy({ port });
    const node = new Node(proxy, {
      LIBSQL_URL: `http://127.0.0.1:${proxy.port}`,
      LIBSQL_POLL_MS: "50",
      REDIS_URL: redisUrl,
    });
    await node.begin();
    return node;
  }

  get url(): string {
    return this.#server?.url ?? "http://127.0.0.1:1";
  }

  async begin(): Promise<void> {
    const own = { DATA_DIR: this.#dir.path, ARGO_WRITE_TOKEN: token };
    const limits = { RATE_LIMIT_PER_MINUTE: "1000000000", SHUTDOWN_DELAY_SECONDS: "0" };
    this.#server = await startServer({ env: { ...own, ...limits, ...this.env } });
  }

  async kill(): Promise<void> {
    this.#server?.kill();
    await this.#server?.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server?.[Symbol.asyncDispose]();
    await this.proxy.close();
    this.#dir[Symbol.dispose]();
  }
}

/** What was acknowledged: the symbol of a signal, which stands for its content, and its id. */
type Ledger = Map<string, number>;

/** Posts until told to stop; what is not acknowledged is posted again, as it is, to any node. */
async function produce(nodes: Node[], name: string, ledger: Ledger, goesOn: () => boolean) {
  for (let n = 0; goesOn(); n += 1) {
    const symbol = `${name}-${n}`;
    const keyed = n % 2 === 0;
    const body = JSON.stringify(
      signal({ symbol, ...(keyed && { timestamp: undefined }), confidence: 50 }),
    );
    for (;;) {
      const response = await fetch(`${pick(nodes).url}/api/signals`, {
        method: "POST",
        headers: {
          Authorization: `Bearer ${token}`,
          "Content-Type": "application/json",
          ...(keyed && { "Idempotency-Key": symbol }),
        },
        body,
        signal: AbortSignal.timeout(8_000),
      }).catch(() => null);
      if (response?.status === 201) {
        const { signals } = (await response.json()) as { signals: { id: number }[] };
        ledger.set(symbol, signals[0]?.id ?? 0);
        break;
      }
      if (response && ![409, 503].includes(response.status)) {
        throw new Error(`${response.status} ${await response.text()}`);
      }
      await Bun.sleep(20);
    }
    await Bun.sleep(5);
  }
}

type Seen = { id: number; symbol: string };

/** Reads a stream over all cuts, resuming at any node where it was. */
async function read(nodes: Node[], seen: Seen[], goesOn: () => boolean): Promise<void> {
  let cursor = 0;
  while (goesOn()) {
    try {
      const response = await fetch(`${pick(nodes).url}/api/signals/stream?since_id=${cursor}`);
      await using events = new Events(response);
      while (goesOn()) {
        const event = await events.next(1_000);
        if (event === null || event.event === "ahead") break;
        cursor = event.id;
        if (event.event === "signal") seen.push(event.data as unknown as Seen);
      }
    } catch {
      // Killed, cut off, or behind: elsewhere it goes on.
      await Bun.sleep(50);
    }
  }
}

/** Polls one node: what it shows never goes back. */
async function watch(node: Node, faults: string[], goesOn: () => boolean): Promise<void> {
  let highest = 0;
  while (goesOn()) {
    try {
      const response = await fetch(`${node.url}/api/signals/latest?limit=1`);
      const head = Number(response.headers.get("signal-head") ?? 0);
      if (response.status === 200 && head < highest) faults.push(`${highest} before ${head}`);
      if (response.status === 200) highest = Math.max(highest, head);
      await response.arrayBuffer();
    } catch {
      // It was killed.
    }
    await Bun.sleep(10);
  }
}

test(
  `three nodes through ${faultsMax} faults: nothing lost, doubled or out of order`,
  async () => {
    tellSeed();
    await using origin = await sqld();
    await using cache = await redis();
    await using first = await Node.start(origin.port, cache.url);
    await using second = await Node.start(origin.port, cache.url);
    await using third = await Node.start(origin.port, cache.url);
    const nodes = [first, second, third];
    const ledger: Ledger = new Map();
    const seen: Seen[][] = [[], []];
    const backwards: string[] = [];
    let going = true;
    let reading = true;
    const work = [
      ...["a", "b", "c", "d"].map((name) => produce(nodes, name, ledger, () => going)),
      ...nodes.map((node) => watch(node, backwards, () => reading)),
    ];
    const readers = seen.map((one) => read(nodes, one, () => reading));

    const faults: Record<string, () => Promise<void>> = {
      killServer: async () => {
        await origin.kill();
        await Bun.sleep(random() * 300);
        await origin.start();
      },
      pauseServer: async () => {
        origin.pause();
        await Bun.sleep(random() * 2_500);
        origin.resume();
      },
      restartServer: async () => {
        await origin.stop();
        await origin.start();
      },
      killNode: async () => {
        const node = pick(nodes);
        await node.kill();
        await Bun.sleep(random() * 300);
        await node.begin();
      },
      cut: async () => {
        const { proxy } = pick(nodes);
        proxy.cut();
        await Bun.sleep(random() * 500);
        proxy.restore();
      },
      flicker: async () => {
        const { proxy } = pick(nodes);
        for (let i = 0; i < 20; i += 1) {
          proxy.cut();
          proxy.restore();
          await Bun.sleep(random() * 20);
        }
      },
      slow: async () => {
        const { proxy } = pick(nodes);
        proxy.delay(random() * 100);
        await Bun.sleep(500);
        proxy.restore();
      },
      block: async () => {
        const { proxy } = pick(nodes);
        proxy.blackhole();
        await Bun.sleep(random() * 2_500);
        proxy.restore();
      },
      killRedis: async () => {
        await cache.kill();
        await Bun.sleep(random() * 200);
        await cache.start();
      },
    };
    const names = Object.keys(faults);
    for (let i = 0; i < faultsMax; i += 1) {
      await (faults[pick(names)] as () => Promise<void>)();
      await Bun.sleep(random() * 300);
    }
    going = false;
    await Promise.all(work.slice(0, 4));
    const last = Math.max(...ledger.values());
    const exports: Seen[][] = [];
    for (const node of nodes) {
      const path = `${node.url}/api/signals/export?min_id=${last}`;
      await until(async () => (await fetch(path)).status === 200, "a node that has all", 30_000);
      const lines = (await (await fetch(path)).text()).trimEnd().split("\n");
      exports.push(lines.map((line) => JSON.parse(line) as Seen));
    }
    await until(() => seen.every((one) => (one.at(-1)?.id ?? 0) >= last), "the readers", 30_000);
    reading = false;
    await Promise.all([...work, ...readers]);

    const [one = [], two, three] = exports;
    expect(two).toEqual(one);
    expect(three).toEqual(one);
    // Each content once, and each that was acknowledged, under the id that it was told.
    expect(new Set(one.map(({ symbol }) => symbol)).size).toBe(one.length);
    const ids = new Map(one.map(({ symbol, id }) => [symbol, id]));
    const lost = [...ledger].filter(([symbol, id]) => ids.get(symbol) !== id);
    expect(lost).toEqual([]);
    for (const followed of seen) {
      expect(followed.map(({ id }) => id)).toEqual(one.map(({ id }) => id));
    }
    expect(backwards).toEqual([]);
    console.log(
      `seed ${SEED}: ${faultsMax} faults, ${ledger.size} acknowledged, ${one.length} rows on each of three nodes; 0 lost, 0 doubled, same order for all`,
    );
  },
  faultsMax * 8_000,
);
