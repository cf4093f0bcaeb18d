/** Three nodes of one libSQL server, each with a file of its own. */
import type { Client } from "@libsql/client/http";
import { WRITE_TOKEN } from "../harness/app.ts";
import {
  freePort,
  type Server,
  type ServerOptions,
  startServer,
  tempDir,
  until,
} from "../harness/process.ts";
import { type TcpProxy, tcpProxy } from "../harness/proxy.ts";
import { type Sqld, sqld } from "../harness/sqld.ts";
import type { Ledger } from "./ledger.ts";
import type { Beside } from "./producers.ts";
import { pick } from "./stage.ts";
import {
  allRows,
  env,
  type Fault,
  linkFaults,
  openBehind,
  readRows,
  type StoredRow,
  storedOf,
  viewsOfTokens,
  type World,
} from "./world.ts";

const NODES = 3;
const READY_MS_MAX = 20_000;

export async function openNodes({ accounts }: { accounts: boolean }): Promise<World> {
  await using cleanup = new AsyncDisposableStack();
  const origin = cleanup.use(await sqld());
  // What the nodes reach it by; others write to it directly.
  const between = cleanup.use(await tcpProxy({ port: origin.port }));
  const behind = accounts ? await openBehind(cleanup) : null;
  const lines: string[] = [];
  const nodes = await Promise.all(
    Array.from({ length: NODES }, (_, i) =>
      Node.open(cleanup, lines, {
        role: accounts ? "all" : "argo",
        // One of them is several processes on one copy.
        args: i === 0 ? ["--workers", "2"] : [],
        env: {
          ...env,
          LIBSQL_URL: `http://127.0.0.1:${between.port}`,
          RATE_LIMIT_PER_MINUTE: "1000000000",
          SHUTDOWN_DELAY_SECONDS: "0",
          ...behind?.env,
        },
      }),
    ),
  );
  const [first] = nodes;
  if (!first) throw new Error("there are no nodes");
  const readers = behind ? await behind.readers(first.direct) : viewsOfTokens();
  const beside = new OriginWriter(origin.client);

  const some = (forMs: number): Node => nodes[forMs % nodes.length] ?? first;
  const whole = cleanup.move();
  return {
    readers,
    writeHeaders: { Authorization: `Bearer ${WRITE_TOKEN}` },
    url: (random) => pick(random, pick(random, nodes).urls),
    copies: true,
    hooks: behind?.hooks ?? null,
    serverFaults: {
      kill: (forMs) => some(forMs).kill(),
      restart: (forMs) => some(forMs).restart(),
      freeze: (forMs) => some(forMs).freeze(forMs),
      "all killed": async () => {
        await Promise.all(nodes.map((node) => node.kill()));
      },
    },
    otherFaults: {
      ...named("link", linkFaults(first.link)),
      ...named("origin link", linkFaults(between)),
      ...named("origin", originFaults(origin)),
      ...behind?.faults,
      ...beside.faults,
    },
    beside,
    async rows(ledger) {
      const { rows } = await origin.client.execute(allRows);
      const stored = (rows as unknown as StoredRow[]).map((row) => storedOf(row, ledger));
      const last = stored.at(-1)?.id ?? 0;
      for (const [i, node] of nodes.entries()) await node.compare(`node ${i + 1}`, last, ledger);
      return stored;
    },
    logs: () => [...lines, ...nodes.flatMap((node) => node.logs())],
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}

const named = (name: string, faults: Record<string, Fault>): Record<string, Fault> =>
  Object.fromEntries(Object.entries(faults).map(([kind, fault]) => [`${name} ${kind}`, fault]));

const originFaults = (origin: Sqld): Record<string, Fault> => ({
  async killed(forMs) {
    await origin.kill();
    await Bun.sleep(forMs);
    await origin.start();
  },
  async restarted(forMs) {
    await origin.stop();
    await Bun.sleep(forMs);
    await origin.start();
  },
  async silent(forMs) {
    origin.pause();
    await Bun.sleep(forMs);
    origin.resume();
  },
});

type NodeOptions = Required<Pick<ServerOptions, "role" | "args" | "env">>;

class Node {
  readonly direct: string;
  readonly urls: string[];

  private constructor(
    private server: Server,
    private readonly start: () => Promise<Server>,
    private readonly db: string,
    readonly link: TcpProxy,
    private readonly lines: string[],
    port: number,
  ) {
    this.direct = `http://127.0.0.1:${port}`;
    this.urls = [this.direct, `http://127.0.0.1:${link.port}`];
  }

  static async open(
    cleanup: AsyncDisposableStack,
    lines: string[],
    { env: given, ...options }: NodeOptions,
  ): Promise<Node> {
    const dir = cleanup.use(tempDir());
    const port = freePort();
    const start = (): Promise<Server> =>
      startServer({ ...options, cwd: dir.path, env: { ...given, PORT: `${port}` } });
    const link = cleanup.use(await tcpProxy({ port }));
    const node = new Node(await start(), start, dir.file("data/signals.db"), link, lines, port);
    cleanup.defer(() => node.#end());
    const isReady = async (): Promise<boolean> => (await fetch(`${node.direct}/readyz`)).ok;
    await until(isReady, "a node that is ready", READY_MS_MAX);
    return node;
  }

  logs(): string[] {
    return this.server.logs();
  }

  async kill(): Promise<void> {
    this.server.kill();
    await this.#end();
    this.server = await this.start();
  }

  async restart(): Promise<void> {
    const code = await this.server.stop();
    if (code !== 0) throw new Error(`a node ended with ${code}`);
    await this.#end();
    this.server = await this.start();
  }

  async freeze(forMs: number): Promise<void> {
    process.kill(this.server.pid, "SIGSTOP");
    await Bun.sleep(forMs);
    process.kill(this.server.pid, "SIGCONT");
  }

  /** Its file must come to hold what the others hold. */
  async compare(name: string, lastId: number, ledger: Ledger): Promise<void> {
    const hasAll = (): boolean => readRows(this.db, ledger).at(-1)?.id === lastId || lastId === 0;
    await until(hasAll, `${name} has signal ${lastId}`, READY_MS_MAX).catch((error: unknown) =>
      ledger.odd.push(String(error)),
    );
    const held = new Map(readRows(this.db, ledger).map(({ id, sent }) => [id, sent]));
    for (const { id, content } of ledger.sent) {
      const same = id === null || held.get(id)?.content === content;
      if (!same) ledger.odd.push(`${name}: ${id} is missing`);
    }
  }

  async #end(): Promise<void> {
    this.lines.push(...this.server.logs());
    await this.server[Symbol.asyncDispose]();
  }
}

/** An engine that writes into the libSQL server itself. */
class OriginWriter implements Beside {
  readonly faults = {};

  constructor(private readonly client: Client) {}

  readonly write: Beside["write"] = async (rows) => {
    const statements = rows.map((row) => ({
      sql: `INSERT INTO signals (symbol, action, entry_price, target_price, stop_price, confidence, strategy, timestamp)
            VALUES ($symbol, $action, $entry_price, $target_price, $stop_price, $confidence, $strategy, $timestamp)
            RETURNING id`,
      args: { ...row, timestamp: row.timestamp ?? null },
    }));
    try {
      const answers = await this.client.batch(statements, "write");
      return answers.map(({ rows: [made] }) => Number(made?.["id"]));
    } catch {
      return null;
    }
  };

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}
