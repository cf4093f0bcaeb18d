import { wireAnswer } from "../lib/bytes";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { get, repeatableHeaders } from "../lib/http";
import { type PeerName, type PeerStart, type Server, startPeer } from "../lib/peers";
import { readHeaders, startProduct } from "../lib/product";
import { productSql } from "../lib/product-sql";
import { emptyResult, type Result } from "../lib/result";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { fixed, median, ratios, spread } from "../lib/stats";
import { type Sample, wrkRound } from "../lib/wrk";

const rows = 1_000_000;
/** Beyond these a machine has other things to do: how far one program may differ from itself, and
 * how much of its core the raw constant must get from a generator that is not held up. */
const selfSpreadMax = 0.15;
const coreShareMin = 0.75;

/** Peers beside the constants, in the order of the table. */
const others: ReadonlyArray<[PeerName, string]> = [
  ["raw-static", "raw Bun, static route (no query can matter)"],
  ["nginx", "nginx, static file"],
  ["hono-constant", "Hono, constant"],
  ["elysia-cache", "Elysia, cached bytes checked by version"],
  ["raw-sql", "raw Bun, SQL on each request"],
  ["elysia-sql", "Elysia + bun:sqlite"],
  ["fastify", "Fastify + better-sqlite3"],
  ["fastapi-ready", "FastAPI, after, with a ready response"],
  ["fastapi-after", "FastAPI, after"],
  ["fastapi-before", "FastAPI, before"],
];

