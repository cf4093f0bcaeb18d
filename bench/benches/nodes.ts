import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { startServer, type Server } from "../../test/harness/process";
import { redis } from "../../test/harness/servers";
import { type Sqld, sqld } from "../../test/harness/sqld";
import type { Bench, Context } from "../lib/context";
import { runGenerator } from "../lib/generator";
import { type IngestOptions, type IngestReport, signalAt } from "../lib/ingest-client";
import { cacheDir } from "../lib/paths";
import { readHeaders, readToken, writeHeaders, writeToken } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { fixed, percentile } from "../lib/stats";

export const nodes: Bench = { name: "nodes", title: "Nodes of a libSQL server", run };

const pollMs = 100;
const wokenMsMax = 50;
const bootstrapSecondsMax = 60;
const everyMs = 20;
const rowsPerFill = 50_000;

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using origin = await sqld();
  await using cache = await redis();
  await measureLag(context, result, origin, cache.url);
  await measureLag(context, result, origin, undefined);
  await measureIngest(context, result, origin);
  await measureBootstrap(context, result, origin);
  result.notes.push(
    "One libSQL server (`sqld`), its nodes and the generator share the machine's cores. Lag is from the moment at which the commit at the server was known (to the node that was posted to: its 201; to a writer of its own: the server's answer) to the event on a stream of another node. Streams are read over loopback.",
  );
  return result;
}

type Node = Server & AsyncDisposable;

async function startNode(
  origin: Sqld,
  env: Record<string, string | undefined> = {},
): Promise<Node> {
  const dir = mkdtempSync(join(cacheDir, "node-"));
  const server = await startServer({
    env: {
      DATA_DIR: dir,
      SIGNALS_ACCESS: "key",
      ARGO_READ_TOKEN: readToken,
      ARGO_WRITE_TOKEN: writeToken,
      RATE_LIMIT_PER_MINUTE: "1000000000",
      SHUTDOWN_DELAY_SECONDS: "0",
      LIBSQL_URL: origin.url,
      LIBSQL_POLL_MS: String(pollMs),
      ...env,
    },
  });
  return {
    ...server,
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function untilReady({ url }: Node): Promise<void> {
  for (;;) {
    if ((await fetch(`${url}/readyz`)).ok) return;
    await Bun.sleep(10);
  }
}

/** When each id came over a stream, by the clock of this process. */
async function follow({ url }: Node): Promise<{ at: Map<number, number>; stop: () => void }> {
  const at = new Map<number, number>();
  const abort = new AbortController();
  const response = await fetch(`${url}/api/signals/stream`, {
    headers: readHeaders,
    signal: abort.signal,
  });
  const read = async (): Promise<void> => {
    const decoder = new TextDecoder();
    for await (const piece of response.body as ReadableStream<Uint8Array>) {
      const now = performance.now();
      for (const [, id] of decoder.decode(piece).matchAll(/"id":(\d+)/g)) at.set(Number(id), now);
    }
  };
  read().catch(() => undefined);
  return { at, stop: () => abort.abort() };
}

let posted = 0;

/** Posts one signal. @returns its id. */
async function post({ url }: Node, run: number): Promise<number> {
  const response = await fetch(`${url}/api/signals`, {
    method: "POST",
    headers: { ...writeHeaders, "content-type": "application/json" },
    body: JSON.stringify(signalAt(run, posted++)),
  });
  if (response.status !== 201) throw new Error(`${response.status} ${await response.text()}`);
  const { signals } = (await response.json()) as { signals: { id: number }[] };
  return signals[0]?.id ?? 0;
}

/** Writes one signal as an engine does, past all nodes. @returns its id. */
async function insert(origin: Sqld): Promise<number> {
  const { rows } = await origin.client.execute(
    "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES ('ENG', 'BUY', 100, 50, '2026-01-01T00:00:00Z') RETURNING id",
  );
  return Number(rows[0]?.["id"]);
}

async function measureLag(
  context: Context,
  result: Result,
  origin: Sqld,
  redisUrl: string | undefined,
): Promise<void> {
  const woken = redisUrl !== undefined;
  context.say(woken ? "  woken through Redis" : "  polling");
  const env = { REDIS_URL: redisUrl };
  await using first = await startNode(origin, env);
  await using second = await startNode(origin, env);
  await Promise.all([untilReady(first), untilReady(second)]);
  const stream = await follow(second);
  await Bun.sleep(500);
  const committed = new Map<number, number>();
  const count = context.quick ? 50 : 1_000;
  for (let i = 0; i < count; i += 1) {
    const id = woken ? await post(first, 1) : await insert(origin);
    committed.set(id, performance.now());
    await Bun.sleep(everyMs * (0.5 + Math.random()));
  }
  await Bun.sleep(pollMs * 5);
  stream.stop();
  const lags = [...committed].map(([id, at]) => Math.max(0, (stream.at.get(id) ?? Infinity) - at));
  const missing = lags.filter((lag) => lag === Infinity).length;
  const [p50, p99] = [percentile(lags, 50), percentile(lags, 99)];
  const mostMs = woken ? wokenMsMax : 2 * pollMs;
  result.figures.push({
    name: woken
      ? "Lag of a node behind the libSQL server, woken through Redis"
      : `Lag of a node behind the libSQL server, polling every ${pollMs} ms, rows of an engine`,
    target: woken ? `p99 ≤ ${mostMs} ms` : `p99 ≤ ${mostMs} ms (2 intervals)`,
    measured: `p50 ${fixed(p50, 1)} ms, p99 ${fixed(p99, 1)} ms of ${fixed(count)}; ${missing} missing`,
    met: missing === 0 && p99 <= mostMs,
  });
}

async function measureIngest(context: Context, result: Result, origin: Sqld): Promise<void> {
  context.say("  ingest");
  await using node = await startNode(origin);
  await untilReady(node);
  const table: string[][] = [];
  for (const [inFlight, rowsPerPost] of [
    [1, 1],
    [64, 1],
    [4, 1_000],
  ] as const) {
    const report = await runGenerator<IngestOptions, IngestReport>("ingest-client.ts", {
      port: Number(new URL(node.url).port),
      headers: writeHeaders,
      run: 100 + inFlight,
      inFlight,
      rowsPerPost,
      seconds: context.quick ? 1 : 10,
    });
    if (report.failures > 0) throw new Error(`a post failed: ${report.firstFailure}`);
    table.push([
      `${inFlight}`,
      `${fixed(rowsPerPost)}`,
      fixed(report.rows / report.seconds),
      fixed(report.p50Us / 1_000, 1),
      fixed(report.p99Us / 1_000, 1),
    ]);
  }
  const columns = ["in flight", "signals a post", "signals/s", "p50 ms", "p99 ms"];
  result.tables.push({ title: "Posts to one node, committed at the server", columns, rows: table });
}

async function measureBootstrap(context: Context, result: Result, origin: Sqld): Promise<void> {
  context.say("  bootstrap");
  const wanted = context.quick ? 50_000 : 1_000_000;
  const count = async (): Promise<number> =>
    Number((await origin.client.execute("SELECT count(*) AS n FROM signals")).rows[0]?.["n"]);
  for (let rows = await count(); rows < wanted; rows += rowsPerFill) {
    await origin.client.execute(
      `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${rowsPerFill})
       INSERT INTO signals (symbol, action, entry_price, target_price, stop_price, confidence, strategy, timestamp, sha256)
       SELECT 'SYM' || (i % 50), 'BUY', 100 + abs(random()) / 1e15, 120.5, 90.25, abs(random()) % 100,
         'strategy_' || (i % 5), strftime('%Y-%m-%dT%H:%M:%fZ', ${1_500_000_000 + rows} + i, 'unixepoch'), lower(hex(randomblob(32))) FROM n`,
    );
  }
  const rows = await count();
  const begun = performance.now();
  await using node = await startNode(origin);
  await untilReady(node);
  const seconds = (performance.now() - begun) / 1_000;
  const held = await fetch(`${node.url}/api/stats`, { headers: readHeaders });
  const { total } = (await held.json()) as { total: number };
  result.figures.push({
    name: `An empty node is filled with ${fixed(rows)} signals, from its start until it is ready`,
    target: `≤ ${bootstrapSecondsMax} s`,
    measured: `${fixed(seconds, 1)} s (${fixed(rows / seconds)} a second), ${fixed(total)} there`,
    met: context.quick ? null : seconds <= bootstrapSecondsMax && total === rows,
  });
}