export const throughput: Bench = {
  name: "throughput",
  title: "Throughput of GET /api/signals/latest?limit=10",
  run,
};

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using servers = new Servers();
  const db = workingCopy(rows, "throughput");
  servers.afterwards(() => discard(db));
  const serve = servers.add(await startProduct({ kind: "serve", db, instance: "serve" }));
  const bare = servers.add(await startProduct({ kind: "bare", db, instance: "bare" }));
  const sql = productSql(db);
  const answer = await get(serve.url, readHeaders);
  const bareAnswer = await get(bare.url, readHeaders);
  const full: PeerStart = {
    body: answer.body,
    headers: repeatableHeaders(answer.headers),
    db,
    sql,
  };
  const lean: PeerStart = {
    body: answer.body,
    headers: repeatableHeaders(bareAnswer.headers),
    db,
    sql,
  };

  const titles = new Map([
    [serve.name, "**argo-alpine, `serve`** (token, limiter, metrics, logs)"],
    [bare.name, "**argo-alpine, bare route**"],
  ]);
  const add = async (name: PeerName, title: string, start: PeerStart, instance?: string) => {
    const peer = await startPeer(name, instance === undefined ? start : { ...start, instance });
    if ("missing" in peer) {
      result.missing.push(`${title}: ${peer.missing}`);
      return null;
    }
    titles.set(peer.name, title);
    return servers.add(peer);
  };
  const constant = await add(
    "raw-constant",
    "raw Bun, constant (headers of `serve`)",
    full,
    "full",
  );
  const twin = await add("raw-constant", "the same once more", full, "twin");
  const leanConstant = await add(
    "raw-constant",
    "raw Bun, constant (headers of the bare route)",
    lean,
    "lean",
  );
  for (const [name, title] of others) await add(name, title, full);
  if (!constant || !twin || !leanConstant) throw new Error("the raw constant did not start");

  const variants = [];
  for (const server of servers.all) {
    const headers = server === serve || server === bare ? readHeaders : {};
    const { status, body, bytes } = await wireAnswer(server, headers);
    if (status !== 200 || body.toString() !== answer.body) {
      throw new Error(`${server.name} answers other bytes than serve`);
    }
    const load = { url: server.url, headers, answerBytes: bytes, serverPid: server.pid };
    variants.push({
      name: server.name,
      round: (seconds: number) => wrkRound({ ...load, seconds }),
    });
  }
  result.notes.push(
    `${servers.all.length} servers answered the same ${answer.body.length} bytes before anything was timed; ${Object.keys(full.headers).length} headers beside Date and Content-Length.`,
  );

  context.say("  a variant against itself");
  const pair = variants.filter(({ name }) => name === constant.name || name === twin.name);
  const selfSamples = await interleave(context, pair);
  const self = ratios(rates(selfSamples.get(twin.name)), rates(selfSamples.get(constant.name)));
  context.say("  all variants");
  const samples = await interleave(
    context,
    variants.filter(({ name }) => name !== twin.name),
  );

  const rate = (server: Server | string) =>
    rates(samples.get(typeof server === "string" ? server : server.name));
  const cpu = (server: Server | string) => {
    const taken = samples.get(typeof server === "string" ? server : server.name) ?? [];
    return median(taken.map((sample) => sample.cpuUsPerRequest));
  };
  const base = rate(constant);
  result.tables.push({
    title: "Closed loop, 32 connections, medians (least–greatest) of the rounds",
    columns: ["variant", "requests/s", "× constant", "CPU-µs/request", "× by CPU", "core used"],
    rows: servers.all
      .filter(({ name }) => name !== twin.name)
      .map(({ name }) => {
        const taken = samples.get(name) ?? [];
        const against = name === bare.name ? rate(leanConstant) : base;
        return [
          titles.get(name) ?? name,
          spread(rate(name), 0),
          spread(ratios(rate(name), against), name.startsWith("fastapi") ? 3 : 2),
          fixed(median(taken.map((s) => s.cpuUsPerRequest)), 1),
          fixed(
            cpu(name === bare.name ? leanConstant : constant) / cpu(name),
            name.startsWith("fastapi") ? 3 : 2,
          ),
          `${fixed(100 * median(taken.map((s) => s.serverBusy)))} %`,
        ];
      }),
  });
  result.notes.push(
    `The raw constant against itself: ${spread(self, 3)}. No difference smaller than this spread is one.`,
    "× constant is the ratio within the same round; the bare route is held against the constant with its own headers. × by CPU is the same from processor time a request: it holds even where something else took a part of the core.",
  );
  const busy = median((samples.get(constant.name) ?? []).map((sample) => sample.serverBusy));
  const selfSpread = Math.max(...self.map((ratio) => Math.abs(ratio - 1)));
  const disturbed = selfSpread > selfSpreadMax || busy < coreShareMin;
  if (disturbed) {
    result.notes.push(
      `The machine was not left alone: the raw constant differed from itself by ${fixed(100 * selfSpread)} % and got ${fixed(100 * busy)} % of its core. Nothing here is called met or missed.`,
    );
  }
  const figure = (name: string, least: number, over: number[], of: number[], digits = 2) => {
    const found = ratios(over, of);
    result.figures.push({
      name,
      target: `≥ ${least}`,
      measured: found.length === 0 ? "the peer is missing" : `${spread(found, digits)} ×`,
      met: found.length === 0 || disturbed ? null : median(found) >= least,
    });
  };
  figure("`/latest`, cached, bare route, × raw Bun constant", 0.9, rate(bare), rate(leanConstant));
  figure("`/latest` as `serve` runs it, × raw Bun constant", 0.7, rate(serve), base);
  figure("`serve` × FastAPI after", 30, rate(serve), rate("fastapi-after"), 1);
  const ready = ratios(rate(serve), rate("fastapi-ready"));
  result.notes.push(
    `FastAPI "before" and "after" hand their list to the framework, as the replaced service did. Written around the framework, with a ready response, it serves 1 request to ${spread(ready, 1)} of \`serve\`.`,
  );
  figure("`serve` × FastAPI before", 40, rate(serve), rate("fastapi-before"), 1);
  figure("`serve` × Fastify + SQLite", 3, rate(serve), rate("fastify"), 1);
  figure("`serve` × Elysia + bun:sqlite", 3, rate(serve), rate("elysia-sql"), 1);
  return result;
}

const rates = (samples: Sample[] | undefined) =>
  (samples ?? []).map((sample) => sample.requestsPerSecond);
